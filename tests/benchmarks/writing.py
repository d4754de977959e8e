"""Scores that are ready, written: by this package's store, and by zarr-python as it comes.

Both write the same blocks into an array of the same chunks, shards and compression, as many at a
time as there are threads, into a store that is there. The blocks are green as a slide is: some of
its own, again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.benchmarks.contenders import Run, Setting
from tests.benchmarks.predictions import plan_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.geometry import Box
    from pipeline.store import StoredArray

__all__ = ["writes_blocks", "zarr_writes"]

_READY = 8

Write = Callable[["Box", "NDArray[np.uint8]"], Any]


@contextmanager
def writes_blocks(at: Setting) -> Iterator[Run]:
    """Write with `pipeline.store.StoredArray.write`, as a run does."""
    with _writing(at, lambda array: array.write) as run:
        yield run


@contextmanager
def zarr_writes(at: Setting) -> Iterator[Run]:
    """Write with zarr-python: a block is assigned to its place in the array.

    What is all background is written, too, as we do. Its own threads are as many as ours.
    """
    import zarr

    def of(array: StoredArray) -> Write:
        opened = zarr.open_array(array.store, path=array.name, mode="r+")
        opened = opened.with_config({"write_empty_chunks": True})

        def write(box: Box, values: NDArray[np.uint8]) -> None:
            opened[:, box.y : box.y + box.height, box.x : box.x + box.width] = values

        return write

    with zarr.config.set({"threading.max_workers": at.cores}), _writing(at, of) as run:
        yield run


@contextmanager
def _writing(at: Setting, writer: Callable[[StoredArray], Write]) -> Iterator[Run]:
    import numpy as np

    from pipeline.store import begin

    plan = plan_of(at, "1x1", "out.zarr")
    begin(plan.path, plan.layout, plan.settings, {}, plan.tissue.mask)
    array, boxes = plan.arrays[0][0], [plan.grid.box(index) for index in plan.grid]
    first = plan.grid.box((0, 0)).shape
    step = max(len(boxes) // _READY, 1)
    ready = []
    for box in boxes[::step]:
        green = plan.level.read(box)[None, :, :, 1]
        margin = [(0, n - m) for n, m in zip((1, *first), green.shape, strict=True)]
        ready.append(np.ascontiguousarray(np.pad(green, margin)))
    write = writer(array)

    def store(number: int) -> int:
        box = boxes[number]
        write(box, ready[number % len(ready)][:, : box.height, : box.width])
        return box.area

    store(0)  # all is imported now
    with ThreadPoolExecutor(at.cores) as pool:
        yield lambda: sum(pool.map(store, range(len(boxes))))
