"""Worker processes of this machine, and threads of this process."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any

import dask
from dask.utils import parse_bytes

from pipeline.clusters.share import environment
from pipeline.errors import ClusterError
from pipeline.execute.schedulers import THREAD_NAME
from pipeline.plan.memory import check_least
from pipeline.process import available_bytes, cores, gpus, return_freed_memory

if TYPE_CHECKING:
    from distributed import Client

    from pipeline.config import ClusterConfig

__all__ = ["LocalWorkers", "local_client", "threads"]

_ANY_PORT = "127.0.0.1:0"

THREADS_PER_GPU = 4
"""Threads that keep one GPU busy: while one predicts, the others read and write."""


@dataclass(frozen=True, slots=True)
class LocalWorkers:
    """The workers of a local cluster: how many, what each has, threads of a session of theirs."""

    processes: int
    threads: int
    limit_bytes: int

    @classmethod
    def of(
        cls, settings: ClusterConfig, needed_bytes: int = 0, *, gpu: bool = False
    ) -> LocalWorkers:
        """Give what is asked for; ``auto`` shares out this machine's cores, GPUs and memory.

        No more workers than there is memory for, at ``needed_bytes`` each.
        """
        if settings.workers != "auto":
            processes = settings.workers
        elif gpu:
            processes = max(len(gpus()), 1)
        else:
            fit = available_bytes() // needed_bytes if needed_bytes else cores()
            processes = max(min(cores(), fit), 1)
        if settings.threads_per_worker != "auto":
            own = settings.threads_per_worker
        else:
            own = max(min(cores() // processes, THREADS_PER_GPU), 1) if gpu else 1
        shared = settings.memory_limit == "auto"
        limit = available_bytes() // processes if shared else parse_bytes(settings.memory_limit)
        return cls(processes, own, int(limit))

    @property
    def session_threads(self) -> int:
        """The cores that are left to each block that is computed."""
        return max(cores() // (self.processes * self.threads), 1)


@contextmanager
def threads(settings: ClusterConfig) -> Iterator[None]:
    """Compute in threads of this process for a ``with`` block."""
    return_freed_memory()
    count = cores() if settings.workers == "auto" else settings.workers
    # One pool for all: slides that are under way at once share the cores.
    pool = ThreadPoolExecutor(count, thread_name_prefix=THREAD_NAME)
    try:
        with dask.config.set(scheduler="threads", num_workers=count, pool=pool):
            yield None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def local_client(workers: LocalWorkers, settings: ClusterConfig) -> Iterator[Client]:
    """Give the client of worker processes that listen on 127.0.0.1 alone."""
    from distributed import Client, LocalCluster

    check_least(workers.limit_bytes)
    with contextlib.ExitStack() as opened:
        with _interrupts_held():
            try:
                started = LocalCluster(
                    n_workers=workers.processes,
                    threads_per_worker=workers.threads,
                    processes=True,
                    memory_limit=workers.limit_bytes,
                    host="127.0.0.1",
                    env=environment(workers.session_threads),
                    preload=["pipeline.process.worker"],
                    resources=settings.resources or None,
                    **scheduler_options(settings),
                )
            except (RuntimeError, OSError) as error:
                raise ClusterError(
                    f"cluster: the local cluster does not start: {' '.join(str(error).split())}; "
                    "check cluster.dashboard and cluster.memory_limit"
                ) from error
            opened.enter_context(started)
            client = opened.enter_context(Client(started))
        yield client


def scheduler_options(settings: ClusterConfig) -> dict[str, Any]:
    """Give what a `LocalCluster` is told of its scheduler."""
    none = settings.dashboard == "none"
    return {
        "dashboard_address": None if none else settings.dashboard,
        # Without a dashboard distributed would still listen on 8787.
        "scheduler_kwargs": {
            "allowed_failures": 0,  # see `pipeline.execute.distributing.Distributed.run`
            **({"dashboard_address": _ANY_PORT} if none else {}),
        },
    }


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back for a moment, and for ever from what is started meanwhile.

    A terminal sends the one to all processes at once, SLURM the other. Workers inherit that they
    do not listen, from their first instruction on, and so do those that replace them: they are
    started by a thread that is started here. A cluster half up cannot be taken down without noise.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Where multiprocessing starts its tracker it lets Ctrl-C in again, for that thread's child too.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
