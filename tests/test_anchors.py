"""Where OpenSlide begins to read levels whose downsample is no whole number."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline import open_slide
from pipeline.geometry import Box, Grid
from pipeline.readers import open_reader
from pipeline.readers.anchors import EXACT, REGION, STRETCH, anchors, pieces
from tests.toys import noise, read_directly, write_tiff

LENGTHS = st.integers(1, 40_000)
DOWNSAMPLES = st.floats(1, 200)


def off(anchor: int, downsample: float) -> float:
    """Give by how many of its pixels a level is off that is read from ``anchor``."""
    return abs(round(anchor * downsample) / downsample - anchor)


def differing(pixels: np.ndarray, truth: np.ndarray) -> tuple[float, int]:
    """Give the share of pixels that differ and by how much at most."""
    difference = np.abs(pixels.astype(np.int16) - truth.astype(np.int16))
    return float((difference > 0).any(-1).mean()), int(difference.max())


@given(LENGTHS, DOWNSAMPLES)
@example(4217, 3.9997628645956844)
@example(26564, 4.0001)
def test_every_stretch_has_an_anchor_in_reach_that_is_exact_or_its_own_start(
    length: int, downsample: float
) -> None:
    starts = range(0, length, STRETCH)
    for start, anchor in zip(starts, anchors(length, downsample), strict=True):
        assert 0 <= anchor <= start
        assert start + STRETCH - anchor <= REGION
        assert anchor == start or off(anchor, downsample) < EXACT


@given(LENGTHS, DOWNSAMPLES)
def test_a_stretch_is_its_own_anchor_only_where_nothing_in_reach_is_exact(
    length: int, downsample: float
) -> None:
    for i, anchor in enumerate(anchors(length, downsample)):
        start = i * STRETCH
        if off(anchor, downsample) >= EXACT:
            reached = range(max(start + STRETCH - REGION, 0), start + 1)
            assert all(off(k, downsample) >= EXACT for k in reached)


@given(LENGTHS, DOWNSAMPLES, st.data())
def test_pieces_are_the_whole_box_each_from_the_anchor_of_all_its_pixels(
    length: int, downsample: float, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, length - 1))
    stop = data.draw(st.integers(start, length))
    starts, at = anchors(length, downsample), start
    for anchor, begin, end in pieces(start, stop, starts):
        assert begin == at < end
        assert end - anchor <= REGION
        assert {starts[k // STRETCH] for k in (begin, end - 1)} == {anchor}
        at = end
    assert at == stop


@pytest.fixture(scope="module")
def long_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A level of 12.988 level-0 pixels per pixel: every fraction of a pixel is met soon."""
    path = tmp_path_factory.mktemp("long") / "long.tif"
    return write_tiff(path, np.zeros((1200, 32_000, 3), np.uint8), levels=[noise(120, 2003, 1)])


def test_cairo_copies_where_it_is_said_to_and_resamples_farther_off(long_path: Path) -> None:
    """What `EXACT` stands on; with another cairo it may be another number."""
    stored = noise(120, 2003, 1)
    with openslide.OpenSlide(long_path) as slide:
        downsample = slide.level_downsamples[1]
    near, far = [], []
    for start in range(1, 1900):
        if off(start, downsample) < EXACT:
            near.append(start)
        elif off(start, downsample) > 4 * EXACT:
            far.append(start)
    assert len(near) > 20
    for start, exact in [*((k, True) for k in near[:40]), *((k, False) for k in far[::100])]:
        region = (round(start * downsample), 0, 100, 50)
        given_ = read_directly_blended(long_path, region)
        assert (given_ == stored[:50, start : start + 100]).all() == exact, start


def read_directly_blended(path: Path, region: tuple[int, int, int, int]) -> np.ndarray:
    """Give a region of level 1 as OpenSlide does, blended edges and all."""
    x, y, width, height = region
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((x, y), 1, (width, height)))[..., :3]


def test_a_level_is_exact_as_far_as_anchors_reach_and_near_beyond(tmp_path: Path) -> None:
    """9000 pixels at 1 : 4.0002 have anchors up to pixel 39 and from pixel 5962 only."""
    stored = noise(75, 9000, 1)
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        for number, pixels in enumerate((np.zeros((300, 36_003, 3), np.uint8), stored)):
            tiff.write(
                pixels, tile=(128, 128), photometric="rgb", compression="zlib", subfiletype=number
            )
    reader = open_reader(str(path), "openslide")
    given_ = reader.read(1, Box(0, 0, 75, 9000))
    reader.close()
    np.testing.assert_array_equal(given_[:, :4096], stored[:, :4096])
    np.testing.assert_array_equal(given_[:, 6144:], stored[:, 6144:])
    share, largest = differing(given_, stored)
    assert 0.1 < share < 0.25
    assert largest <= 255 // 8  # off by less than 1/8 pixel of the level
    directly = read_directly(path, 1)
    assert differing(directly, stored)[0] > 0.5


@pytest.mark.parametrize(
    ("name", "level", "most"),
    [
        ("TCGA-CR-7395-01A-01-TS1.svs", 1, (0.0, 0)),
        ("erosion-HE.svs", 1, (0.0001, 1)),
        ("erosion-HE.svs", 2, (0.0, 0)),
    ],
)
def test_uneven_levels_of_real_slides_are_the_stored_pixels(
    name: str, level: int, most: tuple[float, int], shared_data: Path
) -> None:
    path = shared_data / "slides" / name
    with tifffile.TiffFile(path) as tiff:
        stored = tiff.series[0].levels[level].asarray()
    reader = open_reader(str(path), "openslide")
    assert not reader_downsample(path, level).is_integer()
    share, largest = differing(reader.read(level, Box(0, 0, *stored.shape[:2])), stored)
    reader.close()
    assert share <= most[0]
    assert largest <= most[1]


def reader_downsample(path: Path, level: int) -> float:
    with openslide.OpenSlide(path) as slide:
        return float(slide.level_downsamples[level])


REAL = [
    *[("CMU-1-Small-Region.svs", 0), ("CMU-1-Small-Region-dicom", 0)],
    *[("TCGA-CR-7395-01A-01-TS1.svs", level) for level in range(2)],
    *[("test3-DAPI-2-(387).ndpi", level) for level in range(7)],
    *[("erosion-HE.svs", level) for level in range(1, 3)],
    *[("fixtures/boxes.tiff", level) for level in range(4)],
]


@pytest.mark.parametrize(("name", "level"), REAL)
def test_a_level_is_the_same_in_blocks_of_any_size(
    name: str, level: int, shared_data: Path
) -> None:
    reader = open_reader(str(shared_data / "slides" / name), "openslide")
    shape = reader.metadata.levels[level].shape
    everything = Box(0, 0, *shape)
    whole = reader.read(level, everything)
    with ThreadPoolExecutor(2) as threads:
        for block in (512, 1000, 2048):
            grid = Grid(shape, block)
            boxes = [grid.box(index) for index in grid]
            blocks = threads.map(lambda box: reader.read(level, box), boxes)
            for box, pixels in zip(boxes, blocks, strict=True):
                assert (pixels == whole[box.within(everything)]).all(), box
    reader.close()


def test_reading_far_from_an_anchor_takes_no_more_memory_than_predicted(
    shared_data: Path,
) -> None:
    level = open_slide(shared_data / "slides" / "erosion-HE.svs", reader="openslide").level(1)
    box = Box(2100, 1200, 2000, 2000)
    level.read(Box(0, 0, 1, 1))
    tracemalloc.start()
    level.read(box)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 4 * 4000 * 3000 < peak <= level.reading_bytes(box.shape)
