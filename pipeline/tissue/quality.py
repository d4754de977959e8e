"""What spoils a slide's pixels: strokes of a pen, and what is out of focus.

Arrays in, arrays out, as in `pipeline.tissue`. Both are of bright-field slides.

- A pen is told by its colour on a coarse picture, as HistoQC does: inks are more saturated in
  their hue than any stain there. What is rarer than a stroke (`_STROKE_UM2`) is no pen.
- Focus is told at `BLUR_MPP` by how fine the finest detail is: the mean square of the Laplacian
  over that of the gradient. The first alone (Pech-Pacheco et al., 2000) calls pale tissue
  blurred; their ratio knows no contrast, and is 5 for white noise. Of three H&E slides, over
  windows of 80 um, it was above 2.05 in focus (all but 0.1 %), and below 1.32 blurred by 2 um (a
  Gaussian's standard deviation) and 0.77 by 3 um (all but 1 %); by 1.5 um it lies across
  `_LEAST_SHARP`, which was set by these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import skimage as ski
from numpy.typing import NDArray

from pipeline.geometry import Index
from pipeline.tissue import padding, smoothed
from pipeline.tissue.specks import drop_small_objects

__all__ = ["BLUR_CELL", "BLUR_MPP", "CODES", "MEANINGS", "blur", "focus_moments", "pen"]

Mask: TypeAlias = NDArray[np.bool_]
Plane: TypeAlias = NDArray[np.floating[Any]]

MEANINGS: Mapping[int, tuple[str, str]] = {
    # Of Okabe and Ito's colours, as the tissue's is.
    1: ("pen", "#0072B2"),
    2: ("blur", "#E69F00"),
}
"""Value in the label image -> its name and its colour."""

CODES = {name: value for value, (name, _) in MEANINGS.items()}

BLUR_MPP = 2.0
"""Um per pixel at which focus is judged."""

BLUR_CELL = 8
"""Side, in those pixels, of the cells whose moments are taken."""

_STROKE_UM2 = 20_000.0
"""Area of the smallest piece of a pen's stroke, which is 300 um wide and more."""

_BLUR_UM2 = 40_000.0
"""Area of the smallest region that is called out of focus."""

_LEAST_SHARP = 1.4
_LEAST_GRADIENT = 0.1  # mean square, in grey levels: less is an empty field, not a blurred one
_NEIGHBOURS = 1.0  # standard deviation, in cells, of the weight of those around a cell

# Hue (degrees, from and up to), least saturation and value of inks: set by hand on strokes painted
# over three H&E slides, to leave haematoxylin (taken to be at 235-280), eosin (310-350), red cells
# (340-355, pale) and DAB (15-40) alone. No slide with real ink, and none of IHC, was at hand.
_INKS = (
    (75.0, 175.0, 0.20, 0.10),  # green
    (175.0, 232.0, 0.42, 0.10),  # blue
    (232.0, 244.0, 0.68, 0.10),  # dark blue
    (352.0, 372.0, 0.65, 0.35),  # red
)
# Greatest saturation and value of black ink on glass, and over tissue, whose hue shines through.
_BLACK_INKS = ((0.25, 0.36), (0.70, 0.17))


def pen(rgb: NDArray[np.uint8], mpp: tuple[float, float]) -> Mask:
    """Give the strokes of blue, green, red and black markers: bool (y, x).

    `rgb` is the coarse picture, uint8 (y, x, 3), with `mpp` (y, x) um per pixel, 4-16.
    """
    hue, saturation, value = _hsv(rgb)
    found = np.zeros(hue.shape, np.bool_)
    for most, bright in _BLACK_INKS:
        found |= (saturation <= most) & (value <= bright)
    for first, last, least, dark in _INKS:
        turned = (hue - first) % 360 <= last - first
        found |= turned & (saturation >= least) & (value >= dark)
    found &= ~padding(rgb)
    strokes = drop_small_objects(found, _STROKE_UM2 / (mpp[0] * mpp[1]))
    # A stroke's rim is mixed with glass, and no ink by its colour.
    widened: Mask = ski.morphology.dilation(strokes, np.ones((3, 3), np.uint8))
    return widened


def _hsv(rgb: NDArray[np.uint8]) -> tuple[Plane, Plane, Plane]:
    """Give hue (degrees), saturation and value (0-1) of the smoothed image."""
    red, green, blue = (smoothed(rgb[..., channel]) for channel in range(3))
    high = np.maximum(np.maximum(red, green), blue)
    chroma = high - np.minimum(np.minimum(red, green), blue)
    safe = np.where(chroma > 0, chroma, np.float32(1))
    hue = np.where(
        high == red,
        (green - blue) / safe % 6,
        np.where(high == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    return hue * np.float32(60), chroma / np.maximum(high, 1), high / np.float32(255)


def focus_moments(
    block: NDArray[np.uint8], _index: Index, _value: None, *, cell: int
) -> NDArray[np.float32]:
    """Give what focus is judged by, for each `cell` x `cell` pixels of a block.

    `block` is uint8 (4, y, x): RGB, and 0 where nothing was read. The result is (3, rows,
    columns): how many pixels were seen, and the sums of the squares of gradient and Laplacian of
    their grey. The outermost pixels have no Laplacian and are left out.
    """
    grey = block[:3].mean(axis=0, dtype=np.float32)
    inner = grey[1:-1, 1:-1]
    down, right = grey[2:, 1:-1] - inner, grey[1:-1, 2:] - inner
    laplacian = down + right + (grey[:-2, 1:-1] - inner) + (grey[1:-1, :-2] - inner)
    height, width = grey.shape
    moments = np.zeros((3, -(-height // cell) * cell, -(-width // cell) * cell), np.float32)
    seen = block[3, 1:-1, 1:-1] > 0
    for i, values in enumerate((np.float32(1), down**2 + right**2, laplacian**2)):
        moments[i, 1 : height - 1, 1 : width - 1] = np.where(seen, values, 0)
    rows, columns = moments.shape[1] // cell, moments.shape[2] // cell
    sums: NDArray[np.float32] = moments.reshape(3, rows, cell, columns, cell).sum(axis=(2, 4))
    return sums


def blur(moments: NDArray[np.float32], tissue: Mask, mpp: tuple[float, float]) -> Mask:
    """Give the cells (y, x) of the tissue that are out of focus.

    `moments` (3, y, x) are those of `focus_moments`, `tissue` says which cells are tissue and
    `mpp` is um per cell. Cells of glass have no say: their borders with tissue are contrast
    without detail.
    """
    count, gradient, laplacian = moments
    seen = tissue & (count > 0) & (gradient > _LEAST_GRADIENT * count)
    sharpness = np.where(seen, laplacian / np.where(seen, gradient, 1), 0)
    # Of ratios, not of sums: one cell in focus has more gradient than many that are not.
    around = _around(sharpness) / np.maximum(_around(seen.astype(np.float32)), 1e-6)
    blurred = seen & (around < _LEAST_SHARP)
    return drop_small_objects(blurred, _BLUR_UM2 / (mpp[0] * mpp[1]))


def _around(sums: NDArray[np.float32]) -> NDArray[Any]:
    summed: NDArray[Any] = ski.filters.gaussian(sums, _NEIGHBOURS, preserve_range=True)
    return summed
