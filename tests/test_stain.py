"""Stains: found in pixels, and changed into another's."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from torchstain.numpy.normalizers import NumpyMacenkoNormalizer

from pipeline.colour.restain import normaliser
from pipeline.colour.stain import (
    LIGHT,
    PUBLISHED,
    Stains,
    fit,
    light_of,
)
from pipeline.errors import SlideError
from tests.toys import noise

METHODS = ["macenko", "reinhard"]

# Ruifrok and Johnston's haematoxylin, and an eosin as scanners see it.
KNOWN = Stains((0.651, 0.701, 0.29), (0.17, 0.907, 0.385), (1.6, 0.9), (244.0, 243.0, 245.0))


def tissue(stains: Stains = KNOWN, n: int = 40_000, seed: int = 0) -> NDArray[np.uint8]:
    """Give ``(n, 3)`` pixels of two stains, some of either alone, up to ``stains.most`` of it."""
    return develop(stains, np.array(stains.most) * amounts(n, seed))


def amounts(n: int, seed: int = 0) -> NDArray[np.float64]:
    """Give how much there is of each stain: none to 1, and 1 the 99th percentile."""
    random = np.random.default_rng(seed)
    part = random.uniform(0.2, 1 / 0.99, (n, 2))
    part[: n // 4, 0] = 0
    part[n // 4 : n // 2, 1] = 0
    return part


def develop(stains: Stains, amount: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Give the light that passes through ``(n, 2)`` amounts of stain."""
    density = amount @ np.array([stains.haematoxylin, stains.eosin])
    light = np.array(stains.light) * np.exp(-density) - 1
    return rounded(light)


def rounded(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return pixels


def angle(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Give the angle between two directions in degrees."""
    cosine = np.dot(one, other) / np.linalg.norm(one) / np.linalg.norm(other)
    return float(np.degrees(np.arccos(min(cosine, 1.0))))


def dense() -> NDArray[np.uint8]:
    """Give pixels that absorb in every channel what makes them tissue to Macenko, and more."""
    pixels = tissue(n=100_000)
    stained: NDArray[np.uint8] = pixels[(pixels < LIGHT[0] * np.exp(-0.16)).all(axis=1)]
    return stained


def lab(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Give Ruderman's l, alpha and beta, written out as in Reinhard's paper."""
    r, g, b = np.moveaxis(pixels.astype(np.float64), -1, 0)
    long = np.log(0.3811 * r + 0.5783 * g + 0.0402 * b)
    medium = np.log(0.1967 * r + 0.7244 * g + 0.0782 * b)
    short = np.log(0.0241 * r + 0.1288 * g + 0.8444 * b)
    return np.stack(
        [
            (long + medium + short) / 3**0.5,
            (long + medium - 2 * short) / 6**0.5,
            (long - medium) / 2**0.5,
        ],
        axis=-1,
    )


def test_the_stains_of_a_mixture_are_found() -> None:
    found = fit("macenko", tissue(), KNOWN.light)
    assert isinstance(found, Stains)
    assert angle(found.haematoxylin, KNOWN.haematoxylin) < 1
    assert angle(found.eosin, KNOWN.eosin) < 1
    np.testing.assert_allclose(found.most, KNOWN.most, rtol=0.03)
    assert found.light == KNOWN.light


def test_vectors_and_pixels_are_those_of_torchstain() -> None:
    """It has one light, of 240, rounds down, and fits to what it normalises."""
    image = dense()[: 150 * 150].reshape(150, 150, 3)
    theirs = NumpyMacenkoNormalizer()
    expected, _, _ = theirs.normalize(image, stains=False)
    theirs.fit(image)
    ours = fit("macenko", image.reshape(-1, 3))
    assert isinstance(ours, Stains)
    np.testing.assert_allclose(ours.haematoxylin, theirs.HERef[:, 0], atol=2e-4)
    np.testing.assert_allclose(ours.eosin, theirs.HERef[:, 1], atol=2e-4)
    np.testing.assert_allclose(ours.most, theirs.maxCRef, atol=2e-4)
    made = normaliser(ours, PUBLISHED["macenko"])(image)
    # Its result lacks the one that it has added to the pixels before.
    assert np.abs(made.astype(int) - (expected.astype(int) - 0.5)).max() <= 2


def test_the_published_stains_are_those_of_torchstain() -> None:
    theirs, ours = NumpyMacenkoNormalizer(), PUBLISHED["macenko"]
    assert isinstance(ours, Stains)
    np.testing.assert_array_equal(np.stack([ours.haematoxylin, ours.eosin], 1), theirs.HERef)
    np.testing.assert_array_equal(ours.most, theirs.maxCRef)


def test_pale_tissue_is_not_taken_for_glass() -> None:
    for colour in ((213, 210, 224), (245, 224, 236), (120, 120, 120)):
        assert light_of(np.full((5000, 3), colour, np.uint8)) is None
    few = np.full((5000, 3), (236, 215, 228), np.uint8)
    few[:900] = 244
    assert light_of(few) is None


@pytest.mark.parametrize("method", METHODS)
def test_a_fit_depends_on_the_pixels_and_not_on_their_order(method: str) -> None:
    assert fit(method, tissue()) == fit(method, tissue()[::-1])
    glass, padding = (np.full((30_000, 3), value, np.uint8) for value in (239, 3))
    assert fit(method, np.concatenate([tissue(), glass, padding])) == fit(method, tissue())


def single(n: int = 20_000) -> NDArray[np.uint8]:
    """Give pixels of haematoxylin alone, with the noise of a camera."""
    random = np.random.default_rng(0)
    amount = np.stack([random.uniform(0.4, 2, n), np.zeros(n)], axis=1)
    return rounded(develop(KNOWN, amount) + random.normal(0, 1, (n, 3)))


def grey(n: int = 20_000) -> NDArray[np.uint8]:
    return np.repeat(noise(1, n)[0, :, :1] // 2 + 30, 3, axis=1)


@pytest.mark.parametrize(
    ("method", "pixels", "said"),
    [
        ("macenko", grey(), "one colour only, two stains 0.0 degrees apart, where 5 are needed"),
        ("reinhard", grey(), "one colour only: l, alpha and beta deviate by 0.*, 0.0000, 0.0000"),
        ("macenko", single(), "one colour only, two stains .* degrees apart"),
        ("macenko", noise(1, 20_000)[0], "not those of two stains"),
        ("macenko", np.full((20_000, 3), (150, 90, 140), np.uint8), "one colour only"),
        ("reinhard", np.full((20_000, 3), (150, 90, 140), np.uint8), "one colour only"),
    ],
    ids=["grey", "grey", "one-stain", "noise", "plain", "plain"],
)
def test_pixels_that_are_no_two_stains_are_refused(
    method: str, pixels: NDArray[np.uint8], said: str
) -> None:
    with pytest.raises(SlideError, match=f"{said}.*; set colour.normalise: none"):
        fit(method, pixels)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n", [0, 999])
def test_too_little_tissue_is_refused(method: str, n: int) -> None:
    glass = np.full((9_000, 3), 239, np.uint8)
    pixels = np.concatenate([dense()[:n], glass])
    with pytest.raises(SlideError, match=f"too little .*: {n} of {9000 + n} .* 1000 are needed"):
        fit(method, pixels, LIGHT)
    with pytest.raises(SlideError, match="too little"):
        fit(method, np.empty((0, 3), np.uint8))


@pytest.mark.parametrize("method", METHODS)
def test_fluorescence_is_refused(method: str) -> None:
    dark = np.concatenate([np.full((50_000, 3), 9, np.uint8), tissue()])
    with pytest.raises(SlideError, match="56% of it is black, as in fluorescence"):
        fit(method, dark)
