"""Results that an earlier version has written: they are read, and a run goes on in them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import pipeline
from pipeline.cli import main
from pipeline.errors import StoreError
from pipeline.store.group import FORMAT
from tests.golden import GOLDEN, HEIGHT, SEED, WIDTH, copied
from tests.toys import expected_neighbours, noise

KEPT = sorted(int(folder.name.removeprefix("format-")) for folder in GOLDEN.iterdir())


@pytest.fixture(params=KEPT)
def run_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return copied(request.param, tmp_path / "golden")


def said(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capsys.readouterr()
    assert ended.value.code == code, err
    return out + err


def test_results_of_this_format_are_kept() -> None:
    assert FORMAT in KEPT
    size = sum(path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file())
    assert size < 100_000 * len(KEPT)


def test_they_read_as_what_was_stored(run_file: Path) -> None:
    stored = pipeline.open_results(run_file.parent / "results")["slide"]
    assert stored.state == "done"
    scores = expected_neighbours(noise(HEIGHT, WIDTH, SEED))
    np.testing.assert_array_equal(
        stored.levels[0].compute(scheduler="synchronous"),
        np.round(scores * (255 / 128)).astype(np.uint8),
    )
    assert (stored.coverage == 1).all()


def test_commands_go_on_with_them(run_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = str(run_file.parent / "results")
    assert "done" in said(capsys, "status", results, "--verify")
    assert "1 of 1 slides exported" in said(capsys, "export", "ome-tiff", results)
    assert (run_file.parent / "results" / "slide.scores.ome.tiff").is_file()


def test_a_run_goes_on_in_them(run_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "0 computed now" in said(capsys, "run", str(run_file))
    results = run_file.parent / "results"
    before = pipeline.open_results(results)["slide"].levels[0].compute(scheduler="synchronous")
    (results / "slide.zarr" / "0" / "c" / "0" / "1" / "1").unlink()
    assert "1 computed now" in said(capsys, "run", str(run_file))
    after = pipeline.open_results(results)["slide"].levels[0].compute(scheduler="synchronous")
    np.testing.assert_array_equal(before, after)


def test_results_of_a_later_format_are_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_file = copied(FORMAT, tmp_path / "golden")
    results = run_file.parent / "results"
    file = results / "slide.zarr" / "zarr.json"
    metadata = json.loads(file.read_text())
    metadata["attributes"]["wsi_pipeline"]["format"] = FORMAT + 1
    file.write_text(json.dumps(metadata))
    why = (
        f"slide.zarr: store format {FORMAT + 1}, this version knows {FORMAT}; "
        "use the later wsi-pipeline that wrote it"
    )
    with pytest.raises(StoreError, match=re.escape(why)):
        pipeline.open_results(results)["slide"]
    held = {
        path: path.read_bytes() for path in (results / "slide.zarr").rglob("*") if path.is_file()
    }
    assert why in said(capsys, "run", str(run_file), code=1)
    assert why in said(capsys, "status", str(results), code=1)
    assert {path: path.read_bytes() for path in held} == held
