"""Where blocks are computed: `cluster` starts it and makes it dask's scheduler in force."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING

import dask
from dask.utils import parse_bytes

from pipeline.errors import ClusterError, ConfigError
from pipeline.memory import check_least
from pipeline.model.session import THREADS_VARIABLE
from pipeline.process import available_bytes, cores, return_freed_memory
from pipeline.schedulers import THREAD_NAME

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["LocalWorkers", "cluster"]

_ANY_PORT = "127.0.0.1:0"


@dataclass(frozen=True, slots=True)
class LocalWorkers:
    """The workers of a local cluster: how many, what each has, threads of a session of theirs."""

    processes: int
    threads: int
    limit_bytes: int

    @classmethod
    def of(
        cls, workers: int | str, threads_per_worker: int | str, memory_limit: int | str
    ) -> LocalWorkers:
        """Give what is asked for; ``auto`` shares out this machine's cores and memory."""
        processes = cores() if workers == "auto" else int(workers)
        threads = 1 if threads_per_worker == "auto" else int(threads_per_worker)
        shared = memory_limit == "auto"
        limit = available_bytes() // processes if shared else int(parse_bytes(memory_limit))
        return cls(processes, threads, limit)

    @property
    def session_threads(self) -> int:
        """The cores that are left to each block that is computed."""
        return max(cores() // (self.processes * self.threads), 1)


@contextmanager
def cluster(
    kind: str = "local",
    *,
    workers: int | str = "auto",
    threads_per_worker: int | str = "auto",
    memory_limit: int | str = "auto",
    address: str | None = None,
    dashboard: str = "127.0.0.1:8787",
) -> Iterator[Client | None]:
    """Start what blocks are computed on and make it dask's scheduler for a ``with`` block.

    ``kind`` is ``threads`` (no cluster, None is given), ``local`` (a `LocalCluster` on
    127.0.0.1) or ``address`` (a scheduler that runs already). ``dashboard`` is where the
    local cluster's dashboard listens, ``none`` for nowhere.

    Raises `ConfigError` for another kind, `ClusterError` where a scheduler does not answer.
    """
    if kind == "threads":
        return_freed_memory()
        count = cores() if workers == "auto" else int(workers)
        # One pool for all: slides that are under way at once share the cores.
        pool = ThreadPoolExecutor(count, thread_name_prefix=THREAD_NAME)
        try:
            with dask.config.set(scheduler="threads", num_workers=count, pool=pool):
                yield None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    elif kind == "local":
        with _local_client(
            LocalWorkers.of(workers, threads_per_worker, memory_limit), dashboard
        ) as c:
            yield c
    elif kind == "address":
        with _client_of(address) as client:
            yield client
    else:
        raise ConfigError(f"cluster.kind: {kind!r}; it is threads, local or address")


@contextmanager
def _local_client(workers: LocalWorkers, dashboard: str) -> Iterator[Client]:
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
                    dashboard_address=None if dashboard == "none" else dashboard,
                    # Without a dashboard distributed would still listen on 8787.
                    scheduler_kwargs={
                        "allowed_failures": 0,  # see `pipeline.schedulers.Distributed.run`
                        **({"dashboard_address": _ANY_PORT} if dashboard == "none" else {}),
                    },
                    env={THREADS_VARIABLE: str(workers.session_threads)},
                    preload=["pipeline.worker"],
                )
            except (RuntimeError, OSError) as error:
                raise ClusterError(
                    f"cluster: the local cluster does not start: {' '.join(str(error).split())}; "
                    "check cluster.dashboard and cluster.memory_limit"
                ) from error
            opened.enter_context(started)
            client = opened.enter_context(Client(started))
        yield client


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


@contextmanager
def _client_of(address: str | None) -> Iterator[Client]:
    from distributed import Client

    if address is None:
        raise ConfigError("cluster.address: is needed for kind address, e.g. tcp://10.0.0.1:8786")
    try:
        client = Client(address)
    except (OSError, ValueError, TypeError) as error:  # TypeError: TLS without certificates
        raise ClusterError(
            f"{address}: no Dask scheduler answers there: {error}; check cluster.address"
        ) from error
    with _reconnecting_untold(), client:
        if not client.scheduler_info(n_workers=-1)["workers"]:
            raise ClusterError(f"{address}: the scheduler has no workers; start some first")
        yield client


@contextmanager
def _reconnecting_untold() -> Iterator[None]:
    """Leave out, for a ``with`` block, that the client's attempts to reconnect were given up.

    distributed logs its own cancellation as an error, with its traceback; that the scheduler is
    gone is said by whoever waits for it.
    """
    log = logging.getLogger("distributed.client")
    log.addFilter(_not_given_up)
    try:
        yield
    finally:
        log.removeFilter(_not_given_up)


def _not_given_up(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))
