"""Blocks computed on a scheduler, each tried a few times, and the levels made from them.

What `pipeline.execute` and `pipeline.converting` do alike.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import pairwise

import dask.array as da

from pipeline.errors import PipelineError
from pipeline.geometry import Index
from pipeline.lazy import block_key, block_tasks
from pipeline.pyramid import halved, parents
from pipeline.schedulers import Scheduler
from pipeline.store import StoredArray, done, drop, withdraw

__all__ = ["ATTEMPTS", "Watch", "build_pyramid", "compute_blocks", "invalidate", "tell_nobody"]

ATTEMPTS = 2
"""Times a block is tried: what fails twice with a fresh handle will fail again."""

Watch = Callable[[str, int, int], None]
"""Told ``(stage, blocks finished, blocks in all)`` as a slide goes on."""


def compute_blocks(
    scheduler: Scheduler,
    blocks: da.Array,
    indices: Collection[Index],
    tell: Callable[[int, int], None],
    *,
    attempts: int = ATTEMPTS,
    fatal: type[PipelineError] | tuple[()] = (),
) -> dict[Index, PipelineError]:
    """Compute some blocks, each tried a few times; give the errors of those that failed.

    Anything but this package's own errors is a defect and is raised; so is what is ``fatal``.
    """
    failures: dict[Index, PipelineError] = {}
    keys = {block_key(blocks, index): index for index in indices}
    finished = 0
    for trial in range(1, attempts + 1):
        failures = {}
        # A key ends with its block's index.
        for done_ in scheduler.run(keys, lambda some: block_tasks(blocks, [k[-2:] for k in some])):
            if isinstance(done_.error, fatal) and trial == attempts:
                raise done_.error
            if isinstance(done_.error, PipelineError):
                failures[keys[done_.key]] = done_.error
            elif done_.error is not None:
                raise done_.error
            if done_.error is None or trial == attempts:
                finished += 1
                tell(finished, len(indices))
        keys = {block_key(blocks, index): index for index in failures}
    return failures


def build_pyramid(
    scheduler: Scheduler,
    outputs: Sequence[StoredArray],
    blocks: set[Index],
    tell: Callable[[int, int], None],
) -> None:
    """Make what is missing of the coarser levels from ``blocks`` of the finest, level by level."""
    for fine, coarse in pairwise(outputs):
        blocks = parents(blocks)
        missing = sorted(blocks - done(coarse))
        broken = compute_blocks(scheduler, halved(fine, coarse), missing, tell)
        if broken:
            raise next(iter(broken.values()))


def invalidate(path: str, arrays: Sequence[Sequence[StoredArray]], left: set[Index]) -> None:
    """Uncommit, and drop what was made from blocks that are about to change.

    ``arrays`` are the levels of every array, finest first. Before any block is written: killed
    at any point after this, the next run finds the coarser blocks pending, never stale.
    """
    withdraw(path)
    for levels in arrays:
        stale = left
        for output in levels[1:]:
            stale = parents(stale)
            drop(output, stale & done(output))


def tell_nobody(_stage: str, _finished: int, _total: int) -> None:
    """Be a `Watch` that keeps it to itself."""
