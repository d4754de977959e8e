"""Where blocks are computed: `cluster` starts it and makes it dask's scheduler in force."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING

import dask
from dask.utils import parse_bytes

from pipeline.errors import ClusterError, ConfigError
from pipeline.memory import check_least
from pipeline.model.session import THREADS_VARIABLE
from pipeline.process import available_bytes, cores, return_freed_memory

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["cluster"]

_ANY_PORT = "127.0.0.1:0"


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
        with dask.config.set(scheduler="threads", num_workers=count):
            yield None
    elif kind == "local":
        processes = cores() if workers == "auto" else int(workers)
        threads = 1 if threads_per_worker == "auto" else int(threads_per_worker)
        with _local_client(processes, threads, memory_limit, dashboard) as client:
            yield client
    elif kind == "address":
        with _client_of(address) as client:
            yield client
    else:
        raise ConfigError(f"cluster.kind: {kind!r}; it is threads, local or address")


@contextmanager
def _local_client(
    processes: int, threads: int, memory_limit: int | str, dashboard: str
) -> Iterator[Client]:
    from distributed import Client, LocalCluster

    limit_bytes = (
        available_bytes() // processes if memory_limit == "auto" else parse_bytes(memory_limit)
    )
    check_least(limit_bytes)
    share = max(cores() // (processes * threads), 1)
    with contextlib.ExitStack() as opened:
        with _interrupts_held():
            try:
                started = LocalCluster(
                    n_workers=processes,
                    threads_per_worker=threads,
                    processes=True,
                    memory_limit=limit_bytes,
                    host="127.0.0.1",
                    dashboard_address=None if dashboard == "none" else dashboard,
                    # Without a dashboard distributed would still listen on 8787.
                    scheduler_kwargs=(
                        {"dashboard_address": _ANY_PORT} if dashboard == "none" else {}
                    ),
                    env={THREADS_VARIABLE: str(share)},
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
    """Hold Ctrl-C back for a moment, and for ever from what is started meanwhile.

    A terminal sends it to all processes at once. Workers inherit that they do not listen, from
    their first instruction on, and so do those that replace them: they are started by a thread
    that is started here. A cluster half up cannot be taken down without noise.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Where multiprocessing starts its tracker it lets Ctrl-C in again, for that thread's child too.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
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
    with client:
        if not client.scheduler_info(n_workers=-1)["workers"]:
            raise ClusterError(f"{address}: the scheduler has no workers; start some first")
        yield client
