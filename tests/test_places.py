"""Places, on a disk and in real buckets, by one contract."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from pipeline.files import places
from pipeline.files.urls import is_url, join
from tests.servers import Web


@pytest.fixture(params=["folder", "seaweed", "moto"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty place that is not there yet, as whatever is asked for."""
    if request.param == "folder":
        return str(tmp_path / "results" / "run")
    for name, value in request.getfixturevalue(request.param).environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://test/{tmp_path.name}-{request.param}/run"


def test_what_is_written_is_there_whole_and_named(place: str) -> None:
    file, deeper = join(place, "a b.yaml"), join(place, "x.zarr", "0", "zarr.json")
    assert not places.exists(place)
    assert not places.exists(file)
    assert places.names(place) == []
    places.write_whole(file, "slides: µ\n".encode())
    places.write_whole(deeper, b"{}")
    assert places.read_text(file) == "slides: µ\n"
    assert [places.exists(each) for each in (place, file, join(place, "x.zarr"))] == [True] * 3
    assert not places.exists(join(place, "x.za")), "a beginning of a name is no folder"
    assert places.names(place) == ["a b.yaml", "x.zarr"]
    places.write_whole(file, b"new")
    assert places.read_text(file) == "new"
    assert places.names(place) == ["a b.yaml", "x.zarr"]


def test_what_is_not_there_is_an_error_of_the_system(place: str) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        places.read_text(join(place, "none.yaml"))
    assert missing.value.errno == errno.ENOENT


def test_names_are_absolute_and_urls_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert places.absolute("results/x") == str(tmp_path / "results" / "x")
    assert places.absolute(Path("results")) == str(tmp_path / "results")
    assert places.absolute("s3://bucket/run/") == "s3://bucket/run"
    assert is_url("S3://bucket")


def test_a_web_server_holds_no_results(web: Web) -> None:
    with pytest.raises(OSError, match="nothing can be written to a web server; name a folder"):
        places.write_whole(f"{web.url}/a", b"x")
    with pytest.raises(OSError, match="a web server does not list its files"):
        places.names(web.url)


def test_what_is_written_piece_by_piece_is_there_whole_or_as_it_was(place: str) -> None:
    file, content = join(place, "large.bin"), bytes(range(256)) * 2**16
    with places.written(file) as local:
        local.write_bytes(content)
        assert not places.exists(file)
    assert places.read(file) == content, "16 MiB go to a bucket in parts"
    with pytest.raises(RuntimeError), places.written(file) as local:  # noqa: PT012
        local.write_bytes(b"half")
        raise RuntimeError
    assert places.read(file) == content
    assert places.names(place) == ["large.bin"]
