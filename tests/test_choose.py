"""Which reader a slide gets: the direct one where it is exact on that file, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from pipeline import open_slide
from pipeline.errors import SlideError
from pipeline.geometry import Box
from pipeline.readers.choose import choose
from pipeline.readers.openslide import OpenSlideReader
from pipeline.readers.tiff import TiffReader
from tests.toys import noise, read_directly, spoil_first_tile, write_tiff


@pytest.fixture
def slide_path(tmp_path: Path) -> Path:
    return write_tiff(tmp_path / "a.tif", noise(600, 900), levels=[noise(400, 600, 1)])


def test_the_direct_reader_is_taken_where_it_gives_openslides_pixels(slide_path: Path) -> None:
    choice = choose(str(slide_path))
    assert choice.reader == "tiff"
    assert choice.reason == "it gives OpenSlide's pixels on samples of every level"
    assert choice.metadata == choose(str(slide_path), "openslide").metadata


def test_a_slide_says_its_reader_and_why(slide_path: Path) -> None:
    assert open_slide(slide_path).ref.reader == "tiff"
    assert open_slide(slide_path).facts()["reader"].startswith("tiff: it gives OpenSlide's pixels")
    asked = open_slide(slide_path, reader="openslide")
    assert asked.ref.reader == "openslide"
    assert asked.facts()["reader"] == "openslide: asked for"


@pytest.mark.parametrize("level", [0, 1])
def test_one_wrong_value_at_a_border_of_tiles_makes_it_openslide(
    slide_path: Path, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = TiffReader.read

    def off(reader: TiffReader, number: int, box: Box) -> NDArray[np.uint8]:
        pixels = read(reader, number, box)
        place = Box(255, 255, 1, 1) if level == 0 else Box(3, 3, 1, 1)
        if number == level and place.intersection(box) == place:
            pixels[place.within(box)] ^= 8
        return pixels

    monkeypatch.setattr(TiffReader, "read", off)
    choice = choose(str(slide_path))
    assert choice.reader == "openslide"
    assert f"differs from OpenSlide by 8 at level {level}" in choice.reason


def test_a_level_that_openslide_resamples_is_compared_where_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 : 1.5 or so, and what is stored there has nothing to do with level 0."""
    path = write_tiff(tmp_path / "a.tif", noise(700, 1600), levels=[noise(467, 1067, 1)])
    compared: list[tuple[int, Box]] = []
    region = OpenSlideReader.region

    def counted(reader: OpenSlideReader, level: int, box: Box) -> NDArray[np.uint8]:
        compared.append((level, box))
        return region(reader, level, box)

    monkeypatch.setattr(OpenSlideReader, "region", counted)
    assert choose(str(path)).reader == "tiff"
    assert sum(level == 1 for level, _ in compared) >= 5


def test_what_openslide_refuses_is_read_directly(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, noise(90, 100), photometric="rgb", metadata={"axes": "YXS"})
    with pytest.raises(SlideError):
        choose(str(path), "openslide")
    choice = choose(str(path))
    assert (choice.reader, choice.reason) == ("tiff", "OpenSlide does not read this file")


def test_what_nobody_reads_is_refused_with_the_reason_of_whoever_knows_it(tmp_path: Path) -> None:
    deep = tmp_path / "deep.tif"
    tifffile.imwrite(deep, np.zeros((64, 64, 3), np.uint16), photometric="rgb")
    with pytest.raises(SlideError, match=r"deep\.tif: .*16 bits per sample"):
        choose(str(deep))
    (tmp_path / "text.svs").write_text("hello")
    with pytest.raises(SlideError, match=r"text\.svs: not a slide that OpenSlide"):
        choose(str(tmp_path / "text.svs"))


def test_a_file_that_openslide_refuses_must_hold_all_of_its_tiles(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(300, 400), photometric="rgb", rowsperstrip=50, metadata=None)
    assert choose(str(path)).reader == "tiff"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size - 1000])
    with pytest.raises(SlideError, match=rf"truncated: tiles of level 0 .* of {size - 1000}; copy"):
        choose(str(path))


def test_a_slide_whose_sample_cannot_be_read_is_left_to_openslide(tmp_path: Path) -> None:
    path = spoil_first_tile(write_tiff(tmp_path / "a.tif", noise(300, 400)))
    choice = choose(str(path))
    assert choice.reader == "openslide"
    assert choice.reason.startswith("a sample cannot be read: cannot read level 0, rows 0:128")


def test_tiles_that_a_file_leaves_out_are_among_the_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Aperio's missing tiles are made from another level by OpenSlide, others are background."""
    tiles: list[Any] = [noise(256, 256, i) for i in range(49)]
    tiles[16] = None
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        iter(tiles),
        shape=(7 * 256, 7 * 256, 3),
        dtype="u1",
        tile=(256, 256),
        photometric="rgb",
        metadata=None,
    )
    assert choose(str(path)).reader == "tiff"
    region = OpenSlideReader.region

    def dark_where_missing(reader: OpenSlideReader, level: int, box: Box) -> NDArray[np.uint8]:
        pixels = region(reader, level, box)
        return pixels * np.uint8(box != Box(512, 512, 256, 256))

    monkeypatch.setattr(OpenSlideReader, "region", dark_where_missing)
    choice = choose(str(path))
    assert (
        choice.reason
        == "the direct reader differs from OpenSlide by 255 at level 0, row 512, column 512"
    )


@pytest.mark.parametrize(
    ("name", "reader", "said"),
    [
        ("CMU-1-Small-Region.svs", "tiff", "gives OpenSlide's pixels"),
        ("TCGA-CR-7395-01A-01-TS1.svs", "tiff", "gives OpenSlide's pixels to 1 of 255"),
        ("erosion-HE.svs", "tiff", "gives OpenSlide's pixels"),
        ("OS-1-detail.ome.tif", "tiff", "OpenSlide does not read"),
        ("test3-DAPI-2-(387).ndpi", "openslide", "NDPI, whose tiles only OpenSlide places"),
        ("fixtures/boxes_0.dcm", "openslide", "no TIFF"),
        ("fixtures/unreadable.svs", "openslide", "a sample cannot be read"),
    ],
)
def test_real_slides_get_the_reader_that_is_right(
    name: str, reader: str, said: str, shared_data: Path
) -> None:
    choice = choose(str(shared_data / "slides" / name))
    assert choice.reader == reader
    assert said in choice.reason


def test_openslide_itself_is_whom_level_0_is_compared_with(slide_path: Path) -> None:
    level = open_slide(slide_path).level(0)
    box = Box(100, 200, 300, 400)
    np.testing.assert_array_equal(
        level.read(box), read_directly(slide_path, 0, (200, 100, 400, 300))
    )
