"""Where blocks are computed: here, in threads, on a Dask cluster. The home of `distributed`.

`cluster` starts one of them and makes it dask's scheduler in force; `scheduler_in_force`
finds it again, also one that a notebook's user started. Each takes graphs of independent
tasks and gives back what became of every key, as it happens.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import dask
from dask.local import get_sync
from dask.utils import parse_bytes

from pipeline.errors import ClusterError, ConfigError, PipelineError
from pipeline.memory import check_least
from pipeline.model.session import THREADS_VARIABLE
from pipeline.process import available_bytes, cores, return_freed_memory

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Finished", "Scheduler", "cluster", "scheduler_in_force"]


@dataclass(frozen=True)
class Finished:
    """What became of one key: nothing but done, or the error its task raised."""

    key: Any
    error: BaseException | None


Graphs = Callable[[list[Any]], dict[Any, Any]]
"""Gives the graph that computes some keys."""


class Scheduler(Protocol):
    """Something that computes independent tasks."""

    @property
    def processes(self) -> int:
        """Worker processes."""
        ...

    @property
    def threads(self) -> int:
        """Threads of one worker process."""
        ...

    @property
    def limit_bytes(self) -> int:
        """Memory one worker process may use."""
        ...

    def run(self, keys: Iterable[Any], graphs: Graphs) -> Iterator[Finished]:
        """Compute ``keys``, a window of them at a time; give each as it finishes."""
        ...

    def compute(self, collection: Any) -> Any:
        """Compute a small dask collection whole."""
        ...


@dataclass(frozen=True)
class Local:
    """Threads of the calling process."""

    threads: int
    processes: int = 1

    @property
    def limit_bytes(self) -> int:
        """What this process may use."""
        return available_bytes()

    def run(self, keys: Iterable[Any], graphs: Graphs) -> Iterator[Finished]:
        """Compute keys in threads, twice as many under way as there are threads."""
        waiting = iter(keys)
        with ThreadPoolExecutor(self.threads, thread_name_prefix="block") as pool:
            running: dict[Future[Any], Any] = {}
            try:
                while True:
                    free = 2 * self.threads - len(running)
                    for key in islice(waiting, free):
                        running[pool.submit(get_sync, graphs([key]), key)] = key
                    if not running:
                        return
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        yield Finished(running.pop(future), future.exception())
            finally:
                for future in running:
                    future.cancel()

    def compute(self, collection: Any) -> Any:
        """Compute a small dask collection whole."""
        return collection.compute(scheduler="threads", num_workers=self.threads)


@dataclass(frozen=True)
class Synchronous:
    """The calling thread, one task after another: for debuggers and as the reference."""

    threads: int = 1
    processes: int = 1

    @property
    def limit_bytes(self) -> int:
        """What this process may use."""
        return available_bytes()

    def run(self, keys: Iterable[Any], graphs: Graphs) -> Iterator[Finished]:
        """Compute keys one by one; an error of this package's own is given, others raised."""
        for key in keys:
            try:
                get_sync(graphs([key]), key)
            except PipelineError as error:
                yield Finished(key, error)
            else:
                yield Finished(key, None)

    def compute(self, collection: Any) -> Any:
        """Compute a small dask collection whole."""
        return collection.compute(scheduler="synchronous")


@dataclass(frozen=True)
class Distributed:
    """A Dask cluster, through its client."""

    client: Client

    @property
    def processes(self) -> int:
        """Worker processes at this moment."""
        return len(self._workers())

    @property
    def threads(self) -> int:
        """Most threads of any worker process."""
        return max((worker["nthreads"] for worker in self._workers().values()), default=1)

    @property
    def limit_bytes(self) -> int:
        """Least memory limit of any worker process; this machine's where none has one."""
        limits = [worker["memory_limit"] for worker in self._workers().values()]
        return min((limit for limit in limits if limit), default=available_bytes())

    def run(self, keys: Iterable[Any], graphs: Graphs) -> Iterator[Finished]:
        """Compute keys on the cluster, a few for every thread on the scheduler at a time."""
        from distributed import as_completed

        waiting = iter(keys)
        window = max(_LEAST_WINDOW, _TASKS_PER_THREAD * self.processes * self.threads)
        live = as_completed([], loop=self.client.loop, raise_errors=False)
        count = 0

        def feed() -> int:
            batch = list(islice(waiting, window - count))
            if batch:
                live.update(self.client.get(graphs(batch), batch, sync=False))
            return len(batch)

        try:
            count += feed()
            while count:
                future = next(live)
                count -= 1
                yield Finished(future.key, _error_of(future))
                future.release()
                # Refilled by half a window at a time: graphs are sent in few messages.
                if count <= window // 2:
                    count += feed()
        finally:
            self.client.cancel(list(live.futures))

    def compute(self, collection: Any) -> Any:
        """Compute a small dask collection whole."""
        from distributed import KilledWorker

        self._workers()
        try:
            return self.client.compute(collection, sync=True)
        except KilledWorker as error:
            raise _killed(error) from error

    def _workers(self) -> dict[str, Any]:
        info = self.client.scheduler_info(n_workers=-1)
        if "workers" not in info:  # what is known of a scheduler that no longer answers
            raise ClusterError("the scheduler is gone; look at its log, then run again to continue")
        workers: dict[str, Any] = info["workers"]
        return workers


_ANY_PORT = "127.0.0.1:0"
_LEAST_WINDOW = 64
_TASKS_PER_THREAD = 8


def _error_of(future: Any) -> BaseException | None:
    from distributed import KilledWorker

    if future.status == "finished":
        return None
    if future.status == "cancelled":
        return ClusterError(f"{future.key}: cancelled; run again to continue")
    error: BaseException = future.exception()
    return _killed(error) if isinstance(error, KilledWorker) else error


def _killed(error: Any) -> ClusterError:
    return ClusterError(
        f"killed the {error.allowed_failures + 1} workers that tried it; "
        "look at the workers' log for a crash, or raise cluster.memory_limit"
    )


def scheduler_in_force() -> Scheduler:
    """Give the scheduler dask would use now: what its config names, else a client, else threads."""
    named = dask.config.get("scheduler", None)
    if named in ("synchronous", "sync", "single-threaded"):
        return Synchronous()
    if named not in ("threads", "threading") and "distributed" in sys.modules:
        from distributed import default_client

        with contextlib.suppress(ValueError):  # no client has been made
            return Distributed(default_client())
    return Local(int(dask.config.get("num_workers", None) or cores()))


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
