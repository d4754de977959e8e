"""A slide at any resolution: which level it is made of, where its pixels lie, what is read."""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import dask
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import pipeline
from pipeline import open_slide
from pipeline.demo import read_truth
from pipeline.errors import ConfigError, SlideError
from pipeline.geometry import Box
from pipeline.model import load_model
from pipeline.readers.tiff import TiffReader
from pipeline.slide import Slide, resample
from pipeline.slide.level import Level, LevelLike
from pipeline.slide.resample import Resampled
from tests.contracts import check_source
from tests.toys import Pixels, expected_neighbours, noise, write_tiff

CUT = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(autouse=True)
def in_this_thread() -> Iterator[None]:
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Slide:
    """Level 0 of 0.25 x 0.3 um, level 1 of 1 : 1.4995, level 2 of 1 : 3.34."""
    path = tmp_path_factory.mktemp("uneven") / "uneven.tif"
    levels = [noise(467, 1067, 1), noise(210, 479, 2)]
    return open_slide(write_tiff(path, noise(700, 1600), levels=levels, mpp=(0.3, 0.25)))


def whole(level: LevelLike) -> Box:
    return Box(0, 0, *level.plane)


def made(level: LevelLike) -> Resampled:
    assert isinstance(level, Resampled)
    return level


@CUT
@given(st.data())
def test_a_pixel_is_the_same_in_whatever_box_it_is_read(uneven: Slide, data: st.DataObject) -> None:
    resolutions: list[float | tuple[float, float]] = [0.2, 0.31, 0.5, (0.9, 0.6), 3.0]
    level = made(uneven.at(data.draw(st.sampled_from(resolutions))))
    everything = level.read(whole(level))
    y, y_stop, x, x_stop = (
        value
        for n in level.plane
        for value in sorted(data.draw(st.lists(st.integers(-9, n + 9), min_size=2, max_size=2)))
    )
    box = Box.spanning(y, x, y_stop, x_stop)
    expected = np.full((*box.shape, 3), 255, np.uint8)
    inside = box.clipped(level.plane)
    if inside.area:
        expected[inside.within(box)] = everything[inside.within(whole(level))]
    np.testing.assert_array_equal(level.read(box), expected)


@pytest.mark.parametrize("block", [64, 100, 333, 2048])
def test_blocks_of_any_size_make_the_same_image(uneven: Slide, block: int) -> None:
    level = uneven.at(0.61)
    expected = level.read(whole(level))
    np.testing.assert_array_equal(level.array(block).compute(), expected)
    halo = level.array(block, halo=5).blocks[-1, -1].compute()
    last = [n - (n - 1) // block * block for n in level.plane]
    np.testing.assert_array_equal(halo[5:-5, 5:-5], expected[-last[0] :, -last[1] :])


@pytest.mark.parametrize("mpp", [0.2, 0.5, (0.9, 0.6)])
def test_a_virtual_level_keeps_the_contract_of_a_source(
    uneven: Slide, mpp: float | tuple[float, float]
) -> None:
    source = made(uneven.at(mpp))
    check_source(source, background=source.background)
    assert pickle.loads(pickle.dumps(source)) == source


@pytest.mark.parametrize(
    ("wanted", "index"),
    [(0.1, 0), (0.25, 0), (0.3, 0), (0.44, 0), (0.45, 1), (0.97, 1), (0.99, 2), (50.0, 2)],
)
def test_it_is_made_of_the_coarsest_level_that_is_fine_enough(
    uneven: Slide, wanted: float, index: int
) -> None:
    """Of both axes: level 1 has 0.4498 x 0.3749 um. A level 2 % coarser is fine enough."""
    assert uneven.at(wanted).stored.index == index


def test_a_stored_level_that_is_as_wanted_is_given_as_it_is(demo_slide: Path) -> None:
    slide = open_slide(demo_slide)  # 0.5 and 2 um
    assert slide.at(0.5) == slide.level(0)
    assert slide.at(2.0) == slide.level(1)
    assert isinstance(slide.at(0.505), Resampled)
    assert slide.at(0.505, tolerance=0.02) == slide.level(0)
    assert slide.at(1.97, tolerance=0.02) == slide.level(1)
    assert isinstance(slide.at(0.52, tolerance=0.02), Resampled)


def test_tolerance_is_for_both_axes(uneven: Slide) -> None:
    assert isinstance(uneven.at(0.3, tolerance=0.02), Resampled)
    assert uneven.at((0.3, 0.25)) == uneven.level(0)


@pytest.mark.parametrize(
    "wrong", [0.0, -0.5, float("nan"), float("inf"), 0.001, 896.0, (0.5, 0.0), (float("nan"), 1.0)]
)
def test_a_resolution_that_cannot_be_meant_is_refused(
    uneven: Slide, wrong: float | tuple[float, float]
) -> None:
    with pytest.raises(ConfigError, match=r"um per pixel cannot be meant; give 0\.01 to 100"):
        uneven.at(wrong)


def test_a_slide_that_does_not_say_its_own_is_refused_with_the_remedy(tmp_path: Path) -> None:
    slide = open_slide(write_tiff(tmp_path / "a.tif", noise(64, 64), mpp=None))
    with pytest.raises(SlideError, match=r"a\.tif: the file does not say its um per pixel; .*mpp"):
        slide.at(0.5)
    assert slide.assuming(0.25).at(0.5).downsample == (2.0, 2.0)


@pytest.mark.parametrize(
    ("height", "own", "wanted", "rows"),
    [
        (100, 0.5, 1.0, 50),
        (101, 0.5, 1.0, 51),
        (100, 0.5, 0.75, 67),
        (100, 0.5, 0.3, 167),
        (1, 0.5, 20.0, 1),
        (99, 0.5, 1.5, 33),
        (70, 0.23, 0.7, 23),  # 23.000000000000004 of them
    ],
)
def test_no_part_of_the_slide_is_left_out(
    tmp_path: Path, height: int, own: float, wanted: float, rows: int
) -> None:
    slide = open_slide(write_tiff(tmp_path / "a.tif", noise(height, 40), mpp=own))
    assert slide.assuming(own).at(wanted).plane[0] == rows


def test_no_background_bleeds_in_at_the_border(tmp_path: Path) -> None:
    """Black up to its edges on white ground, and the last pixels stand out of it by two thirds."""
    slide = open_slide(write_tiff(tmp_path / "a.tif", np.zeros((100, 103, 3), np.uint8)))
    level = slide.at(1.5)
    assert level.plane == (34, 35)
    assert not level.read(whole(level)).any()
    assert (level.read(Box(0, 35, 34, 2)) == 255).all()


def blobs(shape: tuple[int, int], places: NDArray[np.float64]) -> Pixels:
    """Draw dark blobs on white, centred on ``(y, x)``; pixel 0 spans 0 to 1."""
    y, x = (np.arange(n) + 0.5 for n in shape)
    grey = np.zeros(shape)
    for at_y, at_x in places:
        grey += np.exp(-((y[:, None] - at_y) ** 2 + (x - at_x) ** 2) / (2 * 6.0**2))
    return np.repeat(np.rint(255 - 200 * grey)[..., None], 3, axis=2).astype(np.uint8)


def centroids(level: LevelLike, places: NDArray[np.float64], reach: float) -> NDArray[np.float64]:
    """Give where the dark around each level-0 place has its centre, in level-0 pixels."""
    rgb = level.read(whole(level)).astype(np.float64)
    dark = 255 - rgb.mean(axis=2)
    l0_y, l0_x = (
        (np.arange(n) + 0.5) * step + start
        for n, step, start in zip(level.plane, level.downsample, level.origin, strict=True)
    )
    found = []
    for y, x in places:
        rows, columns = np.abs(l0_y - y) < reach, np.abs(l0_x - x) < reach
        part = dark[np.ix_(rows, columns)]
        total = part.sum()
        found.append(
            [part.sum(axis=1) @ l0_y[rows] / total, part.sum(axis=0) @ l0_x[columns] / total]
        )
    return np.array(found)


@pytest.mark.parametrize("mpp", [0.2, 0.5, 0.61, 1.0, (0.77, 0.5), 1.3])
def test_landmarks_are_found_where_they_are(
    tmp_path: Path, mpp: float | tuple[float, float]
) -> None:
    """Scale and translation: to a twentieth of a level-0 pixel, over the whole slide."""
    places = np.array(
        [[40.25, 50.5], [40.0, 731.75], [455.5, 60.0], [467.3, 733.1], [250.0, 400.0]]
    )
    rgb = blobs((510, 790), places)
    halves = [rgb.reshape(255, 2, 395, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8)]
    slide = open_slide(write_tiff(tmp_path / "a.tif", rgb, mpp=(0.3, 0.25), levels=halves))
    level = slide.at(mpp)
    off = centroids(level, places, 28.0) - places
    assert np.abs(off).max() < 0.05


def test_the_nuclei_of_the_demo_stay_where_the_truth_has_them(demo_slide: Path) -> None:
    """Whatever the ratio, and no further to one side than the slide itself shows them."""
    slide, truth = open_slide(demo_slide), read_truth(demo_slide)
    places = truth.nuclei[:, ::-1]
    inner = ((places > 60) & (places < np.array(slide.shape) - 60)).all(axis=1)
    as_stored = centroids(slide.level(0), places[inner], 7.0)
    for mpp in (0.8, 1.0, 1.21):
        off = centroids(slide.at(mpp), places[inner], 7.0) - as_stored
        assert np.abs(off.mean(axis=0)).max() < 0.05


@pytest.fixture
def boxes_read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Box]]:
    asked: list[tuple[int, Box]] = []
    read = TiffReader.read

    def collecting(reader: TiffReader, level: int, box: Box) -> Pixels:
        asked.append((level, box))
        return read(reader, level, box)

    monkeypatch.setattr(TiffReader, "read", collecting)
    return asked


def test_a_block_is_read_in_strips_that_end_with_tiles_and_no_row_twice(
    uneven: Slide, boxes_read: list[tuple[int, Box]], monkeypatch: pytest.MonkeyPatch
) -> None:
    level = made(uneven.at(0.9))  # of level 1, 1 : 2.4
    box = Box(20, 30, 150, 200)
    expected = level.read(box)
    ((index, at_once),) = boxes_read
    assert index == 1
    boxes_read.clear()
    monkeypatch.setattr(resample, "_STRIP_PIXELS", 128 * at_once.width)
    np.testing.assert_array_equal(level.read(box), expected)
    strips = [box for _, box in boxes_read]
    assert len(strips) > 2
    assert all(strip.y_stop % 128 == 0 for strip in strips[:-1])
    assert [strip.y for strip in strips[1:]] == [strip.y_stop for strip in strips[:-1]]
    assert (strips[0].y, strips[-1].y_stop) == (at_once.y, at_once.y_stop)


def test_reading_takes_no_more_memory_than_is_predicted(tmp_path: Path) -> None:
    """What numpy takes of it."""
    slide = open_slide(
        write_tiff(tmp_path / "a.tif", np.zeros((5000, 5000, 3), np.uint8), tile=256)
    )
    peaks = {}
    for mpp in (0.3, 0.75, 1.0, 4.0, 32.0):
        level = slide.at(mpp)
        box = Box(-20, 30, min(2048, level.plane[0]), min(2048, level.plane[1]))
        level.read(Box(0, 0, 8, 8))
        tracemalloc.start()
        level.read(box)
        peaks[mpp] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        predicted = level.reading_bytes(box.shape)
        # OpenSlide's own buffer, 4 bytes of 12 for each pixel, is not numpy's.
        assert peaks[mpp] < predicted
        assert peaks[mpp] > 0.4 * predicted


def test_a_model_sees_what_its_card_asks_for(uneven: Slide, toy_model: Callable[..., Path]) -> None:
    model = load_model(toy_model("neighbours", mpp=0.61))
    pixels = uneven.at(0.61).array().compute()
    scores = pipeline.predict(uneven, model, block=128)
    np.testing.assert_array_equal(scores.compute(), expected_neighbours(pixels))
    stored = pipeline.predict(uneven, model, level=2, block=128)
    np.testing.assert_array_equal(stored.compute(), expected_neighbours(noise(210, 479, 2)))
    other = pipeline.predict(uneven, model, mpp=1.0, block=128)
    assert other.shape[1:] == uneven.at(1.0).plane
    with pytest.raises(ConfigError, match="mpp 1 and level 2 are both given"):
        pipeline.predict(uneven, model, level=2, mpp=1.0)


@pytest.mark.parametrize("name", ["erosion-HE.svs", "CMU-1-Small-Region.svs"])
def test_real_slides_are_the_same_however_they_are_cut(shared_data: Path, name: str) -> None:
    slide = open_slide(shared_data / "slides" / name)
    level = made(slide.at(0.61))
    box = Box(level.plane[0] // 2 - 300, level.plane[1] // 2 - 400, 500, 700)
    together = level.read(box)
    assert np.ptp(together) > 100
    for cell in (97, 256):
        for y in range(0, box.height, cell):
            for x in range(0, box.width, cell):
                part = Box(box.y + y, box.x + x, cell, cell).intersection(box)
                np.testing.assert_array_equal(level.read(part), together[part.within(box)])


def test_a_level_stands_for_itself(uneven: Slide) -> None:
    level = uneven.level(1)
    assert level.stored is level
    assert level.settings == {"slide.level": 1}
    assert isinstance(level, Level)
    assert made(uneven.at(0.5)).settings == {
        "slide.level": 1,
        "slide.resampled": [0.5 / 0.3, 2.0],
        "slide.filter": "bicubic",
    }
