"""A wish to end: what is running ends, nothing else begins, and what was is as it was."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

import dask
import pytest
from dask._task_spec import Task
from distributed import Client

from pipeline.clusters import cluster
from pipeline.execute.distributing import Distributed
from pipeline.execute.schedulers import Local, Scheduler, Synchronous
from pipeline.process.stopping import Stopped, check_stopped, draining, stop_asked


def slow(number: int) -> int:
    time.sleep(0.1)
    return number


def graph_of(keys: list[Any]) -> dict[Any, Any]:
    return {key: Task(key, slow, key[-1]) for key in keys}


@pytest.fixture(params=["synchronous", "threads", "shared threads", "local"])
def scheduler(request: pytest.FixtureRequest) -> Any:
    if request.param == "local":
        yield Distributed(request.getfixturevalue("client"))
    elif request.param == "shared threads":
        with cluster("threads", workers=2):
            yield Local(2)
    else:
        yield Synchronous() if request.param == "synchronous" else Local(2)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_running_tasks_end_and_no_other_begins(scheduler: Scheduler, how: int) -> None:
    keys = [(f"stop {how} {type(scheduler).__name__} {id(scheduler)}", n) for n in range(60)]
    said: list[str] = []
    given = []
    with draining(said.append):
        stream = scheduler.run(keys, graph_of)
        given.append(next(stream))
        signal.raise_signal(how)
        assert stop_asked() == how
        with pytest.raises(Stopped):
            given += stream
    assert stop_asked() is None
    deadline = time.monotonic() + 10
    while not said and time.monotonic() < deadline:  # it is told by another thread
        time.sleep(0.01)
    assert len(said) == 1
    assert all(error is None for _, error in given)
    # One was given; at each of two workers one ran, and it may have begun another meanwhile.
    assert 1 <= len(given) <= 9


def test_where_nothing_is_left_nothing_is_raised(scheduler: Scheduler) -> None:
    keys = [(f"last {type(scheduler).__name__} {id(scheduler)}", 0)]
    with draining(lambda _: None):
        stream = scheduler.run(keys, graph_of)
        (done,) = stream
        signal.raise_signal(signal.SIGINT)
        assert done.error is None
        assert list(scheduler.run([], graph_of)) == []
        with pytest.raises(Stopped):
            check_stopped()


def test_a_second_wish_ends_at_once_and_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), draining(lambda _: None):  # noqa: PT012 - two signals
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    # For what may still be in flight it stays asked; the next run begins anew.
    assert stop_asked() == signal.SIGTERM
    with draining(lambda _: None):
        assert stop_asked() is None


def test_elsewhere_than_in_the_main_thread_signals_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def look() -> None:
        with draining(lambda _: None):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [before]


def test_what_a_worker_has_not_begun_is_taken_back(client: Client) -> None:
    keys = [("taken back", n) for n in range(60)]
    with draining(lambda _: None), dask.config.set({"wsi-pipeline.window": 60}):
        stream = Distributed(client).run(keys, graph_of)
        next(stream)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Stopped):
            list(stream)
    deadline = time.monotonic() + 10
    while client.futures and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not client.futures
