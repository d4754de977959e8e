"""Fixtures that all tests share; the functions behind them are in `tests.toys`."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Client
from hypothesis import settings

from pipeline.clusters import cluster
from pipeline.demo import write_demo
from tests import exported, servers, toys
from tests import slurm as slurms

# How long a case takes says more of what else the machine does than of the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

DATA_VARIABLE = "WSI_PIPELINE_TEST_DATA"

TOLD = "told"
"""The property of a test's report that holds what it says."""


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Give what says a line at the end of the run: what a process of its own prints is lost."""
    return lambda text: record_property(TOLD, text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for kind in terminalreporter.stats.values() for report in kind]
    lines = [
        str(text)
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "call"
        for name, text in report.user_properties
        if name == TOLD
    ]
    if lines:
        terminalreporter.section("measured")
    for line in lines:
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def demo_slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic H&E slide of 1500 x 1200 pixels at 0.5 um; its truth lies beside it."""
    path = tmp_path_factory.mktemp("demo") / "demo.svs"
    write_demo(path, 1500, 1200)
    return path


@pytest.fixture(scope="session")
def demo_results(tmp_path_factory: pytest.TempPathFactory, demo_slide: Path) -> Path:
    """Results of `demo_slide`: its nuclei as outlines, their scores, its tissue."""
    return exported.run_demo(tmp_path_factory.mktemp("demo-results"), demo_slide)


@pytest.fixture(scope="session")
def many_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a slide whose truth is in `tests.exported`: outputs of every kind."""
    return exported.run_many(tmp_path_factory.mktemp("many-results"))


@pytest.fixture
def write_tiff() -> Callable[..., Path]:
    """Give `tests.toys.write_tiff`: ``write_tiff(path, rgb, mpp=0.5, tile=128, levels=1)``."""
    return toys.write_tiff


@pytest.fixture
def toy_model(tmp_path: Path) -> Callable[..., Path]:
    """Give ``toy_model(kind, **card_overrides) -> card``; see `tests.toys.write_toy_model`."""
    numbers = count()

    def write(kind: str, **overrides: Any) -> Path:
        folder = tmp_path / "toy-models" / f"{kind}-{next(numbers)}"
        return toys.write_toy_model(folder, kind, **overrides)

    return write


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Give the folder of real slides and models, or skip."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get(DATA_VARIABLE, default))
    if not (folder / "slides").is_dir():
        pytest.skip(f"no real slides in {folder}; name their folder in {DATA_VARIABLE}")
    return folder


@pytest.fixture
def web() -> Iterator[servers.Web]:
    """A web server that counts what it is asked for, and misbehaves on demand."""
    with servers.web_server() as server:
        yield server


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.S3]:
    """SeaweedFS with an empty bucket ``test``."""
    with servers.seaweed(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.S3]:
    """Moto's S3 server with an empty bucket ``test``."""
    with servers.moto(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(params=["seaweed", "moto"])
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give the URL of an empty folder in a real bucket; the environment has the keys to it."""
    server: servers.S3 = request.getfixturevalue(request.param)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://test/{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def slurm_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurms.Slurm]:
    """Give the Slurm of this process's tests, or skip; tests ask for ``slurm``."""
    if reason := slurms.why_not():
        if os.environ.get(slurms.NEEDED):
            pytest.fail(f"{slurms.NEEDED} is set, and there is no Slurm: {reason}")
        pytest.skip(f"no Slurm: {reason}")
    with slurms.slurm_cluster(tmp_path_factory.mktemp("slurm")) as started:
        yield started


@pytest.fixture
def slurm(slurm_session: slurms.Slurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[slurms.Slurm]:
    """Give a real Slurm without jobs, in use by this process and its children."""
    for name, value in slurm_session.environment.items():
        monkeypatch.setenv(name, value)
    yield slurm_session
    slurm_session.drain()


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Give the client of two worker processes, which end with the module's tests."""
    with cluster("local", workers=2, dashboard="127.0.0.1:0") as started:
        assert started is not None
        yield started


@pytest.fixture
def in_threads() -> Iterator[None]:
    """Compute in two threads of this process."""
    with dask.config.set(scheduler="threads", num_workers=2):
        yield
