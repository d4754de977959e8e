"""A level whose stains are those of a reference: each pixel where and when it is read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.colour.restain import normaliser
from pipeline.colour.stain import Colours, Stains
from pipeline.slide.level import LevelLike
from pipeline.slide.recoloured import Recoloured

__all__ = ["Normalised", "Stain", "normalised"]


@dataclass(frozen=True)
class Stain:
    """How a slide is stained, how it is to look, and what to mind about it; by `fit_stain`.

    ``source`` and ``target`` are of the same method.
    """

    source: Stains | Colours
    target: Stains | Colours
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, repr=False)
class Normalised(Recoloured):
    """A level stained as ``target``, which is stained as ``source``."""

    source: Stains | Colours
    target: Stains | Colours

    @property
    def settings(self) -> dict[str, Any]:
        """Whatever changes a pixel, as JSON."""
        said = {"source": _plain(self.source), "target": _plain(self.target)}
        return {
            **self.level.settings,
            "slide.stain": self.source.method,
            **{
                f"slide.stain_{side}.{name}": value
                for side, values in said.items()
                for name, value in values.items()
            },
        }

    def converted(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Give ``(y, x, 3)`` pixels of the level as the target is stained."""
        return normaliser(self.source, self.target)(pixels)


def normalised(level: LevelLike, stain: Stain) -> LevelLike:
    """Give a level of the slide that ``stain`` was fitted on, stained as its target.

    The colours that it was fitted on are those it is applied to: where they are corrected by an
    ICC profile, that comes first.

    >>> level = normalised(slide.level(0), fit_stain(slide, "macenko"))  # doctest: +SKIP
    >>> level.array()[:1000, :1000].compute()  # doctest: +SKIP
    """
    return Normalised(level, stain.source, stain.target)


def _plain(fitted: Stains | Colours) -> dict[str, Any]:
    return {name: list(values) for name, values in asdict(fitted).items()}
