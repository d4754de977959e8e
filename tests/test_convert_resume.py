"""Killed at any instant, a conversion goes on where it was: with real kills."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dask
import numpy as np
import pytest

from pipeline.batch.converting import Converted, convert
from pipeline.errors import SlideError
from pipeline.geometry import Box
from pipeline.readers.ome_zarr import open_reader
from pipeline.store import look


@pytest.fixture(autouse=True, scope="module")
def in_threads() -> Iterator[None]:
    with dask.config.set(scheduler="threads", num_workers=2):
        yield


BLOCKS = 30  # 1500 x 1200 in blocks of 256


@pytest.fixture(scope="module")
def whole(demo_slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("killed") / "whole.zarr"
    assert convert(demo_slide, path, block=256).computed == BLOCKS
    return path


def kill_when(reached: Callable[[], object], slide: Path, out: Path) -> None:
    command = [sys.executable, "-m", "pipeline", "convert", str(slide), str(out)]
    process = subprocess.Popen([*command, "--block", "256", "--workers", "1"])
    deadline = time.monotonic() + 60
    while not reached():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.kill()
    process.wait()


def stored(out: Path, level: int = 0) -> int:
    return sum(path.name.isdigit() for path in (out / str(level) / "c" / "0").glob("*/*"))


def check(made: Converted, out: Path, whole: Path) -> None:
    assert made.complete
    assert not list(out.rglob("*.partial"))
    one, other = open_reader(str(whole)), open_reader(str(out))
    assert one.metadata.identity == other.metadata.identity
    for level, info in enumerate(one.metadata.levels):
        box = Box(0, 0, *info.shape)
        np.testing.assert_array_equal(one.read(level, box), other.read(level, box))


@pytest.mark.parametrize("count", [1, 12, 29])
def test_only_what_is_missing_is_read(
    count: int, whole: Path, demo_slide: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a.zarr"
    kill_when(lambda: stored(out) >= count, demo_slide, out)
    left = BLOCKS - stored(out)
    seen = look(str(out))
    assert seen is not None
    assert not seen.committed
    with pytest.raises(SlideError, match="its conversion is not finished"):
        open_reader(str(out))
    made = convert(demo_slide, out, block=256)
    assert made.computed == left
    check(made, out, whole)


@pytest.mark.parametrize("what", ["zarr.json", "0/zarr.json", "associated/macro/zarr.json"])
def test_one_that_was_being_begun_starts_anew(
    what: str, whole: Path, demo_slide: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a.zarr"
    kill_when((out / what).exists, demo_slide, out)
    check(convert(demo_slide, out, block=256), out, whole)


def test_one_that_was_at_its_pyramid_finishes_that(
    whole: Path, demo_slide: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a.zarr"
    kill_when(lambda: stored(out, 1), demo_slide, out)
    made = convert(demo_slide, out, block=256)
    assert made.computed == 0
    check(made, out, whole)


def test_what_a_killed_writer_left_is_swept_up(
    whole: Path, demo_slide: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a.zarr"
    kill_when(lambda: stored(out) >= 2, demo_slide, out)
    (out / "0" / "c" / "0" / "0" / "9.1f.partial").write_bytes(b"half")
    check(convert(demo_slide, out, block=256), out, whole)
