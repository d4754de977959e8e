"""A level in sRGB: each pixel through the slide's ICC profile, where and when it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.arrays import AsArrays
from pipeline.colour import to_srgb
from pipeline.errors import SlideError
from pipeline.geometry import Box, Shape
from pipeline.level import Level, LevelLike, SlideRef, slides

__all__ = ["NO_PROFILE", "Coloured", "coloured", "icc_profile"]

SRGB = "srgb"

NO_PROFILE = "it has no ICC profile for colour.icc: apply, so that its colours are as stored"

_TRANSFORMS = 16


@dataclass(frozen=True, slots=True)
class Coloured(AsArrays):
    """A level whose colours are corrected: a `pipeline.level.LevelLike`.

    ``space`` is what its colours are then, ``profile`` a digest of the ICC profile. Whatever
    lies outside stays the slide's background, uncorrected.
    """

    level: LevelLike
    space: str
    profile: str

    @property
    def slide(self) -> SlideRef:
        """The slide that is read."""
        return self.level.slide

    @property
    def stored(self) -> Level:
        """The stored level that is read in the end."""
        return self.level.stored

    @property
    def plane(self) -> Shape:
        """Rows and columns."""
        return self.level.plane

    @property
    def downsample(self) -> tuple[float, float]:
        """Level-0 pixels per pixel, ``(y, x)``."""
        return self.level.downsample

    @property
    def origin(self) -> tuple[float, float]:
        """Where the corner of the first pixel lies from the slide's, in level-0 ``(y, x)``."""
        return self.level.origin

    @property
    def background(self) -> tuple[int, int, int]:
        """The RGB of whatever lies outside."""
        return self.level.background

    @property
    def settings(self) -> dict[str, Any]:
        """Whatever changes a pixel, as JSON."""
        return {
            **self.level.settings,
            "slide.colours": self.space,
            "slide.icc_profile": self.profile,
        }

    def reading_bytes(self, shape: Shape) -> int:
        """Predict the peak of reading ``shape`` pixels at once: those read, and corrected."""
        return max(self.level.reading_bytes(shape), 3 * shape[0] * shape[1] * 3 + 2**23)

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Give ``(y, x, 3)`` pixels of ``box`` in sRGB; outside the plane they are background.

        Raises `SlideError` where the file's pixels cannot be read.
        """
        inside, corrected = box.clipped(self.plane), _to_srgb(self.slide)
        if inside == box:
            return corrected(self.level.read(box))
        pixels = np.empty((*box.shape, 3), np.uint8)
        pixels[:] = self.background
        if inside.area:
            pixels[inside.within(box)] = corrected(self.level.read(inside))
        return pixels


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
