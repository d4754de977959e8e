"""Tasks that are on a cluster's scheduler: sent, waited for, taken back."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import dask

from pipeline.errors import SchedulerLostError
from pipeline.execute.manned import NO_WORKERS, NO_WORKERS_S, Hope
from pipeline.execute.schedulers import POLL_S
from pipeline.process.stopping import stop_asked

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Live", "gone"]

FORGETTING_S = 0.005


class Live:
    """Tasks of one `Distributed.run` that are on the cluster's scheduler."""

    def __init__(self, client: Client, resources: Mapping[str, float] | None) -> None:
        self._client, self._resources = client, resources
        self._futures: dict[Any, Any] = {}
        self._ended: SimpleQueue[Any] = SimpleQueue()
        self._hope = Hope(client, float(dask.config.get(NO_WORKERS, NO_WORKERS_S)), resources)
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
        for future in self._client.get(graph, keys, sync=False, resources=self._resources):
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
                raise gone()
            error = None if future.status == "finished" else future.exception()
            future.release()  # or the scheduler would give the error again if it is tried again
            yield future.key, error

    def _check_manned(self) -> None:
        """Raise `SchedulerLostError` where no worker is there and none can be hoped for."""
        if lost := self._hope.given_up():
            raise SchedulerLostError(lost)

    def cancel(self) -> None:
        """Take back all that is left."""
        self._client.cancel(list(self._futures.values()))
        self._futures = {}

    def _drain(self) -> None:
        """Take back what no worker has begun."""
        self._draining = True
        if not self._futures:
            return
        # A worker that goes meanwhile has begun nothing that would end.
        given = self._client.run(_executing, on_error="return").values()
        begun = set().union(*(keys for keys in given if isinstance(keys, list)))
        left = [future for key, future in self._futures.items() if key not in begun]
        for future in left:
            del self._futures[future.key]
        self._client.cancel(left)
        self.dropped = bool(left)


def _executing(dask_worker: Any) -> list[Any]:
    return [task.key for task in dask_worker.state.executing]


def gone() -> SchedulerLostError:
    """Give the error of a scheduler that no longer answers."""
    return SchedulerLostError("the scheduler is gone; look at its log, then run again to continue")
