"""What of a mask is too small to count: holes, and pieces.

Not skimage's remove_small_objects and remove_small_holes: 0.26 renamed their arguments (the
old names warn, the new ones do not exist in 0.24), areas here are not whole pixels, and a
glass corner cut off by the image's edge is no hole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import skimage as ski
from numpy.typing import NDArray

__all__ = ["drop_small_objects", "fill_small_holes"]

Mask: TypeAlias = NDArray[np.bool_]

_ROWS = 256


def fill_small_holes(tissue: Mask, min_area: float) -> Mask:
    """Fill holes below `min_area` pixels that tissue encloses."""
    regions: NDArray[np.integer[Any]] = ski.measure.label(~tissue, connectivity=1)
    small = _areas(regions) < min_area
    edges = (regions[0], regions[-1], regions[:, 0], regions[:, -1])
    small[np.concatenate(edges)] = False
    small[0] = False  # label 0 is the tissue itself
    filled = _of(small, regions)
    filled |= tissue
    return filled


def drop_small_objects(tissue: Mask, min_area: float) -> Mask:
    """Drop objects below `min_area` pixels, unless the whole image is: then none can be large."""
    if tissue.size < min_area:
        return tissue
    regions: NDArray[np.integer[Any]] = ski.measure.label(tissue, connectivity=2)
    small = _areas(regions) < min_area
    kept = _of(~small, regions)
    kept &= tissue
    return kept


# Both a few rows at a time: numpy widens labels to eight bytes each to count or look them up.


def _areas(regions: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
    """Count the pixels of each region."""
    areas = np.zeros(int(regions.max(initial=0)) + 1, np.intp)
    for rows in _bands(regions):
        areas += np.bincount(rows.ravel(), minlength=len(areas))
    return areas


def _of(chosen: Mask, regions: NDArray[np.integer[Any]]) -> Mask:
    """Give the pixels (y, x) of the regions that are chosen, a flag for each."""
    found = np.empty(regions.shape, np.bool_)
    for rows, here in zip(_bands(regions), _bands(found), strict=True):
        here[...] = chosen[rows]
    return found


def _bands(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    return (values[y : y + _ROWS] for y in range(0, len(values), _ROWS))
