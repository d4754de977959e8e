"""The shape of one slide's results, before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from pipeline.geometry import Grid, Shape, ceil_div
from pipeline.ngff import Placement

__all__ = ["LABEL_CHUNK", "SMALLEST", "Coverage", "ImageLayout", "Layout", "halvings"]

SMALLEST = 512
"""A pyramid ends with a level whose longer side is at most that."""

LABEL_CHUNK = 512
"""Side of a chunk of the tissue mask."""


class Coverage(IntEnum):
    """What became of a block."""

    PENDING = 0
    ANALYSED = 1
    BACKGROUND = 2
    FAILED = 3


@dataclass(frozen=True, slots=True)
class Layout:
    """The shape of one slide's results.

    ``grid`` is the plane of the finest output and its blocks; ``mpp`` um per level-0 pixel
    and ``step`` level-0 pixels per output pixel, both ``(y, x)``; ``origin`` is where the corner
    of the first one lies, in level-0 pixels. ``label_step``, ``label_shape`` and
    ``label_origin`` are the tissue mask's. ``window`` is the least and the greatest value
    that is stored; background reads as the least.
    """

    grid: Grid
    chunk: int
    dtype: str
    channels: tuple[str, ...]
    mpp: tuple[float, float]
    step: tuple[float, float]
    label_step: tuple[float, float]
    label_shape: Shape
    window: tuple[float, float]
    smallest: int = SMALLEST
    origin: tuple[float, float] = (0.0, 0.0)
    label_origin: tuple[float, float] = (0.0, 0.0)

    @property
    def grids(self) -> tuple[Grid, ...]:
        """The plane and blocks of every level of the output, finest first."""
        return halvings(self.grid, self.smallest)

    @property
    def fixed_files(self) -> int:
        """Objects that are no shard: metadata of groups and arrays, coverage, tissue chunks."""
        levels = len(self.grids)
        chunks, mask = 0, self.label_shape
        for _ in range(levels):
            chunks += Grid(mask, LABEL_CHUNK).size
            mask = (ceil_div(mask[0], 2), ceil_div(mask[1], 2))
        return 3 + 2 * levels + 2 + chunks


@dataclass(frozen=True, slots=True)
class ImageLayout:
    """The shape of a slide that is converted: its levels, finest first.

    ``places`` say where each lies, in ``unit`` or in level-0 pixels where that is None.
    ``method`` is how a level is made of the one before, None where each is the slide's own.
    ``fill`` is what a block reads as that is not there.
    """

    grids: tuple[Grid, ...]
    places: tuple[Placement, ...]
    unit: str | None
    method: str | None
    chunk: int
    fill: int


def halvings(grid: Grid, smallest: int = SMALLEST) -> tuple[Grid, ...]:
    """Give a grid, and each time the one of half its plane, until that is small.

    >>> [each.shape for each in halvings(Grid((1500, 900), 256))]
    [(1500, 900), (750, 450), (375, 225)]
    """
    grids = [grid]
    while max(grids[-1].shape) > smallest:
        grids.append(grids[-1].halved())
    return tuple(grids)
