"""What a run would do, said before it does: for people, for programs, and nothing touched."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import pipeline
from pipeline.batch import dry_run
from pipeline.cli import main
from pipeline.config.runfile import load_config
from pipeline.execute import run
from pipeline.execute.calibration import Calibration, calibrate
from pipeline.execute.standing import Standing, standing
from pipeline.plan import Options, Plan, Tissue, plan_slide
from pipeline.store import drop
from tests.toys import noise, spoil_first_tile, write_tiff

OK, INCOMPLETE, REFUSED = 0, 1, 2


@pytest.fixture
def planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str]]:
    """Give ``planned(path, *options) -> exit code and what was printed``."""
    monkeypatch.setenv("COLUMNS", "250")

    def call(path: Path, *options: str) -> tuple[int, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["plan", str(path), *options])
        return int(ended.value.code or 0), capsys.readouterr().out

    return call


@pytest.fixture
def run_file(tmp_path: Path, toy_model: Callable[..., Path]) -> Callable[..., Path]:
    """Give ``run_file(*slides, **changes) -> path`` of a run in this process over some of noise."""

    def write(*slides: Path, **changes: Any) -> Path:
        settings = {
            "slides": [str(each) for each in slides],
            "model": str(toy_model("per_patch", batch=1)),
            "output": {"directory": str(tmp_path / "results"), "block": 256},
            "tissue": {"method": "none"},
            "cluster": {"kind": "threads", "workers": 2},
            **changes,
        }
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        return path

    return write


@pytest.fixture
def slides(tmp_path: Path) -> list[Path]:
    return [write_tiff(tmp_path / f"{name}.tiff", noise(600, 500), mpp=0.5) for name in "ab"]


def test_a_plan_says_as_json_what_the_run_then_does_and_touches_nothing(
    planned: Callable[..., tuple[int, str]], run_file: Callable[..., Path], slides: list[Path]
) -> None:
    config = run_file(*slides)
    code, out = planned(config, "--json")
    said = json.loads(out)
    results = config.parent / "results"
    assert code == OK
    assert not results.exists()
    assert said["workers"]["kind"] == "threads"
    assert said["workers"]["threads"] == 2
    assert said["calibration"]["slide_id"] == "a"
    assert 1 <= said["calibration"]["blocks"] <= 3
    a, b = said["slides"]
    assert {**a, "slide_id": "b", "path": str(slides[1]), "seconds": b["seconds"]} == b
    assert (a["state"], a["blocks"], a["left"], a["stored"]) == ("pending", 6, 6, 0)
    assert a["mpp"] == [0.5, 0.5]
    assert a["seconds"] > 0
    assert 0 < a["memory_bytes"] < said["workers"]["limit_bytes"]
    assert said["total"]["blocks"] == 12
    assert said["total"]["memory_bytes"] == a["memory_bytes"]
    assert said["total"]["seconds"] == pytest.approx(a["seconds"] + b["seconds"])
    assert pipeline.run(config).complete
    stored = [path for path in (results / "a.zarr").rglob("*") if path.is_file()]
    assert a["output_files"] == len(stored)
    again = json.loads(planned(config, "--json")[1])
    assert [each["state"] for each in again["slides"]] == ["done", "done"]
    assert (again["total"]["left"], again["total"]["seconds"]) == (0, 0.0)
    assert again["calibration"] is None


def test_a_plan_has_a_row_for_each_slide_and_for_all(
    planned: Callable[..., tuple[int, str]], run_file: Callable[..., Path], slides: list[Path]
) -> None:
    code, out = planned(run_file(*slides), "--no-time")
    assert code == OK
    head, a, _, whole = (line.split() for line in out.splitlines()[:4])
    assert head[:3] == ["slide", "level", "um/px"]
    assert head[-2:] == ["left", "time"]
    assert a[0] == "a"
    assert a[-2:] == ["6", "-"]
    assert whole[:2] == ["2", "slides"]
    assert whole[-2:] == ["12", "-"]
    assert "before compression" in out
    assert re.search(r"predicted peak of a worker with 2 threads, of the [\d.]+ [MG]iB", out)
    assert "estimate" not in out


def test_a_narrow_terminal_gets_two_tables_and_no_broken_line(
    planned: Callable[..., tuple[int, str]],
    run_file: Callable[..., Path],
    slides: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = planned(run_file(*slides), "--no-time")[1].splitlines()
    tables = [line for line in lines if line.startswith(("slide ", "a ", "b ", "2 slides"))]
    assert len(tables) == 8
    assert max(map(len, tables)) <= 80


def test_the_time_of_a_plan_is_called_an_estimate_and_says_of_what(
    planned: Callable[..., tuple[int, str]], run_file: Callable[..., Path], slides: list[Path]
) -> None:
    _, out = planned(run_file(slides[0]))
    said = (
        r"time is an estimate: \d blocks? of a were read and predicted here in [\d.]+ s, for 2 at"
    )
    assert re.search(said, out)


def test_a_store_of_other_settings_is_said_to_be_refused_with_the_setting(
    planned: Callable[..., tuple[int, str]], run_file: Callable[..., Path], slides: list[Path]
) -> None:
    config = run_file(*slides)
    assert pipeline.run(config, [f"slides={slides[0]}"]).complete
    code, out = planned(config, "--json", "-o", "output.dtype=float32")
    a, b = json.loads(out)["slides"]
    assert code == INCOMPLETE
    assert (a["state"], b["state"]) == ("refused", "pending")
    assert "output.dtype = 'uint8', now output.dtype = 'float32'" in a["reason"]
    assert json.loads(out)["total"]["refused"] == 1
    assert json.loads(out)["total"]["blocks"] == b["blocks"]


def test_a_worker_without_the_memory_is_said_to_be_refused(
    planned: Callable[..., tuple[int, str]], run_file: Callable[..., Path], slides: list[Path]
) -> None:
    config = run_file(slides[0], cluster={"kind": "local", "memory_limit": "100 MiB"})
    code, out = planned(config, "--no-time")
    assert code == INCOMPLETE
    said = r"^a: would be refused: .* may use 100 MiB; raise cluster\.memory_limit"
    assert re.search(said, out, re.MULTILINE)


def test_a_slide_that_cannot_be_tried_leaves_the_calibration_to_the_next(
    planned: Callable[..., tuple[int, str]],
    run_file: Callable[..., Path],
    slides: list[Path],
    tmp_path: Path,
) -> None:
    torn = spoil_first_tile(write_tiff(tmp_path / "A.tiff", noise(200, 200), mpp=0.5))
    config = run_file(torn, slides[1], reader="tiff")
    code, out = planned(config)
    assert code == OK
    assert re.search(r"^A: could not be tried: .*cannot read level 0", out, re.MULTILINE)
    assert " of b were read and predicted" in out


@pytest.fixture
def plan(slides: list[Path], toy_model: Callable[..., Path], tmp_path: Path) -> Plan:
    slide, model = pipeline.open_slide(slides[0]), pipeline.load_model(toy_model("per_patch"))
    tissue = Tissue(np.ones((6, 5), np.bool_), (100.0, 100.0), {})
    return plan_slide(slide, model, tissue, Options(block=256), path=str(tmp_path / "a.zarr"))


def test_what_a_store_has_and_lacks_is_counted(plan: Plan) -> None:
    whole = len(plan.todo)
    nothing = Standing(begun=False, committed=False, stored=0, left=whole, failed=0)
    assert (standing(plan), nothing.state) == (nothing, "pending")
    assert not Path(plan.path).exists()
    run(plan)
    assert standing(plan).state == "done"
    drop(plan.arrays[0][0], plan.todo[:2])
    there = standing(plan)
    assert (there.state, there.stored, there.left) == ("partial", whole - 2, 2)


def test_time_is_that_of_pixels_and_patches_shared_by_the_workers(plan: Plan) -> None:
    tried = calibrate(plan)
    assert tried is not None
    assert 0 < tried.seconds_per_patch < tried.seconds
    exact = Calibration(blocks=1, seconds=1.0, seconds_per_pixel=0.0, seconds_per_patch=2.0)
    count = len(plan.todo)
    assert exact.seconds_for(plan, count, 1) == pytest.approx(2 * plan.patch_count)
    assert exact.seconds_for(plan, count, 2) == pytest.approx(plan.patch_count)
    assert exact.seconds_for(plan, 1, 64) == pytest.approx(2 * plan.patch_count / count)
    assert exact.seconds_for(plan, 0, 2) == 0
    read = replace(exact, seconds_per_patch=0.0, seconds_per_pixel=1.0)
    assert read.seconds_for(plan, count, 1) >= 600 * 500


def test_a_slide_without_tissue_is_not_tried(plan: Plan) -> None:
    empty = replace(plan.tissue, mask=np.zeros_like(plan.tissue.mask))
    none = plan_slide(plan.slide, plan.model, empty, Options(block=256), path=plan.path)
    assert calibrate(none) is None


def test_blocks_are_planned_for_the_workers_of_the_run_file_or_kept(
    run_file: Callable[..., Path], slides: list[Path]
) -> None:
    path = run_file(slides[0], model="builtin:nuclei")

    def plans(*overrides: str) -> list[Plan]:
        planned = (plan for _, plan in dry_run(load_config(path, overrides)))
        return [plan for plan in planned if isinstance(plan, Plan)]

    def cells(limit: str) -> list[int]:
        auto = ("output.block=auto", "cluster.kind=local", f"cluster.memory_limit={limit}")
        return [plan.grid.cell for plan in plans(*auto)]

    assert cells("4 GiB") == [1024]
    assert cells("230 MiB") == [512]
    for plan in plans("output.block=1024"):
        run(plan)
    assert cells("230 MiB") == [1024]
