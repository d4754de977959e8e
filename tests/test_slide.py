"""`open_slide` and what it gives: facts now, pixels when computed, tokens that travel."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline import open_slide
from pipeline.errors import SlideError
from pipeline.geometry import Box
from pipeline.readers import Mpp
from pipeline.readers.tiff import TiffReader
from pipeline.slide import Slide
from pipeline.slide.level import Level, slides
from tests.toys import Pixels, noise, read_directly, write_tiff


@pytest.fixture(autouse=True)
def in_this_thread() -> Iterator[None]:
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def demo(demo_slide: Path) -> Slide:
    return open_slide(demo_slide)


@pytest.fixture
def boxes_read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Box]]:
    """Collects every (level, box) asked of the direct reader."""
    asked: list[tuple[int, Box]] = []
    read = TiffReader.read

    def collecting(reader: TiffReader, level: int, box: Box) -> NDArray[np.uint8]:
        asked.append((level, box))
        return read(reader, level, box)

    monkeypatch.setattr(TiffReader, "read", collecting)
    return asked


def box_mean(rgb: Pixels, rows: int, columns: int) -> NDArray[np.float64]:
    """Average an image over ``rows`` x ``columns`` equal rectangles, exactly."""

    def weights(n: int, parts: int) -> NDArray[np.float64]:
        edges = np.arange(parts + 1) * n / parts
        pixel = np.arange(n)
        overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
        shares: NDArray[np.float64] = np.clip(overlap, 0, None) * parts / n
        return shares

    down, across = weights(rgb.shape[0], rows), weights(rgb.shape[1], columns)
    mean: NDArray[np.float64] = np.einsum("ry,yxs,cx->rcs", down, rgb, across, optimize=True)
    return mean


def gradient(height: int, width: int) -> Pixels:
    """Give an image whose red is its column and whose green its row, both from 0 to 255."""
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[..., 0] = np.linspace(0, 255, width)
    rgb[..., 1] = np.linspace(0, 255, height)[:, None]
    return rgb


def test_a_slide_says_what_is_in_it(demo: Slide, demo_slide: Path) -> None:
    assert demo.path == str(demo_slide)
    assert demo.name == "demo"
    assert demo.shape == (1200, 1500)
    assert demo.mpp == Mpp(0.5, 0.5, "header")
    facts = demo.facts()
    assert facts["size"] == "1500 x 1200 px"
    assert facts["extent"] == "0.75 x 0.60 mm"
    assert facts["mpp"] == "0.5 x 0.5 um/px (header)"
    assert facts["objective"] == "20x"
    assert facts["bounds"] == "whole image"
    assert facts["associated"] == "label, macro, thumbnail"
    assert demo.properties["openslide.vendor"] == facts["vendor"] == "aperio"


def test_width_comes_before_height_only_in_what_people_read(
    tmp_path: Path, write_tiff: Callable[..., Path]
) -> None:
    path = write_tiff(tmp_path / "a.tif", noise(100, 400), mpp=(0.5, 0.25))
    slide = open_slide(path)
    assert slide.shape == (100, 400)
    assert slide.facts()["size"] == "400 x 100 px"
    assert slide.facts()["mpp"] == "0.25 x 0.5 um/px (header)"
    assert slide.facts()["extent"] == "0.10 x 0.05 mm"


def test_looking_at_a_slide_reads_no_pixel(
    demo_slide: Path, boxes_read: list[tuple[int, Box]], tmp_path: Path
) -> None:
    shutil.copy(demo_slide, tmp_path / "fresh.svs")
    slide = open_slide(tmp_path / "fresh.svs")
    boxes_read.clear()  # opening compares samples
    assert list(slide.levels)
    assert repr(slide)
    assert boxes_read == []


def test_levels_are_lazy_arrays_whose_chunks_hold_whole_tiles(
    tmp_path: Path, write_tiff: Callable[..., Path]
) -> None:
    path = write_tiff(tmp_path / "a.tif", np.zeros((2500, 4600, 3), np.uint8), tile=240, levels=2)
    slide = open_slide(path)
    shapes = [level.shape for level in slide.levels]
    assert shapes == [(2500, 4600, 3), (1250, 2300, 3)]
    assert len(slide.levels) == 2
    assert {level.dtype for level in slide.levels} == {np.dtype(np.uint8)}
    assert slide.levels[0].chunks == ((1920, 580), (1920, 1920, 760), (3,))
    assert slide.levels[-1].shape == (1250, 2300, 3)
    assert [level.shape for level in slide.levels[1:]] == shapes[1:]


def test_a_slice_reads_that_slice_only(
    demo: Slide, demo_slide: Path, boxes_read: list[tuple[int, Box]]
) -> None:
    boxes_read.clear()
    corner = demo.levels[0][100:200, 50:80].compute()
    expected = read_directly(demo_slide, 0, (50, 100, 30, 100))
    np.testing.assert_array_equal(corner, expected)
    assert boxes_read == [(0, Box(100, 50, 100, 30))]


def test_slices_are_numpys(tmp_path: Path, write_tiff: Callable[..., Path]) -> None:
    rgb = noise(300, 200)
    array = open_slide(write_tiff(tmp_path / "a.tif", rgb)).levels[0]
    cuts: list[Any] = [
        np.s_[5:90:7, ::-3],
        np.s_[-10:, 3],
        np.s_[:, :, 1],
        np.s_[4:4],
        np.s_[[2, 250, 9], 10:20],
        np.s_[..., ::-1],
    ]
    for cut in cuts:
        np.testing.assert_array_equal(array[cut].compute(), rgb[cut])


def test_blocks_with_a_halo_show_background_outside(
    tmp_path: Path, write_tiff: Callable[..., Path]
) -> None:
    rgb = noise(100, 90)
    level = open_slide(write_tiff(tmp_path / "a.tif", rgb)).level(0)
    padded = np.pad(rgb, ((4, 4), (4, 4), (0, 0)), constant_values=255)
    blocks = level.array(block=64, halo=4)
    assert blocks.chunks == ((72, 44), (72, 34), (3,))
    np.testing.assert_array_equal(blocks.blocks[1, 1].compute(), padded[64:108, 64:98])
    np.testing.assert_array_equal(level.array(block=64).compute(), rgb)


def test_outside_a_level_is_background(tmp_path: Path, write_tiff: Callable[..., Path]) -> None:
    level = open_slide(write_tiff(tmp_path / "a.tif", noise(50, 40))).level(0)
    coloured = Level(level.slide, 0, level.plane, (1, 1), level.tile, background=(12, 128, 255))
    assert (coloured.read(Box(-9, 60, 5, 5)) == (12, 128, 255)).all()
    pixels = coloured.read(Box(-2, 35, 10, 10))
    assert (pixels[:2] == (12, 128, 255)).all()
    assert (pixels[:, 5:] == (12, 128, 255)).all()
    np.testing.assert_array_equal(pixels[2:, :5], noise(50, 40)[:8, 35:])


@pytest.mark.parametrize("index", [-1, 2])
def test_a_level_that_is_not_there_is_named_with_those_that_are(demo: Slide, index: int) -> None:
    assert len(demo.levels) == 2
    with pytest.raises(SlideError, match=rf"no level {index}; it has levels 0 to 1"):
        demo.level(index)


def test_coarse_gives_the_coarsest_level_that_is_fine_enough(
    tmp_path: Path, write_tiff: Callable[..., Path]
) -> None:
    slide = open_slide(write_tiff(tmp_path / "a.tif", noise(512, 512), levels=3))
    chosen = {n: slide.coarse(n).index for n in (0.5, 1, 1.9, 2, 3.9, 4, 100)}
    assert chosen == {0.5: 0, 1: 0, 1.9: 0, 2: 1, 3.9: 1, 4: 2, 100: 2}


@pytest.mark.parametrize("factor", [1, 3, 7])
def test_reduced_averages_squares_and_what_the_edge_leaves_of_them(
    tmp_path: Path, write_tiff: Callable[..., Path], factor: int
) -> None:
    rgb = noise(100, 2060)
    slide = open_slide(write_tiff(tmp_path / "a.tif", rgb))
    small = slide.level(0).reduced(factor)
    rows, columns = -(-100 // factor), -(-2060 // factor)
    assert small.shape == (3, rows, columns)
    assert small.npartitions > 1
    expected = np.empty((rows, columns, 3))
    for row in range(rows):
        for column in range(columns):
            square = rgb[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
            expected[row, column] = square.mean(axis=(0, 1))
    given = small.compute().transpose(1, 2, 0)
    assert np.abs(given - expected).max() <= 0.5


def test_a_thumbnail_is_the_average_of_the_whole_image(demo: Slide, demo_slide: Path) -> None:
    picture = demo.thumbnail(500)
    assert picture.shape == (400, 500, 3)
    assert picture.dtype == np.uint8
    expected = box_mean(read_directly(demo_slide), 400, 500)
    assert np.abs(picture - expected).max() <= 1


@pytest.mark.parametrize("shape", [(1001, 1203), (1203, 701), (130, 1999)])
def test_a_thumbnail_is_not_stretched(
    tmp_path: Path, write_tiff: Callable[..., Path], shape: tuple[int, int]
) -> None:
    """Sizes that divide by nothing: each place of the picture shows that place of the slide.

    A gradient's grey levels tell the place; it is right to three quarters of a pixel.
    """
    rgb = gradient(*shape)
    slide = open_slide(write_tiff(tmp_path / "a.tif", rgb))
    for size in (100, 64):
        picture = slide.thumbnail(size)
        rows, columns = (max(round(n * size / max(shape)), 1) for n in shape)
        assert picture.shape == (rows, columns, 3)
        off = np.abs(picture - box_mean(rgb, rows, columns)).max(axis=(0, 1))
        assert off[0] / (255 / columns) < 0.75
        assert off[1] / (255 / rows) < 0.75


def test_a_thumbnail_leaves_no_pixel_out(tmp_path: Path, write_tiff: Callable[..., Path]) -> None:
    """At 1 : 1.9 picking pixels instead of averaging them would drop near three in four."""
    rgb = noise(190, 380)
    picture = open_slide(write_tiff(tmp_path / "a.tif", rgb)).thumbnail(200)
    expected = box_mean(rgb, 100, 200)
    assert np.abs(picture - expected).mean() < np.abs(expected - expected.mean()).mean()


def test_a_thumbnail_is_never_larger_than_the_slide(
    tmp_path: Path, write_tiff: Callable[..., Path]
) -> None:
    rgb = noise(60, 80)
    picture = open_slide(write_tiff(tmp_path / "a.tif", rgb)).thumbnail(1024)
    np.testing.assert_array_equal(picture, rgb)


def test_a_scale_may_be_assumed_and_then_says_so(demo: Slide) -> None:
    assumed = demo.assuming(0.25)
    assert assumed.mpp == Mpp(0.25, 0.25, "assumed")
    assert assumed.facts()["mpp"] == "0.25 x 0.25 um/px (assumed)"
    assert demo.mpp == Mpp(0.5, 0.5, "header")


def test_the_repr_says_the_facts_and_every_level(demo: Slide) -> None:
    text = repr(demo)
    level = "level 1: 375 x 300, downsample 4, 2 um/px"
    for value in ("Slide demo", "aperio", "1500 x 1200 px", level):
        assert value in text


def test_html_escapes_what_a_file_is_called(
    tmp_path: Path, write_tiff: Callable[..., Path]
) -> None:
    slide = open_slide(write_tiff(tmp_path / "<b>&\"'.tif", noise(64, 64)))
    html = slide._repr_html_()
    assert "<b>Slide &lt;b&gt;&amp;" in html
    assert "<b>&" not in html
    assert "alt='Slide &lt;b&gt;&amp;&quot;&#x27;'" in html
    assert "data:image/png;base64," in html


def test_a_level_travels_as_less_than_two_kilobytes(demo: Slide) -> None:
    assert len(pickle.dumps(demo.level(0))) < 2000
    assert pickle.loads(pickle.dumps(demo.level(0))) == demo.level(0)


def test_a_pickled_slide_gives_its_pixels_in_another_process(demo: Slide, tmp_path: Path) -> None:
    """Used before it is pickled: an open handle must not try to travel."""
    expected = demo.levels[1].compute()
    (tmp_path / "slide.pickle").write_bytes(pickle.dumps(demo))
    (tmp_path / "array.pickle").write_bytes(pickle.dumps(demo.levels[1]))
    code = (
        "import pickle, sys, numpy as np; from pathlib import Path; f = Path(sys.argv[1])\n"
        "slide = pickle.loads((f / 'slide.pickle').read_bytes())\n"
        "array = pickle.loads((f / 'array.pickle').read_bytes())\n"
        "np.save(f / 'a.npy', slide.levels[1].compute(scheduler='synchronous'))\n"
        "np.save(f / 'b.npy', array.compute(scheduler='synchronous'))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), expected)
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), expected)


def test_a_replaced_file_gets_another_ref_other_keys_and_its_own_pixels(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", noise(64, 64, 1))
    before = open_slide(path)
    assert open_slide(path).ref == before.ref
    np.testing.assert_array_equal(before.levels[0].compute(), noise(64, 64, 1))
    write_tiff(path, noise(64, 80, 2))
    after = open_slide(path)
    assert after.ref != before.ref
    assert after.levels[0].name != before.levels[0].name
    np.testing.assert_array_equal(after.levels[0].compute(), noise(64, 80, 2))
    slides.clear()


def test_equal_slides_have_equal_keys(demo: Slide, demo_slide: Path) -> None:
    assert open_slide(demo_slide).levels[0].name == demo.levels[0].name
    assert demo.levels[0].name != demo.levels[1].name


def test_a_path_below_a_file_is_a_slide_error(demo_slide: Path, tmp_path: Path) -> None:
    with pytest.raises(SlideError, match=r"none\.svs: no such file; check the path"):
        open_slide(tmp_path / "none.svs")
    with pytest.raises(SlideError, match=r"demo\.svs/inner: Not a directory"):
        open_slide(demo_slide / "inner")


def test_a_file_that_may_not_be_read_is_named_with_that_and_not_called_no_slide(
    tmp_path: Path, write_tiff: Callable[..., Path]
) -> None:
    path = write_tiff(tmp_path / "a.tif", noise(64, 64))
    path.chmod(0)
    user = os.geteuid()
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    try:
        if not user:  # root may read everything
            os.seteuid(65534)
        with pytest.raises(SlideError, match=r"a\.tif: Permission denied; check the permissions"):
            open_slide(path)
    finally:
        os.seteuid(user)


def test_relative_paths_and_the_home_folder_are_resolved(
    demo_slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker has another working directory."""
    monkeypatch.chdir(demo_slide.parent)
    monkeypatch.setenv("HOME", str(demo_slide.parent))
    assert open_slide("demo.svs").path == str(demo_slide)
    assert open_slide("~/demo.svs").path == str(demo_slide)


def test_an_associated_image_is_given_as_pixels(demo: Slide) -> None:
    label = demo.associated_image("label")
    assert label.shape == (463, 387, 3)
    assert label.dtype == np.uint8
