"""Clusters: what they start, what it may use, and that nothing listens in public."""

from __future__ import annotations

import os
import re
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

from pipeline.clusters import cluster, cluster_of, reported
from pipeline.clusters.dashboard import dashboard_notes, links
from pipeline.clusters.share import environment
from pipeline.config.runfile import cluster_config
from pipeline.errors import ClusterError, ConfigError, MemoryBudgetError, SchedulerLostError
from pipeline.execute.distributing import Distributed
from pipeline.execute.manned import NO_WORKERS
from pipeline.execute.schedulers import scheduler_in_force
from pipeline.model.session import THREADS_VARIABLE
from tests.test_schedulers import graph_of, keys

CYCLE = "DASK_DISTRIBUTED__WORKER__PROFILE__CYCLE"
LENGTH = "DASK_DISTRIBUTED__ADMIN__LOW_LEVEL_LOG_LENGTH"


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


ONE_AFTER_ANOTHER = """
import pipeline

if __name__ == "__main__":
    for kind in ("local", "threads", "local"):
        with pipeline.cluster(kind, workers=1, dashboard="none") as client:
            print(client and client.submit(sum, [1, 2]).result())

    import dask

    print(dask.config.get("distributed.comm.timeouts.connect"))
"""


def test_one_cluster_after_another_in_a_process_that_has_not_seen_distributed(
    tmp_path: Path,
) -> None:
    script = tmp_path / "script.py"  # workers import what they are started from
    script.write_text(ONE_AFTER_ANOTHER)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3", "None", "3", "30s"]
    assert not done.stderr


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
    [({"kind": "cloud"}, "threads, local, slurm"), ({"kind": "address"}, "cluster.address")],
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


@pytest.mark.parametrize(
    ("kind", "dashboard", "ssh", "said"),
    [
        ("local", "127.0.0.1:8787", False, ""),
        ("local", "127.0.0.1:8787", True, "ssh -N -L 8790:127.0.0.1:8790 "),
        ("slurm", "localhost:8787", False, "ssh -N -L 8790:127.0.0.1:8790 "),
        ("local", "0.0.0.0:8787", False, "whoever can reach this machine"),
        ("slurm", ":8787", False, "whoever can reach this machine"),
        ("local", "none", True, ""),
        ("address", "127.0.0.1:8787", True, ""),
    ],
)
def test_who_can_see_the_dashboard_and_how_is_said(
    kind: str, dashboard: str, ssh: bool, said: str
) -> None:
    address = {"address": "tls://a:1"} if kind == "address" else {}
    settings = cluster_config(kind=kind, dashboard=dashboard, **address)
    environment = {"SSH_CONNECTION": "1.2.3.4 22"} if ssh else {}
    notes = list(dashboard_notes(settings, "http://10.0.0.1:8790/status", environment))
    assert len(notes) == bool(said)
    assert said in "".join(notes)


def test_every_library_in_a_worker_keeps_to_its_share(client: Client) -> None:
    told = client.run(lambda: dict(os.environ))
    for variables in told.values():
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "BLOSC_NTHREADS"):
            assert variables[name] == "1"
        assert variables["ZARR_THREADING__MAX_WORKERS"] == variables[THREADS_VARIABLE]
        assert variables["MALLOC_TRIM_THRESHOLD_"] == "65536"
        assert variables["MALLOC_MMAP_THRESHOLD_"] == "33554432"


def kept(dask_worker: Any) -> tuple[float, int]:
    """Give how many ms one of a worker's profiles is of, and how many of them it keeps."""
    cycle = dask_worker.periodic_callbacks["profile-cycle"].callback_time
    return float(cycle), int(dask_worker.profile_history.maxlen)


def test_dask_keeps_a_profile_of_ten_seconds_and_not_one_of_each(client: Client) -> None:
    assert set(client.run(kept).values()) == {(10_000, 100)}
    assert (environment(1)[CYCLE], environment(1)[LENGTH]) == ("10s", "100")


def test_what_is_kept_of_profiles_is_the_user_s_where_they_say_so() -> None:
    said = {
        "distributed.worker.profile.cycle": "5s",
        "distributed.admin.low-level-log-length": 2000,
    }
    with dask.config.set(said):
        assert not {CYCLE, LENGTH} & set(environment(1))
        with cluster("local", workers=1, dashboard="none") as client:
            assert client is not None
            assert set(client.run(kept).values()) == {(5_000, 2000)}


def test_blocks_go_only_to_workers_that_declare_what_they_ask_for() -> None:
    with cluster("local", workers=1, dashboard="none", resources={"GPU": 1}) as client:
        assert client is not None
        here = Distributed(client)
        assert len(list(here.run(keys("there", 4), graph_of, {"GPU": 1}))) == 4
        with (
            dask.config.set({NO_WORKERS: 0.5}),
            pytest.raises(SchedulerLostError, match=r"no worker with \{'TPU': 1\} has been there"),
        ):
            list(here.run(keys("nowhere", 4), graph_of, {"TPU": 1}))


def test_a_report_of_what_dask_did_needs_no_network(tmp_path: Path) -> None:
    page = tmp_path / "pages" / "report.html"
    settings = cluster_config(
        kind="local", workers=1, dashboard="127.0.0.1:0", performance_report=str(page)
    )
    with cluster_of(settings) as client, reported(settings, client):
        assert client is not None
        list(Distributed(client).run(keys("reported", 4), graph_of))
    text = page.read_text()
    assert "Dask Performance Report" in text
    assert not re.search(r"<(script|link)[^>]+(src|href)=.https?:", text)


def test_a_link_to_the_dashboard_that_the_user_set_is_left() -> None:
    """Behind a hub it is that of a proxy."""
    name, own = "distributed.dashboard.link", "/user/me/proxy/{port}/status"
    settings = cluster_config(kind="slurm", cores=1, memory="1 GiB")
    assert links(settings) == {name: "{scheme}://127.0.0.1:{port}/status"}
    with dask.config.set({name: own}):
        assert links(settings) == {}
