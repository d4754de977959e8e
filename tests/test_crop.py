"""A slide is its scanned area: pixels, pictures, tissue and scores are relative to its corner."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import numpy as np
import openslide
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline import open_slide
from pipeline.books.provenance import provenance
from pipeline.clusters import cluster
from pipeline.execute import run
from pipeline.execute.finding import find_tissue
from pipeline.export import export, overview
from pipeline.export.overview import OverviewImage
from pipeline.geometry import Box
from pipeline.model import load_model
from pipeline.plan import Options, plan_slide
from pipeline.readers import LevelInfo
from pipeline.results import open_results
from pipeline.slide import Slide
from pipeline.slide.level import Level, SlideRef, _cut
from pipeline.tissue import TissueSettings
from tests.contracts import check_source
from tests.toys import expected_means, expected_neighbours, halved, noise, write_tiff

RGB = noise(600, 800)
BOUNDS = Box(101, 58, 389, 643)  # no corner lies on a pixel of the coarser levels

in_this_thread = pytest.mark.usefixtures("_in_this_thread")
Bounded = Callable[..., Slide]


@pytest.fixture
def _in_this_thread() -> Any:
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bounded:
    """Give ``bounded(rgb, bounds, crop=True)``: a slide of four levels that names its bounds."""
    own: Any = vars(openslide.OpenSlide)["properties"]

    def make(rgb: Any = RGB, bounds: Box = BOUNDS, *, crop: bool = True, levels: Any = 4) -> Slide:
        sides = {"y": bounds.y, "x": bounds.x, "height": bounds.height, "width": bounds.width}
        said = {f"openslide.bounds-{name}": str(value) for name, value in sides.items()}
        monkeypatch.setattr(
            openslide.OpenSlide, "properties", property(lambda slide: {**own.fget(slide), **said})
        )
        path = tmp_path / "bounded.tif"
        if not path.exists():
            write_tiff(path, rgb, levels=levels)
        return open_slide(path, crop=crop)

    return make


def test_a_slide_is_its_scanned_area_unless_asked_otherwise(bounded: Bounded) -> None:
    slide = bounded()
    assert slide.shape == BOUNDS.shape
    assert slide.crop == BOUNDS
    facts = slide.facts()
    assert facts["size"] == "643 x 389 px"
    assert facts["extent"] == "0.32 x 0.19 mm"
    assert facts["bounds"] == "x 58, y 101, 643 x 389 px of 800 x 600 px; cropped to"
    whole = bounded(crop=False)
    assert (whole.shape, whole.crop) == ((600, 800), None)
    assert whole.facts()["bounds"].endswith("; not cropped to")
    assert whole.level(1).offset == (0, 0)


@in_this_thread
def test_every_level_begins_with_the_pixel_that_holds_the_corner(bounded: Bounded) -> None:
    slide, stored = bounded(), RGB
    for index in range(4):
        level, down = slide.level(index), 2**index
        top, left = 101 // down, 58 // down
        assert level.offset == (top, left)
        assert level.origin == (top * down - 101, left * down - 58)
        bottom, right = -(-(101 + 389) // down), -(-(58 + 643) // down)
        expected = stored[top:bottom, left:right]
        np.testing.assert_array_equal(slide.levels[index].compute(), expected)
        np.testing.assert_array_equal(level.array(128).compute(), expected)
        stored = halved(stored)
    assert slide.level(0).origin == (0.0, 0.0)
    assert slide.level_table()[2][1] == "322 x 195"


@in_this_thread
def test_outside_the_crop_is_background_though_the_file_has_more(bounded: Bounded) -> None:
    level = bounded().level(1)
    pixels = level.read(Box(-3, -2, 10, 10))
    assert (pixels[:3] == 255).all()
    assert (pixels[:, :2] == 255).all()
    np.testing.assert_array_equal(pixels[3:, 2:], halved(RGB)[50:57, 29:37])


@pytest.mark.parametrize("index", [0, 1, 3])
def test_a_cropped_level_keeps_the_contract_of_a_source(bounded: Bounded, index: int) -> None:
    slide = bounded()
    check_source(slide.level(index), background=(255, 255, 255))
    check_source(slide.at(0.9), background=(255, 255, 255))
    assert pickle.loads(pickle.dumps(slide)) == slide


@pytest.mark.parametrize(
    ("bounds", "crop", "said"),
    [
        (Box(0, 0, 600, 800), None, "x 0, y 0, 800 x 600 px of 800 x 600 px; not cropped to"),
        (Box(0, 0, 700, 900), None, "not cropped to"),
        (Box(500, 700, 400, 400), Box(500, 700, 100, 100), "cropped to"),
        (Box(-10, 5, 100, 100), Box(0, 5, 90, 100), "cropped to"),
        (Box(700, 900, 10, 10), None, "outside of the image, and not used"),
        (Box(10, 10, 0, 50), None, "outside of the image, and not used"),
        (Box(10, 10, -5, 50), None, "outside of the image, and not used"),
    ],
)
def test_bounds_are_used_as_far_as_there_is_an_image(
    bounded: Bounded, bounds: Box, crop: Box | None, said: str
) -> None:
    slide = bounded(bounds=bounds)
    assert slide.crop == crop
    assert slide.facts()["bounds"].endswith(said)
    assert min(level.shape[0] * level.shape[1] for level in slide.levels) > 0


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_cut_holds_every_pixel_of_the_crop_and_none_without(data: st.DataObject) -> None:
    l0 = data.draw(st.integers(1, 10**5))
    down = (
        data.draw(st.floats(1, 40)) if data.draw(st.booleans()) else data.draw(st.integers(1, 64))
    )
    size = max(int(l0 / down), 1)
    start = data.draw(st.integers(0, l0 - 1))
    stop = data.draw(st.integers(start + 1, l0))
    first, pixels, origin = _cut(start, stop, float(down), size)
    assert 0 <= first < first + pixels <= size
    assert origin <= 0
    assert origin == min(first * float(down) - start, 0)
    assert first * down <= start + 1e-6 or first == 0
    if first < size - 1:
        assert (first + 1) * down > start - 1e-6
    if first + pixels < size:  # unless the level ends before
        assert (first + pixels) * down >= stop - 1e-6


def test_a_crop_in_the_part_that_a_level_leaves_out_has_its_last_pixel() -> None:
    """Halving drops an odd last row; a crop of that row alone must not be empty."""
    info = LevelInfo((50, 50), (50, 50), (2.0, 2.0))
    level = Level.of(SlideRef("a", "b", (1, 2)), 1, info, (0, 0, 0), Box(100, 100, 1, 1))
    assert (level.plane, level.offset, level.origin) == ((1, 1), (49, 49), (-2.0, -2.0))


def waves(y: NDArray[np.floating[Any]], x: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Give the grey at file positions, pixel 0 spanning 0 to 1: no two places look alike."""
    return 127 + 60 * np.add.outer(np.sin(y / 19), np.cos(x / 23))


@pytest.fixture
def wavy(bounded: Bounded) -> Slide:
    pyramid = [np.repeat(waves(np.arange(600) + 0.5, np.arange(800) + 0.5)[..., None], 3, axis=2)]
    for _ in range(3):
        rows, columns = pyramid[-1].shape[0] // 2, pyramid[-1].shape[1] // 2
        pairs = pyramid[-1][: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2, 3)
        pyramid.append(pairs.mean(axis=(1, 3)))
    first, *levels = [np.rint(level).astype(np.uint8) for level in pyramid]
    return bounded(first, levels=levels)


@in_this_thread
@pytest.mark.parametrize("size", [61, 100, 200, 643])
def test_a_thumbnail_shows_the_crop_where_it_is(wavy: Slide, size: int) -> None:
    picture = wavy.thumbnail(size)[..., 0].astype(float)
    rows, columns = picture.shape
    assert (rows, columns) == (round(389 * size / 643), size)
    y, x = ((np.arange(n) + 0.5) / n * side for n, side in ((rows, 389), (columns, 643)))
    off = {
        (dy, dx): np.abs(picture - waves(101 + dy + y, 58 + dx + x)).mean()
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    }
    assert min(off, key=lambda shift: off[shift]) == (0, 0)
    assert off[0, 0] < 4


@in_this_thread
def test_a_virtual_level_of_a_crop_begins_at_its_corner(wavy: Slide) -> None:
    """What is made of a coarser level lies where what is made of level 0 does."""
    level = wavy.at(0.5 * 5.3)
    assert (level.stored.index, level.origin) == (2, (0.0, 0.0))
    assert level.plane == (74, 122)
    made = level.array().compute()[..., 0].astype(float)
    y, x = (np.arange(n) * 5.3 + 2.65 + start for n, start in ((74, 101), (122, 58)))
    off = made - waves(y, x)
    assert np.abs(off[3:-3, 3:-3]).max() < 3
    assert np.abs(made - waves(y, x + 2))[3:-3, 3:-3].max() > 4


def test_a_stored_level_that_begins_elsewhere_is_given_as_it_is_only_within_a_tolerance(
    bounded: Bounded,
) -> None:
    slide = bounded()
    assert slide.level(1).origin == (-1.0, 0.0)
    assert slide.at(1.0, tolerance=0.02) == slide.level(1)
    aligned = slide.at(1.0)
    assert aligned != slide.level(1)
    assert (aligned.stored, aligned.origin) == (slide.level(1), (0.0, 0.0))


@pytest.fixture
def tissue_slide(bounded: Bounded) -> Slide:
    """One square of tissue in the scanned area, and more outside of it."""
    rgb = np.full((600, 800, 3), 240, np.uint8)
    rgb[:101] = rgb[:, :58] = (180, 60, 140)
    rgb[201:301, 258:458] = (180, 60, 140)
    return bounded(rgb)


def planned(slide: Slide, card: Path, path: Path, **options: Any) -> Any:
    with cluster("threads"):
        tissue = find_tissue(slide, TissueSettings(min_area_um2=0), 4.0, None)
    return plan_slide(slide, load_model(card), tissue, Options(**options), path=str(path))


def test_tissue_lies_where_it_is_in_the_crop(tissue_slide: Slide, tmp_path: Path) -> None:
    """Found on level 3 in pixels of 8: the mask begins 5 rows and 2 columns before the crop."""
    with cluster("threads"):
        tissue = find_tissue(tissue_slide, TissueSettings(min_area_um2=0), 4.0, None)
    assert tissue.step == (8.0, 8.0)
    assert tissue.origin == (-5.0, -2.0)
    assert tissue.mask.shape == (50, 81)
    inner = tissue.mask[6:, 6:]  # beside what lies outside of the crop
    rows, columns = np.flatnonzero(inner.any(axis=1)) + 6, np.flatnonzero(inner.any(axis=0)) + 6
    top, bottom = rows[0] * 8 - 5, (rows[-1] + 1) * 8 - 5
    left, right = columns[0] * 8 - 2, (columns[-1] + 1) * 8 - 2
    for found, truth in zip((top, bottom, left, right), (100, 200, 200, 400), strict=True):
        assert abs(found - truth) <= 12  # smoothing spreads it
    assert abs((top + bottom) / 2 - 150) <= 4
    assert abs((left + right) / 2 - 300) <= 4


@pytest.mark.parametrize("options", [{"level": 1}, {"level": 2}, {"mpp": 0.7}, {"level": 0}])
def test_wanted_patches_are_those_on_the_tissue(
    tissue_slide: Slide, toy_model: Callable[..., Path], tmp_path: Path, options: dict[str, Any]
) -> None:
    plan = planned(tissue_slide, toy_model("per_patch"), tmp_path / "a.zarr", block=64, **options)
    steps = [32 * down for down in plan.level.downsample]
    for (i, j), wanted in np.ndenumerate(plan.wanted):
        top, left = (
            k * step + start
            for k, step, start in zip((i, j), steps, plan.level.origin, strict=True)
        )
        y = max(min(top + steps[0], 200) - max(top, 100), 0)
        x = max(min(left + steps[1], 400) - max(left, 200), 0)
        if y > 9 and x > 9:
            assert wanted, (i, j)
        if top > 9 and left > 9 and (y == 0 or x == 0) and not _near(top, left, steps):
            assert not wanted, (i, j)


def _near(top: float, left: float, steps: list[float]) -> bool:
    """Say whether a patch is within a pixel of the mask of the tissue."""
    return (
        top - 9 < 200 and top + steps[0] + 9 > 100 and left - 9 < 400 and left + steps[1] + 9 > 200
    )


def test_stores_say_where_their_arrays_lie(
    tissue_slide: Slide, toy_model: Callable[..., Path], tmp_path: Path
) -> None:
    """Centres in um from the centre of the crop's first level-0 pixel of 0.5 um."""
    path = tmp_path / "a.zarr"
    plan = planned(
        tissue_slide, toy_model("strided"), path, level=2, block=64, dtype="float32", chunk=16
    )
    with cluster("threads"):
        assert run(plan, provenance(plan)).complete
    stored = open_results(tmp_path)["a"]
    assert plan.level.origin == (-1.0, -2.0)
    assert stored.placements[0].scale == (8.0, 8.0)
    assert stored.placements[0].origin == (0.5 * (-1 + 7.5), 0.5 * (-2 + 7.5))
    assert stored.placements[0].corner((0.5, 0.5)) == (-0.5, -1.0)
    assert stored.tissue_placement.scale == (4.0, 4.0)
    assert stored.tissue_placement.corner((0.5, 0.5)) == (-2.5, -1.0)
    assert stored.seen.settings is not None
    assert stored.seen.settings["slide.crop"] == [101, 58, 389, 643]
    assert stored.provenance["slide"]["crop"] == [101, 58, 389, 643]
    pixels = tissue_slide.level(2).array().compute(scheduler="synchronous")
    expected = expected_means(pixels, 4)
    scores = stored.levels[0].compute(scheduler="synchronous")
    analysed = scores.any(axis=0)
    assert analysed.any()
    np.testing.assert_array_equal(scores[:, analysed], expected[:, analysed])


def test_an_overview_lays_scores_and_tissue_where_they_are(
    tissue_slide: Slide,
    toy_model: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "a.zarr"
    plan = planned(tissue_slide, toy_model("strided"), path, level=2, block=64)
    with cluster("threads"):
        run(plan, provenance(plan))
    drawn: list[OverviewImage] = []
    monkeypatch.setattr(overview, "save_overview", lambda image, _: drawn.append(image))
    export("overview", plan.path, tissue_slide)
    (image,) = drawn
    assert (image.height_um, image.width_um) == (389 * 0.5, 643 * 0.5)
    assert image.heat_um == (-0.5, -1.0, 25 * 8.0, 41 * 8.0)
    assert image.tissue_um == (-2.5, -1.0, 50 * 4.0, 81 * 4.0)
    figure = overview.draw_overview(image)
    assert tuple(figure.axes[1].images[1].get_extent()) == (-1.0, 327.0, 199.5, -0.5)


def test_what_is_cropped_and_what_is_not_are_other_stores(
    bounded: Bounded, toy_model: Callable[..., Path], tmp_path: Path
) -> None:
    card = toy_model("per_patch")
    cropped = planned(bounded(), card, tmp_path / "a.zarr", block=64).settings
    whole = planned(bounded(crop=False), card, tmp_path / "a.zarr", block=64).settings
    assert cropped["slide.crop"] == [101, 58, 389, 643]
    assert "slide.crop" not in whole


@in_this_thread
def test_a_model_sees_the_crop_and_background_around_it(
    bounded: Bounded, toy_model: Callable[..., Path]
) -> None:
    from pipeline import predict

    scores = predict(bounded(), load_model(toy_model("neighbours")), level=0, block=128)
    np.testing.assert_array_equal(scores.compute(), expected_neighbours(RGB[101:490, 58:701]))
