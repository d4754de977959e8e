"""Resolutions of what is still growing, made of the blocks that are there by now.

While a run goes on a store has blocks of its finest level only; the coarser levels come with the
end. Here each block is reduced once and kept small: whole objects do not change once they are
there, so that only new blocks are read when the store is looked at again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box, Grid, Index
from pipeline.view.planes import TILE, Plane

__all__ = ["KEPT_BYTES", "Blocks", "Kept"]

KEPT_BYTES = 64 * 2**20
"""Bytes of reduced blocks one process keeps."""

Array = NDArray[Any]


class Kept:
    """Reduced blocks by their key, at most ``limit`` bytes of them, least recently used out."""

    def __init__(self, limit: int = KEPT_BYTES) -> None:
        self._limit, self._bytes = limit, 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[Any, Array] = OrderedDict()

    def get(self, key: Any, make: Callable[[], Array]) -> Array:
        """Give what is kept under a key; made if need be, perhaps by two threads at once."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = make()
        with self._lock:
            if key not in self._kept:
                self._bytes += made.nbytes
            self._kept[key] = made
            while self._bytes > self._limit and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return made


@dataclass(frozen=True)
class Blocks:
    """A plane cut into blocks, some of which are there, and its coarser planes.

    ``read(index)`` gives a block ``(y, x)``, ``reduce`` halves one; ``key`` tells it from others
    in `Kept`. Where no block is, it reads as 0.
    """

    key: tuple[Any, ...]
    grid: Grid
    there: Collection[Index]
    read: Callable[[Index], Array]
    reduce: Callable[[Array], Array]
    kept: Kept

    def planes(self, finest: Plane, smallest: int = TILE) -> tuple[Plane, ...]:
        """Give the planes there are, down to one of ``smallest`` or with blocks of odd size."""
        planes, (y, x) = [finest], finest.step
        grid, cell = self.grid, self.grid.cell
        while max(grid.shape) > smallest and cell % 2 == 0:
            grid, cell, y, x = grid.halved(), cell // 2, 2 * y, 2 * x
            planes.append(Plane(grid.shape, (y, x), finest.origin))
        return tuple(planes)

    def box(self, plane: int, box: Box, dtype: np.dtype[Any]) -> Array:
        """Give the values ``(y, x)`` of a box of a plane."""
        values = np.zeros(box.shape, dtype)
        shape = self.grid.shape
        for _ in range(plane):
            shape = (-(-shape[0] // 2), -(-shape[1] // 2))
        grid = Grid(shape, self.grid.cell >> plane)
        for index in grid.touching(box):
            if index in self.there:
                block = grid.box(index)
                common = block.intersection(box)
                values[common.within(box)] = self._small(index, plane)[common.within(block)]
        return values

    def _small(self, index: Index, plane: int) -> Array:
        if plane == 0:
            return self.read(index)
        # Through the planes between: what is near has been halved already.
        return self.kept.get(
            (*self.key, index, plane), lambda: self.reduce(self._small(index, plane - 1))
        )
