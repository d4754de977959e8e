"""Premultiplied pixels over a background."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.readers.argb import _STRIP, lay_over

COLOURS = [(255, 255, 255), (0, 0, 0), (12, 200, 127)]


def laid_over(argb: NDArray[np.uint32], background: tuple[int, int, int]) -> NDArray[np.uint8]:
    out = np.full((*argb.shape, 3), 77, np.uint8)
    lay_over(argb, background, out)
    return out


def packed(
    alpha: NDArray[np.int64], red: NDArray[np.int64], green: NDArray[np.int64], blue: int
) -> NDArray[np.uint32]:
    return (alpha << 24 | red << 16 | green << 8 | blue).astype(np.uint32)


@pytest.mark.parametrize("background", COLOURS)
def test_every_colour_of_every_alpha_is_exact_to_the_nearest(
    background: tuple[int, int, int],
) -> None:
    alpha, red = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    red = np.minimum(red, alpha)  # premultiplied: no more than its alpha
    green = alpha - red
    expected = np.stack([red, green, np.zeros_like(red)], axis=-1) + np.rint(
        np.array(background) * (255 - alpha[..., None]) / 255
    )
    np.testing.assert_array_equal(laid_over(packed(alpha, red, green, 0), background), expected)


@pytest.mark.parametrize("background", COLOURS)
def test_straight_colours_come_out_as_near_as_eight_bits_hold_them(
    background: tuple[int, int, int],
) -> None:
    """Premultiplying rounds once, to nearest: what is laid over is within half of it and half."""
    alpha, straight = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    stored = np.rint(straight * alpha / 255).astype(np.int64)
    exact = (straight * alpha + background[0] * (255 - alpha)) / 255
    given = laid_over(packed(alpha, stored, stored, 0), background)[..., 0]
    assert np.abs(given - exact).max() <= 1


def test_opaque_and_empty_pixels_are_themselves_and_the_background() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (50, 70, 3))
    opaque = packed(np.full((50, 70), 255), rgb[..., 0], rgb[..., 1], 0) | rgb[..., 2].astype(
        np.uint32
    )
    np.testing.assert_array_equal(laid_over(opaque, (1, 2, 3)), rgb)
    assert (laid_over(np.zeros((50, 70), np.uint32), (1, 2, 3)) == (1, 2, 3)).all()


def test_strips_of_all_kinds_stand_beside_each_other_and_in_cuts() -> None:
    """More than one strip; the array is a cut of a larger one, as it is when a level is uneven."""
    width = 1000
    rows = 3 * (_STRIP // width)
    argb = np.zeros((rows, width + 9), np.uint32)[:, 4:-5]
    argb[: rows // 3] = 0xFF010203
    argb[-5:, 5] = 0x80402010
    given = laid_over(argb, (255, 255, 255))
    assert (given[: rows // 3] == (1, 2, 3)).all()
    assert (given[-5:, 5] == (0x40 + 127, 0x20 + 127, 0x10 + 127)).all()
    assert (given[rows // 3 : -5] == 255).all()
    assert (given[:, 6:][rows // 3 :] == 255).all()


def test_a_colour_beyond_its_alpha_does_not_wrap() -> None:
    assert (laid_over(np.full((1, 1), 0x80FFFFFF, np.uint32), (255, 255, 255)) == 255).all()


def test_nothing_is_laid_over_nothing() -> None:
    assert laid_over(np.zeros((0, 5), np.uint32), (0, 0, 0)).shape == (0, 5, 3)
    assert laid_over(np.zeros((5, 0), np.uint32), (0, 0, 0)).shape == (5, 0, 3)
