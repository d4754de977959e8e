"""Levels whose colours are corrected by their slide's ICC profile."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

import pipeline
from pipeline import open_slide
from pipeline.books.outcomes import Silence
from pipeline.colour import to_srgb
from pipeline.errors import SlideError
from pipeline.geometry import Box
from pipeline.slide.coloured import NO_PROFILE, Coloured, coloured, icc_profile
from pipeline.slide.level import slides
from pipeline.slide.resample import resampled
from tests.contracts import check_source
from tests.profiles import expected, profile
from tests.toys import Pixels, expected_means, halved, noise


def write(path: Path, icc: bytes | None, pixels: Pixels | None = None) -> Path:
    """Write a slide of two levels that says its colours are those of ``icc``; noise by default."""
    pixels = noise(300, 400) if pixels is None else pixels
    with tifffile.TiffWriter(path) as tiff:
        for number, level in enumerate((pixels, halved(pixels))):
            tiff.write(
                level,
                tile=(128, 128),
                photometric="rgb",
                compression="zlib",
                subfiletype=number,
                resolution=(2e4, 2e4),
                resolutionunit="CENTIMETER",
                iccprofile=icc,
            )
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("coloured") / "a.tif", profile())


@pytest.mark.parametrize("reader", ["openslide", "tiff"])
def test_a_level_has_the_colours_that_the_profile_means(path: Path, reader: str) -> None:
    slide = open_slide(path, reader=reader)
    for number, stored in enumerate((noise(300, 400), halved(noise(300, 400)))):
        level = coloured(slide.level(number))
        pixels = level.read(Box(0, 0, *level.plane))
        np.testing.assert_array_equal(pixels, to_srgb(profile())(stored))
        assert np.abs(pixels - expected(stored)).max() <= 2


@pytest.mark.parametrize("kind", ["stored", "resampled"])
def test_a_coloured_level_keeps_the_contract_of_a_source(path: Path, kind: str) -> None:
    slide = open_slide(path)
    level = coloured(
        slide.level(1) if kind == "stored" else resampled([slide.level(0)], slide.shape, (1.7, 1.3))
    )
    assert isinstance(level, Coloured)
    check_source(level, background=level.background)


def test_it_lies_where_the_level_lies_that_it_is_made_of(path: Path) -> None:
    level = open_slide(path).level(1)
    made = coloured(level)
    for name in ("slide", "stored", "plane", "shape", "downsample", "origin", "background"):
        assert getattr(made, name) == getattr(level, name), name
    assert made.stored is level


def test_what_lies_outside_keeps_its_colour(path: Path) -> None:
    """The background is no pixel of the scanner's, and the profile would change it."""
    grey = replace(open_slide(path).level(0), background=(100, 100, 100))
    level = coloured(grey)
    assert (to_srgb(profile())(np.full((1, 1, 3), 100, np.uint8)) != 100).all()
    region = level.read(Box(290, 390, 20, 20))
    assert (region[10:] == 100).all()
    assert (region[:, 10:] == 100).all()
    np.testing.assert_array_equal(region[:10, :10], to_srgb(profile())(noise(300, 400)[290:, 390:]))
    assert (level.read(Box(400, 0, 5, 5)) == 100).all()


def test_arrays_and_averages_are_of_the_corrected_colours(path: Path) -> None:
    level = coloured(open_slide(path).level(0))
    corrected = to_srgb(profile())(noise(300, 400))
    array = level.array(block=128)
    np.testing.assert_array_equal(array.compute(scheduler="synchronous"), corrected)
    small = level.reduced(100).compute(scheduler="synchronous")
    means = corrected.reshape(3, 100, 4, 100, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
    assert np.abs(small - means).max() <= 0.5


def test_the_settings_of_a_store_say_by_which_profile(path: Path, tmp_path: Path) -> None:
    level = open_slide(path).level(0)
    made, other = (
        coloured(open_slide(each).level(0)).settings
        for each in (path, write(tmp_path / "b.tif", profile(gamma=2.2)))
    )
    assert made["slide.colours"] == other["slide.colours"] == "srgb"
    assert made["slide.icc_profile"] != other["slide.icc_profile"]
    assert level.settings.items() <= made.items()


def test_a_slide_without_a_profile_stays_as_it_is(tmp_path: Path) -> None:
    slide = open_slide(write(tmp_path / "a.tif", None))
    assert icc_profile(slide.ref) is None
    level = slide.level(0)
    assert coloured(level) is level


@pytest.mark.parametrize("damaged", [b"no profile", profile(b"CMYK")])
def test_a_profile_that_cannot_be_meant_is_an_error_before_a_pixel_is_read(
    tmp_path: Path, damaged: bytes
) -> None:
    path = write(tmp_path / "a.tif", damaged)
    with pytest.raises(SlideError, match=f"{path}: its ICC profile .*; set colour.icc: ignore"):
        coloured(open_slide(path).level(0))


def test_a_token_made_elsewhere_finds_the_profile_where_it_is_read(path: Path) -> None:
    made = coloured(open_slide(path).level(0))
    copy = pickle.loads(pickle.dumps(made))
    assert b"desc" not in pickle.dumps(made)
    box = Box(10, 20, 30, 40)
    np.testing.assert_array_equal(copy.read(box), made.read(box))


def test_what_it_takes_to_read_is_no_less_than_without(path: Path) -> None:
    level = open_slide(path).level(0)
    assert coloured(level).reading_bytes((2048, 2048)) >= level.reading_bytes((2048, 2048))


def test_the_real_profile_of_a_slide_is_found(shared_data: Path) -> None:
    slide = open_slide(shared_data / "slides" / "TCGA-CR-7395-01A-01-TS1.svs")
    level = coloured(slide.level(1))
    assert isinstance(level, Coloured)
    box = Box(800, 800, 100, 100)
    np.testing.assert_array_equal(level.read(box), slide.level(1).read(box))  # its colours are sRGB


@pytest.mark.parametrize(("icc", "has"), [("apply", True), ("ignore", True), ("apply", False)])
def test_a_run_applies_the_profile_as_asked_and_says_what_it_did(
    icc: str, has: bool, tmp_path: Path, toy_model: Callable[..., Path]
) -> None:
    write(tmp_path / "a.tif", profile() if has else None)
    (tmp_path / "run.yaml").write_text(
        f"slides: a.tif\n"
        f"model: {toy_model('per_patch')}\n"
        f"output: {{block: 256, dtype: float32}}\n"
        f"tissue: {{method: none}}\n"
        f"colour: {{icc: {icc}}}\n"
        f"cluster: {{kind: threads}}\n"
    )
    report = Silence()
    assert pipeline.run(tmp_path / "run.yaml", report=report).complete
    pixels, applied = noise(300, 400), icc == "apply" and has
    seen = to_srgb(profile())(pixels) if applied else pixels
    stored = pipeline.open_results(tmp_path / "results")["a"]
    np.testing.assert_array_equal(np.asarray(stored.levels[0]), expected_means(seen, 32))
    assert stored.provenance["slide"]["colours"] == ("srgb" if applied else "as stored")
    notes = [] if has else [f"a: {NO_PROFILE}"]
    assert report.notes == notes
    assert stored.provenance["notes"] == [note.removeprefix("a: ") for note in notes]


def test_a_store_of_other_colours_is_not_gone_on_with(
    path: Path, tmp_path: Path, toy_model: Callable[..., Path]
) -> None:
    run_file = tmp_path / "run.yaml"
    run_file.write_text(
        f"slides: {path}\nmodel: {toy_model('per_patch')}\ntissue: {{method: none}}\n"
        "cluster: {kind: threads}\n"
    )
    assert pipeline.run(run_file).complete
    (outcome,) = pipeline.run(run_file, ["colour.icc=apply"]).outcomes
    assert outcome.state == "refused"
    assert "slide.colours" in outcome.reason


def test_a_slide_says_which_profile_it_has(path: Path, tmp_path: Path) -> None:
    slide = open_slide(path)
    assert icc_profile(slide.ref) == profile()
    assert slide.facts()["colours"] == f"Scanner 7 ({len(profile())} bytes)"
    assert open_slide(write(tmp_path / "a.tif", None)).facts()["colours"] == "no ICC profile"
    gone = open_slide(write(tmp_path / "b.tif", None))
    slides.clear()
    (tmp_path / "b.tif").unlink()
    assert gone.facts()["colours"] == "unknown"
