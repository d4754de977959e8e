"""Schedulers: each gives back what became of every task, as it happens."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import dask
import pytest
from dask._task_spec import Task
from distributed import Client

from pipeline.clusters import cluster, cluster_of
from pipeline.config.runfile import cluster_config
from pipeline.errors import ClusterError, SchedulerLostError, SlideError
from pipeline.execute.distributing import WINDOW, WORKER_DEATHS, Distributed
from pipeline.execute.schedulers import Local, Scheduler, Synchronous, scheduler_in_force


@pytest.fixture(params=["synchronous", "threads", "local"])
def scheduler(request: pytest.FixtureRequest) -> Scheduler:
    if request.param == "local":
        return Distributed(request.getfixturevalue("client"))
    return Synchronous() if request.param == "synchronous" else Local(2)


def three_quarters(number: int) -> int:
    if number % 4 == 3:
        raise SlideError(f"{number} cannot be read")
    return number


def graph_of(keys: list[Any]) -> dict[Any, Any]:
    return {key: Task(key, three_quarters, key[-1]) for key in keys}


def keys(name: str, count: int) -> list[Any]:
    return [(name, number) for number in range(count)]


def test_every_key_is_given_once_with_its_error(scheduler: Scheduler) -> None:
    given = list(scheduler.run(keys("all", 300), graph_of))
    assert sorted(done.key for done in given) == keys("all", 300)
    failed = {done.key[-1]: str(done.error) for done in given if done.error is not None}
    assert failed == {n: f"{n} cannot be read" for n in range(3, 300, 4)}
    assert all(isinstance(done.error, SlideError) for done in given if done.error)


def test_results_come_while_later_tasks_have_not_been_asked_for(scheduler: Scheduler) -> None:
    asked: list[Any] = []

    def noted(some: list[Any]) -> dict[Any, Any]:
        asked.extend(some)
        return graph_of(some)

    stream = scheduler.run(keys("window", 1000), noted)
    next(stream)
    assert len(asked) < 200
    stream.close()  # type: ignore[attr-defined]


def test_a_stream_that_is_left_leaves_nothing_running(client: Client) -> None:
    stream = Distributed(client).run(keys("left", 200), graph_of)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    client.sync(_settled, client)
    assert not client.futures


def test_live_tasks_are_never_more_than_the_window(client: Client) -> None:
    with dask.config.set({WINDOW: 10}):
        stream = Distributed(client).run(keys("live", 60), graph_of)
        # One that has just ended may not be forgotten yet.
        seen = [
            sum(each.status == "pending" for each in [*client.futures.values()]) for _ in stream
        ]
    assert len(seen) == 60
    assert max(seen) <= 10


async def _settled(client: Client) -> None:
    import asyncio

    for _ in range(200):
        if not client.futures:
            return
        await asyncio.sleep(0.01)


def test_threads_do_the_work_of_kind_threads() -> None:
    names = set()

    def note(_: int) -> None:
        names.add(threading.current_thread().name)

    list(Local(2).run(keys("names", 20), lambda some: {k: Task(k, note, k[-1]) for k in some}))
    assert all(name.startswith("block") for name in names)


def test_the_scheduler_in_force_is_the_one_dask_would_use(client: Client) -> None:
    assert isinstance(scheduler_in_force(), Distributed)
    with dask.config.set(scheduler="synchronous"):
        assert isinstance(scheduler_in_force(), Synchronous)
    with dask.config.set(scheduler="threads", num_workers=3):
        here = scheduler_in_force()
        assert isinstance(here, Local)
        assert here.threads == 3
    with cluster("threads", workers=4) as none:
        assert none is None
        assert scheduler_in_force().threads == 4


def die_at_seven(number: int, log: str) -> int:
    time.sleep(0.02)
    if number == 7:
        with Path(log).open("a") as file:
            file.write(f"{os.getpid()}\n")
        os._exit(1)
    return number


@pytest.mark.parametrize("most", [2, 3])
def test_what_kills_its_workers_is_an_error_of_that_task_and_no_other(
    tmp_path: Path, most: int
) -> None:
    log = tmp_path / "deaths"
    with (
        cluster("local", workers=2, dashboard="none") as client,
        dask.config.set({WORKER_DEATHS: most}),
    ):
        assert client is not None
        given = list(
            Distributed(client).run(
                keys("die", 30),
                lambda some: {key: Task(key, die_at_seven, key[-1], str(log)) for key in some},
            )
        )
    assert sorted(key for key, _ in given) == keys("die", 30)
    (poison,) = [done for done in given if done.error is not None]
    assert poison.key == ("die", 7)
    assert isinstance(poison.error, ClusterError)
    assert f"its worker died, {most} times in a row" in str(poison.error)
    # A worker may be lost before it begins.
    assert max(most - 1, 1) <= len(set(log.read_text().split())) <= most


def test_a_scheduler_that_is_gone_is_a_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    command = (sys.executable, "-m", "distributed.cli.dask_scheduler", "--no-dashboard")
    scheduler = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file)],
        stderr=subprocess.DEVNULL,
    )
    try:
        with Client(scheduler_file=str(file), set_as_default=False, timeout=3) as client:
            assert Distributed(client).processes == 0
            with (
                pytest.raises(ClusterError, match=r"no worker has been there for 1 s"),
                cluster("scheduler_file", scheduler_file=str(file), no_workers_timeout="1 s"),
            ):
                pass
            waited = time.monotonic()
            with (
                pytest.raises(ClusterError, match=r"no worker has come in 1 s"),
                cluster_of(
                    cluster_config(kind="scheduler_file", scheduler_file=str(file)), most_s=1
                ),
            ):
                pass
            assert time.monotonic() - waited < 60
            scheduler.kill()
            scheduler.wait()
            deadline = time.monotonic() + 30
            with pytest.raises(ClusterError, match="the scheduler is gone"):  # noqa: PT012
                while time.monotonic() < deadline:
                    assert Distributed(client).processes == 0
                    time.sleep(0.05)
    finally:
        scheduler.kill()
        scheduler.wait()


def test_a_cluster_without_workers_is_not_waited_for() -> None:
    with cluster("local", workers=1, dashboard="none", no_workers_timeout="0.5 s") as client:
        assert client is not None
        assert client.cluster is not None
        client.cluster.scale(0)
        with pytest.raises(SchedulerLostError, match="no worker has been there for"):
            list(Distributed(client).run(keys("unmanned", 3), graph_of))
