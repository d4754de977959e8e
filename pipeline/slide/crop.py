"""Pixels of a part of a slide, as many as a picture shows, from the level that has them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import ConfigError
from pipeline.geometry import Box
from pipeline.slide import Slide
from pipeline.slide.level import Level

__all__ = ["Region", "crop"]

_STRIP_PIXELS = 2**23
"""Pixels that are read at once: a level that is much finer than the picture comes in strips."""


@dataclass(frozen=True, slots=True)
class Region:
    """A part of a slide, in level-0 pixels from its corner; it may leave the slide."""

    x: float
    y: float
    width: float
    height: float

    @classmethod
    def of(cls, given: Sequence[float], mpp: tuple[float, float] = (1.0, 1.0)) -> Region:
        """Read ``x, y, width, height`` in units of which a level-0 pixel has ``mpp`` ``(y, x)``.

        Raises `ConfigError` where that is no part of a plane.

        >>> Region.of((10, 20, 100, 50), (0.5, 0.5))
        Region(x=20.0, y=40.0, width=200.0, height=100.0)
        """
        numbers = [float(each) for each in given]
        if len(numbers) != 4 or not all(map(math.isfinite, numbers)) or min(numbers[2:]) <= 0:
            raise ConfigError(
                f"region: {tuple(given)} is no part of a slide; give x, y, width and height, the "
                "latter two greater than 0"
            )
        x, y, width, height = numbers
        return cls(x / mpp[1], y / mpp[0], width / mpp[1], height / mpp[0])

    def touches(self, shape: tuple[int, int]) -> bool:
        """Say whether any of it lies in a slide of so many rows and columns."""
        inside_x = self.x < shape[1] and self.x + self.width > 0
        return inside_x and self.y < shape[0] and self.y + self.height > 0

    def box(self, step: tuple[float, float], origin: tuple[float, float] = (0.0, 0.0)) -> Box:
        """Give all pixels it touches; one is ``step`` large, the first begins at ``origin``.

        >>> Region(10, 20, 100, 50).box((4.0, 4.0))
        Box(y=5, x=2, height=13, width=26)
        """
        top, left = (self.y - origin[0]) / step[0], (self.x - origin[1]) / step[1]
        bottom, right = top + self.height / step[0], left + self.width / step[1]
        return Box.spanning(math.floor(top), math.floor(left), math.ceil(bottom), math.ceil(right))


def crop(slide: Slide, region: Region, size: int) -> tuple[NDArray[np.uint8], Region, Level]:
    """Give ``(y, x, 3)`` pixels of a region, its longer side some ``size``, or the level-0 ones.

    Also what they cover exactly, and the level they are of. Outside of the slide they are
    background. Memory is that of the picture and of a strip. Raises `SlideError` where pixels
    cannot be read.
    """
    wanted = max(region.width, region.height) / size
    level = slide.coarse(wanted)
    factor = max(int(wanted / max(level.downsample)), 1)
    box = region.box(level.downsample, level.origin)
    # Whole squares, so that none of the picture's pixels shows less than the others.
    rows, columns = (math.ceil(n / factor) * factor for n in box.shape)
    box = Box(box.y, box.x, rows, columns)
    (y, x), (y0, x0) = level.downsample, level.origin
    covered = Region(x0 + box.x * x, y0 + box.y * y, box.width * x, box.height * y)
    strip = max(_STRIP_PIXELS // (box.width * factor), 1) * factor
    parts = [
        _reduced(level.read(Box(top, box.x, min(strip, box.y_stop - top), box.width)), factor)
        for top in range(box.y, box.y_stop, strip)
    ]
    return np.concatenate(parts), covered, level


def _reduced(pixels: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(pixels).reduce(factor)) if factor > 1 else pixels
