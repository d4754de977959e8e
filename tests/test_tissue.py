from __future__ import annotations

import time
import tracemalloc
from fractions import Fraction
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from pipeline import tissue
from pipeline.tissue import TissueSettings, specks, tissue_mask
from pipeline.tissue.fractions import tissue_fraction

GLASS, PINK, PALE, PADDING = (243, 241, 244), (200, 120, 180), (238, 214, 230), (0, 0, 0)
MPP = (8.0, 8.0)
METHODS = [
    TissueSettings(method="otsu"),
    TissueSettings(method="density"),
    TissueSettings(method="hsv"),
]
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


def iou(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return float((found & truth).sum() / (found | truth).sum())


@pytest.mark.parametrize("method", ["otsu", "hsv", "density", "entropy"])
@pytest.mark.parametrize("rows", [1, 37, 128])
def test_a_picture_judged_in_bands_is_judged_as_a_whole(
    method: Literal["otsu", "hsv", "density", "entropy"],
    rows: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rgb = picture((130, 90), GLASS, noise=6)
    for y, colour in ((10, PINK), (34, PALE), (70, PINK)):
        paint(rgb, np.s_[y : y + 17, y % 40 : 70], colour)
    rgb[:40, :30] = 0
    rgb[-3:] = 0
    how = TissueSettings(method=method, min_area_um2=2_000, min_hole_um2=2_000)
    whole = tissue_mask(rgb, MPP, how)
    assert 0 < whole.mean() < 1
    for module in (tissue, specks):
        monkeypatch.setattr(module, "_ROWS", rows)
    monkeypatch.setattr(tissue, "_BINNED", 1000)
    np.testing.assert_array_equal(tissue_mask(rgb, MPP, how), whole)


def test_a_large_picture_takes_little_more_memory_than_itself() -> None:
    rgb = picture((1200, 1000), GLASS)
    paint(rgb, np.s_[200:900, 300:800], PINK)
    tissue_mask(rgb[:64, :64], MPP, METHODS[0])
    tracemalloc.start()
    try:
        tissue_mask(rgb, MPP, METHODS[0])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * rgb.shape[0] * rgb.shape[1]


def blob() -> NDArray[np.bool_]:
    y, x = np.mgrid[:150, :180]
    truth: NDArray[np.bool_] = ((y - 75) / 50) ** 2 + ((x - 90) / 70) ** 2 < 1
    return truth


@pytest.mark.parametrize("colour", [PINK, (215, 165, 200), (120, 60, 130)])
@pytest.mark.parametrize("method", ["otsu", "hsv", "density", "entropy"])
def test_every_method_finds_tissue_with_texture(
    method: Literal["otsu", "hsv", "density", "entropy"], colour: tuple[int, int, int]
) -> None:
    rgb = picture((150, 180), GLASS)
    truth = blob()
    rgb[truth] = picture((150, 180), colour, 24.0)[truth]
    assert iou(tissue_mask(rgb, MPP, TissueSettings(method=method)), truth) > 0.9


def test_entropy_finds_texture_without_colour_that_the_others_miss() -> None:
    rgb = picture((150, 180), GLASS)
    truth = blob()
    grey = np.random.default_rng(3).normal(232, 16, (150, 180, 1)).clip(0, 255)
    rgb[truth] = grey.repeat(3, axis=2).astype(np.uint8)[truth]
    assert iou(tissue_mask(rgb, MPP, TissueSettings(method="entropy")), truth) > 0.9
    for how in METHODS:
        assert iou(tissue_mask(rgb, MPP, how), truth) < 0.6, how


@pytest.mark.parametrize("noise", [0.0, 1.0, 5.0, 10.0])
@pytest.mark.parametrize("glass", [(255, 255, 255), GLASS, (222, 220, 224), (245, 240, 230)])
def test_glass_and_a_step_between_two_whites_have_no_texture(
    glass: tuple[int, int, int], noise: float
) -> None:
    rgb = picture((200, 150), glass, noise)
    paint(rgb, np.s_[:, :50], (255, 255, 255))
    assert not tissue_mask(rgb, MPP, TissueSettings(method="entropy")).any()


def test_a_median_takes_specks_of_colour_for_noise() -> None:
    rgb = picture((100, 100), GLASS)
    rgb[5::9, 5::9] = (60, 200, 60)  # one pixel of each 81: Otsu's smoothing spreads it
    assert not tissue_mask(rgb, MPP, TissueSettings(method="hsv", min_area_um2=0)).any()
    assert tissue_mask(rgb, MPP, TissueSettings(method="otsu", min_area_um2=0)).any()


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
