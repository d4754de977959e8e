"""What the workers of a run are: how many, with which threads and memory, asked of or told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.clusters import LocalWorkers, cluster_of
from pipeline.clusters.shape import JobShape
from pipeline.errors import ClusterError
from pipeline.execute.schedulers import Scheduler, scheduler_in_force
from pipeline.execute.workers import this_process, worker_in_force
from pipeline.plan.memory import Worker
from pipeline.process import available_bytes, cores

if TYPE_CHECKING:
    from pipeline.config import ClusterConfig

__all__ = ["Workforce", "blocks_at_once", "workforce_of"]


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


def blocks_at_once(settings: ClusterConfig, scheduler: Scheduler) -> int:
    """Say how many blocks are computed at a time once all workers are there."""
    present = scheduler.processes * scheduler.threads
    if settings.kind != "slurm":
        return present
    shape = JobShape.of(settings)
    return max(present, shape.workers * shape.threads)


def workforce_of(settings: ClusterConfig, needed_bytes: int = 0, *, gpu: bool = False) -> Workforce:
    """Say what the workers of a run file are, or will be: none is started.

    ``needed_bytes`` and ``gpu`` as in `pipeline.clusters.cluster_of`.
    """
    if settings.kind in ("address", "scheduler_file"):
        return _workforce_there(settings)
    if settings.kind in ("slurm", "slurm-runner"):
        shape = JobShape.of(settings)
        worker = Worker(shape.threads, shape.limit_bytes)
        return Workforce(worker, shape.workers, shape.session_threads)
    if settings.kind == "threads":
        count = cores() if settings.workers == "auto" else settings.workers
        return Workforce(this_process(count, available_bytes()))
    local = LocalWorkers.of(settings, needed_bytes, gpu=gpu)
    worker = Worker(local.threads, local.limit_bytes)
    return Workforce(worker, local.processes, local.session_threads)


def _workforce_there(settings: ClusterConfig) -> Workforce:
    try:
        with cluster_of(settings):
            scheduler = scheduler_in_force()
            return Workforce(worker_in_force(scheduler), max(scheduler.processes, 1))
    except ClusterError as error:
        return Workforce(Worker(), unknown=str(error))
