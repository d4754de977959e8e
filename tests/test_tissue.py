from __future__ import annotations

import struct
import time
import tracemalloc
import warnings
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import ConfigError
from pipeline.tissue import TissueSettings, load_mask, tissue_fraction, tissue_mask

GLASS, PINK, PALE, PADDING = (243, 241, 244), (200, 120, 180), (238, 214, 230), (0, 0, 0)
MPP = (8.0, 8.0)
METHODS = [TissueSettings(method="otsu"), TissueSettings(method="density")]
by_method = pytest.mark.parametrize("how", METHODS, ids=lambda how: how.method)


def picture(
    shape: tuple[int, int], colour: tuple[int, int, int], noise: float = 3.0
) -> NDArray[np.uint8]:
    values = np.random.default_rng(7).normal(colour, noise, (*shape, 3))
    return np.clip(values.round(), 0, 255).astype(np.uint8)


def paint(rgb: NDArray[np.uint8], box: tuple[slice, slice], colour: tuple[int, int, int]) -> None:
    height, width = rgb[box].shape[:2]
    rgb[box] = picture((height, width), colour)


@by_method
def test_tissue_on_glass_is_found_to_the_pixel_but_one(how: TissueSettings) -> None:
    rgb = picture((100, 120), GLASS)
    paint(rgb, np.s_[20:70, 30:90], PINK)
    mask = tissue_mask(rgb, MPP, how)
    assert mask.dtype == np.bool_
    assert mask.shape == (100, 120)
    assert mask[21:69, 31:89].all()
    outside = mask.copy()
    outside[18:72, 28:92] = False
    assert not outside.any()


@by_method
@pytest.mark.parametrize("noise", [0.0, 1.0, 5.0, 10.0])
@pytest.mark.parametrize("glass", [(255, 255, 255), GLASS, (222, 220, 224), (245, 240, 230)])
def test_a_blank_slide_has_no_tissue(
    how: TissueSettings, glass: tuple[int, int, int], noise: float
) -> None:
    assert not tissue_mask(picture((200, 150), glass, noise), MPP, how).any()


@by_method
def test_a_blank_slide_with_uneven_light_has_no_tissue(how: TissueSettings) -> None:
    light = np.linspace(0.93, 1.0, 200)[:, np.newaxis, np.newaxis]
    rgb = (picture((200, 150), GLASS) * light).astype(np.uint8)
    assert not tissue_mask(rgb, MPP, how).any()


@by_method
def test_glass_beside_white_padding_is_not_tissue(how: TissueSettings) -> None:
    rgb = picture((100, 100), (232, 223, 230))
    paint(rgb, np.s_[:, :50], (255, 255, 255))
    assert not tissue_mask(rgb, MPP, how).any()


@by_method
def test_an_image_full_of_tissue_stays_full(how: TissueSettings) -> None:
    rgb = picture((100, 100), PINK, 15.0)
    paint(rgb, np.s_[:, :50], (120, 60, 130))  # dark and pale halves: Otsu alone drops one
    assert tissue_mask(rgb, MPP, how).mean() > 0.99


@by_method
def test_pale_tissue_beside_strong_tissue_is_kept(how: TissueSettings) -> None:
    rgb = picture((100, 150), GLASS)
    paint(rgb, np.s_[10:90, 10:60], (130, 60, 140))
    paint(rgb, np.s_[10:90, 60:110], (215, 165, 200))
    assert tissue_mask(rgb, MPP, how)[12:88, 12:108].all()


@by_method
def test_black_padding_is_neither_tissue_nor_a_reason_to_call_glass_tissue(
    how: TissueSettings,
) -> None:
    rgb = picture((120, 160), (228, 215, 220))
    paint(rgb, np.s_[:, :40], PADDING)
    rgb[:, 40] = (60, 40, 70)  # what JPEG leaves between the two
    assert not tissue_mask(rgb, MPP, how).any()
    paint(rgb, np.s_[30:90, 80:140], PINK)
    mask = tissue_mask(rgb, MPP, how)
    assert not mask[:, :45].any()
    assert mask[32:88, 82:138].all()


@by_method
def test_an_image_of_padding_only_has_no_tissue(how: TissueSettings) -> None:
    assert not tissue_mask(picture((50, 50), PADDING), MPP, how).any()


@by_method
@pytest.mark.parametrize(("colour", "tissue"), [(GLASS, False), (PINK, True), (PADDING, False)])
def test_an_image_of_one_pixel_is_judged_by_its_colour(
    how: TissueSettings, colour: tuple[int, int, int], *, tissue: bool
) -> None:
    rgb = np.array([[colour]], dtype=np.uint8)
    assert tissue_mask(rgb, MPP, how).tolist() == [[tissue]]


def test_none_takes_everything_for_tissue_also_in_a_dark_fluorescence_image() -> None:
    rgb = picture((30, 40), PADDING)
    assert tissue_mask(rgb, MPP, TissueSettings(method="none")).all()


def test_density_finds_tissue_without_colour_that_otsu_misses() -> None:
    rgb = picture((100, 100), GLASS)
    paint(rgb, np.s_[20:80, 20:80], (120, 120, 120))
    assert tissue_mask(rgb, MPP, METHODS[1])[22:78, 22:78].all()
    assert not tissue_mask(rgb, MPP, METHODS[0]).any()


@pytest.mark.parametrize("mpp", [(8.0, 8.0), (4.0, 4.0), (4.0, 16.0)])
def test_small_objects_and_holes_are_measured_in_um2(mpp: tuple[float, float]) -> None:
    def box(y_um: int, x_um: int, size_um: int) -> tuple[slice, slice]:
        return (
            slice(int(y_um / mpp[0]), int((y_um + size_um) / mpp[0])),
            slice(int(x_um / mpp[1]), int((x_um + size_um) / mpp[1])),
        )

    rgb = picture((int(1600 / mpp[0]), int(2400 / mpp[1])), GLASS)
    paint(rgb, box(200, 200, 1200), PINK)
    paint(rgb, box(400, 400, 80), GLASS)  # 6,400 um2
    paint(rgb, box(800, 800, 240), GLASS)  # 57,600 um2
    paint(rgb, box(400, 1800, 80), PINK)
    paint(rgb, box(800, 1800, 240), PINK)

    def centres(how: TissueSettings) -> list[bool]:
        mask = tissue_mask(rgb, mpp, how)
        spots = [(440, 440), (920, 920), (440, 1840), (920, 1920)]
        return [bool(mask[int(y / mpp[0]), int(x / mpp[1])]) for y, x in spots]

    fine = TissueSettings(min_area_um2=1_000, min_hole_um2=1_000)
    middle = TissueSettings(min_area_um2=25_000, min_hole_um2=25_000)
    coarse = TissueSettings(min_area_um2=120_000, min_hole_um2=120_000)
    assert centres(fine) == [False, False, True, True]
    assert centres(middle) == [True, False, False, True]
    assert centres(coarse) == [True, True, False, False]


def test_glass_cut_off_by_the_edge_is_no_hole() -> None:
    rgb = picture((100, 100), PINK)
    paint(rgb, np.s_[:8, :8], GLASS)  # 4,096 um2
    assert not tissue_mask(rgb, MPP, TissueSettings())[:5, :5].any()


# -- a user's mask ------------------------------------------------------------------------


def scene() -> NDArray[np.bool_]:
    mask = np.zeros((40, 60), dtype=np.bool_)
    mask[5:20, 10:50] = True
    return mask


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I;16", "F"])
@pytest.mark.parametrize("value", [1, 255])
def test_nonzero_is_tissue_in_every_mode(tmp_path: Path, mode: str, value: int) -> None:
    mask = scene()
    if mode in ("I;16", "F"):
        dtype = np.uint16 if mode == "I;16" else np.float32
        image = Image.fromarray((mask * value).astype(dtype))
    else:
        image = Image.fromarray((mask * (255 if mode == "1" else value)).astype(np.uint8))
        image = image.convert(mode)
    path = tmp_path / "mask.tif"
    image.save(path)
    np.testing.assert_array_equal(load_mask(path, mask.shape, mask.shape), mask)


def test_what_is_transparent_is_not_tissue(tmp_path: Path) -> None:
    rgba = np.full((40, 60, 4), 255, dtype=np.uint8)
    rgba[..., 3] = scene() * 255
    path = tmp_path / "mask.png"
    Image.fromarray(rgba).save(path)
    np.testing.assert_array_equal(load_mask(path, (40, 60), (40, 60)), scene())


def test_a_mask_is_resampled_to_the_nearest_pixel(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    mask = np.random.default_rng(3).random((40, 60)) < 0.5
    Image.fromarray(mask).save(path)
    np.testing.assert_array_equal(
        load_mask(path, (120, 180), (120, 180)), np.kron(mask, np.ones((3, 3)))
    )
    np.testing.assert_array_equal(load_mask(path, (8, 12), (8, 12)), mask[2::5, 2::5])


def test_a_mask_shaped_unlike_the_slide_is_refused_with_both_ratios(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray(scene()).save(path)
    load_mask(path, (400, 610), (400, 610))
    with pytest.raises(ConfigError, match=r"1\.5000 \(60 x 40\).*1\.5500 \(620 x 400\)"):
        load_mask(path, (400, 620), (400, 620))
    with pytest.raises(ConfigError, match="aspect ratio"):
        load_mask(path, (60, 40), (60, 40))


def test_a_missing_mask_is_an_error_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.png: tissue mask cannot be read"):
        load_mask(tmp_path / "nowhere.png", (4, 4), (4, 4))


def test_what_is_no_image_or_half_of_one_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "mask.txt"
    text.write_text("tissue everywhere")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_mask(text, (4, 4), (4, 4))
    whole = tmp_path / "mask.png"
    Image.fromarray(picture((64, 64), PINK)).save(whole)
    half = tmp_path / "half.png"
    half.write_bytes(whole.read_bytes()[:3000])
    with pytest.raises(ConfigError, match="cannot be read"):
        load_mask(half, (64, 64), (64, 64))


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_mask_that_would_fill_the_memory_is_refused_before_it_is_decoded(
    tmp_path: Path, side: int
) -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + header
        + struct.pack(">I", zlib.crc32(header))
        + b"\0\0\0\0IEND\xaeB`\x82"
    )
    with pytest.raises(ConfigError, match=r"too large to decode safely.*coarser"):
        load_mask(path, (100, 100), (100, 100))


# -- fractions of boxes -------------------------------------------------------------------

Intervals = NDArray[np.int64]


def intervals(extent: int) -> st.SearchStrategy[Intervals]:
    edge = st.integers(-5, extent + 5)
    pairs = st.lists(st.tuples(edge, edge), min_size=1, max_size=4)
    return pairs.map(lambda found: np.sort(np.array(found, dtype=np.int64), axis=1))


@st.composite
def cases(
    draw: st.DrawFn,
) -> tuple[NDArray[np.bool_], Intervals, Intervals, tuple[int, int]]:
    shape = draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    mask = draw(hnp.arrays(np.bool_, st.tuples(st.integers(1, 6), st.integers(1, 6))))
    return mask, draw(intervals(shape[0])), draw(intervals(shape[1])), shape


@given(cases())
@settings(max_examples=100, deadline=None)
def test_fraction_equals_that_of_the_upsampled_mask(
    case: tuple[NDArray[np.bool_], Intervals, Intervals, tuple[int, int]],
) -> None:
    mask, boxes_y, boxes_x, shape = case
    # Level and mask on one grid: every level pixel is my x mx cells, every mask pixel h x w.
    cells = np.kron(mask, np.ones(shape, dtype=np.bool_))
    expected = np.zeros((len(boxes_y), len(boxes_x)))
    for i, (y0, y1) in enumerate(np.clip(boxes_y, 0, shape[0]) * mask.shape[0]):
        for j, (x0, x1) in enumerate(np.clip(boxes_x, 0, shape[1]) * mask.shape[1]):
            piece = cells[y0:y1, x0:x1]
            if piece.size:
                expected[i, j] = float(Fraction(int(piece.sum()), piece.size))
    found = tissue_fraction(mask, boxes_y, boxes_x, shape)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, expected)


def test_boxes_outside_the_level_or_inside_out_hold_no_tissue() -> None:
    mask = np.ones((3, 3), dtype=np.bool_)
    boxes = np.array([[-9, -2], [-9, 0], [10, 12], [4, 4], [7, 5], [-4, 3], [8, 99]])
    found = tissue_fraction(mask, boxes, np.array([[0, 10]]), (10, 10))
    assert found[:, 0].tolist() == [0, 0, 0, 0, 0, 1, 1]


def test_fractions_of_a_large_mask_are_quick_and_light() -> None:
    mask = np.random.default_rng(1).random((3000, 3000)) < 0.5
    edges = np.linspace(0, 100_003, 401).astype(np.int64)
    boxes = np.stack([edges[:-1] - 64, edges[1:] + 64], axis=1)  # blocks with their halo
    tracemalloc.start()
    start = time.perf_counter()
    found = tissue_fraction(mask, boxes, boxes, (100_003, 100_003))
    seconds = time.perf_counter() - start
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 2
    assert peak_bytes < 30e6
    assert 0.3 < found.min() < found.max() < 0.7
    assert tissue_fraction(np.ones_like(mask), boxes, boxes, (100_003, 100_003)).min() == 1.0


def test_a_mask_is_compared_with_the_slide_and_not_with_its_coarse_picture(tmp_path: Path) -> None:
    """Rounded up to whole pixels of the picture, a small slide has another aspect ratio."""
    path = tmp_path / "mask.png"
    Image.fromarray(np.full((257, 1001), 255, np.uint8)).save(path)
    assert load_mask(path, (17, 63), (257, 1001)).shape == (17, 63)
    with pytest.raises(ConfigError, match=r"3\.8949 \(1001 x 257\), the slide 3\.7059 \(63 x 17\)"):
        load_mask(path, (17, 63), (17, 63))


def test_a_mask_too_large_to_decode_is_refused_whatever_the_filter_of_warnings(
    tmp_path: Path,
) -> None:
    path = tmp_path / "bomb.png"
    Image.new("1", (10_000, 10_000)).save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ConfigError, match="too large to decode safely"):
            load_mask(path, (10, 10), (10, 10))
