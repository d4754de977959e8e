"""Where the tissue is: a boolean mask of a coarse image.

Arrays in, arrays out. This module knows no slide, level, block or graph; whoever asks reads
the coarse image, and turns the mask into the blocks and patches worth doing.

How pixels are judged, and why:

- The image is smoothed *before* saturation or density is taken: both are biased upwards by
  noise, and averaging colours first removes the noise instead of the bias.
- Near-black pixels (`_BLACK`) are scanner padding or unscanned ground, never tissue, and have
  no say in the threshold: saturation is a ratio of two small numbers there. Pigment that dark
  becomes a hole of the tissue around it and is filled again up to `min_hole_um2`.
- Near-white pixels need no rule: saturation and density are themselves close to zero there.
- Otsu's method always finds two classes, also in an image that has one. Its answer is
  therefore held between what is surely glass and what is surely tissue, and used only when
  the two classes it finds differ by more than noise does: a `_Measure` has the numbers.

All of this is for light shining through stained tissue. Fluorescence is dark where there is
nothing; use ``method="none"``, a mask file (`pipeline.tissue.masks`) or a model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import skimage as ski
from numpy.typing import NDArray

from pipeline.tissue.specks import drop_small_objects, fill_small_holes

__all__ = [
    "TissueSettings",
    "padding",
    "resample_mask",
    "smoothed",
    "tidied",
    "tissue_mask",
    "tissue_pixels",
]

Mask: TypeAlias = NDArray[np.bool_]
Plane: TypeAlias = NDArray[np.floating[Any]]

# Brightest channel, of 255, up to which a pixel is padding. The darkest haematoxylin keeps
# 60 and more in blue; JPEG noise on black padding stays below 15.
_BLACK = 24

_SMOOTHING_SIGMA = 1.0  # pixels of the coarse image
_SMOOTHING_REACH = 4  # as scipy's, which cuts a Gaussian off at four sigma
_MEDIAN_SIDE = 7  # the same, as CLAM's mthresh
_ENTROPY_RADIUS = 4  # 49 pixels: enough to count levels in, and an edge spreads 32 um at 8
_ENTROPY_LEVELS = 64  # grey levels: noise of glass must not look like texture

_ROWS = 128  # of a picture, worked on at once
_BINS, _BINNED = 256, 2**20


@dataclass(frozen=True)
class TissueSettings:
    """How tissue is told from glass, and which pieces and holes of it are too small to count.

    method: ``otsu`` thresholds HSV saturation of the smoothed image, ``hsv`` the median of
    saturation (as CLAM does), ``density`` the mean optical density (for stains without colour:
    black chromogens, grey scans), ``entropy`` the local entropy of grey levels (for what has
    texture and hardly a colour: fat, pale stroma); ``mask`` is a user's, ``model`` a model's
    answer, ``none`` takes everything for tissue.
    min_area_um2: pieces of tissue below this area are dropped.
    min_hole_um2: holes enclosed in tissue below this area are filled.
    threshold: the score above which a model's answer is tissue.
    quality: what is looked for besides, of ``pen`` and ``blur``.
    exclude: which of that is taken out of the tissue.
    """

    method: Literal["otsu", "hsv", "density", "entropy", "mask", "model", "none"] = "otsu"
    min_area_um2: float = 10_000
    min_hole_um2: float = 5_000
    threshold: float = 0.5
    quality: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


def tissue_mask(rgb: NDArray[np.uint8], mpp: tuple[float, float], settings: TissueSettings) -> Mask:
    """Give the tissue of a coarse image as bool (y, x).

    `rgb` is uint8 (y, x, 3); `mpp` is (y, x) in um per pixel of this image, 4-16 being the
    sensible range; ``settings.method`` is one that looks at pixels, or ``none``. The module's
    docstring says how they are judged.
    """
    return tidied(tissue_pixels(rgb, settings), mpp, settings)


def tissue_pixels(rgb: NDArray[np.uint8], settings: TissueSettings) -> Mask:
    """Give `tissue_mask` before anything is too small to count."""
    if settings.method == "none":
        return np.ones(rgb.shape[:2], dtype=np.bool_)
    measure = _MEASURES[settings.method]
    stain, black = _measured(rgb, measure)
    # Nothing is copied where there is no padding: this runs in the client, on a whole slide.
    tissue: Mask = stain > _threshold(stain if black is None else stain[~black], measure)
    if black is not None:
        tissue[black] = False
    return tissue


def _measured(rgb: NDArray[np.uint8], measure: _Measure) -> tuple[Plane, Mask | None]:
    """Give the stain of a picture, and its padding if it has any: in bands, to save memory."""
    shape = rgb.shape[:2]
    stain, black = np.empty(shape, np.float32), None
    halo = measure.reach + 1  # what padding is looks one further
    for y in range(0, shape[0], _ROWS):
        inner = slice(y, min(y + _ROWS, shape[0]))
        top = max(y - halo, 0)
        band, here = rgb[top : inner.stop + halo], slice(y - top, inner.stop - top)
        dark = padding(band)
        if dark.any():
            band = np.where(dark[..., np.newaxis], np.uint8(255), band)
            black = np.zeros(shape, np.bool_) if black is None else black
            black[inner] = dark[here]
        stain[inner] = measure.of(band)[here]
    return stain, black


def tidied(tissue: Mask, mpp: tuple[float, float], settings: TissueSettings) -> Mask:
    """Give a mask with its small holes filled, then without its small pieces."""
    pixel_um2 = mpp[0] * mpp[1]
    tissue = fill_small_holes(tissue, settings.min_hole_um2 / pixel_um2)
    return drop_small_objects(tissue, settings.min_area_um2 / pixel_um2)


def padding(rgb: NDArray[np.uint8]) -> Mask:
    """Give what is no part of the picture: black pixels (y, x), and the rim JPEG gives them."""
    black: Mask = rgb.max(axis=2) <= _BLACK
    # One pixel more on every side: JPEG blurs the padding's edge into dark false colours.
    return ski.morphology.dilation(black, np.ones((3, 3), dtype=np.uint8)) if black.any() else black


def smoothed(plane: NDArray[np.uint8]) -> Plane:
    """Give a plane (y, x) as float32, without its noise."""
    values = plane.astype(np.float32)
    # In place, as scipy's own second axis is: each line is buffered before it is written.
    ski.filters.gaussian(values, _SMOOTHING_SIGMA, mode="nearest", preserve_range=True, out=values)
    return values


def _saturation(rgb: NDArray[np.uint8]) -> Plane:
    """Give HSV saturation, 0-1, of the smoothed image; one plane at a time, to save memory."""
    high = smoothed(rgb[..., 0])
    low = high.copy()
    for channel in (1, 2):
        plane = smoothed(rgb[..., channel])
        np.maximum(high, plane, out=high)
        np.minimum(low, plane, out=low)
    np.subtract(high, low, out=low)
    low /= np.maximum(high, 1, out=high)
    return low


def _density(rgb: NDArray[np.uint8]) -> Plane:
    """Give the optical density (log10, against 255) of the smoothed image, mean of channels."""
    density = np.zeros(rgb.shape[:2], np.float32)
    for channel in range(3):
        density += np.log10(255 / np.maximum(smoothed(rgb[..., channel]), 1))
    return density / 3


def _median_saturation(rgb: NDArray[np.uint8]) -> Plane:
    """Give the median, in a square, of HSV saturation, 0-1 in 255 steps."""
    high, low = rgb.max(axis=2), rgb.min(axis=2)
    saturation = ((high - low) / np.maximum(high, np.uint8(1)).astype(np.float32) * 255).round()
    square = np.ones((_MEDIAN_SIDE, _MEDIAN_SIDE), np.uint8)
    median: NDArray[np.uint8] = ski.filters.rank.median(saturation.astype(np.uint8), square)
    return median / np.float32(255)


def _entropy(rgb: NDArray[np.uint8]) -> Plane:
    """Give the least entropy nearby, in bits, of the smoothed grey levels in a disk.

    A disk has texture, too, where it only touches tissue, or a step between two whites: the least
    of those nearby takes that back.
    """
    grey = np.zeros(rgb.shape[:2], np.float32)
    for channel in range(3):
        grey += smoothed(rgb[..., channel])
    grey *= _ENTROPY_LEVELS / 3 / 256
    disk = ski.morphology.disk(_ENTROPY_RADIUS)
    entropy = ski.filters.rank.entropy(grey.astype(np.uint8), disk).astype(np.float32)
    least: Plane = ski.morphology.erosion(entropy, disk)
    return least


class _Measure(NamedTuple):
    """A way of measuring stain, and what its values mean.

    Up to ``glass`` a pixel is surely glass, above ``tissue`` surely tissue, and classes closer
    than ``contrast`` are one class, judged by ``tissue`` alone. A value depends on pixels up to
    ``reach`` away.
    """

    of: Callable[[NDArray[np.uint8]], Plane]
    reach: int
    glass: float
    tissue: float
    contrast: float


# Saturation (0-1) and mean optical density happen to need the same numbers. Smoothed glass
# has 0.00-0.03 (up to 0.06 tinted or greyish), pale stroma and fat 0.06-0.15, stained tissue
# 0.15-0.7. CLAM's fixed thresholds are 0.03-0.08 of saturation. Above 0.1 Otsu is deciding
# between pale and strong tissue, which is not what it was asked. Otsu splits pure noise of
# standard deviation s into halves 1.6 s apart; smoothed glass has s < 0.015.
_MEASURES = {
    "otsu": _Measure(_saturation, _SMOOTHING_REACH, 0.05, 0.10, 0.03),
    "hsv": _Measure(_median_saturation, _MEDIAN_SIDE // 2, 0.05, 0.10, 0.03),
    "density": _Measure(_density, _SMOOTHING_REACH, 0.05, 0.10, 0.03),
    "entropy": _Measure(_entropy, _SMOOTHING_REACH + 2 * _ENTROPY_RADIUS, 0.8, 1.4, 0.8),
}


def _histogram(stain: Plane) -> tuple[NDArray[np.integer[Any]], NDArray[np.floating[Any]]]:
    """Count stain in bins between its extremes, and give their centres, as skimage does."""
    ends = (float(stain.min()), float(stain.max()))
    flat = stain.reshape(-1)
    counts, edges = np.zeros(_BINS, np.intp), np.empty(0)
    for first in range(0, flat.size, _BINNED):  # it would copy all of it
        some, edges = np.histogram(flat[first : first + _BINNED], _BINS, ends)
        counts += some
    return counts, (edges[:-1] + edges[1:]) / 2


def _threshold(stain: Plane, measure: _Measure) -> float:
    """Give the amount of stain above which a pixel is tissue."""
    if stain.size == 0 or np.ptp(stain) < measure.contrast:
        return measure.tissue
    otsu = float(ski.filters.threshold_otsu(hist=_histogram(stain)))
    above = stain > otsu
    tissue = stain.mean(where=above)
    glass = stain.mean(where=np.logical_not(above, out=above))
    if tissue - glass < measure.contrast:
        return measure.tissue
    return min(max(otsu, measure.glass), measure.tissue)


def mostly_black(rgb: NDArray[np.uint8]) -> bool:
    """Say whether most of a coarse image (y, x, 3) is as dark as no bright-field slide is."""
    return bool((rgb.max(axis=2) <= _BLACK).mean() > 0.5)


def resample_mask(mask: Mask, shape: tuple[int, int]) -> Mask:
    """Give the mask at another resolution: the value under the centre of each new pixel."""
    rows, columns = (
        (2 * np.arange(wanted) + 1) * given // (2 * wanted)
        for wanted, given in zip(shape, mask.shape, strict=True)
    )
    resampled: Mask = mask[rows[:, np.newaxis], columns]
    return resampled
