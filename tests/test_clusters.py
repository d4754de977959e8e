"""Clusters: what they start, what it may use, and that nothing listens in public."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import dask
import psutil
import pytest
from distributed import Client

from pipeline.clusters import cluster
from pipeline.distributing import Distributed
from pipeline.errors import ClusterError, ConfigError, MemoryBudgetError
from pipeline.schedulers import scheduler_in_force
from tests.test_schedulers import graph_of, keys


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


SIGNALS = """
import signal, psutil, pipeline

if __name__ == "__main__":
    with pipeline.cluster("local", workers=2, dashboard="none"):
        for child in psutil.Process().children():
            if "spawn_main" in str(child.cmdline()):
                with open(f"/proc/{child.pid}/status") as status:
                    held = next(line for line in status if line.startswith("SigBlk:"))
                print(int(held.split()[1], 16) >> (signal.SIGINT - 1) & 1)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="signal masks are read from /proc")
def test_no_worker_hears_ctrl_c_not_even_while_it_starts(tmp_path: Path) -> None:
    # In a process of its own: multiprocessing's tracker must not be running yet.
    script = tmp_path / "signals.py"
    script.write_text(SIGNALS)
    out = subprocess.check_output([sys.executable, script], text=True)
    assert out.split() == ["1", "1"]


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


@pytest.mark.parametrize("limit", ["1 MiB", "100 MiB", 64 * 2**20])
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
