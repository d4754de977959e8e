"""Who can reach what a run listens at: tried from another address, and as a page of elsewhere."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dask
import psutil
import pytest
from bokeh.util.token import generate_jwt_token, generate_session_id
from distributed import Client
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

import pipeline


@pytest.fixture(scope="module")
def outside() -> str:
    """An address of this machine at which others reach it."""
    for name, addresses in psutil.net_if_addrs().items():
        for each in addresses:
            up = psutil.net_if_stats()[name].isup
            if up and each.family == socket.AF_INET and not each.address.startswith("127."):
                return each.address
    pytest.skip("this machine has no address but loopback")


def refused(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def dashboards(client: Client) -> list[int]:
    """Give the ports of all dashboards: the scheduler's and each worker's."""
    told = client.scheduler_info(n_workers=-1)
    return [each["services"]["dashboard"] for each in (told, *told["workers"].values())]


def test_the_dashboards_of_a_local_cluster_and_all_else_are_for_this_machine(
    client: Client, outside: str
) -> None:
    me = psutil.Process()
    ports = {
        connection.laddr.port
        for process in (me, *me.children(recursive=True))
        if process == me or process.exe() == me.exe()  # a Slurm of the tests is a child, too
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert ports >= set(dashboards(client))
    assert len(dashboards(client)) == 3
    for port in ports:
        assert not refused("127.0.0.1", port)
        assert refused(outside, port)


Starting = Callable[[Path, pytest.FixtureRequest], AbstractContextManager[Client]]


@contextmanager
def in_slurm(folder: Path, request: pytest.FixtureRequest) -> Iterator[Client]:
    request.getfixturevalue("slurm")
    with pipeline.cluster(
        kind="slurm",
        cores=1,
        memory="1 GiB",
        dashboard="127.0.0.1:0",
        shared_temp_directory=str(folder / "private"),
        log_directory=str(folder),
    ) as client:
        assert client is not None
        yield client


@contextmanager
def in_a_job(folder: Path, request: pytest.FixtureRequest) -> Iterator[Client]:
    """Be the first task of a job, and have another."""
    job = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_TASKS_PER_NODE": "2"}
    settings = f"kind='slurm-runner', shared_temp_directory={str(folder / 'private')!r}"
    code = (
        "from pipeline.clusters import join_as_worker\n"
        "from pipeline.config.runfile import cluster_config\n"
        f"join_as_worker(cluster_config({settings}))"
    )
    patch = request.getfixturevalue("monkeypatch")
    for name, value in {**job, "SLURM_PROCID": "0"}.items():
        patch.setenv(name, value)
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "SLURM_PROCID": "1", "SLURM_LOCALID": "1"},
        stderr=subprocess.DEVNULL,
    ) as other:
        try:
            with pipeline.cluster(
                kind="slurm-runner",
                dashboard="127.0.0.1:0",
                shared_temp_directory=str(folder / "private"),
            ) as client:
                assert client is not None
                yield client
            assert other.wait(60) == 0
        finally:
            other.kill()


@pytest.mark.parametrize("started", [in_slurm, in_a_job])
def test_a_cluster_of_several_machines_lets_nobody_in_and_its_dashboards_are_on_loopback(
    started: Starting, outside: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with started(tmp_path, request) as client:
        ports = dashboards(client)
        assert len(ports) == 2
        for port in ports:
            assert not refused("127.0.0.1", port)
            assert refused(outside, port)
        told = client.scheduler_info(n_workers=-1)
        for address in (told["address"], *told["workers"]):
            assert address.startswith("tls://")
            without_a_certificate(address)


def without_a_certificate(address: str) -> None:
    """Speak TLS with who asks for a certificate, and have none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    at = urlsplit(address)
    with (
        socket.create_connection((at.hostname, at.port or 0), timeout=10) as plain,
        pytest.raises(ssl.SSLError, match="certificate required"),
        context.wrap_socket(plain) as wrapped,
    ):
        assert wrapped.recv(1) == b"what nobody without one is told"


def answer_to(origin: str, port: int) -> int:
    """Give the status with which a dashboard answers a page that would listen to it."""

    async def connect() -> int:
        asked = HTTPRequest(f"ws://127.0.0.1:{port}/status/ws", headers={"Origin": origin})
        token = generate_jwt_token(generate_session_id())
        try:
            opened = await websocket_connect(asked, subprotocols=["bokeh", token])
        except HTTPClientError as error:
            return error.code
        opened.close()
        while await opened.read_message() is not None:
            pass
        return 101

    return asyncio.run(connect())


def test_a_page_of_elsewhere_cannot_listen_to_the_dashboard(client: Client) -> None:
    port = dashboards(client)[0]
    for origin in (f"http://127.0.0.1:{port}", "http://localhost:9999"):
        assert answer_to(origin, port) == 101, "its own page, and one through a tunnel"
    for origin in ("http://evil.example", "http://127.0.0.1.evil.example", "null"):
        assert answer_to(origin, port) == 403


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scheduler.dashboard.bokeh-application.allow_websocket_origin", ["evil.example:80"]),
        ("dashboard.link", "/user/me/proxy/{port}/status"),
    ],
)
def test_who_may_listen_is_left_where_the_user_s_config_says_it(key: str, value: Any) -> None:
    """Behind a hub the dashboard's own page is one of elsewhere."""
    with (
        dask.config.set({f"distributed.{key}": value}),
        pipeline.cluster(kind="local", workers=1, dashboard="127.0.0.1:0") as client,
    ):
        assert client is not None
        assert answer_to("http://evil.example", dashboards(client)[0]) == 101


def test_the_viewer_is_for_this_machine(demo_slide: Path, outside: str) -> None:
    command = [sys.executable, "-m", "pipeline", "view", "--no-browser", str(demo_slide)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as viewer:
        try:
            assert viewer.stdout is not None
            port = urlsplit(viewer.stdout.readline().split(": ")[1]).port or 0
            assert not refused("127.0.0.1", port)
            assert refused(outside, port)
        finally:
            viewer.terminate()
