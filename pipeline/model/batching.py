"""How many patches a session is run on at a time: measured where the card leaves it open."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

from pipeline.errors import ModelError

__all__ = ["Choice", "candidates", "fitting", "measured"]

_LONG_S = 0.05
"""Nothing larger is tried than what takes so long. On a CPU a larger batch saves what a call costs
beside its work, some 15 us: of ResNet-18, a U-Net and InstanSeg none of up to 32 patches measured
faster a patch than 2."""

_VERY_LONG_S = 1.0
"""What takes so long is not run again, either."""

_RUNS = 3
_AS_GOOD = 1.03
"""Of batches as fast as that the smallest is taken: it needs the least memory."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A number of patches per call, and how long each took."""

    batch: int
    seconds_per_patch: float


def candidates(most: int) -> list[int]:
    """Give the batch sizes worth trying: powers of two, and the most there may be.

    Not 1, where there are others: of a matrix of one row ONNX Runtime makes its products by
    another kernel, which adds up in another order. From 2 on a patch gets the same values to the
    last bit in batches of any size, so that workers may choose differently.

    >>> candidates(12), candidates(2), candidates(1)
    ([2, 4, 8, 12], [2], [1])
    """
    if most <= 2:
        return [most]
    return [*(2**power for power in range(1, most.bit_length()) if 2**power < most), most]


def measured(
    run: Callable[[int], object], most: int, *, clock: Callable[[], float] = perf_counter
) -> Choice:
    """Give the smallest of `candidates` that takes at most 3 % longer per patch than the best.

    ``run`` runs a batch of that many patches: once to warm up, then three times, of which the
    fastest counts. One that takes more than 50 ms is the last, and runs once after warming up, or,
    if it takes more than a second, not again. One that fails ends it too, as a GPU's memory does:
    what is smaller has run. Raises `ModelError` where not even the smallest does.
    """
    seen: list[Choice] = []
    for batch in candidates(most):
        try:
            warming = _seconds(run, batch, clock)
        except ModelError:
            if not seen:
                raise
            break
        if warming > _VERY_LONG_S:
            seen.append(Choice(batch, warming / batch))
            break
        is_last = warming > _LONG_S
        fastest = min(_seconds(run, batch, clock) for _ in range(1 if is_last else _RUNS))
        seen.append(Choice(batch, fastest / batch))
        if is_last:
            break
    best = min(each.seconds_per_patch for each in seen)
    return next(each for each in seen if each.seconds_per_patch <= best * _AS_GOOD)


def fitting(
    run: Callable[[int], object], most: int, *, clock: Callable[[], float] = perf_counter
) -> Choice:
    """Give the largest batch that runs: the most, or half as often as its memory asks for.

    For GPUs, on which a patch's last digits depend on the batch it is in: there all workers are to
    have the same. Measured on an H100 the most there may be was also the fastest. Raises
    `ModelError` where not even one patch runs.
    """
    batch = most
    while True:
        try:
            run(batch)
        except ModelError:
            if batch == 1:
                raise
            batch //= 2
        else:
            return Choice(batch, _seconds(run, batch, clock) / batch)


def _seconds(run: Callable[[int], object], batch: int, clock: Callable[[], float]) -> float:
    began = clock()
    run(batch)
    return clock() - began
