"""Whatever breaks, a run that is begun again ends as if nothing had: real kills, real disks."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

import pipeline
from pipeline.batch.recipe import Recipe
from pipeline.books.outcomes import Silence, Summary
from pipeline.clusters import cluster
from pipeline.config.runfile import load_config
from pipeline.execute import run as run_plan
from pipeline.manifest.jobs import Job
from pipeline.plan import Plan
from pipeline.slide.recoloured import Recoloured
from tests.toys import RED, SCALE, noise, write_graph

SIDE = 64
ROWS, COLUMNS = 6, 8
KILLS = 20


@dataclass(frozen=True)
class Cohort:
    """A folder with slides, a run file, and what an undisturbed run makes of it."""

    folder: Path
    run_file: Path

    def run(self, directory: Path | str, *overrides: str, **options: Any) -> Summary:
        """Run in threads of this process."""
        return pipeline.run(self.run_file, [f"output.directory={directory}", *overrides], **options)

    def assert_same(self, directory: Path | str, *, but: frozenset[str] = frozenset()) -> None:
        """Hold a results directory against the undisturbed one, array by array."""
        whole, other = (
            pipeline.open_results(self.folder / "whole"),
            pipeline.open_results(directory),
        )
        assert set(other) == set(whole) - but
        for slide_id, stored in other.items():
            assert stored.state == "done", slide_id
            np.testing.assert_array_equal(stored.coverage, whole[slide_id].coverage)
            for ours, theirs in zip(stored.levels, whole[slide_id].levels, strict=True):
                np.testing.assert_array_equal(
                    ours.compute(scheduler="synchronous"), theirs.compute(scheduler="synchronous")
                )


@pytest.fixture
def cohort(
    tmp_path: Path, write_tiff: Callable[..., Path], toy_model: Callable[..., Path]
) -> Cohort:
    """Give two slides of 48 blocks each, one of which has a red pixel in its last block."""
    slides = tmp_path / "slides"
    slides.mkdir()
    for number, name in enumerate(("a", "b")):
        pixels = noise(ROWS * SIDE, COLUMNS * SIDE, seed=number)
        if name == "b":
            pixels[-1, -1] = RED
        write_tiff(slides / f"{name}.tiff", pixels)
    run_file = tmp_path / "run.yaml"
    run_file.write_text(
        f"slides: slides\n"
        f"model: {toy_model('neighbours', outputs={'range': [0, 128]})}\n"
        f"output: {{block: {SIDE}, chunk: 32, directory: whole}}\n"
        f"tissue: {{method: none}}\n"
        f"cluster: {{kind: threads, workers: 2, dashboard: none}}\n"
    )
    cohort = Cohort(tmp_path, run_file)
    assert cohort.run(tmp_path / "whole").complete
    return cohort


def test_killed_at_twenty_random_moments(cohort: Cohort, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.killing",
        str(cohort.run_file),
        str(tmp_path / "killed"),
    ]
    seed = int.from_bytes(os.urandom(4))
    done = subprocess.run(
        [*command, str(KILLS), str(seed)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, (seed, done.stderr)
    assert int(done.stdout) >= KILLS // 4, "most kills came too late to hit anything"
    cohort.assert_same(tmp_path / "killed")


def test_workers_killed_while_they_work_cost_nothing_but_time(
    cohort: Cohort, tmp_path: Path
) -> None:
    config = load_config(cohort.run_file, [f"output.directory={tmp_path / 'out'}"])
    recipe = Recipe.of(config)
    with cluster("local", workers=2, dashboard="none") as client:
        assert client is not None
        stop = threading.Event()
        killed: list[int] = []

        def kill() -> None:
            while len(killed) < 3 and not stop.wait(0.3):
                # One that starts is left alone: what restarts it would give up.
                if len(client.scheduler_info()["workers"]) == 2:
                    pids = client.run(os.getpid)
                    killed.append(pids[min(pids)])
                    os.kill(killed[-1], signal.SIGKILL)

        thread = threading.Thread(target=kill)
        thread.start()
        try:
            for job in (Job(name, str(cohort.folder / "slides" / f"{name}.tiff")) for name in "ab"):
                outcome = recipe.run(job, lambda *_: None, lambda _: None)
                assert outcome.state == "done", outcome.reason
        finally:
            stop.set()
            thread.join()
    assert killed
    cohort.assert_same(tmp_path / "out")


@pytest.fixture
def dask_scheduler(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Give a scheduler that runs already, with two workers, and its address."""
    file = tmp_path / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--no-dashboard"]
    command += ["--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler = subprocess.Popen(command, **quiet)  # type: ignore[call-overload]
    command = [sys.executable, "-m", "distributed.cli.dask_worker", "--no-dashboard"]
    command += ["--nworkers", "2", "--nthreads", "1", "--scheduler-file", str(file)]
    workers = subprocess.Popen(  # type: ignore[call-overload]
        [*command, "--death-timeout", "20"], start_new_session=True, **quiet
    )
    try:
        from distributed import Client

        with Client(scheduler_file=str(file), set_as_default=False, timeout=30) as client:
            client.wait_for_workers(2, timeout=60)
            address = client.scheduler.address
        yield scheduler, address
    finally:
        scheduler.kill()
        os.killpg(workers.pid, signal.SIGKILL)
        scheduler.wait()
        workers.wait()


def test_a_scheduler_that_is_killed_ends_the_run_and_another_goes_on(
    cohort: Cohort, dask_scheduler: tuple[subprocess.Popen[bytes], str], tmp_path: Path
) -> None:
    scheduler, address = dask_scheduler
    out = tmp_path / "out"
    command = [sys.executable, "-m", "pipeline", "run", str(cohort.run_file)]
    for override in (f"output.directory={out}", "cluster.kind=address"):
        command += ["-o", override]
    command += ["-o", f"cluster.address={address}", "-o", "cluster.workers=auto"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while run.poll() is None and not list(out.glob("*.zarr/0/c/0/*/*")):
        time.sleep(0.005)
    scheduler.kill()
    said, _ = run.communicate(timeout=120)
    assert run.returncode == 1, said
    assert "error: the scheduler is gone" in said
    assert "Traceback" not in said, said
    assert cohort.run(out).complete
    cohort.assert_same(out)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a disk in memory; the test is skipped where that may not be done."""
    folder.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can only be mounted by root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_ends_the_run_and_with_room_it_goes_on(cohort: Cohort, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * 850_000)
        first = cohort.run(disk / "out")
        assert {outcome.state for outcome in first.outcomes} <= {"failed", "pending"}
        reason = next(outcome.reason for outcome in first.outcomes if outcome.state == "failed")
        assert "No space left on device; make room, then run again to continue" in reason
        ballast.unlink()
        again = cohort.run(disk / "out")
        assert again.complete
        assert sum(outcome.computed for outcome in again.outcomes) < 2 * ROWS * COLUMNS
        cohort.assert_same(disk / "out")


def test_results_that_cannot_be_written_are_refused_before_anything(
    cohort: Cohort, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(pipeline.errors.ConfigError, match="Read-only file system"):
            cohort.run(disk / "out")


def test_a_slide_that_was_replaced_is_refused_and_no_store_is_touched(
    cohort: Cohort, write_tiff: Callable[..., Path]
) -> None:
    slide = cohort.folder / "slides" / "a.tiff"
    kept = slide.read_bytes()
    write_tiff(slide, noise(ROWS * SIDE, COLUMNS * SIDE, seed=7))
    summary = cohort.run(cohort.folder / "whole")
    states = {outcome.job.slide_id: outcome for outcome in summary.outcomes}
    assert states["a"].state == "refused"
    assert "was begun with slide.identity = " in states["a"].reason
    assert states["b"].state == "done"
    slide.write_bytes(kept)
    assert cohort.run(cohort.folder / "whole").complete


class Deleting(Silence):
    """Deletes a slide when its run has come to somewhere."""

    def __init__(self, path: Path, when: str) -> None:
        super().__init__()
        self.path, self.when = path, when

    def slide(self, job: Job) -> None:
        if self.when == "opening" and job.slide_id == "a":
            self.path.unlink()

    def blocks(self, job: Job, stage: str, finished: int, total: int) -> None:  # noqa: ARG002
        if self.when == "reading" and job.slide_id == "a" and finished == 1:
            self.path.unlink(missing_ok=True)


@pytest.mark.parametrize("when", ["opening", "reading"])
def test_a_slide_deleted_under_way_costs_no_other_and_no_pixel(
    when: str, cohort: Cohort, tmp_path: Path
) -> None:
    slide = cohort.folder / "slides" / "a.tiff"
    kept = slide.read_bytes()
    summary = cohort.run(tmp_path / "out", report=Deleting(slide, when))
    assert not slide.exists()
    states = {outcome.job.slide_id: outcome for outcome in summary.outcomes}
    assert states["b"].state == "done"
    if when == "opening":
        assert states["a"].state == "failed"
        assert "a.tiff" in states["a"].reason
    slide.write_bytes(kept)
    os.utime(slide, (1, 1))  # a copy from a backup
    cohort.run(tmp_path / "out")
    cohort.assert_same(tmp_path / "out")


def test_a_model_that_raises_at_one_block_costs_that_block(
    cohort: Cohort, tmp_path: Path, toy_model: Callable[..., Path]
) -> None:
    """The graph looks up a table of one row, at how many pixels are pure red."""
    card = toy_model("per_patch", input={"patch": SIDE}, outputs={"stride": SIDE})
    write_graph(card, list(_raises_at_red()), rank=2)
    summary = cohort.run(tmp_path / "out", f"model={card}", "output.chunk=auto")
    states = {outcome.job.slide_id: outcome for outcome in summary.outcomes}
    assert states["a"].state == "done", states["a"].reason
    assert (states["b"].state, states["b"].failed) == ("partial", 1)
    assert f"block ({ROWS - 1}, {COLUMNS - 1}): " in states["b"].reason
    assert "the model failed on a batch" in states["b"].reason


def _raises_at_red() -> Iterator[Any]:
    """Red less green less blue is above 254.5 for pure red alone."""
    constant: dict[str, NDArray[Any]] = {
        "kernel": np.array([1, -1, -1], np.float32).reshape(1, 3, 1, 1),
        "limit": np.array(254.5 * SCALE, np.float32),
        "table": np.zeros((1, 3), np.float32),
    }
    for name, values in constant.items():
        kind = TensorProto.FLOAT
        tensor = helper.make_tensor(name, kind, values.shape, values.ravel().tolist())
        yield helper.make_node("Constant", [], [name], value=tensor)
    yield helper.make_node("Conv", ["image", "kernel"], ["redness"])
    yield helper.make_node("Greater", ["redness", "limit"], ["is_red"])
    yield helper.make_node("Cast", ["is_red"], ["count"], to=TensorProto.FLOAT)
    yield helper.make_node("ReduceMax", ["count"], ["most"], axes=[1, 2, 3], keepdims=0)
    yield helper.make_node("Cast", ["most"], ["row"], to=TensorProto.INT64)
    yield helper.make_node("Gather", ["table", "row"], ["scores"], axis=0)


@dataclass(frozen=True, slots=True)
class Poisoned(Recoloured):
    """A level that kills the process that reads a red pixel of it."""

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.level.settings)

    def converted(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Give the pixels as they are, or die as a decoder does that trips over a damaged tile."""
        if (pixels == RED).all(axis=-1).any():
            signal.raise_signal(signal.SIGSEGV)
        return pixels


def test_a_block_that_kills_its_workers_is_set_aside_and_the_rest_goes_on(
    cohort: Cohort, tmp_path: Path
) -> None:
    config = load_config(cohort.run_file, [f"output.directory={tmp_path / 'out'}"])
    recipe = Recipe.of(config)
    plan = _poisoned(
        recipe.plan(Job("b", str(cohort.folder / "slides" / "b.tiff")), lambda _: None)
    )
    with cluster("local", workers=2, dashboard="none"):
        outcome = run_plan(plan)
    assert list(outcome.failures) == [(ROWS - 1, COLUMNS - 1)]
    assert "its worker died, 3 times in a row" in outcome.failures[ROWS - 1, COLUMNS - 1]
    assert outcome.computed == ROWS * COLUMNS
    # Without the poison the next run does that block, and that alone.
    summary = cohort.run(tmp_path / "out")
    assert {each.job.slide_id: each.computed for each in summary.outcomes}["b"] == 1
    cohort.assert_same(tmp_path / "out")


def _poisoned(plan: Plan) -> Plan:
    return replace(plan, level=Poisoned(plan.level))


def test_a_clock_that_goes_backwards_changes_nothing(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = time.time()
    steps = iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: began - 10 * next(steps))
    assert cohort.run(tmp_path / "out").complete
    cohort.assert_same(tmp_path / "out")


def test_of_three_hundred_slides_the_broken_ones_are_counted_exactly(
    tmp_path: Path, write_tiff: Callable[..., Path], toy_model: Callable[..., Path]
) -> None:
    slides = tmp_path / "slides"
    slides.mkdir()
    good = write_tiff(slides / "000.tiff", noise(64, 64))
    for number in range(1, 300):
        path = slides / f"{number:03}.tiff"
        if number % 10 == 3:
            path.write_bytes(b"not a slide")
        else:
            os.link(good, path)
    run_file = tmp_path / "run.yaml"
    run_file.write_text(
        f"slides: slides\nmodel: {toy_model('per_patch')}\noutput: {{block: 64}}\n"
        f"tissue: {{method: none}}\ncluster: {{kind: threads, workers: 2}}\n"
    )
    summary = pipeline.run(run_file)
    assert not summary.complete
    with (tmp_path / "results" / "status.csv").open(newline="") as file:
        rows = {row["slide_id"]: row for row in csv.DictReader(file)}
    assert len(rows) == 300
    failed = {slide_id for slide_id, row in rows.items() if row["state"] == "failed"}
    assert failed == {f"{number:03}" for number in range(3, 300, 10)}
    assert all("not a slide" in rows[slide_id]["reason"] for slide_id in failed)
    assert sum(row["state"] == "done" for row in rows.values()) == 270
