"""How many values of two stores differ, and by how much: arrays block by block, tables by id.

Blocks are read and compared where they are computed; what comes back is two numbers of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box, Grid, Index
from pipeline.lazy import read_blocks
from pipeline.store import StoredArray, StoredTable, read_table
from pipeline.store.tables import read_part, there

__all__ = ["ArrayDifference", "TableDifference", "compare_arrays", "compare_tables"]

Compute = Callable[[da.Array], NDArray[Any]]
"""A scheduler's: computes a small collection whole."""

_AT_ONCE = 64
"""Blocks of a graph: one of all of them would cost more than the reading."""


@dataclass(frozen=True, slots=True)
class ArrayDifference:
    """Values that differ, of how many; by how much at most; the first block where they do."""

    values: int
    of: int
    largest: float
    block: Index

    def __str__(self) -> str:
        """Say it in a line."""
        return (
            f"{self.values:,} of {self.of:,} values differ, by up to {self.largest:.6g}; "
            f"first in block {self.block}"
        )


@dataclass(frozen=True, slots=True)
class _Both:
    """A `pipeline.lazy.Source` with an element per block: values that differ, and by how much.

    ``blocks`` of both, in a row.
    """

    first: StoredArray
    second: StoredArray
    blocks: tuple[Index, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Two, one and the number of blocks."""
        return (2, 1, len(self.blocks))

    @property
    def dtype(self) -> np.dtype[np.float64]:
        """Exact for as many values as a block can have."""
        return np.dtype(np.float64)

    @property
    def axes(self) -> str:
        """``"cyx"``."""
        return "cyx"

    def read(self, box: Box) -> NDArray[np.float64]:
        """Compare blocks; raises `StoreError` where one cannot be read."""
        found = np.empty((2, *box.shape))
        for column in range(box.width):
            block = self.first.grid.box(self.blocks[box.x + column])
            found[:, 0, column] = _distance(self.first.read(block), self.second.read(block))
        return found


def _distance(first: NDArray[Any], second: NDArray[Any]) -> tuple[int, float]:
    """Give how many values differ, and by how much at most; two that are no number are equal.

    >>> _distance(np.array([1, 7, 250], np.uint8), np.array([1, 9, 0], np.uint8))
    (2, 250.0)
    """
    differ = first != second
    if np.issubdtype(first.dtype, np.floating):
        differ &= ~(np.isnan(first) & np.isnan(second))
    count = int(np.count_nonzero(differ))
    if not count:
        return 0, 0.0
    return count, float(np.abs(first[differ].astype(float) - second[differ].astype(float)).max())


def compare_arrays(
    first: StoredArray, second: StoredArray, compute: Compute, tell: Callable[[int], None]
) -> ArrayDifference | None:
    """Compare two arrays of one shape, a few blocks at a time; None where they are equal.

    ``tell`` is told blocks as they are compared.
    """
    values, largest, where = 0, 0.0, None
    blocks = list(first.grid)
    for start in range(0, len(blocks), _AT_ONCE):
        some = tuple(blocks[start : start + _AT_ONCE])
        both = read_blocks(_Both(first, second, some), Grid((1, len(some)), 1))
        (counts,), (most,) = compute(both)
        if counts.any():
            values += int(counts.sum())
            largest = float(np.max([largest, most.max()]))  # one that is no number wins
            where = where or some[int(np.argmax(counts > 0))]
        tell(len(some))
    if where is None:
        return None
    return ArrayDifference(values, int(np.prod(first.shape)), largest, where)


@dataclass
class TableDifference:
    """Objects only in one table, and of those in both how many differ, by column.

    ``largest`` is by how much the numbers of a column do at most.
    """

    only_first: int = 0
    only_second: int = 0
    both: int = 0
    columns: dict[str, int] = field(default_factory=dict)
    largest: dict[str, float] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Say whether anything differs."""
        return bool(self.only_first or self.only_second or self.columns)

    def __str__(self) -> str:
        """Say it in a line."""
        only = f"{self.only_first:,} objects only in the first, {self.only_second:,} only in the"
        parts = [f"{only} second; {self.both:,} in both"]
        for name, count in self.columns.items():
            by = f" by up to {self.largest[name]:.6g}" if name in self.largest else ""
            parts.append(f"{name} differs in {count:,}{by}")
        return ", ".join(parts)


def compare_tables(first: StoredTable, second: StoredTable, *, aligned: bool) -> TableDifference:
    """Compare two tables, their objects matched by id.

    ``aligned`` is whether their parts are of the same blocks: then a part of each is held at a
    time, else both tables.
    """
    found = TableDifference()
    if not aligned:
        _compare(read_table(first.store, first.name), read_table(second.store, second.name), found)
        return found
    ours, theirs = there(first), there(second)
    for index in sorted({*ours, *theirs}):
        if index not in ours:
            found.only_second += read_part(second, index).num_rows
        elif index not in theirs:
            found.only_first += read_part(first, index).num_rows
        else:
            _compare(read_part(first, index), read_part(second, index), found)
    return found


def _compare(first: Any, second: Any, found: TableDifference) -> None:
    if first.equals(second):
        found.both += first.num_rows
        return
    ids = [table.column("id").to_numpy() for table in (first, second)]
    both, left, right = np.intersect1d(*ids, return_indices=True)
    found.only_first += len(ids[0]) - len(both)
    found.only_second += len(ids[1]) - len(both)
    found.both += len(both)
    for name, one, other in _columns(first, second, left, right):
        count, largest = _apart(one, other)
        if count:
            found.columns[name] = found.columns.get(name, 0) + count
        if count and largest is not None:
            found.largest[name] = float(np.max([largest, found.largest.get(name, 0.0)]))


def _columns(
    first: Any, second: Any, left: NDArray[Any], right: NDArray[Any]
) -> Iterator[tuple[str, NDArray[Any], NDArray[Any]]]:
    for name in first.column_names:
        if name != "id":
            yield (
                name,
                *(
                    np.asarray(table.column(name).to_pylist(), object)[rows]
                    for table, rows in ((first, left), (second, right))
                ),
            )


def _apart(one: NDArray[Any], other: NDArray[Any]) -> tuple[int, float | None]:
    """Give how many elements differ, and by how much at most where they are numbers."""
    differ = np.array([a != b for a, b in zip(one, other, strict=True)], np.bool_)
    pairs = list(zip(one[differ], other[differ], strict=True))
    numbers = [abs(a - b) for a, b in pairs if isinstance(a, float) and isinstance(b, float)]
    return len(pairs), max(numbers, default=None)
