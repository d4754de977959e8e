"""Blocks on a Dask cluster, through its client: a window of them at a time, poison kept apart."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import dask

from pipeline.errors import ClusterError, PipelineError
from pipeline.execute.live import Live, gone
from pipeline.execute.manned import keeper_of
from pipeline.execute.schedulers import Finished, Graphs
from pipeline.process import available_bytes
from pipeline.process.stopping import Stopped, check_stopped, stop_asked

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["WINDOW", "WORKER_DEATHS", "Distributed"]

WINDOW, WORKER_DEATHS = "wsi-pipeline.window", "wsi-pipeline.worker-deaths"
"""Where dask's config says how many tasks of one slide may be on a cluster's scheduler at a time,
and at how many workers' deaths, one after the other, a task is given up."""

MOST_DEATHS = 3
"""What it is where dask's config does not say."""

_LEAST_WINDOW = 64
_TASKS_PER_THREAD = 8
"""Tasks that are on a cluster's scheduler at a time: at least, and for every thread."""

_SUSPICIOUS = 2
"""Deaths, one after the other, after which a task is no longer tried beside others."""

_MOST_EXCUSED = 20

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

    def run(
        self, keys: Iterable[Any], graphs: Graphs, resources: Mapping[str, float] | None = None
    ) -> Iterator[Finished]:
        """Compute keys on the cluster, a few for every thread on the scheduler at a time.

        A task whose worker died is tried once more like any other: jobs end, and so do nodes. If
        its next worker dies too it is tried with no other suspect under way, so that neighbours
        do not pay for it; how often says `WORKER_DEATHS`.
        """
        waiting, deaths = _Refilled(keys), Counter[Any]()
        suspicious = self._suspicious
        live, window = Live(self.client, resources), self._window
        try:
            while True:
                # Refilled by half a window at a time: graphs are sent in few messages.
                if len(live) <= window // 2 and not stop_asked():
                    batch = list(islice(waiting, window - len(live)))
                    live.submit(graphs(batch), batch)
                if not len(live):
                    break
                for key, error in live.finished():
                    if not _has_died(error):
                        deaths.pop(key, None)
                        yield Finished(key, error)
                        continue
                    deaths[key] += 1
                    if deaths[key] < suspicious:
                        waiting.again(key)
        finally:
            live.cancel()
        for key in [key for key in deaths if deaths[key] >= suspicious]:
            yield Finished(key, self._alone(key, graphs, resources))
        if live.dropped or (stop_asked() and next(waiting, None) is not None):
            raise Stopped

    @property
    def _window(self) -> int:
        own = max(_LEAST_WINDOW, _TASKS_PER_THREAD * self.processes * self.threads)
        return max(min(own, int(dask.config.get(WINDOW, own))), 1)

    @property
    def _most_deaths(self) -> int:
        # Two at least: only one that died alone is known to be the task's own.
        return max(int(dask.config.get(WORKER_DEATHS, MOST_DEATHS)), 2)

    @property
    def _suspicious(self) -> int:
        """Deaths after which a task is tried alone: the last one has to be by itself."""
        return min(_SUSPICIOUS, self._most_deaths - 1)

    def _alone(
        self, key: Any, graphs: Graphs, resources: Mapping[str, float] | None
    ) -> BaseException | None:
        """Compute a suspect while no other one is under way; give its error.

        Deaths of jobs that it cannot have caused are not counted, though not without end.
        """
        most, excused = self._most_deaths, 0
        deaths = self._suspicious
        with _alone:
            while deaths < most:
                check_stopped()
                live = Live(self.client, resources)
                live.submit(graphs([key]), [key])
                ended: list[Any] = []
                while len(live):
                    ended += live.finished()
                if live.dropped:
                    raise Stopped
                error: BaseException | None = ended[0][1]
                if not _has_died(error):
                    return error
                if excused < _MOST_EXCUSED and self._excused(error):
                    excused += 1
                    continue
                deaths += 1
        return _poison(deaths)

    def _excused(self, error: Any) -> bool:
        """Say whether a worker was lost with its job, by no fault of what it computed."""
        keeper = keeper_of(self.client)
        death = keeper.death_of(error.last_worker.address) if keeper else None
        return death is not None and death.blameless

    @property
    def jobs_ended(self) -> dict[str, int]:
        """How many jobs of workers ended before they were told to, of which cause."""
        keeper = keeper_of(self.client)
        return dict(keeper.ended) if keeper else {}

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
            raise gone()
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


class _Refilled(Iterator[Any]):
    """Keys that wait, those that are to be tried again first."""

    def __init__(self, keys: Iterable[Any]) -> None:
        self._keys, self._again = iter(keys), deque[Any]()

    def again(self, key: Any) -> None:
        self._again.append(key)

    def __next__(self) -> Any:
        return self._again.popleft() if self._again else next(self._keys)


def _poison(deaths: int) -> ClusterError:
    return ClusterError(
        f"its worker died, {deaths} times in a row; look at the workers' log for a crash, or "
        "raise cluster.memory_limit"
    )


def _has_died(error: BaseException | None) -> bool:
    from distributed import KilledWorker

    return isinstance(error, KilledWorker)
