"""The side of a block where nobody says it: near 2048, or what a worker has room for."""

from __future__ import annotations

from collections.abc import Iterator
from math import lcm

from pipeline.geometry import ceil_div
from pipeline.model import Model
from pipeline.plan.memory import Worker, worker_bytes
from pipeline.plan.options import Options
from pipeline.plan.predicting import checked_block, fitting_block
from pipeline.slide.level import LevelLike

__all__ = ["LEAST_BLOCK", "chosen_block", "decided_block"]

LEAST_BLOCK = 512
"""A smaller one costs more for being scheduled, read around and written than it saves."""

_ROOM = 0.8
"""The part of a worker's memory that a block is chosen for: above it dask pauses the worker."""


def decided_block(model: Model, level: LevelLike, options: Options) -> tuple[int, str]:
    """Give the side of a block as it is asked for, kept or chosen, and what to say of it.

    Raises `ConfigError` where what is asked for does not fit the model.
    """
    if options.block is not None:
        return checked_block(options.block, model.ref), ""
    kept = options.kept_block
    # Of another model's store it may be anything; that it is refused is said by its settings.
    if kept is not None and kept % model.ref.stride == 0:
        return kept, ""
    worker = options.worker or Worker()
    return chosen_block(model, options.dtype, level, worker, options.chunk)


def chosen_block(
    model: Model, dtype: str, level: LevelLike, worker: Worker, chunk: int | None = None
) -> tuple[int, str]:
    """Give the side of a block, and what to say of it where that is less than usual.

    It is the largest multiple of the model's step, of those up to about 2048, that a worker is
    predicted to have room for; the least one where none is. ``chunk`` is the side of the chunks
    in a block where that is given: it must divide the block.
    """
    usual = fitting_block(model.ref)
    if worker.limit_bytes is None:
        return usual, ""
    room = int(worker.limit_bytes * _ROOM)
    sides = list(_sides(model, usual, chunk)) or [usual]
    fitting = (side for side in sides if worker_bytes(model, side, dtype, worker, level) <= room)
    block = next(fitting, sides[-1])
    if block == usual:
        return usual, ""
    threads = f" for {worker.threads} threads" if worker.threads > 1 else ""
    return block, (
        f"blocks of {block} px instead of {usual}: a worker has "
        f"{worker.limit_bytes / 2**20:.0f} MiB{threads}"
    )


def _sides(model: Model, usual: int, chunk: int | None) -> Iterator[int]:
    """Give the sides there may be, largest first."""
    whole = lcm(model.ref.step, model.ref.stride)
    least = min(ceil_div(LEAST_BLOCK, whole) * whole, usual)
    strides = [each.stride for each in model.ref.maps]
    for side in range(usual, least - 1, -whole):
        if chunk is None or all(side // stride % chunk == 0 for stride in strides):
            yield side
