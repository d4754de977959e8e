"""What may be wrong with a store, and the reading back of its blocks, one by one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import one_line
from pipeline.geometry import Box, Index, Shape
from pipeline.store.array import StoredArray
from pipeline.store.damage import DAMAGE
from pipeline.store.tables import FOLDER, StoredTable

__all__ = ["Damage", "Part", "ReadBack", "inside"]


Kind = Literal["torn", "missing", "lost", "unread"]


@dataclass(frozen=True, slots=True)
class Damage:
    """Something of a store that is not as it was written.

    ``part`` says what of the store, ``block`` which of its blocks, where it has blocks.
    ``kind`` is ``torn``; ``missing``; ``lost`` where without it nothing else can be known; or
    ``unread`` where it could not be read for a reason that may pass. ``drop`` are the objects,
    and folders, which end in ``/``, that have to go so that a run makes them again.
    """

    part: str
    reason: str
    block: Index | None = None
    kind: Kind = "torn"
    drop: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Say it in a line."""
        where = "" if self.block is None else f", block {self.block}"
        return f"{self.part}{where}: {self.reason}"


@dataclass(frozen=True, slots=True)
class ReadBack:
    """A `pipeline.lazy.Source` with an element per block: None, or ``(kind, reason)``.

    ``blocks`` of what is stored, in a row; see `Damage` for the kinds.
    """

    stored: StoredArray | StoredTable
    blocks: tuple[Index, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """One, one and the number of blocks."""
        return (1, 1, len(self.blocks))

    @property
    def dtype(self) -> np.dtype[np.object_]:
        """Always Python's own values."""
        return np.dtype(object)

    @property
    def axes(self) -> str:
        """``"cyx"``."""
        return "cyx"

    def read(self, box: Box) -> NDArray[Any]:
        """Read blocks back and say what is wrong with each."""
        found = np.empty((1, *box.shape), object)
        for column in range(box.width):
            found[0, 0, column] = self._problem(self.blocks[box.x + column])
        return found

    def _problem(self, index: Index) -> tuple[Kind, str] | None:
        try:
            self.stored.check(index)
        except DAMAGE as error:
            return "torn", one_line(error)
        except OSError as error:
            return "unread", f"cannot be read: {error.strerror or one_line(error)}"
        return None


@dataclass(frozen=True, slots=True)
class Part:
    """One level of an array, or one table: what is there of it, and what should be.

    ``coarser`` are the levels that are made of it.
    """

    stored: StoredArray | StoredTable
    present: frozenset[Index]
    wanted: frozenset[Index] = frozenset()
    coarser: tuple[StoredArray, ...] = ()

    @property
    def name(self) -> str:
        """What it is called where something is wrong with it."""
        kind = "array" if isinstance(self.stored, StoredArray) else "table"
        return f"{kind} {self.stored.name}"

    def missing(self) -> list[Damage]:
        """Give the blocks that should be there and are not."""
        return [
            Damage(self.name, "not there", index, "missing", self._made_of(index))
            for index in sorted(self.wanted - self.present)
        ]

    def broken(self, index: Index, kind: Kind, reason: str) -> Damage:
        """Say what is wrong with a block, by what `ReadBack.read` gave."""
        drop = () if kind == "unread" else (self._key(index), *self._made_of(index))
        return Damage(self.name, reason, index, kind, drop)

    def _key(self, index: Index) -> str:
        if isinstance(self.stored, StoredArray):
            return self.stored.key(index)
        part = self.stored.part(index)
        return f"{FOLDER}/{self.stored.name}/{part.rpartition('/')[2]}"

    def _made_of(self, index: Index) -> tuple[str, ...]:
        """Give the shards of coarser levels that were made of a block."""
        keys = []
        for array in self.coarser:
            index = (index[0] // 2, index[1] // 2)
            keys.append(array.key(index))
        return tuple(keys)


def inside(indices: Collection[Index], counts: Shape) -> frozenset[Index]:
    """Give those that are blocks of so many rows and columns."""
    return frozenset(i for i in indices if i[0] < counts[0] and i[1] < counts[1])
