"""ICC profiles: pixels into sRGB."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import ImageCms

from pipeline.colour import _STRIP, described, to_srgb
from pipeline.errors import SlideError
from tests.profiles import expected, profile
from tests.toys import noise


def test_colours_become_what_the_profile_means_by_them() -> None:
    pixels = noise(300, 300)
    converted = to_srgb(profile())(pixels)
    assert converted.dtype == np.uint8
    off = np.abs(converted - expected(pixels))
    assert off.max() <= 2  # LittleCMS counts in 1.14 bits; in the dark sRGB's curve is steep
    assert off.mean() < 0.4  # rounding alone is 0.25
    assert np.abs(converted.astype(int) - pixels).mean() > 10


def test_white_and_black_stay() -> None:
    pixels = np.array([[[255, 255, 255], [0, 0, 0]]], np.uint8)
    np.testing.assert_array_equal(to_srgb(profile())(pixels), pixels)


def test_srgb_stays_as_it_is() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = noise(100, 100)
    np.testing.assert_array_equal(to_srgb(srgb)(pixels), pixels)


def test_a_pixel_has_one_colour_wherever_it_stands() -> None:
    """In strips or cuts, beside whatever other pixel."""
    wide = _STRIP // 2 + 3
    pixels = noise(5, wide)
    convert = to_srgb(profile())
    together = convert(pixels)
    np.testing.assert_array_equal(convert(pixels[3:, 100:200]), together[3:, 100:200])
    np.testing.assert_array_equal(convert(pixels[:, ::-1])[:, ::-1], together)
    singly = [convert(pixels[y : y + 1, y : y + 1])[0, 0] for y in range(5)]
    np.testing.assert_array_equal(singly, together[range(5), range(5)])


def test_what_is_converted_is_left_as_it_was() -> None:
    pixels = noise(20, 20)
    pixels.flags.writeable = False
    converted = to_srgb(profile())(pixels)
    assert converted.flags.writeable
    np.testing.assert_array_equal(pixels, noise(20, 20))


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0)])
def test_nothing_becomes_nothing(shape: tuple[int, int]) -> None:
    assert to_srgb(profile())(np.empty((*shape, 3), np.uint8)).shape == (*shape, 3)


def test_threads_share_one_transform() -> None:
    assert to_srgb(profile()) is to_srgb(profile())
    convert = to_srgb(profile())
    images = [noise(400, 400, seed) for seed in range(8)]
    alone = [convert(image) for image in images]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(3):
            for one, other in zip(threads.map(convert, images), alone, strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("damaged", "said"),
    [
        (b"", "its ICC profile is damaged"),
        (b"no profile", "its ICC profile is damaged"),
        (profile()[:200], "its ICC profile is damaged"),
        (profile(b"CMYK"), "is for CMYK colours, not RGB"),
        (profile(b"GRAY"), "is for GRAY colours, not RGB"),
        (profile().replace(b"rXYZ", b"xXYZ"), "its ICC profile cannot be applied"),
    ],
    ids=["empty", "text", "truncated", "cmyk", "grey", "without-red"],
)
def test_a_profile_that_cannot_be_meant_is_an_error_with_a_remedy(
    damaged: bytes, said: str
) -> None:
    with pytest.raises(SlideError, match=f"{said}.*; set colour.icc: ignore"):
        to_srgb(damaged)


def test_a_profile_is_described_by_its_name_and_size() -> None:
    assert described(profile()) == f"Scanner 7 ({len(profile())} bytes)"
    assert described(b"no profile") == "damaged (10 bytes)"
    assert described(profile(name="")) == f"unnamed ({len(profile(name=''))} bytes)"
