"""How things are said to dask: read a block, map a block, write a block.

Three blockwise steps that dask fuses into **one task per block**, as `pipeline.lazy.tasks` has it
do. What enters the graph is the source, the function's keywords and the target: small frozen
tokens, never pixels or open handles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.layers import ArrayBlockIdDep, ArrayValuesDep
from numpy.typing import DTypeLike, NDArray

from pipeline.geometry import Box, Frame, Grid, Index
from pipeline.lazy.sources import Indexable, Source, Target
from pipeline.process.underway import Work, computing

__all__ = [
    "Source",
    "Target",
    "map_blocks",
    "read_blocks",
    "sliceable",
    "write_blocks",
]

Chunks = tuple[tuple[int, ...], ...]


def read_blocks(
    source: Source,
    grid: Grid,
    frame: Frame = Frame(),  # noqa: B008 - frozen
    needed: Mapping[Index, Box] | None = None,
    work: Work | None = None,
) -> da.Array:
    """Give the blocks of ``source`` on ``grid``, each with what ``frame`` adds around it.

    With a frame the chunks overlap in what they show, so the array's shape is the sum of
    what is read, not the plane's. ``needed`` names, per block, the only part that has to be
    read (in the source's pixels); the rest of the block stays 0. ``work`` is what the log and
    the counters know the blocks by, here and in what is mapped and written.
    """
    rows, columns = _extents(grid, frame)
    spatial = {"y": rows, "x": columns}
    samples = source.shape[source.axes.index("s")] if "s" in source.axes else source.shape[0]
    chunks = tuple(spatial.get(axis, (samples,)) for axis in source.axes)
    ids = ArrayBlockIdDep((rows, columns))
    parts = ArrayValuesDep((rows, columns), _per_block(grid, needed))
    blocks: da.Array = da.blockwise(
        _read_block,
        source.axes,
        ids,
        "yx",
        parts,
        "yx",
        source=source,
        grid=grid,
        frame=frame,
        work=work,
        name="read-" + tokenize(source, grid, frame, needed),
        new_axes={axis: n[0] for axis, n in zip(source.axes, chunks, strict=True) if axis in "sc"},
        concatenate=True,
        dtype=source.dtype,
        meta=np.empty((0, 0, 0), source.dtype),
        align_arrays=False,
    )
    return blocks


def sliceable(source: Source, chunks: tuple[int, ...]) -> da.Array:
    """Give ``source`` as a plain lazy array for slicing and looking around.

    One slice or index is handed down to `Source.read`, cut at chunk borders only, so that
    looking at a corner reads the corner; what is sliced again, or picked by a list, may be
    read in larger boxes. Use `read_blocks` for a run.
    """
    array: da.Array = da.from_array(
        Indexable(source),
        chunks=chunks,
        name="source-" + tokenize(source, chunks),
        # dask fuses slices into its plain getter only; `Indexable` takes what that passes.
        fancy=True,
        inline_array=True,
        meta=np.empty((0, 0, 0), source.dtype),
    )
    return array


def map_blocks(
    function: Callable[..., Any],
    blocks: da.Array,
    grid: Grid,
    *,
    axes: str,
    channels: int,
    dtype: DTypeLike,
    per_block: Mapping[Index, Any] | None = None,
    work: Work | None = None,
    **tokens: Any,
) -> da.Array:
    """Map ``function(block, index, value, **tokens)`` over blocks; the result is ``(c, y, x)``.

    ``axes`` are those of ``blocks``; ``grid`` is the plane of the *result*; ``value`` is
    ``per_block[index]``, None where there is none. What a function gives need be no array where
    only another `map_blocks` or `write_blocks` takes it.
    """
    rows, columns = _extents(grid, Frame())
    named: dict[str, Any] = {} if work is None else {"function": function, "work": work}
    mapped: da.Array = da.blockwise(
        _map_block if named else function,
        "cyx",
        blocks,
        axes.replace("s", "c"),
        ArrayBlockIdDep((rows, columns)),
        "yx",
        ArrayValuesDep((rows, columns), _per_block(grid, per_block)),
        "yx",
        name=f"{function.__name__}-" + tokenize(function, blocks.name, grid, per_block, tokens),
        adjust_chunks={"c": channels, "y": rows, "x": columns},
        concatenate=True,
        dtype=dtype,
        meta=np.empty((0, 0, 0), dtype),
        align_arrays=False,
        **named,
        **tokens,
    )
    return mapped


def write_blocks(
    blocks: da.Array,
    target: Target,
    grid: Grid,
    work: Work | None = None,
    *,
    verb: str = "write",
) -> da.Array:
    """Write each ``(c, y, x)`` block of ``grid`` to ``target``.

    ``verb`` is what Dask's dashboard shows for these tasks all together, and for each slide, which
    ``work`` knows, by itself.

    The result is ``(1, rows, columns)``, one uint8 element per block, 1 once it is written:
    its repr is the grid, a subset of its keys is a partial run. No axis is contracted on the
    way, because dask's blockwise fusion stops at a contraction.
    """
    rows, columns = grid.counts
    written: da.Array = da.blockwise(
        _write_block,
        "cyx",
        blocks,
        "cyx",
        ArrayBlockIdDep(((1,) * rows, (1,) * columns)),
        "yx",
        target=target,
        grid=grid,
        work=work,
        # Dask groups tasks by the letters that a name begins with, and forgets a group, not those.
        name=f"{verb}-{f'#{work.slide}-' if work else ''}{tokenize(blocks.name, target, grid)}",
        adjust_chunks={"c": 1, "y": (1,) * rows, "x": (1,) * columns},
        concatenate=True,
        dtype=np.uint8,
        meta=np.empty((0, 0, 0), np.uint8),
        align_arrays=False,
    )
    return written


def _extents(grid: Grid, frame: Frame) -> Chunks:
    rows, columns = grid.counts
    return (
        tuple(frame.around(grid.box((i, 0))).height for i in range(rows)),
        tuple(frame.around(grid.box((0, j))).width for j in range(columns)),
    )


def _per_block(grid: Grid, values: Mapping[Index, Any] | None) -> dict[Index, Any]:
    given = values or {}
    return {index: given.get(index) for index in grid}


def _read_block(
    index: Index,
    needed: Box | None,
    *,
    source: Source,
    grid: Grid,
    frame: Frame,
    work: Work | None = None,
) -> NDArray[Any]:
    box = frame.around(grid.box(index))
    with computing(work, index, "read"):
        return source.read(box) if needed is None else _read_part(source, box, needed)


def _read_part(source: Source, box: Box, needed: Box) -> NDArray[Any]:
    part = needed.intersection(box)
    rows, columns = part.within(box)
    extents = {"y": box.height, "x": box.width}
    shape = [extents.get(axis, n) for axis, n in zip(source.axes, source.shape, strict=True)]
    block = np.zeros(shape, source.dtype)
    place = {"y": rows, "x": columns}
    block[tuple(place.get(axis, slice(None)) for axis in source.axes)] = source.read(part)
    return block


def _map_block(
    block: Any, index: Index, value: Any, *, function: Callable[..., Any], work: Work, **tokens: Any
) -> Any:
    with computing(work, index, function.__name__.removesuffix("_block")):
        return function(block, index, value, **tokens)


def _write_block(
    values: Any, index: Index, *, target: Target, grid: Grid, work: Work | None = None
) -> NDArray[np.uint8]:
    box = grid.box(index)
    with computing(work, index, "write", box.area):
        target.write(box, values)
    return np.ones((1, 1, 1), np.uint8)
