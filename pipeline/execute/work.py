"""Blocks computed on a scheduler, each tried a few times, and the levels made from them.

What `pipeline.execute` and `pipeline.batch.converting` do alike.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

import dask.array as da

from pipeline.errors import ClusterError, DiskFullError, PipelineError, reason_of
from pipeline.execute.schedulers import Scheduler
from pipeline.geometry import Index
from pipeline.lazy.tasks import block_key, tasks_of
from pipeline.plan.pyramid import halved, parents
from pipeline.store import StoredArray, done, drop, withdraw

__all__ = ["ATTEMPTS", "Watch", "build_pyramid", "compute_blocks", "invalidate", "tell_nobody"]

ATTEMPTS = 2
"""Times a block is tried: what fails twice with a fresh handle will fail again."""

_log = logging.getLogger(__name__)

Watch = Callable[[str, int, int], None]
"""Told ``(stage, blocks finished, blocks in all)`` as a slide goes on."""


def compute_blocks(
    scheduler: Scheduler,
    blocks: da.Array,
    indices: Collection[Index],
    tell: Callable[[int, int], None],
    *,
    attempts: int = ATTEMPTS,
    fatal: type[Exception] | tuple[type[Exception], ...] = (),
    resources: Mapping[str, float] | None = None,
) -> dict[Index, Exception]:
    """Compute some blocks, each tried a few times; give the errors of those that failed.

    Workers that have not declared ``resources`` get none. One whose worker died is given up by
    the scheduler and not tried again. Raised are what is
    ``fatal``, and what no other block would fare better with: a full disk, an interrupt.
    """
    failures: dict[Index, Exception] = {}
    keys = {block_key(blocks, index): index for index in indices}
    finished, tasks = 0, tasks_of(blocks)
    for trial in range(1, attempts + 1):
        again: dict[Any, Index] = {}
        # A key ends with its block's index.
        for key, error in scheduler.run(keys, lambda some: tasks(k[-2:] for k in some), resources):
            index, last = keys[key], trial == attempts or isinstance(error, ClusterError)
            if isinstance(error, DiskFullError) or (isinstance(error, fatal) and last):
                raise error
            if error is not None:
                _told(index, trial, error, last=last)
                if not isinstance(error, Exception):
                    raise error
                failures[index] = error
                if not last:
                    again[key] = index
                    continue
            else:
                failures.pop(index, None)
            finished += 1
            tell(finished, len(indices))
        keys = again
    return failures


def _told(index: Index, trial: int, error: BaseException, *, last: bool) -> None:
    where: dict[str, Any] = {"block": index, "attempt": trial, "given_up": last}
    if isinstance(error, PipelineError):
        where |= {"stage": error.stage, "worker": error.worker}
    _log.warning(
        "block %s: attempt %d failed: %s",
        index,
        trial,
        reason_of(error),
        # A defect, of ours or of what reads the slide: its place is wanted.
        exc_info=None if isinstance(error, PipelineError) else error,
        extra=where,
    )


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
