"""Levels whose stains are those of a reference."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline import open_slide
from pipeline.colour.restain import normaliser
from pipeline.colour.stain import PUBLISHED, Colours, Stains
from pipeline.geometry import Box
from pipeline.slide import Slide
from pipeline.slide.coloured import coloured
from pipeline.slide.level import LevelLike
from pipeline.slide.resample import resampled
from pipeline.slide.restained import Normalised, Stain, normalised
from tests.contracts import check_source
from tests.profiles import profile
from tests.test_coloured import write
from tests.toys import expected_means, noise, write_tiff

STAINS: dict[str, Stains | Colours] = {
    "macenko": Stains((0.65, 0.7, 0.29), (0.2, 0.9, 0.4), (1.5, 0.8), (244.0, 243.0, 245.0)),
    "reinhard": Colours((8.5, -0.15, 0.03), (0.5, 0.1, 0.02), (244.0, 243.0, 245.0)),
}


def stain(method: str) -> Stain:
    return Stain(STAINS[method], PUBLISHED[method])


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Slide:
    """A slide of noise, of two levels."""
    folder = tmp_path_factory.mktemp("restained")
    return open_slide(write_tiff(folder / "a.tif", noise(300, 400), levels=2))


@pytest.mark.parametrize("method", STAINS)
@pytest.mark.parametrize("kind", ["stored", "resampled"])
def test_a_normalised_level_keeps_the_contract_of_a_source(
    slide: Slide, kind: str, method: str
) -> None:
    level: LevelLike = slide.level(1)
    if kind == "resampled":
        level = resampled([slide.level(0)], slide.shape, (1.7, 1.3))
    made = normalised(level, stain(method))
    check_source(made, background=level.background)
    for name in ("slide", "stored", "plane", "shape", "downsample", "origin", "background"):
        assert getattr(made, name) == getattr(level, name), name


@pytest.mark.parametrize("method", STAINS)
def test_the_size_of_blocks_changes_no_pixel(slide: Slide, method: str) -> None:
    level = normalised(slide.level(0), stain(method))
    whole = normaliser(STAINS[method], PUBLISHED[method])(noise(300, 400))
    assert (whole != noise(300, 400)).mean() > 0.5
    for block in (64, 97, 512):
        blocks = level.array(block=block).compute(scheduler="synchronous")
        np.testing.assert_array_equal(blocks, whole)
    small = level.reduced(100).compute(scheduler="synchronous")
    means = expected_means(whole, 100) * 256
    assert np.abs(small - means).max() <= 0.5


@pytest.mark.parametrize("method", STAINS)
def test_what_lies_outside_keeps_its_colour(slide: Slide, method: str) -> None:
    grey = replace(slide.level(0), background=(100, 100, 100))
    level = normalised(grey, stain(method))
    inside = level.read(Box(290, 390, 10, 10))
    region = level.read(Box(290, 390, 20, 20))
    assert (region[10:] == 100).all()
    assert (region[:, 10:] == 100).all()
    np.testing.assert_array_equal(region[:10, :10], inside)


def test_the_profile_of_the_slide_comes_first(tmp_path: Path) -> None:
    corrected = coloured(open_slide(write(tmp_path / "a.tif", profile())).level(0))
    made = normalised(corrected, stain("macenko"))
    box = Box(0, 0, 300, 400)
    convert = normaliser(STAINS["macenko"], PUBLISHED["macenko"])
    np.testing.assert_array_equal(made.read(box), convert(corrected.read(box)))
    assert corrected.settings.items() < made.settings.items()


def _other(fitted: Stains | Colours) -> Stains | Colours:
    light = (200.0, 201.0, 202.0)
    if isinstance(fitted, Stains):
        return Stains(fitted.eosin, fitted.haematoxylin, (1.0, 2.0), light)
    return Colours(fitted.std, fitted.mean, light)


@pytest.mark.parametrize("method", STAINS)
def test_its_settings_say_whatever_changes_a_pixel(slide: Slide, method: str) -> None:
    given = stain(method)
    settings = normalised(slide.level(0), given).settings
    assert settings["slide.stain"] == method
    one, another = given, Stain(_other(given.source), _other(given.target))
    for source, target in ((another.source, one.target), (one.source, another.target)):
        changed = normalised(slide.level(0), Stain(source, target)).settings
        differing = {key for key in settings if changed[key] != settings[key]}
        side = "source" if source is another.source else "target"
        assert {key.split(".")[1] for key in differing} == {f"stain_{side}"}
        assert len(differing) == (4 if method == "macenko" else 3)  # every field
    assert slide.level(0).settings.items() < settings.items()
    # Where a target lies, and what there is to mind, change none.
    said = replace(given, remarks=("as in a.png",))
    assert normalised(slide.level(0), said) == normalised(slide.level(0), given)


def test_a_token_made_elsewhere_gives_the_same_pixels(slide: Slide) -> None:
    made = normalised(slide.level(0), stain("reinhard"))
    assert isinstance(made, Normalised)
    copy = pickle.loads(pickle.dumps(made))
    assert len(pickle.dumps(made)) < 2000
    box = Box(10, 20, 30, 40)
    np.testing.assert_array_equal(copy.read(box), made.read(box))
    assert made.array().name == copy.array().name


def test_what_it_takes_to_read_is_no_less_than_without(slide: Slide) -> None:
    level = slide.level(0)
    made = normalised(level, stain("macenko"))
    assert made.reading_bytes((2048, 2048)) >= level.reading_bytes((2048, 2048))
