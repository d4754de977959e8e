"""What a model sees of a slide: at which scale, and which patches are on tissue, by area."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline import open_slide
from pipeline.errors import ConfigError, SlideError
from pipeline.geometry import Grid
from pipeline.model import Model, load_model
from pipeline.plan.seen import Tissue, check_scale, seen, wanted_patches
from pipeline.slide.level import Level, SlideRef
from tests.toys import noise, write_tiff


def level_of(plane: tuple[int, int], downsample: float, origin: tuple[float, float]) -> Level:
    ref = SlideRef("a.svs", "none", (0, 0))
    down = (downsample, downsample)
    return Level(ref, 0, plane, down, (8, 8), (0, 0, 0), (0, 0), origin)


def share(mask: NDArray[np.bool_], tissue: Tissue, box: tuple[float, float, float, float]) -> float:
    """Give the part of a level-0 box that is tissue, pixel of the mask by pixel."""
    top, left, bottom, right = box
    area = 0.0
    for i, j in zip(*np.nonzero(mask), strict=True):
        y, x = (
            start + k * step
            for k, step, start in zip((i, j), tissue.step, tissue.origin, strict=True)
        )
        rows = min(bottom, y + tissue.step[0]) - max(top, y)
        columns = min(right, x + tissue.step[1]) - max(left, x)
        area += max(rows, 0) * max(columns, 0)
    return area / ((bottom - top) * (right - left))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_patch_is_wanted_by_the_part_of_it_that_is_tissue(data: st.DataObject) -> None:
    """Whatever lies where: levels and masks may begin before the slide and end after it."""
    l0_shape = (data.draw(st.integers(40, 200)), data.draw(st.integers(40, 200)))
    down = data.draw(st.sampled_from([1.0, 2.0, 3.3, 4.0]))
    step = (data.draw(st.sampled_from([5.0, 8.0, 13.2])), 8.0)
    l_origin = (-data.draw(st.floats(0, 0.99)) * down, 0.0)
    m_origin = (-data.draw(st.floats(0, 0.99)) * step[0], -data.draw(st.floats(0, 0.99)) * 8)
    plane, shape = (
        tuple(
            int(np.ceil((n - start) / size))
            for n, start, size in zip(l0_shape, origin, sizes, strict=True)
        )
        for origin, sizes in ((l_origin, (down, down)), (m_origin, step))
    )
    mask = np.random.default_rng(data.draw(st.integers(0, 99))).random(shape) < 0.3
    tissue = Tissue(mask, step, {}, (), m_origin)
    level = level_of((plane[0], plane[1]), down, l_origin)
    patches = Grid(level.plane, 12)
    # A threshold that no patch is near: edges are rounded to 1/256 of a pixel of the mask.
    for least in (0.137, 0.5):
        wanted = wanted_patches(patches, level, l0_shape, tissue, least)
        for (i, j), decided in np.ndenumerate(wanted):
            top, left = (k * 12 * down + start for k, start in zip((i, j), l_origin, strict=True))
            bottom, right = (
                min(edge + 12 * down, n) for edge, n in zip((top, left), l0_shape, strict=True)
            )
            top, left = max(top, 0), max(left, 0)
            if bottom - top < 2 or right - left < 2:
                continue
            part = share(mask, tissue, (top, left, bottom, right))
            if abs(part - least) > 0.02:
                assert decided == (part >= least), (i, j, part)


def test_a_patch_that_is_all_tissue_is_wanted_whatever_is_asked_for() -> None:
    """Its fraction must not fall short of 1 for having been rounded."""
    tissue = Tissue(np.ones((3001, 2999), np.bool_), (1.0, 1.0), {})
    level = level_of((30010, 29990), 0.1, (0.0, 0.0))
    assert wanted_patches(Grid(level.plane, 1287), level, (3001, 2999), tissue, 1.0).all()


@pytest.fixture
def model(toy_model: Callable[..., Path]) -> Model:
    return load_model(toy_model("per_patch", mpp=1.0))


def test_the_card_says_the_scale_unless_somebody_does(tmp_path: Path, model: Model) -> None:
    slide = open_slide(write_tiff(tmp_path / "a.tif", noise(200, 200), mpp=0.5, levels=2))
    asked: list[dict[str, Any]] = [{}, {"mpp": 0.5}, {"level": 0}, {"level": 1}, {"mpp": 0.7}]
    given_ = [seen(slide, model, **{"level": None, "mpp": None, **each}) for each in asked]
    assert given_[:4] == [slide.level(1), slide.level(0), slide.level(0), slide.level(1)]
    assert given_[4].downsample == (1.4, 1.4)
    with pytest.raises(SlideError, match="no level 2"):
        seen(slide, model, level=2, mpp=None)
    with pytest.raises(ConfigError, match=r"resolution\.mpp: -1 um per pixel cannot be meant"):
        seen(slide, model, level=None, mpp=-1)


def test_a_level_within_two_per_cent_is_read_as_it_is(tmp_path: Path, model: Model) -> None:
    slide = open_slide(write_tiff(tmp_path / "a.tif", noise(200, 200)))
    for mpp, stored in ((0.981, True), (1.019, True), (0.979, False), (1.021, False)):
        level = seen(slide.assuming(mpp), model, level=None, mpp=None)
        assert (level == slide.level(0)) == stored
        # Its own scale is what is recorded.
        assert level.downsample[0] == (1.0 if stored else 1.0 / mpp)


def test_a_scale_that_nobody_says_is_not_guessed(model: Model) -> None:
    silent = replace(model, card=model.card.model_copy(update={"mpp": None}))
    check_scale(silent, level=0, mpp=None)
    check_scale(silent, level=None, mpp=0.5)
    with pytest.raises(ConfigError, match=r"add mpp to the card, or set resolution\.mpp"):
        check_scale(silent, level=None, mpp=None)
    with pytest.raises(ConfigError, match=r"mpp 0\.5 and level 1 are both given"):
        check_scale(model, level=1, mpp=0.5)
