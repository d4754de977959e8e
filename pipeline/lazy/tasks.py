"""The tasks of some blocks: one for each, made of what `pipeline.lazy` phrased.

dask fuses the steps of an array once, not for every few blocks that are sent. What all its blocks
have in common is pickled once, travels as it is, and is opened once in a process that computes any:
pickling and naming the same tokens for every block was most of what a block cost the client.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import dask.array as da
from dask.blockwise import Blockwise, blockwise_token, optimize_blockwise
from dask.task_spec import Task

from pipeline.geometry import Index

__all__ = ["block_key", "block_tasks", "tasks_of"]

Tasks = dict[Any, Task]

_MOST_OPEN = 64
"""Arrays whose common part is kept open in a process: more than there are slides under way."""


def block_key(blocks: da.Array, index: Index) -> tuple[Any, ...]:
    """Give the graph key of one block of a `write_blocks` array; it ends with the index."""
    return (blocks.name, 0, *index)


def block_tasks(blocks: da.Array, indices: Iterable[Index]) -> Tasks:
    """Give a graph of exactly the tasks that compute ``indices``: one per block."""
    return tasks_of(blocks)(indices)


def tasks_of(blocks: da.Array) -> Callable[[Iterable[Index]], Tasks]:
    """Give what makes the graphs of an array's blocks, as `block_tasks` does; for many of them.

    Raises `ValueError` where the steps of ``blocks`` do not fuse to one.
    """
    graph = blocks.__dask_graph__()
    layers = optimize_blockwise(graph, [block_key(blocks, (0, 0))]).layers.values()
    layer, *others = layers
    if others or not isinstance(layer, Blockwise) or layer.numblocks.keys() - layer.io_deps.keys():
        raise ValueError(f"{blocks.name}: {len(layers)} steps are left that do not fuse to one")
    common = _Common(blocks.name, layer.task)
    # Per argument what has its values, and which places of a key say which of them it is.
    given = [
        (layer.io_deps[str(name)], [layer.output_indices.index(letter) for letter in letters or ()])
        for name, letters in layer.indices
    ]

    def tasks(indices: Iterable[Index]) -> Tasks:
        made = {}
        for index in indices:
            at = (0, *index)
            values = tuple(dep[tuple(at[place] for place in places)] for dep, places in given)
            key = block_key(blocks, index)
            made[key] = Task(key, _compute_block, common, values)
        return made

    return tasks


class _Common:
    """What all tasks of an array have in common: a task of dask's that lacks a block's values."""

    __slots__ = ("_name", "_pickled", "_task")

    def __init__(self, name: str, task: Task) -> None:
        self._name, self._task, self._pickled = name, task, b""

    def __call__(self, values: Sequence[Any]) -> Any:
        return _called(self._task, values)

    def __dask_tokenize__(self) -> str:
        return self._name

    def __reduce__(self) -> tuple[Any, ...]:
        self._pickled = self._pickled or pickle.dumps(self._task)
        return _Sealed, (self._name, self._pickled)


class _Sealed:
    """The same where it has arrived, and on its way: opened only where a block is computed."""

    __slots__ = ("_name", "_pickled")

    def __init__(self, name: str, pickled: bytes) -> None:
        self._name, self._pickled = name, pickled

    def __call__(self, values: Sequence[Any]) -> Any:
        return _called(_opened(self._pickled), values)

    def __dask_tokenize__(self) -> str:
        return self._name

    def __reduce__(self) -> tuple[Any, ...]:
        return _Sealed, (self._name, self._pickled)


def _compute_block(common: _Common | _Sealed, values: Sequence[Any]) -> Any:
    return common(values)


@lru_cache(_MOST_OPEN)
def _opened(pickled: bytes) -> Task:
    task: Task = pickle.loads(pickled)  # noqa: S301 - of our own client, as tasks are
    return task


def _called(task: Task, values: Sequence[Any]) -> Any:
    return task({blockwise_token(number): value for number, value in enumerate(values)})
