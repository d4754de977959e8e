"""What one job of workers is: cores, processes, memory, time; given, or as the site has it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask
from dask.utils import parse_bytes

from pipeline.clusters.local import THREADS_PER_GPU
from pipeline.config.values import walltime_seconds
from pipeline.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from pipeline.config import ClusterConfig

__all__ = ["JobShape", "site"]


def site(name: str) -> Any:
    """Give what the ``jobqueue.yaml`` of the user or the site says for SLURM."""
    try:
        import dask_jobqueue  # noqa: F401 - registers its defaults
    except ImportError as error:
        raise MissingExtraError(
            "cluster.kind: slurm needs dask-jobqueue; pip install 'wsi-pipeline[slurm]'"
        ) from error
    return dask.config.get(f"jobqueue.slurm.{name}", None)


@dataclass(frozen=True, slots=True)
class JobShape:
    """A job: its cores and memory, shared by worker processes of some threads each."""

    cores: int
    processes: int
    threads: int
    memory_bytes: int
    walltime: str
    jobs: int

    @classmethod
    def of(cls, settings: ClusterConfig) -> JobShape:
        """Read a run file's block, then the site's; `ConfigError` where neither says enough."""
        cores, memory = settings.cores or site("cores"), settings.memory or site("memory")
        for name, value in (("cores", cores), ("memory", memory)):
            if value is None:
                raise ConfigError(
                    f"cluster.{name}: a job needs it; give it in the run file or in jobqueue.yaml"
                )
        processes = settings.processes
        if processes == "auto":
            processes = site("processes") or settings.gpus or int(cores)
        if int(processes) > int(cores):
            raise ConfigError(
                f"cluster.processes: {processes} in a job of {cores} cores; give it no more than "
                "cluster.cores"
            )
        share = int(cores) // int(processes)
        threads = settings.threads_per_worker
        if threads == "auto":
            threads = min(share, THREADS_PER_GPU) if settings.gpus else 1
        return cls(
            int(cores),
            int(processes),
            int(threads),
            int(parse_bytes(memory)),
            str(settings.walltime or site("walltime") or ""),
            settings.maximum_jobs or settings.jobs,
        )

    @property
    def limit_bytes(self) -> int:
        """Memory of one worker process."""
        return self.memory_bytes // self.processes

    @property
    def session_threads(self) -> int:
        """The cores that are left to each block that is computed."""
        return max(self.cores // (self.processes * self.threads), 1)

    @property
    def workers(self) -> int:
        """Worker processes of all jobs."""
        return self.jobs * self.processes

    @property
    def lifetime(self) -> list[str]:
        """Give a worker's arguments that have it drain before its job is ended.

        Five minutes before, give or take four, so that not all do at once; of jobs shorter than
        half an hour the last fifth.
        """
        if not self.walltime:
            return []
        seconds = walltime_seconds(self.walltime)
        if seconds < _SHORT_S:
            return ["--lifetime", f"{math.ceil(seconds * 0.8)}s"]
        return ["--lifetime", f"{seconds - 300}s", "--lifetime-stagger", "240s"]


_SHORT_S = 1800
