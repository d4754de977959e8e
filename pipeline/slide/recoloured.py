"""A level whose colours are changed where and when it is read, pixel by pixel."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box, Shape
from pipeline.slide.arrays import AsArrays, read_beyond
from pipeline.slide.level import Level, LevelLike, SlideRef

__all__ = ["Recoloured"]


@dataclass(frozen=True, slots=True, repr=False)
class Recoloured(AsArrays):
    """A level in other colours; with `settings` and `converted` a `pipeline.slide.level.LevelLike`.

    It lies where the level lies. Whatever is outside of that stays the slide's background,
    unchanged: it is no pixel of the scanner's.
    """

    level: LevelLike

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Whatever changes a pixel, as JSON."""

    @abstractmethod
    def converted(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Give ``(y, x, 3)`` pixels of the level in the other colours, each by itself."""

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

    def reading_bytes(self, shape: Shape) -> int:
        """Predict the peak of reading ``shape`` pixels at once: those read, and converted."""
        return max(self.level.reading_bytes(shape), 3 * shape[0] * shape[1] * 3 + 2**23)

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Give ``(y, x, 3)`` pixels of ``box``; outside the plane they are background.

        Raises `SlideError` where the file's pixels cannot be read.
        """
        return read_beyond(
            lambda inside: self.converted(self.level.read(inside)),
            box,
            self.plane,
            self.background,
        )
