"""How much memory a run will take, predicted from what is known before it starts."""

from __future__ import annotations

import numpy as np

from pipeline.errors import MemoryBudgetError
from pipeline.level import READING_BYTES_OTHER, LevelLike
from pipeline.model import Model, ModelRef

__all__ = ["check_budget", "check_least", "predicted_bytes", "worker_bytes"]

BASE_BYTES = 230 * 2**20
"""A worker before its first block: Python, numpy, dask, zarr, OpenSlide, ONNX Runtime."""

CACHE_BYTES = 40 * 2**20
"""OpenSlide's tile cache and zarr's buffers."""


def predicted_bytes(model: Model, block: int, dtype: str, level: LevelLike | None = None) -> int:
    """Predict the peak of a process that works on one block at a time."""
    return worker_bytes(model, block, dtype, threads=1, level=level)


def worker_bytes(
    model: Model, block: int, dtype: str, *, threads: int, level: LevelLike | None = None
) -> int:
    """Predict the peak of a worker whose threads share one slide and one session.

    ``level`` is what is read; a stored level where None is given.
    """
    per_thread = model.footprint.running_bytes + _task_bytes(model.ref, block, dtype, level)
    return BASE_BYTES + CACHE_BYTES + model.footprint.session_bytes + threads * per_thread


def check_least(limit: int) -> None:
    """Raise `MemoryBudgetError` where a worker could not even start in ``limit`` bytes."""
    least = BASE_BYTES + CACHE_BYTES
    if limit < least:
        raise MemoryBudgetError(
            f"cluster.memory_limit: {limit / 2**20:.0f} MiB a worker; it needs "
            f"{least / 2**20:.0f} MiB before its first block; give more, or fewer cluster.workers"
        )


def check_budget(needed: int, limit: int, *, slide: str, block: int) -> None:
    """Raise `MemoryBudgetError` where a worker would need more than it has."""
    if needed > limit:
        raise MemoryBudgetError(
            f"{slide}: a worker is predicted to need {needed / 2**20:.0f} MiB and may use "
            f"{limit / 2**20:.0f} MiB; raise cluster.memory_limit, set output.block below {block} "
            "or cluster.threads_per_worker to 1, or take fewer cluster.workers"
        )


def _task_bytes(model: ModelRef, block: int, dtype: str, level: LevelLike | None) -> int:
    """Give the buffers of one block, its pixels read with the halo of its outermost patches."""
    # A block that holds no whole number of patches is read up to their outer edge.
    outer = (-(-block // model.core) + (block % model.core > 0)) * model.core + 2 * model.halo
    scores = model.channels * (block // model.stride) ** 2
    pixels = outer**2
    batch = model.batch * model.patch**2 * 4
    # What the runtime gives for a batch, and which of it is finite.
    given = model.batch * model.channels * (model.patch // model.stride) ** 2 * (4 + 1)
    reading = pixels * READING_BYTES_OTHER if level is None else level.reading_bytes((outer, outer))
    # The batch, and as the model wants it.
    predicting = pixels * 3 + scores * 4 + max(batch * 3 * 2, batch * 3 + given)
    # Quantised: float32 scores, the same in steps, the stored values; written: encoded copies.
    stored = np.dtype(dtype).itemsize
    writing = pixels * 3 + scores * (4 * 3 + stored) if stored == 1 else scores * (4 + 3 * stored)
    # Four blocks, as they are decoded and as they are put together, into one.
    halving = scores * (2 * 4 * stored + max(stored, 2) + stored)
    return int(max(reading, predicting, writing, halving))
