"""One task per block: what blocks have in common is pickled once and opened once."""

from __future__ import annotations

import pickle
from typing import Any

import dask.array as da
import numpy as np
import pytest
from dask.local import get_sync

from pipeline.geometry import Box, Frame, Grid, Index
from pipeline.lazy import map_blocks, read_blocks, tasks, write_blocks
from pipeline.lazy.tasks import block_key, block_tasks, tasks_of
from tests.test_lazy import Plane, Sheet


def add(block: Any, index: Index, value: Any, *, more: int) -> Any:
    """Add a block's value and the column it is in; none is 0."""
    return block.transpose(2, 0, 1).astype(np.int32) + (value or 0) + more * index[1]


def written(name: str = "out", values: dict[Index, int] | None = None) -> da.Array:
    plane, grid = Plane((40, 60)), Grid((40, 60), 20)
    mapped = map_blocks(
        *(add, read_blocks(plane, grid, Frame()), grid),
        axes="yxs",
        channels=3,
        dtype=np.int32,
        per_block=values,
        more=1000,
    )
    return write_blocks(mapped, Sheet(name, (40, 60), 3), grid)


def test_tasks_that_have_travelled_do_what_they_did_before() -> None:
    values: dict[Index, int] = {(1, 2): 7, (0, 1): 5}
    for name, travel in (("here", False), ("there", True)):
        blocks = written(name, values)
        some = block_tasks(blocks, [(1, 2), (0, 1)])
        if travel:
            some = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(some))))
        done = get_sync(some, [block_key(blocks, index) for index in ((1, 2), (0, 1))])
        assert all(int(np.sum(each)) == 1 for each in done)
        sheet, truth = Sheet(name, (40, 60), 3), Plane((40, 60))
        for index, added in (((1, 2), 2007), ((0, 1), 1005)):
            box = Grid((40, 60), 20).box(index)
            expected = truth.truth(box).transpose(2, 0, 1).astype(np.int32) + added
            np.testing.assert_array_equal(sheet.read(box), expected)
        assert not sheet.read(Box(0, 0, 20, 20)).any()


def test_what_tasks_have_in_common_is_pickled_once_and_opened_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted = {"dumps": 0, "loads": 0}

    class Counting:
        @staticmethod
        def dumps(value: Any) -> bytes:
            counted["dumps"] += 1
            return pickle.dumps(value)

        @staticmethod
        def loads(pickled: bytes) -> Any:
            counted["loads"] += 1
            return pickle.loads(pickled)

    monkeypatch.setattr(tasks, "pickle", Counting)
    blocks = written("counted")
    make = tasks_of(blocks)
    travelled = [
        pickle.loads(pickle.dumps(task))
        for index in Grid((40, 60), 20)
        for task in make([index]).values()
    ]
    assert counted == {"dumps": 1, "loads": 0}
    for task in travelled:
        task()
    assert counted == {"dumps": 1, "loads": 1}


def test_tasks_of_other_arrays_have_other_names() -> None:
    from dask.base import tokenize

    here, other = written("a"), written("b")
    tokens = [
        tokenize(task)
        for blocks in (here, other)
        for task in block_tasks(blocks, [(0, 0), (0, 1)]).values()
    ]
    assert len(set(tokens)) == 4
    again = [tokenize(task) for task in block_tasks(written("a"), [(0, 0), (0, 1)]).values()]
    assert again == tokens[:2]


def test_steps_that_do_not_fuse_to_one_are_refused() -> None:
    blocks = written("split")
    with pytest.raises(ValueError, match="do not fuse"):
        tasks_of(blocks.rechunk((1, 2, 3)) + 1)
