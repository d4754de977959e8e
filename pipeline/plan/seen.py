"""What a model sees of a slide: at which scale, and which of its patches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.geometry import Grid, Shape
from pipeline.model import Model
from pipeline.slide import Slide
from pipeline.slide.level import LevelLike
from pipeline.slide.scale import SAME, wanted_mpp
from pipeline.tissue.fractions import tissue_fraction

__all__ = ["Plane", "Tissue", "check_scale", "seen", "wanted_patches"]

_FINE = 2**8  # places in a pixel of the mask where a patch may begin
_SLACK = 1e-9  # what a fraction may lack for having been rounded


class Plane(Protocol):
    """A plane of pixels that lies on a slide, as a level does."""

    @property
    def downsample(self) -> tuple[float, float]:
        """Level-0 pixels per pixel, ``(y, x)``."""
        ...

    @property
    def origin(self) -> tuple[float, float]:
        """Where the corner of its first pixel lies, in level-0 pixels, ``(y, x)``."""
        ...


@dataclass(frozen=True)
class Tissue:
    """Where a slide is worth analysing.

    ``mask`` is ``(y, x)`` bool over the whole slide, one element every ``step`` ``(y, x)``
    level-0 pixels from ``origin`` on; ``settings`` say how it was found, ``remarks`` what to
    mind about it. ``quality`` is ``(y, x)`` uint8 at the same places, see
    `pipeline.tissue.quality.MEANINGS`; None where nothing was looked for.
    """

    mask: NDArray[np.bool_]
    step: tuple[float, float]
    settings: Mapping[str, Any]
    remarks: tuple[str, ...] = ()
    origin: tuple[float, float] = (0.0, 0.0)
    quality: NDArray[np.uint8] | None = None


def check_scale(model: Model, *, level: int | None, mpp: float | None) -> None:
    """Raise `ConfigError` where nothing says at which scale a model is to see a slide."""
    if level is not None and mpp is not None:
        raise ConfigError(f"mpp {mpp:g} and level {level} are both given; give one of them")
    if level is None and mpp is None and model.card.mpp is None:
        raise ConfigError(
            f"{model.path}: the card does not say for how many um per pixel the model was made; "
            "add mpp to the card, or set resolution.mpp to a number or to {level: N}"
        )


def seen(slide: Slide, model: Model, *, level: int | None, mpp: float | None) -> LevelLike:
    """Give what a model sees of a slide: stored ``level``, ``mpp``, or what its card says.

    A stored level that has the um per pixel wanted, to within `pipeline.slide.scale.SAME`, is read
    as it is. Raises `ConfigError` where nothing says the scale, `SlideError` where the slide's is
    unknown or the level is not there.
    """
    check_scale(model, level=level, mpp=mpp)
    if level is not None:
        return slide.level(level)
    wanted = model.card.mpp if mpp is None else mpp
    return slide.at(wanted_mpp(wanted or 0.0, "resolution.mpp"), tolerance=SAME)


def wanted_patches(
    patches: Grid, level: Plane, l0_shape: Shape, tissue: Tissue, min_fraction: float
) -> NDArray[np.bool_]:
    """Say which patches hold enough tissue, by the part of the slide that each covers."""
    spans: list[NDArray[np.int64]] = []
    for axis, count in enumerate(patches.counts):
        edges = np.arange(count + 1) * patches.cell * level.downsample[axis] + level.origin[axis]
        # A patch may leave the slide, of which the mask says nothing.
        inside = edges.clip(0, l0_shape[axis])
        m_edges = (inside - tissue.origin[axis]) / tissue.step[axis]
        fine = np.rint(m_edges * _FINE).astype(np.int64)
        spans.append(np.stack([fine[:-1], fine[1:]], axis=1))
    rows, columns = tissue.mask.shape
    fraction = tissue_fraction(tissue.mask, spans[0], spans[1], (rows * _FINE, columns * _FINE))
    wanted: NDArray[np.bool_] = (fraction > 0) & (fraction >= min_fraction - _SLACK)
    return wanted
