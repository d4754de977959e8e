"""Pixels of one stain as those of another."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pipeline.colour.restain import _STRIP, normaliser
from pipeline.colour.stain import PUBLISHED, Colours, Stains, fit, light_of
from tests.test_stain import KNOWN, METHODS, amounts, develop, lab, tissue
from tests.toys import noise


def test_a_mixture_becomes_what_it_is_with_the_other_stains() -> None:
    target = PUBLISHED["macenko"]
    assert isinstance(target, Stains)
    # Hardly a stain's direction can be told from its rounded pixels, so where it is known.
    made = normaliser(KNOWN, target)(tissue()[None])[0]
    truth = develop(target, np.array(target.most) * amounts(40_000))
    off = np.abs(made.astype(int) - truth)
    assert off.max() <= 4  # black's digits are few: 1 of 20 is a density of 0.05
    assert off.mean() < 0.5
    fitted = normaliser(fit("macenko", tissue(), KNOWN.light), target)(tissue()[None])[0]
    assert np.abs(fitted.astype(int) - truth).mean() < 2


def test_colours_get_the_mean_and_deviation_of_the_target() -> None:
    source, target = fit("reinhard", tissue(), KNOWN.light), PUBLISHED["reinhard"]
    assert isinstance(source, Colours)
    assert isinstance(target, Colours)
    before = lab(tissue())
    np.testing.assert_allclose(source.mean, before.mean(0), atol=1e-4)
    np.testing.assert_allclose(source.std, before.std(0), atol=1e-4)
    # A target near enough for nothing to be clipped.
    near = Colours((source.mean[0] + 0.1, -0.12, 0.04), (source.std[0] * 0.8, 0.1, 0.03))
    after = lab(normaliser(source, near)(tissue()[None])[0])
    np.testing.assert_allclose(after.mean(0), near.mean, atol=0.01)
    np.testing.assert_allclose(after.std(0), near.std, rtol=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_stained_as_the_target_stays_as_it_is(method: str) -> None:
    own = fit(method, tissue(), KNOWN.light)
    made = normaliser(own, own)(tissue()[None])[0]
    assert np.abs(made.astype(int) - tissue()).max() <= 2
    assert np.abs(made.astype(int) - tissue()).mean() < 0.5


@pytest.mark.parametrize("light", [(244, 244, 244), (230, 236, 225), (255, 255, 250)])
def test_glass_stays_glass(light: tuple[int, int, int]) -> None:
    random = np.random.default_rng(0)
    glass = np.array(light) - random.integers(0, 5, (50, 50, 3))
    pixels = glass.astype(np.uint8)
    seen = light_of(pixels.reshape(-1, 3))
    assert seen is not None
    np.testing.assert_array_equal(seen, np.array(light) - 1)  # less 2, and the one that is added
    stained = tissue(Stains(KNOWN.haematoxylin, KNOWN.eosin, (0.6, 0.3), seen))  # pale
    made = normaliser(fit("macenko", stained, seen), PUBLISHED["macenko"])(pixels)
    # Three times as dark a stain is three times the noise, and still no colour.
    assert np.abs(made.astype(int).mean((0, 1)) - 239).max() < 1
    np.testing.assert_array_equal(
        normaliser(fit("reinhard", stained, seen), PUBLISHED["reinhard"])(pixels), pixels
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_pixel_has_one_colour_wherever_it_stands(method: str) -> None:
    """In strips or cuts, beside whatever other pixel: blocks have no seams."""
    convert = normaliser(fit(method, tissue(), KNOWN.light), PUBLISHED[method])
    pixels = noise(5, _STRIP // 2 + 3)
    together = convert(pixels)
    np.testing.assert_array_equal(convert(pixels[3:, 101:202]), together[3:, 101:202])
    np.testing.assert_array_equal(convert(pixels[:, ::-1])[:, ::-1], together)
    np.testing.assert_array_equal(convert(pixels.swapaxes(0, 1)), together.swapaxes(0, 1))
    singly = [convert(pixels[0:1, x : x + 1])[0, 0] for x in range(50)]
    np.testing.assert_array_equal(singly, together[0, :50])


@pytest.mark.parametrize("method", METHODS)
def test_what_is_converted_is_left_as_it_was(method: str) -> None:
    pixels = noise(20, 20)
    pixels.flags.writeable = False
    convert = normaliser(fit(method, tissue()), PUBLISHED[method])
    assert convert(pixels).flags.writeable
    np.testing.assert_array_equal(pixels, noise(20, 20))
    for shape in ((0, 0), (0, 5), (5, 0)):
        assert convert(np.empty((*shape, 3), np.uint8)).shape == (*shape, 3)


@pytest.mark.parametrize("method", METHODS)
def test_threads_share_one_table(method: str) -> None:
    convert = normaliser(fit(method, tissue()), PUBLISHED[method])
    images = [noise(200, 200, seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as threads:
        for one, image in zip(threads.map(convert, images), images, strict=True):
            np.testing.assert_array_equal(one, convert(image))


def test_one_method_is_not_normalised_to_the_other() -> None:
    with pytest.raises(TypeError, match="macenko cannot be normalised to reinhard"):
        normaliser(KNOWN, PUBLISHED["reinhard"])
