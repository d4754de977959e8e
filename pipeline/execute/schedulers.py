"""What blocks are computed by: this thread, threads, a Dask cluster through its client.

`scheduler_in_force` finds the one that is dask's, also one that a notebook's user started. Each
takes graphs of independent tasks and gives back what became of every key, as it happens.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, Protocol

import dask
from dask.local import get_sync
from dask.threaded import get as get_threaded

from pipeline.errors import PipelineError
from pipeline.process import available_bytes, cores
from pipeline.process.stopping import Stopped, check_stopped, stop_asked

__all__ = [
    "POLL_S",
    "THREAD_NAME",
    "Finished",
    "Graphs",
    "Local",
    "Scheduler",
    "Synchronous",
    "scheduler_in_force",
]

POLL_S = 0.2
"""How long a wish to end may stay unnoticed."""

THREAD_NAME = "block"
"""How threads that compute blocks are called."""


class Finished(NamedTuple):
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

    @property
    def jobs_ended(self) -> dict[str, int]:
        """How many jobs of workers ended before they were told to, of which cause."""
        ...

    def run(
        self, keys: Iterable[Any], graphs: Graphs, resources: Mapping[str, float] | None = None
    ) -> Iterator[Finished]:
        """Compute ``keys``, a window of them at a time; give each as it finishes.

        Each on a worker that has declared ``resources``, where there are workers.

        Where the process is asked to end (`pipeline.process.stopping`) no other begins, those that
        run are given, and `Stopped` is raised where any are left.
        """
        ...

    def compute(self, collection: Any) -> Any:
        """Compute a small dask collection whole."""
        ...

    def everywhere(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Call a function in every worker process; give what each returns."""
        ...


class _Here:
    """What is done in the calling process."""

    @property
    def limit_bytes(self) -> int:
        """What this process may use."""
        return available_bytes()

    @property
    def jobs_ended(self) -> dict[str, int]:
        """None: there are no jobs."""
        return {}

    def everywhere(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Call a function here, where all the work is done."""
        return [function(*arguments)]


@dataclass(frozen=True)
class Local(_Here):
    """Threads of the calling process."""

    threads: int
    processes: int = 1

    def run(
        self,
        keys: Iterable[Any],
        graphs: Graphs,
        resources: Mapping[str, float] | None = None,  # noqa: ARG002
    ) -> Iterator[Finished]:
        """Compute keys in threads, twice as many under way as there are threads."""
        waiting = iter(keys)
        with _pool_of(self.threads) as pool:
            running: dict[Future[Any], Any] = {}
            left = False
            try:
                while True:
                    if stop_asked():
                        # What waits for a thread is left; what has one ends.
                        idle = [future for future in running if future.cancel()]
                        left = left or bool(idle) or next(waiting, None) is not None
                        for future in idle:
                            del running[future]
                    else:
                        for key in islice(waiting, 2 * self.threads - len(running)):
                            running[pool.submit(get_sync, graphs([key]), key)] = key
                    if not running:
                        break
                    for future in wait(running, POLL_S, FIRST_COMPLETED).done:
                        yield Finished(running.pop(future), future.exception())
            finally:
                for future in running:
                    future.cancel()
        if left:
            raise Stopped

    def compute(self, collection: Any) -> Any:
        """Compute a small dask collection whole."""
        # The function, not its name: at a name dask looks for clients, and imports distributed.
        return collection.compute(scheduler=get_threaded, num_workers=self.threads)


@dataclass(frozen=True)
class Synchronous(_Here):
    """The calling thread, one task after another: for debuggers and as the reference."""

    threads: int = 1
    processes: int = 1

    def run(
        self,
        keys: Iterable[Any],
        graphs: Graphs,
        resources: Mapping[str, float] | None = None,  # noqa: ARG002
    ) -> Iterator[Finished]:
        """Compute keys one by one; an error of this package's own is given, others raised."""
        for key in keys:
            check_stopped()
            try:
                get_sync(graphs([key]), key)
            except PipelineError as error:
                yield Finished(key, error)
            else:
                yield Finished(key, None)

    def compute(self, collection: Any) -> Any:
        """Compute a small dask collection whole."""
        return collection.compute(scheduler=get_sync)


@contextlib.contextmanager
def _pool_of(threads: int) -> Iterator[Executor]:
    """Give the threads that dask's config has, which several slides share, or own ones."""
    shared = dask.config.get("pool", None)
    if shared is not None:
        yield shared
        return
    with ThreadPoolExecutor(threads, thread_name_prefix=THREAD_NAME) as pool:
        yield pool


def scheduler_in_force() -> Scheduler:
    """Give the scheduler dask would use now: what its config names, else a client, else threads."""
    named = dask.config.get("scheduler", None)
    if named in ("synchronous", "sync", "single-threaded"):
        return Synchronous()
    if named not in ("threads", "threading") and "distributed" in sys.modules:
        from distributed import default_client

        from pipeline.execute.distributing import Distributed

        with contextlib.suppress(ValueError):  # no client has been made
            return Distributed(default_client())
    return Local(int(dask.config.get("num_workers", None) or cores()))
