"""The most memory that workers had while one slide was done, to be held against its prediction."""

from __future__ import annotations

from pipeline.execute.schedulers import Scheduler
from pipeline.process import peak_bytes, reset_peak

__all__ = ["begin_peak", "end_peak"]


def begin_peak(scheduler: Scheduler, name: str) -> None:
    """Have every worker count its peak from now on, for `end_peak` by the same name.

    Several slides may be under way: each has a name, and a peak of its own.
    """
    scheduler.everywhere(reset_peak, name)


def end_peak(scheduler: Scheduler, name: str) -> int:
    """Give the peak of the largest worker since `begin_peak`, in bytes; 0 where none is left.

    One that was started meanwhile says its peak since then.
    """
    peaks: list[int] = scheduler.everywhere(peak_bytes, name)
    return max(peaks, default=0)
