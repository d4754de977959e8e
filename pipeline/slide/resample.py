"""A slide at any resolution: a stored level, resampled where and when it is read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box, Shape
from pipeline.slide.arrays import AsArrays, read_beyond
from pipeline.slide.bicubic import CELL_ROWS, REACH, Axis, resample, working_bytes
from pipeline.slide.level import Level, SlideRef

__all__ = ["Resampled", "resampled"]

FILTER = "bicubic"
"""What the settings of a store call the way of resampling; another way needs another name."""

AS_FINE = 1.02
"""How much coarser than wanted a stored level may be and still be read instead of a finer one."""

_SLIVER = 1e-6  # of a pixel: less of the slide than that makes no pixel of its own
_STRIP_PIXELS = 2**22  # stored pixels that are read at once: as many as an ordinary block has


@dataclass(frozen=True, slots=True, repr=False)
class Resampled(AsArrays):
    """A virtual level, made of the ``stored`` one: a `pipeline.slide.level.LevelLike`.

    Pixel ``(i, j)`` covers level-0 rows ``i * downsample[0]`` to ``(i + 1) * downsample[0]``, and
    columns likewise, counted from the slide's corner. The last row and column may leave the
    slide: there its outermost pixels go on, so that no background bleeds in.
    """

    stored: Level
    plane: Shape
    downsample: tuple[float, float]

    @property
    def slide(self) -> SlideRef:
        """The slide that is read."""
        return self.stored.slide

    @property
    def origin(self) -> tuple[float, float]:
        """It begins at the slide's corner."""
        return (0.0, 0.0)

    @property
    def background(self) -> tuple[int, int, int]:
        """The RGB of whatever lies outside."""
        return self.stored.background

    @property
    def settings(self) -> dict[str, Any]:
        """Whatever changes a pixel, as JSON."""
        return {
            **self.stored.settings,
            "slide.resampled": list(self.downsample),
            "slide.filter": FILTER,
        }

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Give ``(y, x, 3)`` pixels of ``box``; outside the plane they are background.

        Raises `SlideError` where the file's pixels cannot be read.
        """
        return read_beyond(self._made, box, self.plane, self.background)

    def reading_bytes(self, shape: Shape) -> int:
        """Predict the peak of reading ``shape`` pixels at once: a strip of the stored ones."""
        reach = [max(ratio, 1.0) for ratio in self._ratio]
        rows, columns = (
            math.ceil(n * ratio + 2 * REACH * each) + 2
            for n, ratio, each in zip(shape, self._ratio, reach, strict=True)
        )
        strip = min(_strip_rows(self.stored, columns), rows)
        # What is left of the strip before, the strip itself, and both as one.
        kept = math.ceil((CELL_ROWS + 2 * REACH) * reach[0]) + 2
        reading = self.stored.reading_bytes((strip, columns)) + kept * columns * 3
        joining = 2 * (strip + kept) * columns * 3
        # The result, and once more where it is put into a box that leaves the slide.
        made = 2 * shape[0] * shape[1] * 3
        return max(reading, joining) + made + working_bytes(shape, self._ratio)

    def _made(self, box: Box) -> NDArray[np.uint8]:
        (y_ratio, x_ratio), (y_start, x_start) = self._ratio, self._start
        rows, columns = self.stored.plane
        down = Axis.down((box.y, box.y_stop), y_ratio, y_start, rows)
        across = Axis.across((box.x, box.x_stop), x_ratio, x_start, columns)
        return resample(_Window(self.stored, across.source, down.source[1]).rows, down, across)

    @property
    def _ratio(self) -> tuple[float, float]:
        """Stored pixels per pixel."""
        (y, x), (l_y, l_x) = self.downsample, self.stored.downsample
        return (y / l_y, x / l_x)

    @property
    def _start(self) -> tuple[float, float]:
        """Where the slide's corner lies, in stored pixels."""
        (y, x), (l_y, l_x) = self.stored.origin, self.stored.downsample
        return (-y / l_y, -x / l_x)


def resampled(levels: Sequence[Level], shape: Shape, scale: tuple[float, float]) -> Resampled:
    """Give a slide of ``shape`` level-0 pixels at ``scale`` ``(y, x)`` of those per pixel.

    It is made of the coarsest of ``levels`` (finest first) that is as fine, or at most `AS_FINE`
    times coarser; of level 0, enlarged, where none is.
    """
    fine = [
        level
        for level in levels
        if all(d <= s * AS_FINE for d, s in zip(level.downsample, scale, strict=True))
    ]
    rows, columns = (max(math.ceil(n / s - _SLIVER), 1) for n, s in zip(shape, scale, strict=True))
    return Resampled(fine[-1] if fine else levels[0], (rows, columns), scale)


class _Window:
    """Rows of a level between two columns, read strip by strip as they are asked for."""

    def __init__(self, level: Level, columns: tuple[int, int], last: int) -> None:
        self._level, self._columns, self._last = level, columns, last
        self._held = np.empty((0, columns[1] - columns[0], 3), np.uint8)
        self._first = 0

    def rows(self, first: int, last: int) -> NDArray[np.uint8]:
        """Give rows ``first`` to ``last``: see `pipeline.slide.bicubic.Rows`."""
        have = self._first + len(self._held)
        if last > have:
            # A copy, so that rows which are done with are freed before the next are read.
            self._held = self._held[first - self._first :].copy()
            self._first, have = first, max(have, first)
            while have < last:
                stop = self._stop(have)
                strip = self._level.read(
                    Box.spanning(have, self._columns[0], stop, self._columns[1])
                )
                self._held = np.concatenate([self._held, strip]) if self._held.size else strip
                have = stop
        return self._held[first - self._first : last - self._first]

    def _stop(self, start: int) -> int:
        """Give where a strip ends: with a tile, so that none is decoded twice."""
        rows = _strip_rows(self._level, self._columns[1] - self._columns[0])
        tile, offset = self._level.tile[0], self._level.offset[0]
        stop = (start + rows + offset) // tile * tile - offset
        return min(stop if stop > start else start + rows, self._last)


def _strip_rows(level: Level, columns: int) -> int:
    return max(_STRIP_PIXELS // columns, level.tile[0])
