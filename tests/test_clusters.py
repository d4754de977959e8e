"""Schedulers: each gives back what became of every task, and nothing listens in public."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import dask
import psutil
import pytest
from dask._task_spec import Task
from distributed import Client

from pipeline.clusters import (
    Distributed,
    Local,
    Scheduler,
    Synchronous,
    cluster,
    scheduler_in_force,
)
from pipeline.errors import ClusterError, ConfigError, MemoryBudgetError, SlideError


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with cluster("local", workers=2, dashboard="127.0.0.1:0") as started:
        assert started is not None
        yield started


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


def listening() -> set[tuple[str, int]]:
    """Give the addresses at which this process and its workers listen."""
    me = psutil.Process()
    return {
        connection.laddr
        for process in (me, *me.children(recursive=True))
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }


def test_a_local_cluster_listens_on_loopback_only(client: Client) -> None:
    assert client.dashboard_link.startswith("http://127.0.0.1:")
    assert {host for host, _ in listening()} == {"127.0.0.1"}


def test_without_a_dashboard_its_port_is_left_to_others() -> None:
    with (
        socket.create_server(("127.0.0.1", 8787)) if port_is_free(8787) else nullcontext(),
        cluster("local", workers=1, dashboard="none"),  # a warning of a taken port is an error
    ):
        assert {host for host, _ in listening()} == {"127.0.0.1"}


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_workers_share_the_memory_and_the_cores(client: Client) -> None:
    here = Distributed(client)
    assert here.processes == 2
    assert here.threads == 1
    assert 0 < here.limit_bytes <= psutil.virtual_memory().total // 2


def test_a_scheduler_that_runs_already_is_used_by_its_address(client: Client) -> None:
    with cluster("address", address=client.scheduler_info()["address"]) as other:
        assert other is not None
        assert isinstance(scheduler_in_force(), Distributed)
        assert Distributed(other).processes == 2
        assert len(list(Distributed(other).run(keys("address", 8), graph_of))) == 8


def test_an_address_where_nobody_answers_is_a_clear_error() -> None:
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "200ms"}),
        pytest.raises(ClusterError, match=r"tcp://127\.0\.0\.1:1: no Dask scheduler answers"),
        cluster("address", address="tcp://127.0.0.1:1"),
    ):
        pass


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"kind": "cloud"}, "threads, local or address"), ({"kind": "address"}, "cluster.address")],
)
def test_what_cannot_be_meant_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message), cluster(**settings):
        pass


def die(_: int) -> None:
    os._exit(1)


def test_what_kills_its_workers_is_an_error_of_that_task_and_no_other() -> None:
    with cluster("local", workers=2, dashboard="none") as client:
        assert client is not None
        here = Distributed(client)
        with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
            fatal = ("die", 0)
            given = list(here.run([fatal], lambda _: {fatal: Task(fatal, die, 0)}))
        (done,) = given
        assert isinstance(done.error, ClusterError)
        assert "raise cluster.memory_limit" in str(done.error)


@pytest.mark.parametrize("limit", ["1 MiB", "200 MiB", 64 * 2**20])
def test_a_limit_no_worker_could_start_in_is_refused_before_any_does(limit: str | int) -> None:
    with (
        pytest.raises(MemoryBudgetError, match=r"MiB a worker; it needs \d+ MiB before its first"),
        cluster("local", workers=1, memory_limit=limit, dashboard="none"),
    ):
        pass


def test_a_dashboard_that_cannot_be_had_is_a_clear_error() -> None:
    with (
        pytest.raises(ClusterError, match=r"does not start: .*; check cluster\.dashboard"),
        cluster("local", workers=1, dashboard="no.such.host:1"),
    ):
        pass


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
