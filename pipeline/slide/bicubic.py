"""Resampling by a cubic, so that a pixel has one value however the image is cut.

The filter is the cubic of Keys (1981) with a = -0.5, stretched over a whole output pixel where
the image is reduced, so that what is too fine for the result is averaged out instead of aliased:
what Pillow calls BICUBIC and does by default, and so what most models have seen in training.

A pixel has the same value in whatever block it is made, and on whatever machine:

- Its weights depend on its own place in the whole plane, never on a block.
- They are whole numbers, and so are all sums, below 2**24: float32 holds those exactly. So
  the order of a sum does not matter, and a matrix product of any BLAS may do it.

Arrays in, arrays out. Beyond its border an image goes on as its outermost pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Shape

__all__ = ["CELL_ROWS", "REACH", "Axis", "resample", "working_bytes"]

REACH = 2
"""Pixels the filter goes out from its centre: output pixels where these are the larger."""

CELL_ROWS = 16
"""Output rows that are made at once: few, or most weights of a matrix product would be 0."""

_CELL_COLUMNS = 16
_GROUP_PIXELS = 512  # source columns taken together, for the processor's cache
_ONE_THREAD = 2**18  # multiplications below which OpenBLAS starts no threads of its own

# What a level of grey is worth: in weights of the first pass, between the passes, in weights of
# the second. 255 * 2**15, and 255 * 2**2 * 2**13, times the sums of absolute weights (below 1.4
# for each pass) stay below 2**24.
_DOWN_BITS, _BETWEEN_BITS, _ACROSS_BITS = 15, 2, 13

Rows = Callable[[int, int], NDArray[np.uint8]]
"""Gives source rows ``first`` to ``last``, ``(y, x, 3)``; neither ever smaller than before."""


@dataclass(frozen=True)
class _Cell:
    """Some output rows, and their weights ``(rows, source rows)``: quarters of a grey level.

    The source rows are those from ``first`` to ``last``.
    """

    start: int
    stop: int
    first: int
    last: int
    weights: NDArray[np.float32]


@dataclass(frozen=True)
class _Group:
    """Some output columns in cells of as many, and their weights ``(cells, columns, window)``.

    A cell's window on the sums of the first pass begins ``step`` columns after the one before,
    the first at source column ``first``; so one matrix product takes all cells at once. They
    span ``width`` columns, of which those after ``last`` are not needed and may not be there.
    """

    start: int
    stop: int
    first: int
    last: int
    step: int
    width: int
    weights: NDArray[np.float32]


@dataclass(frozen=True)
class Axis:
    """The source pixels of each output pixel of one axis, and their weights: ``(pixels, taps)``.

    The weights of a pixel, whole numbers, sum to ``2**bits``.
    """

    taps: NDArray[np.int64]
    weights: NDArray[np.float32]
    bits: int

    @classmethod
    def down(cls, span: tuple[int, int], ratio: float, start: float, size: int) -> Axis:
        """Weigh the rows of output pixels ``span``: see `_axis`."""
        return _axis(span, ratio, start, size, _DOWN_BITS)

    @classmethod
    def across(cls, span: tuple[int, int], ratio: float, start: float, size: int) -> Axis:
        """Weigh the columns of output pixels ``span``: see `_axis`."""
        return _axis(span, ratio, start, size, _ACROSS_BITS)

    @property
    def source(self) -> tuple[int, int]:
        """The first source pixel, and the one after the last."""
        return int(self.taps.min()), int(self.taps.max()) + 1

    def cells(self) -> Iterator[_Cell]:
        """Give the pixels as rows, some at a time."""
        for start in range(0, len(self.taps), CELL_ROWS):
            taps = self.taps[start : start + CELL_ROWS]
            first, last = int(taps.min()), int(taps.max()) + 1
            stop = start + len(taps)
            weights = np.zeros((len(taps), last - first), np.float32)
            # Beyond the border several taps are the same pixel.
            where = (np.arange(len(taps))[:, None], taps - first)
            np.add.at(weights, where, self.weights[start:stop])
            weights *= np.float32(2.0 ** (_BETWEEN_BITS - self.bits))
            yield _Cell(start, stop, first, last, weights)

    def groups(self) -> Iterator[_Group]:
        """Give the pixels as columns, some at a time."""
        start = 0
        while start < len(self.taps):
            reach = self.taps[start, 0] + _GROUP_PIXELS
            more = int(np.searchsorted(self.taps[start:, -1], reach)) // _CELL_COLUMNS
            stop = min(start + max(more, 1) * _CELL_COLUMNS, len(self.taps))
            yield self._group(start, stop)
            start = stop

    def _group(self, start: int, stop: int) -> _Group:
        taps, count = self.taps[start:stop], math.ceil((stop - start) / _CELL_COLUMNS)
        begins = taps[::_CELL_COLUMNS, 0]
        step = round((begins[-1] - begins[0]) / max(count - 1, 1))
        # Cells do not begin a whole number of columns apart: windows are larger by what they
        # are off at most.
        first = int(min(begins - step * np.arange(count)))
        cell = np.arange(stop - start) // _CELL_COLUMNS
        among = taps - (first + step * cell)[:, None]
        weights = np.zeros((count, _CELL_COLUMNS, int(among.max()) + 1), np.float32)
        where = (cell[:, None], (np.arange(stop - start) % _CELL_COLUMNS)[:, None], among)
        np.add.at(weights, where, self.weights[start:stop])
        weights *= np.float32(2.0 ** -(self.bits + _BETWEEN_BITS))
        width = step * (count - 1) + weights.shape[2]
        return _Group(start, stop, first, int(taps.max()) + 1, step, width, weights)


def _axis(span: tuple[int, int], ratio: float, start: float, size: int, bits: int) -> Axis:
    """Weigh output pixels ``span`` of an image of ``size`` pixels.

    Output pixels are ``ratio`` source pixels wide; pixel 0 begins ``start`` source pixels after
    the image. Elementwise sums and products only: those are the same on every machine.
    """
    centres = (np.arange(*span) + 0.5) * ratio + start
    width = max(ratio, 1.0)
    first = np.floor(centres - REACH * width + 0.5).astype(np.int64)
    taps = first[:, None] + np.arange(math.ceil(2 * REACH * width) + 1)
    shares = _cubic((taps + 0.5 - centres[:, None]) / width)
    shares /= reduce(np.add, shares.T)[:, None]
    weights = np.floor(shares * 2**bits + 0.5)
    # What rounding leaves goes to the largest: flat areas keep their value.
    weights[np.arange(len(taps)), shares.argmax(axis=1)] += 2**bits - reduce(np.add, weights.T)
    return Axis(taps.clip(0, size - 1), weights.astype(np.float32), bits)


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def resample(rows: Rows, down: Axis, across: Axis) -> NDArray[np.uint8]:
    """Give the pixels of two axes, ``(y, x, 3)`` uint8.

    What ``rows`` gives covers the columns of ``across.source``.
    """
    made = np.empty((len(down.taps), len(across.taps), 3), np.uint8)
    cells, groups = list(down.cells()), list(across.groups())
    left, _ = across.source
    passes = _Passes(cells, groups)
    for cell in cells:
        strip = rows(cell.first, cell.last)
        for group in groups:
            passes.down(strip[:, max(group.first - left, 0) : group.last - left], cell, group)
            passes.across(cell, group)
        made[cell.start : cell.stop] = passes.grey(cell, len(across.taps))
        # Or the rows before would be held while the next are read.
        del strip
    return made


def working_bytes(shape: Shape, ratio: tuple[float, float]) -> int:
    """Predict what `resample` takes beside its source and its result ``shape``."""
    y, x = (max(each, 1.0) for each in ratio)
    # Taps and weights while they are made, eight arrays of 8 bytes, and the weights in cells.
    axes = sum(
        n * (2 * REACH * each + 2) * 8 * 8 + n * (CELL_ROWS + 2 * REACH + 2) * each * 4
        for n, each in zip(shape, (y, x), strict=True)
    )
    height = (CELL_ROWS + 2 * REACH) * y + 2
    samples = 3 * (max(_GROUP_PIXELS, _CELL_COLUMNS * x) + 2 * REACH * x + 64)
    buffers = samples * (height + CELL_ROWS) * 4 + (shape[1] + _CELL_COLUMNS) * 3 * CELL_ROWS * 5
    return math.ceil(axes + buffers)


class _Passes:
    """Both passes, and the buffers between them: new ones for each cell would cost as much.

    What is left in a buffer from before is finite, and meets weights of 0.
    """

    def __init__(self, cells: Sequence[_Cell], groups: Sequence[_Group]) -> None:
        height = max(cell.last - cell.first for cell in cells)
        samples = 3 * max(group.width for group in groups)
        # A few more for what is left of the last chunk.
        self._samples = samples + math.ceil(samples * height * CELL_ROWS / _ONE_THREAD)
        self._source = np.zeros(height * self._samples, np.float32)
        self._sums = np.zeros(self._samples * CELL_ROWS, np.float32)
        self._values = np.empty(
            (groups[-1].start + groups[-1].weights[..., 0].size) * 3 * CELL_ROWS, np.float32
        )
        self._grey = np.empty(self._values.shape, np.uint8)

    def down(self, strip: NDArray[np.uint8], cell: _Cell, group: _Group) -> None:
        """Sum up the rows of a cell in the columns of a group: ``(x, 3 * y)``, quarters of a level.

        Columns first, so that the second product can take the sums as they are. The columns
        are taken a chunk at a time, all in one call: a product of all at once would be spread
        over threads.
        """
        height, samples = len(strip), 3 * group.width
        count = math.ceil(samples * cell.weights.size / _ONE_THREAD)
        chunk = math.ceil(samples / count)
        values = self._source[: height * count * chunk].reshape(height, count * chunk)
        # Where the slide begins after the window does.
        skipped = 3 * (group.last - group.first - strip.shape[1])
        values[:, skipped : skipped + 3 * strip.shape[1]] = strip.reshape(height, -1)
        sums = self._sums[: count * chunk * len(cell.weights)].reshape(count, chunk, -1)
        chunks = values.reshape(height, count, chunk).transpose(1, 2, 0)
        np.matmul(chunks, cell.weights.T, out=sums)
        np.rint(sums, out=sums)

    def across(self, cell: _Cell, group: _Group) -> None:
        """Sum up the columns of a group from what `down` left: grey levels."""
        cells, columns, window = group.weights.shape
        row = 3 * len(cell.weights)
        strides = (4 * row * group.step, 4 * row, 4)
        windows = np.ndarray((cells, window, row), np.float32, self._sums, strides=strides)
        first, last = group.start * row, (group.start + cells * columns) * row
        np.matmul(group.weights, windows, out=self._values[first:last].reshape(cells, columns, row))

    def grey(self, cell: _Cell, columns: int) -> NDArray[np.uint8]:
        """Give the rows of a cell as they are stored: ``(y, x, 3)``."""
        size = columns * 3 * len(cell.weights)
        values, grey = self._values[:size], self._grey[:size]
        np.rint(values, out=values)
        np.clip(values, 0, 255, out=values)
        np.copyto(grey, values, casting="unsafe")
        return grey.reshape(columns, 3, -1).transpose(2, 0, 1)
