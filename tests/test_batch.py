"""Many slides: what goes wrong with one stays with one, and the summary says so."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pipeline
from pipeline.batch import dry_run
from pipeline.books.kept import not_begun
from pipeline.books.outcomes import Silence, SlideOutcome
from pipeline.config.runfile import load_config
from pipeline.errors import ConfigError, PipelineError, StoreError
from pipeline.manifest.jobs import Job
from pipeline.plan import Plan
from tests.toys import noise, spoil_first_tile, write_tiff


class Noted(Silence):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Any] = []

    def began(self, jobs: Sequence[Job], dashboard: str | None) -> None:  # noqa: ARG002
        self.told.append([job.slide_id for job in jobs])

    def slide(self, job: Job) -> None:
        self.told.append(job.slide_id)

    def blocks(self, job: Job, stage: str, finished: int, total: int) -> None:  # noqa: ARG002
        self.told.append((stage, finished, total))

    def ended(self, outcome: SlideOutcome) -> None:
        self.told.append(outcome.state)


@pytest.fixture
def run_file(
    tmp_path: Path, write_tiff: Callable[..., Path], toy_model: Callable[..., Path]
) -> Path:
    slides = tmp_path / "slides"
    slides.mkdir()
    write_tiff(slides / "a.tiff", noise(300, 500))
    (slides / "b.tiff").write_text("not a slide")
    write_tiff(slides / "c.tiff", noise(200, 200), mpp=None)
    write_tiff(slides / "d.tiff", noise(600, 200))
    path = tmp_path / "run.yaml"
    path.write_text(
        f"slides: slides\n"
        f"model: {toy_model('per_patch')}\n"
        f"output: {{block: 256}}\n"
        f"tissue: {{method: none}}\n"
        f"cluster: {{kind: threads, slides_at_once: 1}}\n"
    )
    return path


def test_a_slide_that_fails_is_named_with_its_reason_and_the_others_are_done(
    run_file: Path, tmp_path: Path
) -> None:
    report = Noted()
    summary = pipeline.run(run_file, report=report)
    assert [outcome.state for outcome in summary.outcomes] == ["done", "failed", "failed", "done"]
    assert not summary.complete
    broken, unscaled = summary.outcomes[1:3]
    assert "b.tiff: not a slide" in broken.reason
    assert "resolution.assume_mpp" in unscaled.reason
    results = pipeline.open_results(tmp_path / "results")
    assert list(results) == ["a", "d"]
    spent = results["a"].seen.attributes["stage_seconds"]
    assert set(spent) == {"finish", "predict", "read", "write"}
    assert min(spent.values()) >= 0 < spent["predict"] + spent["read"]
    assert report.told[0] == ["a", "b", "c", "d"]
    assert report.told[1:4] == ["a", ("blocks", 1, 4), ("blocks", 2, 4)]
    assert report.told[-1] == "done"


def test_stop_ends_at_the_first_slide_that_fails(run_file: Path) -> None:
    summary = pipeline.run(run_file, ["on_error=stop"])
    assert [outcome.state for outcome in summary.outcomes] == [
        *("done", "failed"),
        *("pending", "pending"),
    ]


def test_an_assumed_scale_is_used_said_and_recorded(run_file: Path, tmp_path: Path) -> None:
    report = Noted()
    overrides = [
        "resolution={missing: assume, assume_mpp: 0.5}",
        "slides=" + str(tmp_path / "slides/c.tiff"),
    ]
    assert pipeline.run(run_file, overrides, report=report).complete
    assert report.notes == ["c: its um per pixel are assumed: 0.5"]
    stored = pipeline.open_results(tmp_path / "results")["c"]
    assert stored.provenance["slide"]["mpp_source"] == "assumed"
    assert stored.placements[0].scale == (16.0, 16.0)


@pytest.mark.parametrize(
    ("mpp", "asked", "said"),
    [
        (0.25, "{level: 0}", ["the model was made for 0.25 um/px and is run at 0.5, as "]),
        (0.5, "{level: 0}", []),
        (0.5, "model", []),
        (0.505, "model", ["level 0 has 0.5 um/px and 0.505 is wanted: read as it is, not "]),
        (0.8, "model", ["level 0 has 0.5 um/px: resampled to 0.8"]),
        (0.25, "model", ["level 0 has 0.5 um/px: enlarged to 0.25, which adds no detail"]),
        (
            0.5,
            "1.0",
            [
                "level 0 has 0.5 um/px: resampled to 1",
                "the model was made for 0.5 um/px and is run at 1, as resolution.mpp asks",
            ],
        ),
        (None, "0.5", []),
    ],
)
def test_how_a_model_sees_a_slide_is_said_where_it_is_not_as_stored(
    mpp: float | None, asked: str, said: list[str], run_file: Path, toy_model: Any, tmp_path: Path
) -> None:
    report = Noted()
    overrides = [
        f"model={toy_model('per_patch', mpp=mpp)}",
        f"slides={tmp_path / 'slides/a.tiff'}",
        f"resolution.mpp={asked}",
    ]
    assert pipeline.run(run_file, overrides, report=report).complete
    assert len(report.notes) == len(said)
    for note, expected in zip(report.notes, said, strict=True):
        assert note.startswith(f"a: {expected}")


def test_a_card_without_a_scale_is_refused_unless_the_run_file_has_one(
    run_file: Path, toy_model: Any, tmp_path: Path
) -> None:
    override = f"model={toy_model('per_patch', mpp=None)}"
    for begin in (pipeline.run, lambda *args: list(dry_run(load_config(*args)))):
        with pytest.raises(ConfigError, match=r"card\.yaml: the card does not say .* um per pixel"):
            begin(run_file, [override])
    assert not (tmp_path / "results").exists()


def test_the_resolved_run_file_is_kept_and_runs_again(run_file: Path, tmp_path: Path) -> None:
    pipeline.run(run_file, ["output.dtype=float32"])
    kept = tmp_path / "results" / "config.yaml"
    assert load_config(kept) == load_config(run_file, ["output.dtype=float32"])
    again = pipeline.run(kept)
    assert [outcome.computed for outcome in again.outcomes] == [0, 0, 0, 0]


def test_nothing_is_begun_where_the_model_or_the_slides_are_wrong(
    run_file: Path, tmp_path: Path
) -> None:
    for override in ("model=builtin:none", "slides=none/*.svs"):
        with pytest.raises(PipelineError):
            pipeline.run(run_file, [override])
    assert not (tmp_path / "results").exists()


def test_a_dry_run_plans_what_it_can_and_says_what_would_fail(run_file: Path) -> None:
    planned = [plan for _, plan in dry_run(load_config(run_file))]
    assert [isinstance(plan, Plan) for plan in planned] == [True, False, False, True]
    assert "not a slide" in str(planned[1])


def test_a_run_file_that_cannot_be_meant_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        pipeline.run(tmp_path / "none.yaml")


def test_a_tile_that_cannot_be_read_costs_its_block_and_no_other(
    run_file: Path, tmp_path: Path
) -> None:
    """The slide has one level, so that tissue is looked for in the very pixels that fail."""
    path = spoil_first_tile(write_tiff(tmp_path / "torn.tiff", noise(4096, 2100), tile=256))
    report = Noted()
    overrides = [f"slides={path}", "tissue={method: otsu, min_area_um2: 0}", "output.block=1024"]
    (outcome,) = pipeline.run(run_file, overrides, report=report).outcomes
    assert outcome.state == "partial"
    assert (outcome.failed, outcome.analysed + outcome.background) == (1, 11)
    assert outcome.reason.startswith(f"block (0, 0): {path}: cannot read level 0")
    (note,) = report.notes
    assert "cannot be read at the level where tissue is looked for" in note


def test_an_export_that_fails_takes_nothing_from_what_was_stored(
    run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StoreError("a.overview.png: cannot be written: No space left on device; run again")

    monkeypatch.setattr("pipeline.export.overview.export", full)
    overrides = [f"slides={tmp_path / 'slides/a.tiff'}", "export=[overview]"]
    (outcome,) = pipeline.run(run_file, overrides).outcomes
    assert (outcome.state, outcome.analysed, outcome.failed) == ("partial", 4, 0)
    assert outcome.reason.startswith("export overview: a.overview.png: cannot be written")
    assert outcome.made == (str(tmp_path / "results/a.zarr"),)
    monkeypatch.undo()
    (again,) = pipeline.run(run_file, overrides).outcomes
    assert (again.state, again.computed) == ("done", 0)


def test_a_refused_run_leaves_the_settings_of_what_is_stored(
    run_file: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "results" / "config.yaml"
    pipeline.run(run_file)
    before = kept.read_bytes()
    refused = pipeline.run(run_file, ["output.dtype=float32"])
    assert [outcome.state for outcome in refused.outcomes] == [
        *("refused", "failed"),
        *("failed", "refused"),
    ]
    assert kept.read_bytes() == before
    pipeline.run(run_file, ["on_error=stop"])
    assert load_config(kept).on_error == "stop"


def test_slides_without_a_store_are_known(run_file: Path, tmp_path: Path) -> None:
    pipeline.run(run_file)
    assert [job.slide_id for job in not_begun(tmp_path / "results")] == ["b", "c"]


def test_what_to_mind_about_the_tissue_is_said(run_file: Path, tmp_path: Path) -> None:
    black, white = tmp_path / "black.tiff", tmp_path / "white.tiff"
    write_tiff(black, np.zeros((600, 600, 3), np.uint8))
    write_tiff(white, np.full((600, 600, 3), 255, np.uint8))
    report = Noted()
    summary = pipeline.run(
        run_file, [f"slides=[{black}, {white}]", "tissue.method=otsu"], report=report
    )
    assert summary.complete
    assert [note.split(":")[0] for note in report.notes] == ["black", "black", "white"]
    assert "for fluorescence set tissue.method: none, or mask" in report.notes[0]
    assert "no tissue was found" in report.notes[1]
    assert "no tissue was found" in report.notes[2]


def test_a_demo_that_cannot_be_written_is_refused(run_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"demo\.slide: .*cannot be written"):
        pipeline.run(run_file, [f"demo={{slide: {tmp_path}/file/demo.svs}}"])


def test_a_run_in_threads_loads_nothing_of_a_cluster(run_file: Path) -> None:
    code = (
        "import sys\n"
        "from pipeline.batch import run\n"
        "from pipeline.config.runfile import load_config\n"
        f"run(load_config({str(run_file)!r}, ['tissue.method=otsu']))\n"
        "print(sorted({'bokeh', 'distributed', 'tornado'} & {*sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=run_file.parent,
    )
    assert done.stdout.splitlines()[-1] == "[]"
