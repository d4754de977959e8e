"""What the stains of a picture are: fitted on a sample of its pixels, by one of two methods.

- Macenko et al., "A method for normalizing histology slides for quantitative analysis", ISBI 2009:
  the directions of haematoxylin and eosin in optical density, and how much there is of each. The
  numbers (`BETA`, `_ALPHA`, 99 per cent, the light of 240, the reference) are those of
  M. Veta's MATLAB code (github.com/mitkovetta/staining-normalization), which torchstain and
  others follow.
- Reinhard et al., "Color transfer between images", IEEE CG&A 21(5), 2001: mean and deviation in
  Ruderman's l-alpha-beta, its logarithms natural and of 0 to 255, as HistomicsTK has it, whose
  reference is the published one.

Other than there, optical density is counted from the slide's own glass, which is no constant of
scanners, so that glass is without stain. `pipeline.colour.restain` changes pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SlideError

__all__ = ["BETA", "LIGHT", "PUBLISHED", "TO_LAB", "TO_LMS", "Colours", "Stains", "fit", "light_of"]

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]
Triple = tuple[float, float, float]

LIGHT: Triple = (240.0, 240.0, 240.0)
"""Light that nothing absorbs, where no glass is seen: one more than the value it has in a pixel."""

BETA = 0.15
"""Optical density (natural logarithm) below which a pixel is taken for glass."""

_ALPHA = 1.0
"""Per cent of pixels whose direction lies outside of the two stains', at either end."""

_BLACK = 24
"""Brightest channel up to which a pixel is padding, as `pipeline.tissue` has it."""

_LEAST = 1000
"""Fewest pixels that a fit is made of."""

_LEAST_ANGLE = np.radians(5.0)
"""Least angle between two stains: the published are 22 degrees apart, real ones 13 to 45."""

_LEAST_STD = (0.02, 0.004, 0.004)
"""Least deviation of l, alpha and beta: a grey picture has none of the last two."""

_GLASS = (220, 16)
"""What glass is: its darkest channel at least the first, the brightest at most the second more.

Glass of real slides has 230 to 255; pale stroma begins at 215.
"""

_LEAST_ABSORBED = -0.05
"""Least component of a stain's direction: what absorbs light has none below 0, but for noise."""

_DIGITS = 4
"""Digits that fits have, as the published: other machines' libraries differ in the last bits."""

_REMEDY = "set colour.normalise: none, or leave the slide out"


@dataclass(frozen=True, slots=True)
class Stains:
    """A picture's stains, after Macenko.

    ``haematoxylin`` and ``eosin`` are directions in the optical density (natural logarithm) of
    red, green and blue, of length 1; ``most`` how much there is of each, its 99th percentile;
    ``light`` one more than the RGB of glass.
    """

    haematoxylin: Triple
    eosin: Triple
    most: tuple[float, float]
    light: Triple = LIGHT

    method = "macenko"


@dataclass(frozen=True, slots=True)
class Colours:
    """A picture's colours, after Reinhard.

    ``mean`` and ``std`` are of Ruderman's l, alpha and beta; ``light`` one more than the RGB of
    glass.
    """

    mean: Triple
    std: Triple
    light: Triple = LIGHT

    method = "reinhard"


PUBLISHED: dict[str, Stains | Colours] = {
    # HERef and maxCRef of Veta's code.
    "macenko": Stains((0.5626, 0.7201, 0.4062), (0.2159, 0.8012, 0.5581), (1.9705, 1.0308)),
    # Breast, TCGA-A2-A3XS-DX1, the standard of Amgad et al., "Structured crowdsourcing enables
    # convolutional segmentation of histology images", Bioinformatics 35(18), 2019, which
    # HistomicsTK's examples and tests carry.
    "reinhard": Colours((8.74108109, -0.12440419, 0.0444982), (0.6135447, 0.10989545, 0.0286032)),
}
"""What is normalised to where no reference is given: method -> its published reference."""

TO_LMS = np.array(
    [[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]], np.float64
)
TO_LAB = np.diag(np.array([3.0, 6.0, 2.0]) ** -0.5) @ [[1, 1, 1], [1, 1, -2], [1, -1, 0]]
"""RGB to cones' responses, and the logarithms of those to l, alpha and beta."""


def light_of(pixels: Pixels) -> Triple | None:
    """Give the light of ``(n, 3)`` pixels, by the median of what is bright and grey.

    None where there is too little of it.
    """
    low, high = pixels.min(1), pixels.max(1)
    glass = pixels[(low >= _GLASS[0]) & (high - low <= _GLASS[1])]
    if len(glass) < _LEAST:
        return None
    red, green, blue = (float(value) for value in np.median(glass, axis=0) + 1)
    return red, green, blue


def fit(method: str, pixels: Pixels, light: Triple = LIGHT) -> Stains | Colours:
    """Fit ``macenko`` or ``reinhard`` to ``(n, 3)`` pixels of tissue; glass among them is left out.

    Raises `SlideError` where there is too little that is stained, or where it has only one colour.
    """
    lit = pixels.max(1) > _BLACK
    black = len(pixels) - np.count_nonzero(lit)
    if black > len(pixels) / 2:
        raise SlideError(
            f"{black / len(pixels):.0%} of it is black, as in fluorescence: there is no stain "
            f"to normalise; {_REMEDY}"
        )
    pixels = pixels[lit]
    fitted = _fit_macenko if method == "macenko" else _fit_reinhard
    return fitted(pixels, light)


def _densities(light: Triple) -> Floats:
    """Give the optical density of every value in every channel: ``(3, 256)``."""
    densities: Floats = np.log(np.array(light))[:, None] - np.log(np.arange(256) + 1.0)
    return densities


def _density(pixels: Pixels, light: Triple) -> Floats:
    table = _densities(light)
    return np.stack([table[channel][pixels[:, channel]] for channel in range(3)], axis=1)


def _enough(pixels: NDArray[Any], among: int) -> None:
    if len(pixels) < _LEAST:
        raise SlideError(
            f"too little stained tissue to fit its stain on: {len(pixels)} of {among} pixels that "
            f"were looked at, and {_LEAST} are needed; {_REMEDY}"
        )


def _fit_macenko(pixels: Pixels, light: Triple) -> Stains:
    density = _density(pixels, light)
    stained = density[(density >= BETA).all(axis=1)]
    _enough(stained, len(pixels))
    plane = np.linalg.eigh(np.cov(stained.T))[1][:, :0:-1]  # the two largest, the largest first
    # Whichever sign the eigenvectors have: the angles must not lie on both sides of 180 degrees.
    plane = plane * np.where((stained @ plane).mean(0) < 0, -1.0, 1.0)
    inside = stained @ plane
    low, high = np.percentile(np.arctan2(inside[:, 1], inside[:, 0]), [_ALPHA, 100 - _ALPHA])
    if not high - low >= _LEAST_ANGLE:
        raise SlideError(
            f"its pixels have one colour only, two stains {np.degrees(high - low):.1f} degrees "
            f"apart, where {np.degrees(_LEAST_ANGLE):g} are needed; {_REMEDY}"
        )
    ends = [plane @ [np.cos(angle), np.sin(angle)] for angle in (low, high)]
    # Haematoxylin is the one that absorbs more red.
    haematoxylin, eosin = sorted(ends, key=lambda vector: -float(vector[0]))
    amounts = stained @ np.linalg.pinv(np.stack([haematoxylin, eosin], axis=1)).T
    most = np.percentile(amounts, 99, axis=0)
    if not ((most > BETA).all() and min(np.min(end) for end in ends) > _LEAST_ABSORBED):
        said = ", ".join(str(_triple(end)) for end in (haematoxylin, eosin))
        raise SlideError(
            f"its colours are not those of two stains: directions {said} in optical density, "
            f"{most[0]:.2f} and {most[1]:.2f} of them; {_REMEDY}"
        )
    return Stains(
        _triple(haematoxylin), _triple(eosin), (_rounded(most[0]), _rounded(most[1])), light
    )


def _fit_reinhard(pixels: Pixels, light: Triple) -> Colours:
    stained = pixels[(_density(pixels, light) >= BETA).any(axis=1)]
    _enough(stained, len(pixels))
    lab = np.log(np.maximum(stained @ TO_LMS.T, 1.0)) @ TO_LAB.T
    mean, std = lab.mean(0), lab.std(0)
    if not (std >= _LEAST_STD).all():
        spread = ", ".join(f"{value:.4f}" for value in std)
        raise SlideError(
            f"its pixels have one colour only: l, alpha and beta deviate by {spread}; {_REMEDY}"
        )
    return Colours(_triple(mean), _triple(std), light)


def _rounded(value: float) -> float:
    return round(float(value), _DIGITS)


def _triple(values: Floats) -> Triple:
    one, two, three = (_rounded(value) for value in values)
    return one, two, three
