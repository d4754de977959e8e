"""What a worker of the scheduler in force is, or would be: its threads and its memory."""

from __future__ import annotations

from pipeline.execute.schedulers import Local, Scheduler, Synchronous
from pipeline.plan.memory import LATER_BYTES, Worker
from pipeline.process import resident_bytes

__all__ = ["this_process", "worker_in_force"]


def worker_in_force(scheduler: Scheduler) -> Worker:
    """Say what a worker of a scheduler is, before the first slide: later it has more in use."""
    if isinstance(scheduler, Local | Synchronous):
        return this_process(scheduler.threads, scheduler.limit_bytes)
    return Worker(scheduler.threads, scheduler.limit_bytes)


def this_process(threads: int, limit_bytes: int) -> Worker:
    """Give this process as a worker of some threads, with what it has in use already."""
    return Worker(threads, limit_bytes, resident_bytes() + LATER_BYTES)
