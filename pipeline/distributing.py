"""Blocks on a Dask cluster, through its client: a window of them at a time, poison kept apart."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import dask

from pipeline.errors import ClusterError, PipelineError, SchedulerLostError
from pipeline.process import available_bytes
from pipeline.schedulers import POLL_S, Finished, Graphs
from pipeline.stopping import Stopped, check_stopped, stop_asked

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["WINDOW", "WORKER_DEATHS", "Distributed"]

WINDOW, WORKER_DEATHS = "wsi-pipeline.window", "wsi-pipeline.worker-deaths"
"""Where dask's config says how many tasks of one slide may be on a cluster's scheduler at a time,
and at how many workers' deaths, one after the other, a task is given up."""

NO_WORKER_S = 300.0
"""How long a local cluster may be without workers: what restarts them may itself be slow."""

FORGETTING_S = 0.005

MOST_DEATHS = 3
"""What it is where dask's config does not say."""

_LEAST_WINDOW = 64
_TASKS_PER_THREAD = 8
"""Tasks that are on a cluster's scheduler at a time: at least, and for every thread."""

_alone = threading.Lock()
"""Held while a task runs that may kill its worker."""


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
        """Compute keys on the cluster, a few for every thread on the scheduler at a time.

        A task that was on a worker that died is tried again with no other suspect under way, so
        that neighbours do not pay for it; how often says `WORKER_DEATHS`.
        """
        waiting, suspects = iter(keys), []
        live, window = _Live(self.client), self._window
        try:
            while True:
                # Refilled by half a window at a time: graphs are sent in few messages.
                if len(live) <= window // 2 and not stop_asked():
                    batch = list(islice(waiting, window - len(live)))
                    live.submit(graphs(batch), batch)
                if not len(live):
                    break
                for key, error in live.finished():
                    if _has_died(error):
                        suspects.append(key)
                    else:
                        yield Finished(key, error)
        finally:
            live.cancel()
        for key in suspects:
            yield Finished(key, self._alone(key, graphs))
        if live.dropped or (stop_asked() and next(waiting, None) is not None):
            raise Stopped

    @property
    def _window(self) -> int:
        own = max(_LEAST_WINDOW, _TASKS_PER_THREAD * self.processes * self.threads)
        return max(min(own, int(dask.config.get(WINDOW, own))), 1)

    def _alone(self, key: Any, graphs: Graphs) -> BaseException | None:
        """Compute a suspect while no other one is under way; give its error."""
        deaths = int(dask.config.get(WORKER_DEATHS, MOST_DEATHS))
        with _alone:
            for _ in range(1, deaths):
                check_stopped()
                live = _Live(self.client)
                live.submit(graphs([key]), [key])
                ended: list[Any] = []
                while len(live):
                    ended += live.finished()
                if live.dropped:
                    raise Stopped
                error: BaseException | None = ended[0][1]
                if not _has_died(error):
                    return error
        return ClusterError(
            f"its worker died, {deaths} times in a row; look at the workers' log for a crash, or "
            "raise cluster.memory_limit"
        )

    def compute(self, collection: Any) -> Any:
        """Compute a small dask collection whole."""
        from distributed import KilledWorker

        self._workers()
        try:
            return self.client.compute(collection, sync=True)
        except KilledWorker as error:
            raise ClusterError(
                f"{error.task}: its worker died; look at the workers' log for a crash, or raise "
                "cluster.memory_limit"
            ) from error

    def everywhere(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Call a function in every worker; what it raises anywhere is raised here.

        A worker that dies meanwhile gives nothing: what it had to do is done by another.
        """
        self._workers()
        given = self.client.run(_attempted, function, arguments, on_error="return")
        made = []
        for address in sorted(given):
            if isinstance(given[address], OSError):  # it cannot be reached any more
                continue
            if isinstance(given[address], Exception):
                raise given[address]
            value, error = given[address]
            if error is not None:
                raise error
            made.append(value)
        return made

    def _workers(self) -> dict[str, Any]:
        info = self.client.scheduler_info(n_workers=-1)
        if "workers" not in info:  # what is known of a scheduler that no longer answers
            raise _gone()
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


class _Live:
    """Tasks of one `Distributed.run` that are on the cluster's scheduler."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._futures: dict[Any, Any] = {}
        self._ended: SimpleQueue[Any] = SimpleQueue()
        self._manned = time.monotonic()
        self._draining = False
        self.dropped = False

    def __len__(self) -> int:
        return len(self._futures)

    def submit(self, graph: dict[Any, Any], keys: list[Any]) -> None:
        """Send tasks to the scheduler."""
        if not keys:
            return
        # A key that is tried again would be taken for the one that failed until that is forgotten.
        while not self._client.futures.keys().isdisjoint(keys):
            time.sleep(FORGETTING_S)
        for future in self._client.get(graph, keys, sync=False):
            self._futures[future.key] = future
            future.add_done_callback(self._ended.put)

    def finished(self) -> Iterator[tuple[Any, BaseException | None]]:
        """Wait a moment for tasks that end; give their errors.

        Raises `SchedulerLostError` where they are cancelled by another than us.
        """
        if stop_asked() and not self._draining:
            self._drain()
        try:
            ended = [self._ended.get(timeout=POLL_S)]
        except Empty:
            self._check_manned()
            return
        while not self._ended.empty():
            ended.append(self._ended.get())
        for future in ended:
            if self._futures.pop(future.key, None) is None:  # cancelled by ourselves
                continue
            if future.status == "cancelled":
                raise _gone()
            error = None if future.status == "finished" else future.exception()
            future.release()  # or the scheduler would give the error again if it is tried again
            yield future.key, error

    def _check_manned(self) -> None:
        """Raise `SchedulerLostError` where a local cluster has lost its workers for good.

        One that dies while it starts is not replaced. Elsewhere others may come at any time.
        """
        from distributed import LocalCluster

        if self._client.scheduler_info().get("workers"):
            self._manned = time.monotonic()
        elif (
            isinstance(self._client.cluster, LocalCluster)
            and time.monotonic() - self._manned > NO_WORKER_S
        ):
            raise SchedulerLostError(
                f"no worker has been left for {NO_WORKER_S:.0f} s; look at the log for why they "
                "died, then run again to continue"
            )

    def cancel(self) -> None:
        """Take back all that is left."""
        self._client.cancel(list(self._futures.values()))
        self._futures = {}

    def _drain(self) -> None:
        """Take back what no worker has begun."""
        self._draining = True
        if not self._futures:
            return
        begun = set().union(*self._client.run(_executing).values())
        left = [future for key, future in self._futures.items() if key not in begun]
        for future in left:
            del self._futures[future.key]
        self._client.cancel(left)
        self.dropped = bool(left)


def _executing(dask_worker: Any) -> list[Any]:
    return [task.key for task in dask_worker.state.executing]


def _has_died(error: BaseException | None) -> bool:
    from distributed import KilledWorker

    return isinstance(error, KilledWorker)


def _gone() -> SchedulerLostError:
    return SchedulerLostError("the scheduler is gone; look at its log, then run again to continue")
