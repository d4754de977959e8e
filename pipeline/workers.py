"""What the workers of a run are: how many, with which threads and memory, asked of or told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.clusters import LocalWorkers, cluster
from pipeline.errors import ClusterError
from pipeline.memory import LATER_BYTES, Worker
from pipeline.process import available_bytes, cores, resident_bytes
from pipeline.schedulers import Local, Scheduler, Synchronous, scheduler_in_force

if TYPE_CHECKING:
    from pipeline.config import ClusterConfig

__all__ = ["Workforce", "worker_in_force", "workforce_of"]


@dataclass(frozen=True, slots=True)
class Workforce:
    """Workers that are alike, whose sessions have as many threads as cores are left to each.

    ``unknown`` says why what they are is not known, and assumed.
    """

    worker: Worker
    processes: int = 1
    session_threads: int = 1
    unknown: str = ""

    @property
    def blocks_at_once(self) -> int:
        """How many blocks are computed at a time."""
        return self.processes * self.worker.threads


def worker_in_force(scheduler: Scheduler) -> Worker:
    """Say what a worker of a scheduler is, before the first slide: later it has more in use."""
    if isinstance(scheduler, Local | Synchronous):
        return _this_process(scheduler.threads, scheduler.limit_bytes)
    return Worker(scheduler.threads, scheduler.limit_bytes)


def workforce_of(settings: ClusterConfig) -> Workforce:
    """Say what the workers of a run file are, or will be: none is started."""
    if settings.kind == "address":
        return _workforce_at(settings.address)
    if settings.kind == "threads":
        count = cores() if settings.workers == "auto" else settings.workers
        return Workforce(_this_process(count, available_bytes()))
    local = LocalWorkers.of(settings.workers, settings.threads_per_worker, settings.memory_limit)
    worker = Worker(local.threads, local.limit_bytes)
    return Workforce(worker, local.processes, local.session_threads)


def _workforce_at(address: str | None) -> Workforce:
    try:
        with cluster("address", address=address):
            scheduler = scheduler_in_force()
            return Workforce(worker_in_force(scheduler), max(scheduler.processes, 1))
    except ClusterError as error:
        return Workforce(Worker(), unknown=str(error))


def _this_process(threads: int, limit_bytes: int) -> Worker:
    return Worker(threads, limit_bytes, resident_bytes() + LATER_BYTES)
