"""Certificates of a run: who has them is in, nobody else is."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import dask
import dask.array as da
import pytest
from distributed import Client, LocalCluster
from distributed.security import Security

from pipeline.clusters import cluster
from pipeline.clusters.security import SCHEDULER_FILE, certified, secured, security_in
from pipeline.errors import ClusterError
from pipeline.execute.distributing import Distributed
from tests.test_schedulers import graph_of, keys


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_their_user_can_read_them_and_they_go_with_the_run(tmp_path: Path) -> None:
    parent = tmp_path / "home" / ".wsi-pipeline"
    with certified(str(parent)) as folder:
        assert folder.parent == parent
        assert mode_of(parent) == mode_of(folder) == 0o700
        files = sorted(folder.iterdir())
        assert [mode_of(file) for file in files] == [0o600, 0o600]
        assert b"PRIVATE KEY" in (folder / "key.pem").read_bytes()
        assert secured(folder)
    assert not folder.exists()


def test_every_run_has_its_own(tmp_path: Path) -> None:
    with certified(str(tmp_path / "a")) as one, certified(str(tmp_path / "a")) as other:
        assert one != other
        assert (one / "key.pem").read_bytes() != (other / "key.pem").read_bytes()


def test_a_folder_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    parent = tmp_path / "shared"
    parent.mkdir()
    parent.chmod(0o777)
    with (
        pytest.raises(ClusterError, match=r"others can write here.*shared_temp_directory"),
        certified(str(parent)),
    ):
        pass
    assert not list(parent.iterdir())


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a scheduler with a worker that asks for certificates."""
    parent = tmp_path_factory.mktemp("tls")
    parent.chmod(0o700)
    with (
        certified(str(parent)) as folder,
        LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            host="127.0.0.1",
            protocol="tls://",
            security=security_in(folder),
            dashboard_address=None,
            scheduler_kwargs={
                "scheduler_file": str(folder / SCHEDULER_FILE),
                "dashboard_address": "127.0.0.1:0",
            },
        ),
    ):
        yield folder


def test_who_has_the_scheduler_s_file_and_what_is_beside_it_is_in(running: Path) -> None:
    with cluster("scheduler_file", scheduler_file=str(running / SCHEDULER_FILE)) as client:
        assert client is not None
        assert client.scheduler_info()["address"].startswith("tls://127.0.0.1:")
        assert len(list(Distributed(client).run(keys("tls", 8), graph_of))) == 8


def test_who_has_none_or_another_run_s_is_not(running: Path, tmp_path: Path) -> None:
    with Client(
        scheduler_file=str(running / SCHEDULER_FILE),
        security=security_in(running),
        set_as_default=False,
    ) as let_in:
        address = let_in.scheduler_info()["address"]
    with (
        pytest.raises(ClusterError, match=rf"^{address}: needs certificates, .*tls\.ca-file"),
        cluster("address", address=address),
    ):
        pass
    with pytest.raises(OSError, match=r"Timed out|reset|closed"):
        Client(address.replace("tls://", "tcp://"), timeout=2, set_as_default=False)
    with (
        certified(str(tmp_path / "other")) as other,
        pytest.raises(OSError, match=r"Timed out|cert"),
    ):
        Client(address, security=security_in(other), timeout=2, set_as_default=False)
    with pytest.raises(OSError, match=r"Timed out|certificate"):
        Client(address, security=Security.temporary(), timeout=2, set_as_default=False)


def test_a_scheduler_s_file_without_its_certificates_is_told_of(
    running: Path, tmp_path: Path
) -> None:
    alone = tmp_path / SCHEDULER_FILE
    alone.write_bytes((running / SCHEDULER_FILE).read_bytes())
    for _ in range(2):  # the first attempt must leave nothing that the second falls over
        with (
            pytest.raises(ClusterError, match=r"scheduler\.json: tls://.*: needs certificates"),
            cluster("scheduler_file", scheduler_file=str(alone)),
        ):
            pass


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"address": 7}'])
def test_a_broken_scheduler_s_file_is_a_clear_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / SCHEDULER_FILE
    file.write_text(text)
    with (
        pytest.raises(ClusterError, match=r"scheduler\.json: no Dask scheduler answers where it"),
        cluster("scheduler_file", scheduler_file=str(file)),
    ):
        pass
    # What could not connect is nobody's scheduler afterwards.
    assert dask.config.get("scheduler", None) is None
    assert da.ones(3, chunks=1).sum().compute() == 3


def test_a_file_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with (
        pytest.raises(ClusterError, match=r"none\.json: no such file; .*scheduler_file"),
        cluster("scheduler_file", scheduler_file=str(tmp_path / "none.json")),
    ):
        pass
