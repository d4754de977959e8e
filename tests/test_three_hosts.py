"""A scheduler and two workers on hosts of their own, with TLS: the same results, also when one
host is cut off in the middle, and nobody else gets in."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed.security import Security

import pipeline
from pipeline.books.runs import read_runs
from pipeline.demo import write_demo
from tests import network as networks
from tests.network import Host, network
from tests.slurm import wait_until
from tests.toys import write_toy_model

PORT = 8786
PYTHON = (sys.executable, "-m")
SOON = {
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "8 s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5 s",
}
"""What is lost is noticed so soon: a worker, and that its nanny, which is to start another, is."""


@pytest.fixture(scope="module")
def hosts() -> Iterator[Sequence[Host]]:
    if reason := networks.why_not():
        pytest.skip(f"no network of three hosts: {reason}")
    with network("a", "b", "c") as started:
        yield started


def certificates(folder: Path) -> Mapping[str, str]:
    """Write certificates of a new authority, and give the environment that uses them."""
    folder.mkdir(mode=0o700)
    made = Security.temporary()
    parts = {"ca": made.tls_ca_file, "cert": made.tls_client_cert, "key": made.tls_client_key}
    for name, text in parts.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(text)
    environment = {
        "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True",
        "DASK_DISTRIBUTED__COMM__TLS__CA_FILE": str(folder / "ca"),
    }
    for role in ("CLIENT", "SCHEDULER", "WORKER"):
        for name in ("cert", "key"):
            key = f"DASK_DISTRIBUTED__COMM__TLS__{role}__{name.upper()}"
            environment[key] = str(folder / name)
    return environment


@dataclass
class Site:
    """A scheduler on the first host, a worker on each of the others, and a run file."""

    hosts: Sequence[Host]
    folder: Path
    environment: Mapping[str, str]
    run_file: Path
    started: dict[str, subprocess.Popen[Any]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return f"tls://{self.hosts[0].address}:{PORT}"

    @property
    def scheduler_file(self) -> Path:
        return self.folder / "scheduler.json"

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def begin(self) -> None:
        """Start all three, and wait for the workers to be known."""
        options = ["--port", str(PORT), "--no-dashboard"]
        options += ["--scheduler-file", str(self.scheduler_file)]
        self._dask(self.hosts[0], "scheduler", *options)
        for host in self.hosts[1:]:
            options = ["--nthreads", "1", "--no-dashboard", "--name", host.name]
            self._dask(host, "worker", self.address, *options)
        known = "Register worker"
        wait_until(lambda: self.log("a").count(known) == 2, why=lambda: self.log("a"))

    def _dask(self, host: Host, role: str, *options: str) -> None:
        command = [*PYTHON, f"distributed.cli.dask_{role}", "--host", host.address, *options]
        with (self.folder / f"{host.name}.log").open("wb") as log:
            environment = {**self.environment, **SOON}
            self.started[host.name] = host.start(
                *command, environment=environment, stdout=log, stderr=log, cwd=self.folder
            )

    def run(
        self, out: Path, *overrides: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Begin a run on the scheduler's host."""
        settings = [f"output.directory={out}", *overrides]
        command = [*PYTHON, "pipeline", "run", str(self.run_file)]
        for each in settings:
            command += ["-o", each]
        return self.hosts[0].start(
            *command,
            environment=self.environment if environment is None else environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def assert_whole(self, out: Path) -> None:
        """Hold results against those of threads of this process."""
        ours, theirs = (
            pipeline.open_results(folder)["demo"] for folder in (out, self.folder / "whole")
        )
        assert ours.state == "done"
        np.testing.assert_array_equal(ours.coverage, theirs.coverage)
        for level, expected in zip(ours.levels, theirs.levels, strict=True):
            np.testing.assert_array_equal(
                level.compute(scheduler="threads"), expected.compute(scheduler="threads")
            )


@pytest.fixture(scope="module")
def site(hosts: Sequence[Host], tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("site")
    write_demo(folder / "demo.svs", 1500, 1200)
    run_file = folder / "run.yaml"
    run_file.write_text(
        "slides: demo.svs\n"
        f"model: {write_toy_model(folder / 'model', 'neighbours', outputs={'range': [0, 128]})}\n"
        "output: {block: 128, chunk: 64}\n"
        "tissue: {method: none}\n"
        "cluster: {kind: threads, workers: 2, dashboard: none}\n"
    )
    assert pipeline.run(run_file, [f"output.directory={folder / 'whole'}"]).complete
    return Site(hosts, folder, certificates(folder / "tls"), run_file)


@pytest.fixture(scope="module")
def running(site: Site) -> Iterator[Site]:
    try:
        site.begin()
        yield site
    finally:
        for host in site.hosts:
            host.stop()


@pytest.mark.parametrize("kind", ["address", "scheduler_file"])
def test_a_run_on_three_hosts_gives_what_threads_give(
    running: Site, tmp_path: Path, kind: str
) -> None:
    out, where = tmp_path / "out", getattr(running, kind)
    run = running.run(out, f"cluster.kind={kind}", f"cluster.{kind}={where}")
    said, _ = run.communicate(timeout=120)
    assert run.returncode == 0, said
    running.assert_whole(out)
    (last,) = read_runs(str(out / "run.json"))
    assert last["scheduler"]["processes"] == 2


def test_nobody_connects_without_the_certificates_of_the_run(running: Site, tmp_path: Path) -> None:
    connected = running.log("a").count("Receive client connection")
    tried = {
        "without": (running.address, {}),
        "in plain": (running.address.replace("tls", "tcp"), {}),
        "another's": (running.address, certificates(tmp_path / "tls")),
    }
    runs = [
        running.run(
            tmp_path / name,
            "cluster.kind=address",
            f"cluster.address={address}",
            environment={**environment, **SOON},
        )
        for name, (address, environment) in tried.items()
    ]
    for name, run in zip(tried, runs, strict=True):
        said, _ = run.communicate(timeout=120)
        assert run.returncode == 2, (name, said)
        why = ": needs certificates, " if name == "without" else "no Dask scheduler answers there"
        assert why in said
        assert "Traceback" not in said
        assert not list(tmp_path.glob(f"{name}/*.zarr"))
    assert running.log("a").count("Receive client connection") == connected


def test_a_host_that_is_cut_off_costs_nothing_but_time(running: Site, tmp_path: Path) -> None:
    out, lost = tmp_path / "out", running.hosts[2]
    run = running.run(out, "cluster.kind=address", f"cluster.address={running.address}")
    wait_until(lambda: len(list(out.glob("*.zarr/0/c/0/*/*"))) >= 6, every=0.01)
    lost.cut()
    blocks = len(list(out.glob("*.zarr/0/c/0/*/*")))
    said, _ = run.communicate(timeout=120)
    lost.join()
    assert run.returncode == 0, said
    assert blocks < 100, "it was cut off when little was left"
    log = running.log("a")
    assert re.search(rf"failed to heartbeat .*{lost.address}.* processing: [1-9]", log), log
    assert f"Remove worker addr: tls://{lost.address}" in log
    running.assert_whole(out)
