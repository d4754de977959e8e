"""How much memory a run will take, predicted from what is known before it starts."""

from __future__ import annotations

import numpy as np

from pipeline.errors import MemoryBudgetError
from pipeline.level import READING_BYTES_OTHER, LevelLike
from pipeline.model import MapRef, Model, ModelRef, OutputRef, SessionRef

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
    """Give the buffers of one block, its pixels read with all that its patches see."""
    around = block + 2 * (model.reach + model.used)
    # A block that holds no whole number of patches is read up to their outer edge.
    outer = (-(-around // model.step) + (around % model.step > 0)) * model.step + 2 * model.halo
    pixels = outer**2
    reading = pixels * READING_BYTES_OTHER if level is None else level.reading_bytes((outer, outer))
    maps = sum(_map_bytes(model, each, block) for each in model.maps)
    predicting = pixels * 3 + maps + max(_batch_bytes(model, each) for each in model.members)
    finishing = pixels * 3 + maps
    finishing += max(_finishing(model, each, block, dtype) for each in model.outputs)
    finishing += sum(_stored_bytes(model, each, block, dtype) for each in model.outputs)
    halving = max(_halving(model, each, block, dtype) for each in model.outputs)
    return int(max(reading, predicting, finishing, halving))


def _map_bytes(model: ModelRef, map_: MapRef, block: int) -> int:
    side = (block + 2 * map_.reach) // map_.stride
    # An average also keeps the sum of its weights.
    return side**2 * 4 * (map_.channels + (model.method != "crop"))


def _batch_bytes(model: ModelRef, member: SessionRef) -> int:
    """Give the batch, the same as the model wants it or turned, and what it gives."""
    batch = member.batch * member.patch**2 * 4 * member.channels
    # What the runtime gives for a batch, and which of it is finite.
    given = sum(
        member.batch * each.channels * (member.patch // each.stride) ** 2 * (4 + 1)
        for each in model.maps
    )
    again = given if model.tta != "none" or len(model.members) > 1 else 0
    # The bytes of one patch, together and then colour by colour.
    filling = member.patch**2 * 3 * 2
    return max(batch * 2, batch + given) + again + filling


def _values(model: ModelRef, output: OutputRef, block: int) -> int:
    map_ = model.maps[output.map]
    return map_.channels * (block // map_.stride) ** 2


def _stored_bytes(model: ModelRef, output: OutputRef, block: int, dtype: str) -> int:
    """Give what a block of an output takes as it is stored, and encoded copies of it."""
    if output.kind == "objects":
        return 0
    if output.kind == "labels":
        return _values(model, output, block) // model.maps[output.map].channels * 3
    kind = output.dtype if output.kind == "features" else dtype
    return _values(model, output, block) * np.dtype(kind).itemsize * 3


def _finishing(model: ModelRef, output: OutputRef, block: int, dtype: str) -> int:
    """Give what is needed for a moment to make an output of its map."""
    map_ = model.maps[output.map]
    if output.kind == "objects":
        # Foreground, distances, seeds, markers, labels and what watershed queues.
        side = (block + 2 * map_.reach) // map_.stride
        return side**2 * (4 * map_.channels + 48)
    if output.kind == "labels":  # numpy's argmax
        return _values(model, output, block) // map_.channels * 8
    # Scores in steps, as floats.
    return _values(model, output, block) * (8 if np.dtype(dtype) == np.uint8 else 0)


def _halving(model: ModelRef, output: OutputRef, block: int, dtype: str) -> int:
    """Give what a block of a coarser level takes: four blocks, decoded and put together."""
    if output.kind != "scores":
        return _stored_bytes(model, output, block, dtype) * 3
    stored = np.dtype(dtype).itemsize
    return _values(model, output, block) * (2 * 4 * stored + max(stored, 2) + stored)
