"""The shape of one slide's results, before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from pipeline.geometry import Grid, Shape
from pipeline.ngff import Placement

__all__ = [
    "LABEL_CHUNK",
    "SMALLEST",
    "ArrayLayout",
    "Coverage",
    "ImageLayout",
    "Layout",
    "halvings",
]

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
class ArrayLayout:
    """The shape of one output that is stored as an array.

    ``folder`` is where its levels are in the group, "" for those of the group's own image.
    ``grid`` is the plane of the finest level and its blocks, ``step`` level-0 pixels per pixel
    of it. Labels are ``(y, x)``, anything else ``(c, y, x)``. ``window`` is the least and the
    greatest value that is stored, ``fill`` what is read where nothing is. ``levels`` is how many
    there are, each half of the one before.
    """

    name: str
    folder: str
    kind: str
    grid: Grid
    step: tuple[float, float]
    chunk: int
    dtype: str
    channels: tuple[str, ...]
    colours: tuple[str, ...]
    values: tuple[int, ...]
    window: tuple[float, float]
    fill: float
    levels: int

    @property
    def grids(self) -> tuple[Grid, ...]:
        """The plane and blocks of every level, finest first."""
        return tuple(_levels(self.grid, self.levels))

    @property
    def chunk_channels(self) -> int:
        """Channels in a chunk: one of scores, all of the features of a patch."""
        return len(self.channels) if self.kind == "features" else 1

    @property
    def block_bytes(self) -> int:
        """Bytes of a block before compression, with its share of the coarser levels."""
        channels = 1 if self.kind == "labels" else len(self.channels)
        finest = self.grid.cell**2 * channels * np.dtype(self.dtype).itemsize
        return finest if self.levels == 1 else finest * 4 // 3

    def path(self, level: int) -> str:
        """Give the path of a level in the group."""
        return f"{self.folder}/{level}" if self.folder else str(level)


@dataclass(frozen=True, slots=True)
class Layout:
    """The shape of one slide's results.

    ``grid`` is the plane of what the model sees and its blocks; ``mpp`` um per level-0 pixel,
    ``(y, x)``; ``origin`` where the corner of the first pixel lies, in level-0 pixels.
    ``label_step``, ``label_shape`` and ``label_origin`` are the tissue mask's. ``tables`` are
    the names of what is stored as tables.
    """

    grid: Grid
    mpp: tuple[float, float]
    arrays: tuple[ArrayLayout, ...]
    label_step: tuple[float, float]
    label_shape: Shape
    tables: tuple[str, ...] = ()
    origin: tuple[float, float] = (0.0, 0.0)
    label_origin: tuple[float, float] = (0.0, 0.0)

    @property
    def image(self) -> ArrayLayout | None:
        """What the group itself is an image of; None where no output is one."""
        return next((each for each in self.arrays if not each.folder), None)

    @property
    def label_levels(self) -> int:
        """Levels of the tissue mask: as many as the image has, as OME-Zarr asks."""
        return self.image.levels if self.image else 1

    @property
    def folders(self) -> tuple[str, ...]:
        """The groups in the group, those around others before them."""
        deepest = ["labels", *(array.folder for array in self.arrays if array.folder)]
        deepest += (f"objects/{name}" for name in self.tables)
        parts = (folder.split("/") for folder in deepest)
        around = ("/".join(each[: i + 1]) for each in parts for i in range(len(each)))
        return tuple(sorted(set(around)))

    @property
    def fixed_files(self) -> int:
        """Objects that are no block: metadata of groups and arrays, coverage, tissue chunks."""
        mask = Grid(self.label_shape, LABEL_CHUNK)
        chunks = sum(grid.size for grid in _levels(mask, self.label_levels))
        arrays = sum(array.levels for array in self.arrays) + self.label_levels
        # The group and that of the tissue, and the coverage with its one chunk.
        return 4 + len(self.folders) + arrays + chunks


def _levels(grid: Grid, count: int) -> list[Grid]:
    grids = [grid]
    while len(grids) < count:
        grids.append(grids[-1].halved())
    return grids


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
