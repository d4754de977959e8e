"""Each level of an output made from the stored one below it."""

from __future__ import annotations

import dask.array as da

from pipeline.geometry import Grid, Index
from pipeline.lazy import map_blocks, read_blocks, write_blocks
from pipeline.process.underway import Work
from pipeline.store import StoredArray, halve, thin

__all__ = ["halved", "parents"]


def halved(fine: StoredArray, coarse: StoredArray) -> da.Array:
    """Give ``coarse`` made from ``fine``, which is stored, lazily: one task per block."""
    grid, work = coarse.grid, Work.on(coarse.store, "pyramid")
    # A block of it covers 2 x 2 blocks of the finer level, whole ones.
    quarters = read_blocks(fine, Grid(fine.plane, 2 * grid.cell), work=work)
    reduce = thin if fine.flat else halve
    halves = map_blocks(
        reduce, quarters, grid, axes="cyx", channels=fine.channels, dtype=fine.dtype, work=work
    )
    return write_blocks(halves, coarse, grid, work, verb="read-halve-write")


def parents(blocks: set[Index] | frozenset[Index]) -> set[Index]:
    """Give the blocks of the next coarser level that these are part of."""
    return {(i // 2, j // 2) for i, j in blocks}
