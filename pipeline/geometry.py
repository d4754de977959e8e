"""Boxes and grids: every position in this package is one of these integers.

Coordinates are ``(y, x)`` pixels of one array, half-open, and may be negative or past the
end where a halo leaves the image. Which array is meant is told by the name of the variable:
``l_`` this level, ``l0_`` level 0, ``o_`` an output, ``b_`` inside a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

__all__ = ["Box", "Frame", "Grid", "Index", "Shape", "ceil_div"]

Shape = tuple[int, int]
Index = tuple[int, int]


def ceil_div(a: int, b: int) -> int:
    """Return ``a / b`` rounded up.

    >>> ceil_div(7, 2), ceil_div(8, 2)
    (4, 4)
    """
    return -(-a // b)


@dataclass(frozen=True, slots=True, order=True)
class Box:
    """A half-open rectangle: ``height`` rows from ``y`` and ``width`` columns from ``x``."""

    y: int
    x: int
    height: int
    width: int

    @property
    def y_stop(self) -> int:
        """The row after the last."""
        return self.y + self.height

    @property
    def x_stop(self) -> int:
        """The column after the last."""
        return self.x + self.width

    @property
    def shape(self) -> Shape:
        """Rows and columns."""
        return (self.height, self.width)

    @property
    def area(self) -> int:
        """Pixels inside; 0 for an empty box."""
        return max(self.height, 0) * max(self.width, 0)

    @classmethod
    def spanning(cls, y: int, x: int, y_stop: int, x_stop: int) -> Box:
        """Give the box from ``(y, x)`` up to, not including, ``(y_stop, x_stop)``."""
        return cls(y, x, max(y_stop - y, 0), max(x_stop - x, 0))

    def expanded(self, margin: int) -> Box:
        """Give the box grown by ``margin`` on all four sides."""
        return Box(
            self.y - margin, self.x - margin, self.height + 2 * margin, self.width + 2 * margin
        )

    def clipped(self, shape: Shape) -> Box:
        """Give the part inside an array of ``shape``; empty when there is none.

        >>> Box(-3, 5, 10, 10).clipped((100, 8))
        Box(y=0, x=5, height=7, width=3)
        """
        return self.intersection(Box(0, 0, *shape))

    def intersection(self, other: Box) -> Box:
        """Give the common part; empty when there is none."""
        return Box.spanning(
            max(self.y, other.y),
            max(self.x, other.x),
            min(self.y_stop, other.y_stop),
            min(self.x_stop, other.x_stop),
        )

    def union(self, other: Box) -> Box:
        """Give the smallest box that holds both."""
        return Box.spanning(
            min(self.y, other.y),
            min(self.x, other.x),
            max(self.y_stop, other.y_stop),
            max(self.x_stop, other.x_stop),
        )

    def divided(self, step: int) -> Box:
        """Give the box in pixels ``step`` times as large, rounded outwards.

        >>> Box(3, 4, 6, 4).divided(4)
        Box(y=0, x=1, height=3, width=1)
        """
        return Box.spanning(
            self.y // step,
            self.x // step,
            ceil_div(self.y_stop, step),
            ceil_div(self.x_stop, step),
        )

    def within(self, outer: Box) -> tuple[slice, slice]:
        """Give the slices that cut this box out of an array that covers ``outer``."""
        y, x = self.y - outer.y, self.x - outer.x
        return (slice(y, y + self.height), slice(x, x + self.width))


@dataclass(frozen=True, slots=True)
class Grid:
    """A plane of ``shape`` cut into square cells of ``cell`` pixels from the origin.

    The last row and column may be smaller. Blocks, patches and shards are all cells of such
    a grid; it always starts at pixel 0, so that one cell is the same whoever asks for it.

    >>> Grid((100, 250), 100).counts
    (1, 3)
    """

    shape: Shape
    cell: int

    @property
    def counts(self) -> Shape:
        """Rows and columns of cells."""
        return (ceil_div(self.shape[0], self.cell), ceil_div(self.shape[1], self.cell))

    @property
    def size(self) -> int:
        """Cells in all."""
        rows, columns = self.counts
        return rows * columns

    def __iter__(self) -> Iterator[Index]:
        rows, columns = self.counts
        return ((i, j) for i in range(rows) for j in range(columns))

    def whole(self, index: Index) -> Box:
        """Give cell ``index`` at its full size, also where that leaves the plane."""
        return Box(index[0] * self.cell, index[1] * self.cell, self.cell, self.cell)

    def box(self, index: Index) -> Box:
        """Give the part of cell ``index`` inside the plane."""
        return self.whole(index).clipped(self.shape)

    def touching(self, box: Box) -> Iterator[Index]:
        """Give the cells that share a pixel with ``box``."""
        inside = box.clipped(self.shape)
        if not inside.area:  # rounded outwards, an empty box would still name a cell
            return iter(())
        cells = inside.divided(self.cell)
        return ((i, j) for i in range(cells.y, cells.y_stop) for j in range(cells.x, cells.x_stop))

    def halved(self) -> Grid:
        """Give the grid of the plane at half the resolution, cells of the same size.

        Its cell ``(i, j)`` covers cells ``(2i..2i+1, 2j..2j+1)`` of this one.
        """
        return Grid((ceil(self.shape[0] / 2), ceil(self.shape[1] / 2)), self.cell)


@dataclass(frozen=True, slots=True)
class Frame:
    """What must be read to compute a box: whole steps of a global grid, and a halo.

    The steps are those within ``reach`` of the box.

    >>> Frame(step=100, halo=8).around(Box(150, 200, 100, 100))
    Box(y=92, x=192, height=216, width=116)
    >>> Frame(step=100, halo=8, reach=30).around(Box(150, 200, 100, 100))
    Box(y=92, x=92, height=216, width=316)
    """

    step: int = 1
    halo: int = 0
    reach: int = 0

    def around(self, box: Box) -> Box:
        """Give the box that must be read to compute ``box``; it may leave the image."""
        cells = box.expanded(self.reach).divided(self.step)
        inner = Box(
            cells.y * self.step,
            cells.x * self.step,
            cells.height * self.step,
            cells.width * self.step,
        )
        return inner.expanded(self.halo)
