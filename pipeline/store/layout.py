"""The shape of one slide's results, before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from pipeline.geometry import Grid, Shape, ceil_div

__all__ = ["LABEL_CHUNK", "Coverage", "Layout"]

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
    and ``step`` level-0 pixels per output pixel, both ``(y, x)``; ``label_step`` and
    ``label_shape`` are the tissue mask's. ``window`` is the least and the greatest value
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
    smallest: int = 512

    @property
    def grids(self) -> tuple[Grid, ...]:
        """The plane and blocks of every level of the output, finest first."""
        grids = [self.grid]
        while max(grids[-1].shape) > self.smallest:
            grids.append(grids[-1].halved())
        return tuple(grids)

    @property
    def fixed_files(self) -> int:
        """Objects that are no shard: metadata of groups and arrays, coverage, tissue chunks."""
        levels = len(self.grids)
        chunks, mask = 0, self.label_shape
        for _ in range(levels):
            chunks += Grid(mask, LABEL_CHUNK).size
            mask = (ceil_div(mask[0], 2), ceil_div(mask[1], 2))
        return 3 + 2 * levels + 2 + chunks
