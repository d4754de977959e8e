"""A level in sRGB: each pixel through the slide's ICC profile, where and when it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.colour import to_srgb
from pipeline.errors import SlideError
from pipeline.slide.level import LevelLike, SlideRef, slides
from pipeline.slide.recoloured import Recoloured

__all__ = ["NO_PROFILE", "Coloured", "coloured", "icc_profile"]

SRGB = "srgb"

NO_PROFILE = "it has no ICC profile for colour.icc: apply, so that its colours are as stored"

_TRANSFORMS = 16


@dataclass(frozen=True, slots=True, repr=False)
class Coloured(Recoloured):
    """A level whose colours are corrected.

    ``space`` is what its colours are then, ``profile`` a digest of the ICC profile.
    """

    space: str
    profile: str

    @property
    def settings(self) -> dict[str, Any]:
        """Whatever changes a pixel, as JSON."""
        return {
            **self.level.settings,
            "slide.colours": self.space,
            "slide.icc_profile": self.profile,
        }

    def converted(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Give ``(y, x, 3)`` pixels of the level in sRGB."""
        return _to_srgb(self.slide)(pixels)


def coloured(level: LevelLike) -> LevelLike:
    """Give a level in sRGB, by its slide's ICC profile; itself where the slide has none.

    Raises `SlideError` where the profile is damaged or not one of RGB.
    """
    profile = icc_profile(level.slide)
    if profile is None:
        return level
    _to_srgb(level.slide)  # now, and not in every block
    return Coloured(level, SRGB, sha256(profile).hexdigest()[:16])


def icc_profile(slide: SlideRef) -> bytes | None:
    """Give a slide's embedded ICC profile; None where it has none."""
    with slides.using(slide) as reader:
        return reader.icc_profile()


@lru_cache(_TRANSFORMS)  # per process; the ref of a slide that is replaced is another
def _to_srgb(slide: SlideRef) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    profile = icc_profile(slide)
    if profile is None:
        raise SlideError(f"{slide.path}: has no ICC profile any more; open it again")
    try:
        return to_srgb(profile)
    except SlideError as error:
        raise SlideError(f"{slide.path}: {error}") from error
