"""Where the tissue is: a boolean mask of a coarse image, and how much of it each box holds.

Arrays in, arrays out. This module knows no slide, level, block or graph; whoever asks reads
the coarse image, and turns fractions into the set of blocks and patches worth doing.

How pixels are judged, and why:

- The image is smoothed *before* saturation or density is taken: both are biased upwards by
  noise, and averaging colours first removes the noise instead of the bias.
- Near-black pixels (`_BLACK`) are scanner padding or unscanned ground, never tissue, and have
  no say in the threshold: saturation is a ratio of two small numbers there. Pigment that dark
  becomes a hole of the tissue around it and is filled again up to `min_hole_um2`.
- Near-white pixels need no rule: saturation and density are themselves close to zero there.
- Otsu's method always finds two classes, also in an image that has one. Its answer is
  therefore held between `_SURELY_GLASS` and `_SURELY_TISSUE`, and used only when the two
  classes it finds differ by `_MIN_CONTRAST`.

All of this is for light shining through stained tissue. Fluorescence is dark where there is
nothing; use ``method="none"`` or a mask file (`load_mask`).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.filters import gaussian, threshold_otsu
from skimage.measure import label
from skimage.morphology import dilation

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["TissueSettings", "load_mask", "resample_mask", "tissue_fraction", "tissue_mask"]

Mask: TypeAlias = NDArray[np.bool_]
Plane: TypeAlias = NDArray[np.floating[Any]]

# Brightest channel, of 255, up to which a pixel is padding. The darkest haematoxylin keeps
# 60 and more in blue; JPEG noise on black padding stays below 15.
_BLACK = 24

# Saturation (0-1) and mean optical density happen to need the same numbers. Smoothed glass
# has 0.00-0.03 (up to 0.06 tinted or greyish), pale stroma and fat 0.06-0.15, stained tissue
# 0.15-0.7. CLAM's fixed thresholds are 0.03-0.08 of saturation. Above 0.1 Otsu is deciding
# between pale and strong tissue, which is not what it was asked.
_SURELY_GLASS = 0.05
_SURELY_TISSUE = 0.10

# Otsu splits pure noise of standard deviation s into halves 1.6 s apart; smoothed glass has
# s < 0.015. Classes closer than this are one class, judged by `_SURELY_TISSUE` alone.
_MIN_CONTRAST = 0.03

_SMOOTHING_SIGMA = 1.0  # pixels of the coarse image
_ASPECT_TOLERANCE = 0.02


@dataclass(frozen=True)
class TissueSettings:
    """How tissue is told from glass, and which pieces and holes of it are too small to count.

    method: ``otsu`` thresholds HSV saturation (as CLAM does), ``density`` the mean optical
    density (for stains without colour: black chromogens, grey scans), ``none`` takes
    everything for tissue.
    min_area_um2: pieces of tissue below this area are dropped.
    min_hole_um2: holes enclosed in tissue below this area are filled.
    min_fraction: a block or patch counts as tissue when more than this part of it is.
    """

    method: Literal["otsu", "density", "none"] = "otsu"
    min_area_um2: float = 10_000
    min_hole_um2: float = 5_000
    min_fraction: float = 0.0


def tissue_mask(rgb: NDArray[np.uint8], mpp: tuple[float, float], settings: TissueSettings) -> Mask:
    """Give the tissue of a coarse image as bool (y, x).

    `rgb` is uint8 (y, x, 3); `mpp` is (y, x) in um per pixel of this image, 4-16 being the
    sensible range. The module's docstring says how pixels are judged.
    """
    if settings.method == "none":
        return np.ones(rgb.shape[:2], dtype=np.bool_)
    padding = rgb.max(axis=2) <= _BLACK
    if padding.any():
        # One pixel more on every side: JPEG blurs the padding's edge into dark false colours.
        padding = dilation(padding, np.ones((3, 3), dtype=np.uint8))
        rgb = np.where(padding[..., np.newaxis], np.uint8(255), rgb)
    stain = _saturation(rgb) if settings.method == "otsu" else _density(rgb)
    # The copy is spared where there is no padding: this runs in the client, on a whole slide.
    seen = stain[~padding] if padding.any() else stain
    tissue: Mask = (stain > _threshold(seen)) & ~padding
    del seen, stain
    pixel_um2 = mpp[0] * mpp[1]
    tissue = _fill_small_holes(tissue, settings.min_hole_um2 / pixel_um2)
    return _drop_small_objects(tissue, settings.min_area_um2 / pixel_um2)


def _smooth(plane: NDArray[np.uint8]) -> Plane:
    values = plane.astype(np.float32)
    # In place, as scipy's own second axis is: each line is buffered before it is written.
    gaussian(values, _SMOOTHING_SIGMA, mode="nearest", preserve_range=True, out=values)
    return values


def _saturation(rgb: NDArray[np.uint8]) -> Plane:
    """Give HSV saturation, 0-1, of the smoothed image; one plane at a time, to save memory."""
    high = _smooth(rgb[..., 0])
    low = high.copy()
    for channel in (1, 2):
        plane = _smooth(rgb[..., channel])
        np.maximum(high, plane, out=high)
        np.minimum(low, plane, out=low)
    np.subtract(high, low, out=low)
    low /= np.maximum(high, 1, out=high)
    return low


def _density(rgb: NDArray[np.uint8]) -> Plane:
    """Give the optical density (log10, against 255) of the smoothed image, mean of channels."""
    density = np.zeros(rgb.shape[:2], np.float32)
    for channel in range(3):
        density += np.log10(255 / np.maximum(_smooth(rgb[..., channel]), 1))
    return density / 3


def _threshold(stain: Plane) -> float:
    """Give the amount of stain above which a pixel is tissue."""
    if stain.size == 0 or np.ptp(stain) < _MIN_CONTRAST:
        return _SURELY_TISSUE
    otsu = float(threshold_otsu(stain))
    above = stain > otsu
    if stain.mean(where=above) - stain.mean(where=~above) < _MIN_CONTRAST:
        return _SURELY_TISSUE
    return min(max(otsu, _SURELY_GLASS), _SURELY_TISSUE)


# Not skimage's remove_small_objects and remove_small_holes: 0.26 renamed their arguments (the
# old names warn, the new ones do not exist in 0.24), areas here are not whole pixels, and a
# glass corner cut off by the image's edge is no hole.
def _fill_small_holes(tissue: Mask, min_area: float) -> Mask:
    """Fill holes below `min_area` pixels that tissue encloses."""
    regions: NDArray[np.integer[Any]] = label(~tissue, connectivity=1)
    small = np.bincount(regions.ravel()) < min_area
    edges = (regions[0], regions[-1], regions[:, 0], regions[:, -1])
    small[np.concatenate(edges)] = False
    small[0] = False  # label 0 is the tissue itself
    filled: Mask = tissue | small[regions]
    return filled


def _drop_small_objects(tissue: Mask, min_area: float) -> Mask:
    """Drop objects below `min_area` pixels, unless the whole image is: then none can be large."""
    if tissue.size < min_area:
        return tissue
    regions: NDArray[np.integer[Any]] = label(tissue, connectivity=2)
    small = np.bincount(regions.ravel()) < min_area
    kept: Mask = tissue & ~small[regions]
    return kept


def mostly_black(rgb: NDArray[np.uint8]) -> bool:
    """Say whether most of a coarse image (y, x, 3) is as dark as no bright-field slide is."""
    return bool((rgb.max(axis=2) <= _BLACK).mean() > 0.5)


def load_mask(path: str | Path, shape: tuple[int, int], slide: tuple[int, int]) -> Mask:
    """Read a user's mask image, resampled (nearest) to `shape` (y, x).

    Anything Pillow reads. A pixel is tissue when it is not zero: not black, for colour and
    palette images, and not fully transparent. Raises ConfigError when the file is missing or
    no image, is too large to be decoded safely, or has another aspect ratio than the `slide`
    (y, x) by more than 2 %.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                mask = _nonzero(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ConfigError(
            f"{path}: mask too large to decode safely ({error}); save it at a coarser "
            "resolution, 8 um per pixel is plenty"
        ) from error
    # Pillow's decoders raise SyntaxError and ValueError, too, on broken files.
    except (OSError, SyntaxError, ValueError) as error:
        raise ConfigError(
            f"{path}: tissue mask cannot be read ({error}); give an image file such as PNG or TIFF"
        ) from error
    aspect, slide_aspect = mask.shape[1] / mask.shape[0], slide[1] / slide[0]
    if abs(aspect / slide_aspect - 1) > _ASPECT_TOLERANCE:
        raise ConfigError(
            f"{path}: mask has aspect ratio {aspect:.4f} ({mask.shape[1]} x {mask.shape[0]}), the "
            f"slide {slide_aspect:.4f} ({slide[1]} x {slide[0]}); the mask must cover the whole "
            "slide, neither cropped nor rotated"
        )
    return resample_mask(mask, shape)


def resample_mask(mask: Mask, shape: tuple[int, int]) -> Mask:
    """Give the mask at another resolution: the value under the centre of each new pixel."""
    rows, columns = (
        (2 * np.arange(wanted) + 1) * given // (2 * wanted)
        for wanted, given in zip(shape, mask.shape, strict=True)
    )
    resampled: Mask = mask[rows[:, np.newaxis], columns]
    return resampled


def _nonzero(image: Image.Image) -> Mask:
    if len(image.getbands()) > 1 or image.mode == "P":
        values: NDArray[Any] = np.asarray(image.convert("RGBA"))
        visible: Mask = values[..., :3].any(axis=2) & (values[..., 3] > 0)
        return visible
    nonzero: Mask = np.asarray(image) != 0
    return nonzero


def tissue_fraction(
    mask: Mask,
    boxes_y: NDArray[np.integer[Any]],
    boxes_x: NDArray[np.integer[Any]],
    shape: tuple[int, int],
) -> NDArray[np.float64]:
    """Give the fraction of tissue in each box of a level, float64 (n, m), exact by area.

    `mask` (my, mx) covers a level of `shape` (h, w) entirely, so one mask pixel is h/my by
    w/mx level pixels, whole or not. Box (i, j) is ``boxes_y[i]`` (start, stop) by
    ``boxes_x[j]`` in level pixels, clipped to the level; a box with nothing inside gives 0.

    >>> mask = np.array([[True, False, False]])
    >>> tissue_fraction(mask, np.array([[0, 8]]), np.array([[0, 2], [2, 4]]), (8, 4))
    array([[0.66666667, 0.        ]])
    """
    sums_y, areas_y = _interval_sums(mask, boxes_y, shape[0])
    sums, areas_x = _interval_sums(sums_y.T, boxes_x, shape[1])
    areas = areas_y[:, np.newaxis] * areas_x
    fraction: NDArray[np.float64] = np.divide(
        sums.T, areas, out=np.zeros(areas.shape), where=areas > 0
    )
    return np.minimum(fraction, 1.0)


def _interval_sums(
    values: NDArray[Any], intervals: NDArray[np.integer[Any]], extent: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Integrate the rows of `values`, which span `extent`, over each interval.

    Lengths are counted in 1/rows of a unit, where every edge is a whole number: sums stay
    exact up to 2**53. Only the rows an interval touches are read.
    """
    rows = len(values)
    edges = np.arange(rows + 1, dtype=np.int64) * extent
    clipped = np.clip(intervals.astype(np.int64), 0, extent) * rows
    sums = np.zeros((len(intervals), values.shape[1]))
    for i, (start, stop) in enumerate(clipped):
        first, last = start // extent, -(-stop // extent)
        overlap = np.minimum(edges[first + 1 : last + 1], stop) - np.maximum(
            edges[first:last], start
        )
        if start < stop:
            sums[i] = overlap.astype(np.float64) @ values[first:last].astype(np.float64)
    return sums, np.maximum(clipped[:, 1] - clipped[:, 0], 0).astype(np.float64)
