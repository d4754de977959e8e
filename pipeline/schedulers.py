"""What blocks are computed by: this thread, threads, a Dask cluster through its client.

`scheduler_in_force` finds the one that is dask's, also one that a notebook's user started. Each
takes graphs of independent tasks and gives back what became of every key, as it happens.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import dask
from dask.local import get_sync

from pipeline.errors import ClusterError, PipelineError
from pipeline.process import available_bytes, cores

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Finished", "Scheduler", "scheduler_in_force"]

_LEAST_WINDOW = 64
_TASKS_PER_THREAD = 8
"""Tasks that are on a cluster's scheduler at a time: at least, and for every thread."""


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

    def everywhere(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Call a function in every worker process; give what each returns."""
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

    def everywhere(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Call a function here, where all the work is done."""
        return [function(*arguments)]


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

    def everywhere(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Call a function here, where all the work is done."""
        return [function(*arguments)]


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

    def everywhere(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Call a function in every worker; what it raises anywhere is raised here."""
        self._workers()
        given = self.client.run(_attempted, function, arguments)
        for _, error in given.values():
            if error is not None:
                raise error
        return [given[address][0] for address in sorted(given)]

    def _workers(self) -> dict[str, Any]:
        info = self.client.scheduler_info(n_workers=-1)
        if "workers" not in info:  # what is known of a scheduler that no longer answers
            raise ClusterError("the scheduler is gone; look at its log, then run again to continue")
        workers: dict[str, Any] = info["workers"]
        return workers


def _attempted(
    function: Callable[..., Any], arguments: tuple[Any, ...]
) -> tuple[Any, PipelineError | None]:
    """Call a function on a worker; its error comes back as a value, or the worker would log it."""
    try:
        return function(*arguments), None
    except PipelineError as error:
        return None, error


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
