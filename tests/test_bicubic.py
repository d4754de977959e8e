"""The cubic filter: exact sums, no seam, nothing aliased, and close to what others compute."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from pipeline.slide import bicubic
from pipeline.slide.bicubic import Axis, resample
from tests.toys import Pixels, noise

ratios = st.floats(0.2, 9.0)


def made(rgb: Pixels, down: Axis, across: Axis) -> Pixels:
    left, right = across.source
    return resample(lambda first, last: rgb[first:last, left:right], down, across)


def whole(rgb: Pixels, ratio: tuple[float, float], start: tuple[float, float] = (0, 0)) -> Pixels:
    """Give all of an image at another resolution."""
    rows, columns = (int(np.ceil(n / r)) for n, r in zip(rgb.shape[:2], ratio, strict=True))
    return made(
        rgb,
        Axis.down((0, rows), ratio[0], start[0], rgb.shape[0]),
        Axis.across((0, columns), ratio[1], start[1], rgb.shape[1]),
    )


def cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic, a = -0.5, as the paper has it."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0))


def matrix(size: int, ratio: float, start: float = 0) -> NDArray[np.float64]:
    """Give the filter in full: (output, source) weights, the border's pixels repeated."""
    output = np.arange(int(np.ceil(size / ratio)))
    margin = int(np.ceil(2 * max(ratio, 1))) + 2
    pixels = np.arange(-margin, size + margin + int(ratio) + 1)
    centres = (output + 0.5) * ratio + start
    weights = cubic((pixels + 0.5 - centres[:, None]) / max(ratio, 1))
    weights /= weights.sum(axis=1, keepdims=True)
    folded = np.zeros((len(output), size))
    for pixel, column in zip(pixels.clip(0, size - 1), weights.T, strict=True):
        folded[:, pixel] += column
    return folded


def reference(rgb: Pixels, ratio: tuple[float, float]) -> NDArray[np.float64]:
    down, across = (matrix(n, r) for n, r in zip(rgb.shape[:2], ratio, strict=True))
    sums: NDArray[np.float64] = np.einsum("iy,yxs,jx->ijs", down, rgb, across, optimize=True)
    return sums.clip(0, 255)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_pixel_has_one_value_in_whatever_block_it_is_made(data: st.DataObject) -> None:
    rgb = noise(data.draw(st.integers(1, 90)), data.draw(st.integers(1, 700)), 1)
    ratio, spans = [], []
    start = data.draw(st.floats(0, 9))
    for n in rgb.shape[:2]:
        ratio.append(data.draw(ratios))
        pixels = int(np.ceil(n / ratio[-1]))
        first = data.draw(st.integers(0, pixels - 1))
        spans.append((first, data.draw(st.integers(first + 1, pixels))))
    everything = whole(rgb, (ratio[0], ratio[1]), (start, start))
    part = made(
        rgb,
        Axis.down(spans[0], ratio[0], start, rgb.shape[0]),
        Axis.across(spans[1], ratio[1], start, rgb.shape[1]),
    )
    (top, bottom), (left, right) = spans
    np.testing.assert_array_equal(part, everything[top:bottom, left:right])


@pytest.mark.parametrize("ratio", [0.4, 1.0, 1.02, 1.9779, 2.0, 3.2, 7.9])
def test_the_values_are_the_filters_to_less_than_a_grey_level(ratio: float) -> None:
    rgb = noise(300, 500)
    given_ = whole(rgb, (ratio, 1.5 * ratio))
    expected = reference(rgb, (ratio, 1.5 * ratio))
    assert given_.shape == expected.shape
    assert np.abs(given_ - expected).max() < 0.75  # half a level is rounding to whole ones


@pytest.mark.parametrize("ratio", [1.02, 1.9779, 2.0, 3.2])
def test_the_values_are_pillows_to_a_grey_level(ratio: float) -> None:
    """Away from the border, which Pillow leaves out of its sums; it rounds between its passes."""
    rgb = noise(400, 600) // 2 + 64  # where nothing overshoots: Pillow cuts that in between
    rows, columns = (int(n // ratio) for n in rgb.shape[:2])
    given_ = whole(rgb, (ratio, ratio))[:rows, :columns]
    box = (0, 0, columns * ratio, rows * ratio)
    expected = np.asarray(
        Image.fromarray(rgb).resize((columns, rows), Image.Resampling.BICUBIC, box=box)
    )
    inner = np.s_[3:-3, 3:-3]
    assert np.abs(given_[inner].astype(int) - expected[inner]).max() <= 1
    # One pixel aside is another picture.
    assert np.abs(given_[inner].astype(int) - expected[3:-3, 4:-2]).mean() > 5


def in_integers(rgb: Pixels, down: Axis, across: Axis) -> NDArray[np.int64]:
    """Give the same by 64-bit integers, which cannot round."""
    rows, columns = (
        np.zeros((len(axis.taps), n), np.int64)
        for axis, n in zip((down, across), rgb.shape[:2], strict=True)
    )
    for weights, axis in ((rows, down), (columns, across)):
        places = np.arange(len(axis.taps))[:, None]
        np.add.at(weights, (places, axis.taps), axis.weights.astype(np.int64))
    sums = np.einsum("iy,yxs->ixs", rows, rgb.astype(np.int64))
    quarters = np.rint(sums / 2 ** (down.bits - 2)).astype(np.int64)
    sums = np.einsum("jx,ixs->ijs", columns, quarters)
    grey: NDArray[np.int64] = np.rint(sums / 2 ** (across.bits + 2)).astype(np.int64)
    return grey.clip(0, 255)


@pytest.mark.parametrize("ratio", [0.3, 1.37, 2.0, 6.1])
def test_sums_are_exact_so_that_no_order_of_them_can_matter(ratio: float) -> None:
    rgb = noise(200, 300)
    rows, columns = (int(np.ceil(n / ratio)) for n in rgb.shape[:2])
    down = Axis.down((0, rows), ratio, 0, 200)
    across = Axis.across((0, columns), ratio, 0, 300)
    np.testing.assert_array_equal(made(rgb, down, across), in_integers(rgb, down, across))


@settings(max_examples=200, deadline=None)
@given(st.floats(0.05, 500), st.floats(-3, 3), st.integers(1, 5000))
def test_no_sum_exceeds_what_float32_holds_exactly(ratio: float, start: float, size: int) -> None:
    span = (0, min(int(np.ceil(size / ratio)), 200))
    down, across = Axis.down(span, ratio, start, size), Axis.across(span, ratio, start, size)
    most = 255.0
    for axis, grey in ((down, 4), (across, 1)):
        np.testing.assert_array_equal(axis.weights.sum(axis=1, dtype=np.float64), 2**axis.bits)
        most *= np.abs(axis.weights).sum(axis=1, dtype=np.float64).max()
        assert most < 2**24
        most = np.ceil(most / 2**axis.bits * grey)


@pytest.mark.parametrize("ratio", [0.3, 1.01, 1.9779, 2.0, 17.3])
def test_what_is_flat_stays_flat_up_to_and_over_the_border(ratio: float) -> None:
    for grey in (0, 1, 127, 254, 255):
        flat = np.full((40, 50, 3), grey, np.uint8)
        assert (whole(flat, (ratio, ratio), (0.4, 0.9)) == grey).all()


def test_what_is_too_fine_for_the_result_is_averaged_out() -> None:
    """Stripes of 1.25 px become grey at half the resolution; picking pixels shows others."""
    wave = 127.5 + 120 * np.sin(2 * np.pi * 0.8 * np.arange(600) / 2)
    stripes = np.repeat(wave.round().astype(np.uint8)[None, :, None], 64, axis=0).repeat(3, axis=2)
    assert np.ptp(stripes[:, ::2]) > 200
    assert np.ptp(whole(stripes, (2.0, 2.0))[4:-4, 4:-4].astype(int)) < 12
    assert whole(noise(600, 600), (3.0, 3.0)).std() < 0.45 * noise(600, 600).std()


def test_a_ramp_keeps_its_place_whatever_the_ratio() -> None:
    """A pixel's value is that of its centre: no ratio or start shifts the image."""
    ramp = np.repeat(np.arange(20, 220, dtype=np.uint8)[None, :, None], 30, axis=0).repeat(3, 2)
    for ratio in (0.5, 1.0, 1.3, 1.9779, 2.0, 4.7):
        for start in (0.0, 0.37):
            row = whole(ramp, (1.0, ratio), (0.0, start))[15, :, 0]
            place = (np.arange(len(row)) + 0.5) * ratio + start - 0.5
            inner = (place > 3 * ratio + 3) & (place < 196 - 3 * ratio)
            assert np.abs(row - (20 + place))[inner].max() < 0.6


def test_an_image_at_its_own_resolution_is_itself() -> None:
    np.testing.assert_array_equal(whole(noise(70, 90), (1.0, 1.0)), noise(70, 90))


def test_wide_images_are_cut_into_groups_and_chunks_without_a_seam(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = whole(noise(50, 3000), (2.1, 2.1))
    monkeypatch.setattr(bicubic, "_GROUP_PIXELS", 10**6)
    monkeypatch.setattr(bicubic, "_ONE_THREAD", 10**9)
    monkeypatch.setattr(bicubic, "CELL_ROWS", 7)
    np.testing.assert_array_equal(whole(noise(50, 3000), (2.1, 2.1)), expected)
