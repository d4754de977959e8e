"""Every tile is read once, and those that cannot be are named."""

from __future__ import annotations

import json
from pathlib import Path

import dask
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batch.converting import convert
from pipeline.checks.verify import Tiles, Unreadable, Verified, verify
from pipeline.cli import main
from pipeline.geometry import Box, Grid, Shape
from pipeline.slide import open_slide
from pipeline.slide.level import Level, SlideRef
from tests.contracts import check_source
from tests.toys import noise, spoil_first_tile, write_tiff

RGB = noise(700, 900)  # 6 x 8 tiles of 128

pytestmark = pytest.mark.usefixtures("in_threads")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_tiff(tmp_path / "a.tif", RGB, levels=2)


def spoil(path: Path, level: int, *tiles: tuple[int, int]) -> Path:
    """Make tiles ones that cannot be decoded."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[level].aspage()
        across = -(-page.imagewidth // page.tilewidth)
        offsets = [page.dataoffsets[row * across + column] for row, column in tiles]
    data = bytearray(path.read_bytes())
    for offset in offsets:
        data[offset : offset + 200] = bytes(200)
    path.write_bytes(data)
    return path


def test_a_whole_slide_has_nothing_to_say(path: Path) -> None:
    stages = []
    found = verify(open_slide(path), lambda *told: stages.append(told))
    assert found.unreadable == found.regions == ()
    assert found.tiles == 6 * 8 + 3 * 4
    assert stages == [("level 0", 1, 1), ("level 1", 1, 1)]


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_tiles_that_cannot_be_read_are_named_and_no_others(scheduler: str, path: Path) -> None:
    spoil(path, 0, (0, 0), (3, 5), (5, 7))
    spoil(path, 1, (2, 3))
    with dask.config.set(scheduler=scheduler):
        found = verify(open_slide(path))
    assert [(each.level, each.box) for each in found.unreadable] == [
        (0, Box(0, 0, 128, 128)),
        (0, Box(384, 640, 128, 128)),
        (0, Box(640, 896, 60, 4)),
        (1, Box(256, 384, 94, 66)),
    ]
    assert all("a.tif: cannot read level" in each.reason for each in found.unreadable)


def test_neighbours_are_told_as_one_region(path: Path) -> None:
    spoil(path, 0, (1, 2), (1, 3), (2, 2), (2, 3), (4, 4))
    found = verify(open_slide(path))
    assert len(found.unreadable) == 5
    assert [each.box for each in found.regions] == [
        Box(128, 256, 256, 256),
        Box(512, 512, 128, 128),
    ]


@given(st.sets(st.tuples(st.integers(0, 1), st.integers(0, 5), st.integers(0, 5))))
def test_regions_cover_exactly_the_tiles(tiles: set[tuple[int, int, int]]) -> None:
    unreadable = tuple(
        Unreadable(level, Box(y * 10, x * 7, 10, 7), "broken") for level, y, x in sorted(tiles)
    )
    covered = np.zeros((2, 60, 42), int)
    for region in Verified(100, 0.0, unreadable).regions:
        covered[(region.level, *region.box.within(Box(0, 0, 60, 42)))] += 1
    expected = np.zeros_like(covered)
    for level, y, x in tiles:
        expected[level, y * 10 : y * 10 + 10, x * 7 : x * 7 + 7] = 1
    np.testing.assert_array_equal(covered, expected)


sides = st.integers(1, 5000)


@given(plane=st.tuples(sides, sides), tile=st.tuples(sides, sides))
def test_blocks_of_tiles_cover_a_level_once_and_are_no_larger_than_need_be(
    plane: Shape, tile: Shape
) -> None:
    height, width = min(plane[0], tile[0]), min(plane[1], tile[1])
    level = Level(SlideRef("a", "b", (0, 0)), 0, plane, (1.0, 1.0), (height, width), (0, 0, 0))
    source = Tiles(level, (height, width))
    grid = Grid((source.shape[1], source.shape[2]), source.at_once)
    boxes = [source.pixels(grid.box(index)) for index in grid]
    assert sum(box.area for box in boxes) == plane[0] * plane[1]
    for box in boxes:
        assert (box.y % height, box.x % width) == (0, 0)
        assert box.area <= max(2**22, height * width)


def test_the_tiles_of_a_level_keep_the_contract_of_a_source(path: Path) -> None:
    level = open_slide(path).level(0)
    source = Tiles(level, level.tile)
    assert source.shape == (1, 6, 8)
    everything = Box(0, 0, 6, 8)
    np.testing.assert_array_equal(source.read(everything), np.ones((1, 6, 8), np.uint8))
    check_source(source, background=1)


def test_a_converted_slide_is_verified_chunk_by_chunk(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", RGB)
    convert(tmp_path / "a.tif", tmp_path / "a.zarr", block=256, chunk=64)
    shard = tmp_path / "a.zarr" / "0" / "c" / "0" / "1" / "1"
    data = bytearray(shard.read_bytes())
    data[:50] = bytes(50)  # of its first chunk
    shard.write_bytes(data)
    found = verify(open_slide(tmp_path / "a.zarr", reader="zarr"))
    assert [(each.level, each.box) for each in found.unreadable] == [(0, Box(256, 256, 64, 64))]
    shard.write_bytes(data[:-1])  # its index: all of it
    found = verify(open_slide(tmp_path / "a.zarr", reader="zarr"))
    assert [each.box for each in found.regions] == [Box(256, 256, 256, 256)]
    assert len(found.unreadable) == 16


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        main(["inspect", *map(str, arguments)])
    return int(left.value.code or 0), capsys.readouterr().out


def test_the_command_lists_what_is_broken_and_its_exit_code_says_so(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = command(capsys, "--verify", path)
    assert code == 0
    assert "60 of 60 tiles can be read" in said
    spoil_first_tile(path)
    code, said = command(capsys, path)
    assert code == 0
    assert "tiles can be read" not in said
    code, said = command(capsys, "--verify", path)
    assert code == 1
    assert "59 of 60 tiles can be read" in said
    assert f"level 0, x 0, y 0, 128 x 128 px: {path}: cannot read level 0" in said


def test_the_command_says_it_as_json_too(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(path, 1, (0, 1))
    code, said = command(capsys, "--json", path)
    assert code == 0
    assert "unreadable" not in json.loads(said)
    code, said = command(capsys, "--json", "--verify", path)
    assert code == 1
    facts = json.loads(said)
    assert facts["size"] == "900 x 700 px"
    assert [level["size"] for level in facts["levels"]] == ["900 x 700", "450 x 350"]
    assert facts["tiles"] == 60
    (one,) = facts["unreadable"]
    assert one.pop("reason")
    assert one == {"level": 1, "x": 128, "y": 0, "width": 128, "height": 128}


def test_real_slides_are_whole(shared_data: Path) -> None:
    slides = shared_data / "slides"
    for name in ("CMU-1-Small-Region.svs", "test3-DAPI-2-(387).ndpi"):
        slide = open_slide(slides / name)
        assert verify(slide).unreadable == (), name
