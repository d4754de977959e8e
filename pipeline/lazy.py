"""How things are said to dask: read a block, map a block, write a block.

Three blockwise steps that dask fuses into **one task per block**. What enters the graph is
the source, the function's keywords and the target: small frozen tokens, never pixels or
open handles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import dask.array as da
import numpy as np
from dask.array.optimization import optimize
from dask.base import tokenize
from dask.layers import ArrayBlockIdDep, ArrayValuesDep
from numpy.typing import DTypeLike, NDArray

from pipeline.geometry import Box, Frame, Grid, Index
from pipeline.underway import Work, computing

__all__ = [
    "Source",
    "Target",
    "block_key",
    "block_tasks",
    "map_blocks",
    "read_blocks",
    "sliceable",
    "write_blocks",
]

Chunks = tuple[tuple[int, ...], ...]


class Source(Protocol):
    """Something whose pixels can be read box by box: a slide level, a stored output."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The whole array's shape, in the order of ``axes``."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """What `read` returns."""
        ...

    @property
    def axes(self) -> str:
        """``"yxs"`` (slides: rows, columns, samples) or ``"cyx"`` (outputs)."""
        ...

    def read(self, box: Box) -> NDArray[Any]:
        """Give the pixels of ``box``; what lies outside the array is background."""
        ...


class Target(Protocol):
    """Something that keeps what a block's task gives for a box: values ``(c, y, x)``, a table."""

    def write(self, box: Box, values: Any) -> None:
        """Store ``values`` for ``box``, whole or not at all."""
        ...


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
        _Indexable(source),
        chunks=chunks,
        name="source-" + tokenize(source, chunks),
        # dask fuses slices into its plain getter only; `_Indexable` takes what that passes.
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
    blocks: da.Array, target: Target, grid: Grid, work: Work | None = None
) -> da.Array:
    """Write each ``(c, y, x)`` block of ``grid`` to ``target``.

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
        name="write-" + tokenize(blocks.name, target, grid),
        adjust_chunks={"c": 1, "y": (1,) * rows, "x": (1,) * columns},
        concatenate=True,
        dtype=np.uint8,
        meta=np.empty((0, 0, 0), np.uint8),
        align_arrays=False,
    )
    return written


def block_key(blocks: da.Array, index: Index) -> tuple[Any, ...]:
    """Give the graph key of one block of a `write_blocks` array; it ends with the index."""
    return (blocks.name, 0, *index)


def block_tasks(blocks: da.Array, indices: Iterable[Index]) -> dict[Any, Any]:
    """Give a graph of exactly the tasks that compute ``indices``: one per block."""
    keys = [block_key(blocks, index) for index in indices]
    return dict(optimize(blocks.__dask_graph__(), keys))


@dataclass(frozen=True)
class _Indexable:
    """A source that can be indexed as numpy arrays can; it reads the box the index spans."""

    source: Source

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.source.dtype

    @property
    def ndim(self) -> int:
        return len(self.source.shape)

    def __getitem__(self, index: tuple[Any, ...]) -> NDArray[Any]:
        spans = {}
        inner = list(index)
        for axis, (name, n) in enumerate(zip(self.source.axes, self.shape, strict=True)):
            if name not in "yx":
                continue
            asked = np.atleast_1d(np.arange(n)[index[axis]])
            start, stop = (int(asked.min()), int(asked.max()) + 1) if asked.size else (0, 0)
            spans[name] = (start, stop)
            # The box begins and ends with a pixel that was asked for: only the step is left.
            inner[axis] = (
                slice(None, None, index[axis].step)
                if isinstance(index[axis], slice)
                else np.arange(n)[index[axis]] - start
            )
        (y, y_stop), (x, x_stop) = spans["y"], spans["x"]
        pixels: NDArray[Any] = self.source.read(Box.spanning(y, x, y_stop, x_stop))[tuple(inner)]
        return pixels


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
