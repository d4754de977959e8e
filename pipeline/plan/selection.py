"""Which patches of a level are predicted, and what of it each block needs for that."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box, Grid, Index
from pipeline.model import ModelRef

__all__ = ["Selection"]


@dataclass(frozen=True)
class Selection:
    """The patches of a model that are wanted of a plane, and the plane's blocks.

    ``grid`` is the plane cut into blocks; ``wanted`` ``(rows, columns)`` bool has one element
    per patch, of the plane cut into what each is responsible for.
    """

    model: ModelRef
    grid: Grid
    wanted: NDArray[np.bool_]

    @property
    def patches(self) -> Grid:
        """The plane cut into what each patch is responsible for."""
        return Grid(self.grid.shape, self.model.step)

    @cached_property
    def todo(self) -> tuple[Index, ...]:
        """The blocks in which a wanted patch has a part."""
        used = self.model.used
        return tuple(
            index for index in self.grid if self._wanted(self.grid.box(index).expanded(used)).any()
        )

    def bits(self) -> Iterator[tuple[Index, bytes]]:
        """Give which of the patches that have a part in a block are wanted, where not all are."""
        for index in self.todo:
            wanted = self._wanted(self.model.predicted_for(self.grid.box(index)))
            if not wanted.all():
                yield index, np.packbits(wanted).tobytes()

    def needed(self) -> Iterator[tuple[Index, Box]]:
        """Give what has to be read of a block, where not all of it has."""
        patches = self.patches
        for index in self.todo:
            l_box = self.model.predicted_for(self.grid.box(index))
            wanted = self._wanted(l_box)
            if wanted.all():
                continue
            cells = self._cells(l_box)
            rows, columns = np.flatnonzero(wanted.any(1)), np.flatnonzero(wanted.any(0))
            first = patches.whole((cells.y + int(rows[0]), cells.x + int(columns[0])))
            last = patches.whole((cells.y + int(rows[-1]), cells.x + int(columns[-1])))
            yield index, first.union(last).expanded(self.model.halo)

    def pixels(self, stride: int, failed: Collection[Index]) -> NDArray[np.int32]:
        """Give row and column ``(n, 2)`` of the wanted patches' pixels, each ``stride`` large.

        ``failed`` blocks have none.
        """
        shape = Grid(self.grid.shape, stride).counts
        repeats = self.model.step // stride
        there = self.wanted.repeat(repeats, 0).repeat(repeats, 1)[: shape[0], : shape[1]]
        for index in failed:
            block = self.grid.box(index).divided(stride)
            there[block.within(Box(0, 0, *shape))] = False
        return np.argwhere(there).astype(np.int32)

    def _cells(self, l_box: Box) -> Box:
        """Give the patches whose cells touch a box."""
        return l_box.clipped(self.grid.shape).divided(self.model.step)

    def _wanted(self, l_box: Box) -> NDArray[np.bool_]:
        cells = self._cells(l_box)
        return self.wanted[cells.y : cells.y_stop, cells.x : cells.x_stop]
