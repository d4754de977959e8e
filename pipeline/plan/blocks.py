"""The side of a block where nobody says it: near 2048 or 1024, or what a worker has room for."""

from __future__ import annotations

from collections.abc import Iterator
from math import lcm

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.geometry import Grid, Shape, ceil_div
from pipeline.model import Model, ModelRef
from pipeline.plan.memory import Worker, worker_bytes
from pipeline.plan.options import Options
from pipeline.plan.selection import Selection
from pipeline.slide.level import BLOCK, LevelLike

__all__ = ["LEAST_BLOCK", "checked_block", "chosen_block", "decided_block"]

LEAST_BLOCK = 512
"""A smaller one costs more for being scheduled, read around and written than it saves."""

_ROOM = 0.8
"""The part of a worker's memory that a block is chosen for: above it dask pauses the worker."""

_FEW_BLOCKS = 16
"""A slide of which fewer are analysed has blocks of half the side: all wait for whoever has the
last one, and of a few, not all of them whole, some thread has much more than another."""


def decided_block(
    model: Model, level: LevelLike, wanted: NDArray[np.bool_], options: Options
) -> tuple[int, str]:
    """Give the side of a block as it is asked for, kept or chosen, and what to say of it.

    ``wanted`` are the patches that are predicted, as `Selection` has them. Raises `ConfigError`
    where what is asked for does not fit the model.
    """
    if options.block is not None:
        return checked_block(options.block, model.ref), ""
    kept = options.kept_block
    # Of another model's store it may be anything; that it is refused is said by its settings.
    if kept is not None and kept % model.ref.stride == 0:
        return kept, ""
    worker = options.worker or Worker()
    return chosen_block(model, options.dtype, level, wanted, worker, options.chunk)


def chosen_block(
    model: Model,
    dtype: str,
    level: LevelLike,
    wanted: NDArray[np.bool_],
    worker: Worker,
    chunk: int | None = None,
) -> tuple[int, str]:
    """Give the side of a block, and what to say of it where that is less than usual.

    It is the largest multiple of the model's step, of those up to the usual side, that a worker
    is predicted to have room for; the least one where none is. ``chunk`` is the side of the
    chunks in a block where that is given: it must divide the block.
    """
    usual = _usual_block(model.ref, level.plane, wanted, chunk)
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


def checked_block(block: int | None, ref: ModelRef) -> int:
    """Give the side of a block, near 2048 where it is None; `ConfigError` where it does not fit."""
    if block is None:
        return _fitting_block(ref, BLOCK)
    if block < 1 or block % ref.stride:
        raise ConfigError(
            f"output.block: {block} is not a multiple of the model's stride {ref.stride}; "
            f"use {max(round(block / ref.stride), 1) * ref.stride}"
        )
    return block


def _usual_block(ref: ModelRef, plane: Shape, wanted: NDArray[np.bool_], chunk: int | None) -> int:
    """Give the side near 2048, or near 1024 where few such blocks are analysed."""
    usual, half = _fitting_block(ref, BLOCK), _fitting_block(ref, BLOCK // 2)
    few = len(Selection(ref, Grid(plane, usual), wanted).todo) < _FEW_BLOCKS
    return half if few and _holds(half, ref, chunk) else usual


def _fitting_block(ref: ModelRef, near: int) -> int:
    """Give the side nearest to one that holds whole patches: none of them is predicted twice.

    A patch larger than that is a block of its own.
    """
    whole = lcm(ref.step, ref.stride)
    return max(round(near / whole), 1) * whole


def _holds(side: int, ref: ModelRef, chunk: int | None) -> bool:
    """Whether a block of that side consists of whole chunks, in each of the model's maps."""
    return chunk is None or all(side // each.stride % chunk == 0 for each in ref.maps)


def _sides(model: Model, usual: int, chunk: int | None) -> Iterator[int]:
    """Give the sides there may be, largest first."""
    whole = lcm(model.ref.step, model.ref.stride)
    least = min(ceil_div(LEAST_BLOCK, whole) * whole, usual)
    for side in range(usual, least - 1, -whole):
        if _holds(side, model.ref, chunk):
            yield side
