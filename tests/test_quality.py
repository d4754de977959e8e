"""Pens and blur on pictures whose truth is painted."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from pipeline.tissue.quality import BLUR_CELL, BLUR_MPP, blur, focus_moments, pen

GLASS = (243, 241, 244)
INKS = {
    "blue": (35, 70, 170),
    "light blue": (70, 130, 210),
    "dark blue": (25, 35, 110),
    "green": (30, 130, 80),
    "red": (190, 30, 45),
    "black": (45, 42, 48),
}
STAINS = {
    "haematoxylin": (110, 90, 165),
    "dense haematoxylin": (60, 45, 115),
    "counterstain of IHC": (135, 145, 185),
    "eosin": (215, 120, 175),
    "strong eosin": (200, 60, 110),
    "red cells": (190, 80, 100),
    "DAB": (120, 70, 35),
    "grey tissue": (130, 125, 130),
}
MPP = (8.0, 8.0)


def picture(colour: tuple[int, int, int], noise: float = 4.0) -> NDArray[np.uint8]:
    values = np.random.default_rng(7).normal(GLASS, noise, (120, 160, 3))
    stroke = np.random.default_rng(8).normal(colour, noise, (120, 160, 3))
    values[30:70, 20:140] = stroke[30:70, 20:140]
    return np.clip(values.round(), 0, 255).astype(np.uint8)


def iou(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return float((found & truth).sum() / (found | truth).sum())


@pytest.mark.parametrize("ink", INKS.values(), ids=INKS.keys())
def test_a_stroke_of_a_marker_is_found_whole(ink: tuple[int, int, int]) -> None:
    truth = np.zeros((120, 160), np.bool_)
    truth[30:70, 20:140] = True
    assert iou(pen(picture(ink), MPP), truth) > 0.9


@pytest.mark.parametrize("stain", STAINS.values(), ids=STAINS.keys())
def test_a_stain_is_no_pen(stain: tuple[int, int, int]) -> None:
    assert not pen(picture(stain), MPP).any()


def test_a_speck_of_ink_and_black_padding_are_no_pen() -> None:
    rgb = picture(GLASS)
    rgb[10:20, 10:20] = INKS["green"]  # 6,400 um2
    rgb[:, 100:] = 0
    rgb[:, 100] = (40, 38, 42)  # what JPEG leaves between the two
    assert not pen(rgb, MPP).any()


def texture(sigma_um: float) -> NDArray[np.uint8]:
    return _texture(sigma_um).copy()


@cache
def _texture(sigma_um: float) -> NDArray[np.uint8]:
    """Give 1024 x 1024 um of nuclei at `BLUR_MPP`, blurred, as ``(4, y, x)``."""
    side = int(1024 / BLUR_MPP)
    rng = np.random.default_rng(5)
    fine = np.zeros((2 * side, 2 * side))
    fine[tuple(rng.integers(0, 2 * side, (2, 12_000)))] = 1
    # Disks of about 8 um, at 1 um per pixel, in a stroma that varies slowly.
    nuclei = gaussian_filter(fine, 2.5) * 2 * np.pi * 2.5**2 > 0.45
    stroma = gaussian_filter(rng.normal(0, 1, fine.shape), 12) * 300
    grey = gaussian_filter(200 - 90 * nuclei + stroma, sigma_um) if sigma_um else None
    seen = 200 - 90 * nuclei + stroma if grey is None else grey
    coarse = seen.reshape(side, 2, side, 2).mean(axis=(1, 3))
    pixels = np.full((4, side, side), 255, np.uint8)
    pixels[:3] = np.clip(coarse, 0, 255).round()
    return pixels


def cells_of(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return focus_moments(pixels, (0, 0), None, cell=BLUR_CELL)


CELL_UM = (BLUR_MPP * BLUR_CELL, BLUR_MPP * BLUR_CELL)


@pytest.mark.parametrize(("sigma_um", "share"), [(0.0, 0.0), (0.5, 0.0), (3.0, 1.0), (6.0, 1.0)])
def test_tissue_out_of_focus_is_told_from_tissue_in_focus(sigma_um: float, share: float) -> None:
    moments = cells_of(texture(sigma_um))
    found = blur(moments, np.ones(moments.shape[1:], np.bool_), CELL_UM)
    assert found.mean() == pytest.approx(share, abs=0.01)


def test_a_blurred_region_is_found_where_it_is() -> None:
    pixels = texture(0.0)
    pixels[:, 128:384, 200:456] = texture(4.0)[:, 128:384, 200:456]
    moments = cells_of(pixels)
    truth = np.zeros(moments.shape[1:], np.bool_)
    truth[16:48, 25:57] = True
    assert iou(blur(moments, np.ones_like(truth), CELL_UM), truth) > 0.85


def test_pale_tissue_in_focus_is_not_blurred_and_an_empty_field_neither() -> None:
    pixels = texture(0.0)
    pixels[:3] = 200 + (pixels[:3].astype(float) - 200) / 8
    pixels[:3, :, 256:] = 240
    moments = cells_of(pixels)
    assert not blur(moments, np.ones(moments.shape[1:], np.bool_), CELL_UM).any()


def test_glass_and_what_was_not_read_have_no_say() -> None:
    pixels = texture(0.0)
    pixels[:3, :, 256:] = 250
    smooth = gaussian_filter(pixels[:3].astype(float), (0, 0, 8))
    pixels[:3, :, 240:272] = smooth[..., 240:272]  # the tissue's border is contrast, no detail
    tissue = np.ones((64, 64), np.bool_)
    tissue[:, 30:] = False
    assert not blur(cells_of(pixels), tissue, CELL_UM).any()
    unread = texture(4.0)
    unread[:] = 0
    assert not blur(cells_of(unread), np.ones((64, 64), np.bool_), CELL_UM).any()


def test_the_moments_of_a_cell_are_its_sums_and_a_border_has_no_laplacian() -> None:
    rng = np.random.default_rng(1)
    block = np.concatenate(
        [rng.integers(0, 256, (3, 20, 12), np.uint8), np.full((1, 20, 12), 255, np.uint8)]
    )
    moments = focus_moments(block, (0, 0), None, cell=8)
    assert moments.shape == (3, 3, 2)
    assert moments[0].tolist() == [[49, 21], [56, 24], [21, 9]]
    grey = block[:3].astype(float).mean(axis=0)
    cell = grey[8:16, 1:8]
    around = grey[7:15, 1:8] + grey[9:17, 1:8] + grey[8:16, 0:7] + grey[8:16, 2:9]
    down, right = grey[9:17, 1:8] - cell, grey[8:16, 2:9] - cell
    expected = [(down**2 + right**2).sum(), ((around - 4 * cell) ** 2).sum()]
    np.testing.assert_allclose(moments[1:, 1, 0], expected, rtol=1e-5)
    block[3, 8:16] = 0  # not read
    assert not focus_moments(block, (0, 0), None, cell=8)[:, 1].any()
