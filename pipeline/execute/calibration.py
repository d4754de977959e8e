"""How long blocks take on this machine: a few are read and predicted, and nothing is written."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box, Index
from pipeline.model import predict_block
from pipeline.model.session import THREADS_VARIABLE, session_batch
from pipeline.plan import Plan
from pipeline.plan.finish import Placing, finish_block

__all__ = ["Calibration", "calibrate"]

MOST_BLOCKS, MOST_SECONDS = 3, 10.0
"""Blocks that are tried at most, and after how long no other patch is begun."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What ``blocks`` blocks took in one thread, ``seconds`` in all.

    A patch takes ``seconds_per_patch`` in the model, and everything else ``seconds_per_pixel`` of
    those that are read.
    """

    blocks: int
    seconds: float
    seconds_per_pixel: float
    seconds_per_patch: float

    def seconds_for(self, plan: Plan, blocks: int, at_once: int) -> float:
        """Estimate how long so many of a plan's blocks take, ``at_once`` at a time."""
        if not blocks:
            return 0.0
        part = blocks / len(plan.todo)
        pixels = sum(box.area for box in _boxes(plan).values())
        busy = pixels * self.seconds_per_pixel + plan.patch_count * self.seconds_per_patch
        return busy * part / min(at_once, blocks)


def calibrate(plan: Plan, *, session_threads: int = 1) -> Calibration | None:
    """Read and predict a few of a plan's blocks; None where it has none.

    The model is opened first, and run once to warm up: neither counts. Raises `SlideError` or
    `ModelError` where a block fails, as it would in a run.
    """
    if not plan.todo:
        return None
    began, trials, boxes = perf_counter(), list[_Trial](), _boxes(plan)
    with _sessions_of(session_threads):
        for index in _spread(plan.todo):
            left = MOST_SECONDS - (perf_counter() - began)
            if left <= 0 and trials:
                break
            trials.append(_tried(plan, index, boxes[index], left))
    seconds = perf_counter() - began
    # The first one has also opened the slide, and loaded what is loaded late.
    counted = trials[1:] or trials
    pixels, patches = sum(each.pixels for each in counted), sum(each.patches for each in counted)
    return Calibration(
        blocks=len(trials),
        seconds=seconds,
        seconds_per_pixel=sum(each.around for each in counted) / pixels,
        seconds_per_patch=sum(each.predicting for each in counted) / patches,
    )


@dataclass(frozen=True, slots=True)
class _Trial:
    """One block: seconds in the model, and around it."""

    pixels: int
    patches: int
    around: float
    predicting: float


def _tried(plan: Plan, index: Index, l_box: Box, seconds: float) -> _Trial:
    """Read a block, predict as many of its patches as there is time for, and finish those."""
    ref = plan.model.ref
    outer = ref.frame.around(plan.grid.box(index))
    wanted = _wanted(plan, index)
    batch = max(session_batch(member) for member in ref.members)
    began = perf_counter()
    rgb = np.zeros((*outer.shape, 3), np.uint8)
    rgb[l_box.within(outer)] = plan.level.read(l_box)
    read = perf_counter()
    first = _first(wanted, batch)
    predict_block(rgb, index, _bits(first), model=ref, level_grid=plan.grid)
    warm = perf_counter()
    pace = (warm - read) / int(first.sum())
    chosen = _first(wanted, max(int(seconds / pace) // batch, 1) * batch)
    maps = predict_block(rgb, index, _bits(chosen), model=ref, level_grid=plan.grid)
    predicted = perf_counter()
    _finish(plan, index, maps, _bits(chosen))
    around = perf_counter() - predicted + read - began
    return _Trial(l_box.area, int(chosen.sum()), around, predicted - warm)


def _finish(plan: Plan, index: Index, maps: tuple[NDArray[np.float32], ...], wanted: bytes) -> None:
    finish_block(
        maps,
        index,
        wanted,
        model=plan.model.ref,
        level_grid=plan.grid,
        stored_as=plan.dtype,
        placing=Placing(plan.level.downsample, plan.level.origin, plan.layout.mpp),
    )


def _boxes(plan: Plan) -> dict[Index, Box]:
    """Give what is read of each block."""
    frame, needed = plan.model.ref.frame, dict(plan.selection.needed())
    return {index: needed.get(index) or frame.around(plan.grid.box(index)) for index in plan.todo}


def _wanted(plan: Plan, index: Index) -> NDArray[np.bool_]:
    """Say of each patch that has a part in a block whether it is predicted."""
    ref = plan.model.ref
    l_box = ref.predicted_for(plan.grid.box(index))
    count = sum(1 for _ in plan.selection.patches.touching(l_box))
    bits = dict(plan.selection.bits()).get(index)
    if bits is None:
        return np.ones(count, np.bool_)
    return np.unpackbits(np.frombuffer(bits, np.uint8), count=count).astype(np.bool_)


def _first(wanted: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """Give the first patches of those that are wanted."""
    some: NDArray[np.bool_] = wanted & (np.cumsum(wanted) <= count)
    return some


def _bits(wanted: NDArray[np.bool_]) -> bytes:
    return np.packbits(wanted).tobytes()


def _spread(todo: Sequence[Index]) -> list[Index]:
    """Give blocks from the middle of the slide, and on either side of it."""
    places = [len(todo) * part // 4 for part in (2, 1, 3)]
    return [todo[place] for place in dict.fromkeys(places)][:MOST_BLOCKS]


@contextmanager
def _sessions_of(threads: int) -> Iterator[None]:
    """Have the sessions that are opened meanwhile use as many threads as a worker's will."""
    before = os.environ.get(THREADS_VARIABLE)
    os.environ[THREADS_VARIABLE] = str(threads)
    try:
        yield
    finally:
        if before is None:
            del os.environ[THREADS_VARIABLE]
        else:
            os.environ[THREADS_VARIABLE] = before
