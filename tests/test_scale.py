"""Micrometres per pixel: what a file is believed, and what is said where it is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import pipeline
from pipeline import open_slide
from pipeline.books.outcomes import Silence
from pipeline.errors import ConfigError, SlideError
from pipeline.readers import Mpp
from pipeline.slide import Slide
from pipeline.slide.scale import problem_of, wanted_mpp
from tests.toys import noise, write_tiff

ABSURD = [896.0, 0.005, 352.8, 20.1, (0.5, 0.2)]


@pytest.mark.parametrize("mpp", [0.05, 0.1136, 0.25, 0.2528, 0.5, 10.0, 20.0])
def test_what_scanners_have_is_believed(mpp: float) -> None:
    assert problem_of(Mpp(mpp, mpp, "header")) is None
    assert problem_of(Mpp(min(2 * mpp, 20.0), mpp, "header")) is None


@pytest.mark.parametrize(
    ("mpp", "said"),
    [
        (None, "the file does not say its um per pixel"),
        (
            Mpp(896, 896, "header"),
            "the file says 896 x 896 um per pixel, .* a slide has 0.05 to 20",
        ),
        (Mpp(0.005, 0.005, "header"), "the file says 0.005 x 0.005 um per pixel, which cannot be"),
        (Mpp(352.8, 352.8, "header"), "the file says 352.8 x 352.8 um per pixel, which cannot be"),
        (
            Mpp(0.5, 0.24, "header"),
            "0.24 x 0.5 um per pixel, .*: one is more than 2 times the other",
        ),
        (
            Mpp(0.5, 0.01, "header"),
            "the file says 0.01 x 0.5 um per pixel, which cannot be: a slide",
        ),
    ],
)
def test_what_cannot_be_is_said(mpp: Mpp | None, said: str) -> None:
    problem = problem_of(mpp)
    assert problem is not None
    with pytest.raises(SlideError, match=said):
        raise SlideError(problem)


def test_what_a_user_says_is_believed() -> None:
    assert problem_of(Mpp(50, 50, "assumed")) is None
    assert problem_of(Mpp(0.5, 0.02, "from the manifest")) is None


@pytest.mark.parametrize("wrong", [0, -1, 0.01, 100, float("nan"), float("inf")])
def test_a_wanted_resolution_is_a_number_that_can_be(wrong: float) -> None:
    with pytest.raises(
        ConfigError, match=r"^resolution\.mpp: .* cannot be meant; give 0\.01 to 100"
    ):
        wanted_mpp(wrong, "resolution.mpp")
    assert wanted_mpp(1) == (1.0, 1.0)
    assert wanted_mpp((0.5, 0.25)) == (0.5, 0.25)


@pytest.fixture
def absurd(tmp_path: Path) -> Slide:
    return open_slide(write_tiff(tmp_path / "boxes.tiff", noise(200, 300), mpp=352.8))


def test_a_slide_says_what_is_wrong_with_its_scale_and_what_to_do(absurd: Slide) -> None:
    assert absurd.mpp is not None
    assert absurd.mpp.x == pytest.approx(352.8)
    assert "problem" not in absurd.assuming(0.5).facts()
    said = absurd.facts()["problem"]
    assert said.startswith("the file says 352.8 x 352.8 um per pixel, which cannot be")
    for remedy in ("manifest", "mpp", "resolution.missing: assume", "resolution.assume_mpp"):
        assert remedy in said
    assert said in repr(absurd)
    with pytest.raises(SlideError, match=r"boxes\.tiff: the file says 352\.8"):
        absurd.at(0.5)


def test_a_scale_that_is_no_number_is_told_as_the_file_has_it(absurd: Slide) -> None:
    properties = (("openslide.mpp-x", "nan"), ("openslide.mpp-y", "0"))
    metadata = replace(absurd.metadata, mpp=None, properties=properties)
    assert str(replace(absurd, metadata=metadata).mpp_problem).startswith(
        "the file does not say its um per pixel (openslide.mpp-x = nan, openslide.mpp-y = 0); set "
    )


@pytest.fixture
def run_file(absurd: Slide, tmp_path: Path, toy_model: Callable[..., Path]) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(
        f"slides: {absurd.path}\nmodel: {toy_model('per_patch')}\noutput: {{block: 64}}\n"
        "tissue: {method: none}\ncluster: {kind: threads}\n"
    )
    return path


def test_a_run_refuses_a_slide_whose_scale_cannot_be(run_file: Path) -> None:
    (outcome,) = pipeline.run(run_file).outcomes
    assert outcome.state == "failed"
    assert "boxes.tiff: the file says 352.8 x 352.8 um per pixel, which cannot be" in outcome.reason
    assert "resolution.assume_mpp" in outcome.reason
    (outcome,) = pipeline.run(run_file, ["resolution.mpp={level: 0}"]).outcomes
    assert outcome.state == "failed"


def test_an_assumed_scale_stands_in_for_one_that_cannot_be_and_that_is_said(
    run_file: Path, tmp_path: Path
) -> None:
    report = Silence()
    overrides = ["resolution={missing: assume, assume_mpp: 0.5}"]
    assert pipeline.run(run_file, overrides, report=report).complete
    assert report.notes == ["boxes: its um per pixel are assumed: 0.5; the file says 352.8"]
    stored = pipeline.open_results(tmp_path / "results")["boxes"]
    assert stored.provenance["slide"]["mpp_source"] == "assumed"
    assert stored.placements[0].scale == (16.0, 16.0)


def test_a_manifest_says_the_scale_and_wins(run_file: Path, absurd: Slide, tmp_path: Path) -> None:
    good = write_tiff(tmp_path / "good.tiff", noise(200, 300), mpp=0.25)
    manifest = tmp_path / "slides.csv"
    manifest.write_text(f"image_path,mpp\nboxes.tiff,0.5\n{good},0.5\n")
    report = Silence()
    overrides = [f"slides={manifest}", "resolution={missing: assume, assume_mpp: 2.0}"]
    assert pipeline.run(run_file, overrides, report=report).complete
    assert sorted(report.notes) == [
        "boxes: its um per pixel are from the manifest: 0.5; the file says 352.8",
        "good: its um per pixel are from the manifest: 0.5; the file says 0.25",
    ]
    for stored in pipeline.open_results(tmp_path / "results").values():
        assert stored.placements[0].scale == (16.0, 16.0)
