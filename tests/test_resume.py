"""Killed at any instant, a run goes on where it was: through the command, with real kills."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from pipeline.demo import write_demo
from pipeline.results import open_results
from pipeline.store import look

BLOCKS = 12  # 2000 x 1500 in blocks of 512


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    write_demo(folder / "demo.svs", 2000, 1500)
    path = folder / "run.yaml"
    path.write_text(
        "slides: demo.svs\n"
        "model: builtin:nuclei\n"
        "output: {block: 512, directory: whole}\n"
        "tissue: {method: none}\n"
        "cluster: {kind: threads, workers: 1, dashboard: none}\n"
    )
    assert finish(path, path.parent / "whole") == BLOCKS
    return path


def start(run_file: Path, directory: Path, *overrides: str) -> subprocess.Popen[str]:
    """Start the command in a process group of its own, so that its workers die with it."""
    command = [sys.executable, "-m", "pipeline", "run", str(run_file)]
    for override in (f"output.directory={directory}", *overrides):
        command += ["-o", override]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(run_file: Path, directory: Path, *overrides: str) -> int:
    """Run to the end and give the number of blocks that were computed."""
    process = start(run_file, directory, *overrides)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    assert look(str(directory / "demo.zarr")) is not None
    return int(out.split(" computed now")[0].rsplit("(", 1)[1])


def shards(directory: Path, level: int = 0) -> set[str]:
    folder = directory / "demo.zarr" / str(level) / "c" / "0"
    return {f"{path.parent.name}/{path.name}" for path in folder.glob("*/*") if path.name.isdigit()}


def kill_when(
    process: subprocess.Popen[str], reached: Callable[[], object], how: int = signal.SIGKILL
) -> None:
    """Send a signal to the command and its workers, as a terminal does, and see the first end."""
    deadline = time.monotonic() + 60
    while not reached():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, how)
    if how == signal.SIGKILL:
        process.communicate()


def assert_same_arrays(one: Path, other: Path) -> None:
    first, second = open_results(one)["demo"], open_results(other)["demo"]
    assert second.state == "done"
    np.testing.assert_array_equal(first.coverage, second.coverage)
    np.testing.assert_array_equal(first.tissue, second.tissue)
    for a, b in zip(first.levels, second.levels, strict=True):
        np.testing.assert_array_equal(
            a.compute(scheduler="synchronous"), b.compute(scheduler="synchronous")
        )


@pytest.mark.parametrize("stored", [1, 5, 11])
def test_a_killed_run_computes_only_what_is_missing(
    stored: int, run_file: Path, tmp_path: Path
) -> None:
    process = start(run_file, tmp_path)
    kill_when(process, lambda: len(shards(tmp_path)) >= stored)
    left = BLOCKS - len(shards(tmp_path))
    seen = look(str(tmp_path / "demo.zarr"))
    assert seen is not None
    assert not seen.committed
    assert finish(run_file, tmp_path) == left
    assert_same_arrays(run_file.parent / "whole", tmp_path)


@pytest.mark.parametrize("what", ["zarr.json", "0/zarr.json", "labels/tissue/zarr.json"])
def test_a_run_killed_while_it_makes_its_store_starts_anew(
    what: str, run_file: Path, tmp_path: Path
) -> None:
    process = start(run_file, tmp_path)
    kill_when(process, (tmp_path / "demo.zarr" / what).exists)
    finish(run_file, tmp_path)
    assert_same_arrays(run_file.parent / "whole", tmp_path)


def test_a_run_killed_between_pyramid_and_commit_finishes(run_file: Path, tmp_path: Path) -> None:
    process = start(run_file, tmp_path)
    kill_when(process, lambda: shards(tmp_path, 2))
    assert finish(run_file, tmp_path) == 0
    assert_same_arrays(run_file.parent / "whole", tmp_path)


def test_a_killed_cluster_run_goes_on_in_threads(run_file: Path, tmp_path: Path) -> None:
    process = start(run_file, tmp_path, "cluster.kind=local", "cluster.workers=2")
    kill_when(process, lambda: len(shards(tmp_path)) >= 5)
    # Workers of a killed client end by themselves; what they still write is theirs to write.
    assert finish(run_file, tmp_path) <= BLOCKS - 5
    assert_same_arrays(run_file.parent / "whole", tmp_path)


@pytest.mark.parametrize(
    ("kind", "how"),
    [("threads", signal.SIGINT), ("local", signal.SIGINT), ("local", signal.SIGTERM)],
)
def test_a_wish_to_end_lets_running_blocks_end_and_the_run_goes_on_later(
    kind: str, how: int, run_file: Path, tmp_path: Path
) -> None:
    process = start(run_file, tmp_path, f"cluster.kind={kind}")
    kill_when(process, lambda: len(shards(tmp_path)) >= 1, how)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + how, out
    assert "Traceback" not in out
    assert "distributed." not in out
    assert "ending: blocks that are running are finished" in out
    assert out.splitlines()[-1] == "interrupted: what is stored stays; run again to continue"
    left = BLOCKS - len(shards(tmp_path))
    assert not list(tmp_path.rglob("*.partial"))  # every block that was begun was ended
    assert finish(run_file, tmp_path) == left
    assert_same_arrays(run_file.parent / "whole", tmp_path)


def test_a_second_ctrl_c_ends_at_once(run_file: Path, tmp_path: Path) -> None:
    process = start(run_file, tmp_path, "cluster.kind=local", "cluster.workers=2")
    kill_when(process, lambda: len(shards(tmp_path)) >= 1, signal.SIGINT)
    time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130, out
    assert "Traceback" not in out
    finish(run_file, tmp_path)
    assert_same_arrays(run_file.parent / "whole", tmp_path)


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_while_workers_start_ends_with_one_line_too(
    workers: int, run_file: Path, tmp_path: Path
) -> None:
    process = start(run_file, tmp_path, "cluster.kind=local", f"cluster.workers={workers}")
    # One of the children is multiprocessing's own.
    kill_when(process, lambda: len(psutil.Process(process.pid).children()) > workers, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130, out
    assert out.splitlines()[-1] == "interrupted: what is stored stays; run again to continue"
    assert len(out.split("\n\n")) <= 2  # the other says that it is ending


def test_what_a_killed_writer_left_is_swept_up(run_file: Path, tmp_path: Path) -> None:
    process = start(run_file, tmp_path)
    kill_when(process, lambda: len(shards(tmp_path)) >= 2)
    (tmp_path / "demo.zarr" / "0" / "c" / "0" / "0" / "9.1f.partial").write_bytes(b"half")
    finish(run_file, tmp_path)
    assert not list(tmp_path.rglob("*.partial"))
    assert_same_arrays(run_file.parent / "whole", tmp_path)
