"""Local maxima that keep a distance, chosen by what lies near them alone.

A maximum is a plateau (one pixel, mostly) without a greater neighbour. It is dropped where a
greater value lies nearer than the least distance to its middle, whether that is a maximum
itself or not: what is found is the greatest value around, as with scikit-image's
`peak_local_max`, and no chain of maxima that suppress each other can reach further. Of equal
maxima too near each other the first by row and column stays, and frees those that are only
near the ones it drops; that is done `_ROUNDS` times. So nothing farther away than
``2 * _ROUNDS`` least distances changes what is chosen, and without ties nothing farther than
one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Maxima", "find_maxima"]

_ROUNDS = 4
_NEIGHBOURS = 1.5
"""Least distance there is, in pixels: the eight neighbours of a pixel are nearer."""

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Maxima:
    """Maxima by row and column of their middle pixel, which is ``(y, x)``.

    ``plateaus`` is 0 but on their pixels: there it is 1 + the maximum's number.
    """

    y: Ints
    x: Ints
    plateaus: NDArray[np.int32]


def find_maxima(landscape: NDArray[np.float32], distance: float) -> Maxima:
    """Give the maxima of ``landscape`` (y, x) with ``distance`` pixels between them at least.

    Where it is -inf there is nothing; a landscape that is the same everywhere has no maximum.
    """
    from scipy.ndimage import label
    from skimage.morphology import local_maxima

    found = local_maxima(landscape, connectivity=1)
    plateaus, count = label(found)
    y, x = _middles(plateaus, count)
    distance = max(distance, _NEIGHBOURS)
    there = np.flatnonzero(_greatest_around(landscape, y, x, distance))
    there = there[np.lexsort((x[there], y[there]))]
    there = there[_first_of_equals(y[there], x[there], distance)]
    numbers = np.zeros(count + 1, np.int32)
    numbers[there + 1] = np.arange(1, len(there) + 1)
    return Maxima(y[there], x[there], numbers[plateaus])


def _middles(plateaus: NDArray[np.int32], count: int) -> tuple[Ints, Ints]:
    """Give the pixel of each plateau nearest to its centre, the first by row and column."""
    y, x = np.nonzero(plateaus)
    number = plateaus[y, x] - 1
    first = np.full(count, len(y), np.int64)
    np.minimum.at(first, number, np.arange(len(y)))
    # From the plateau's own first pixel: rounded alike wherever the image was cut.
    dy, dx = y - y[first[number]], x - x[first[number]]
    sizes = np.bincount(number, minlength=count)
    mean_y = np.bincount(number, dy, count) / sizes
    mean_x = np.bincount(number, dx, count) / sizes
    away = (dy - mean_y[number]) ** 2 + (dx - mean_x[number]) ** 2
    order = np.lexsort((away, number))
    nearest = order[np.searchsorted(number[order], np.arange(count))]
    return y[nearest], x[nearest]


def _greatest_around(
    landscape: NDArray[np.float32], y: Ints, x: Ints, distance: float
) -> NDArray[np.bool_]:
    """Say of each pixel whether no greater value lies nearer than ``distance``."""
    reach = int(np.ceil(distance))
    padded = np.pad(landscape, reach, constant_values=-np.inf)
    values = landscape[y, x]
    left = np.arange(len(y))
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            if dy * dy + dx * dx < distance * distance:
                around = padded[y[left] + dy + reach, x[left] + dx + reach]
                left = left[around <= values[left]]
    great = np.zeros(len(y), np.bool_)
    great[left] = True
    return great


def _first_of_equals(y: Ints, x: Ints, distance: float) -> NDArray[np.bool_]:
    """Say which of some pixels, in order, stay: those nearer than ``distance`` exclude another."""
    from scipy.spatial import KDTree

    stays = np.zeros(len(y), np.bool_)
    open_ = np.ones(len(y), np.bool_)
    pairs: NDArray[Any] = np.zeros((0, 2), np.int64)
    if len(y):
        pairs = KDTree(np.stack([y, x], axis=1)).query_pairs(distance, output_type="ndarray")
    earlier, later = pairs.min(axis=1, initial=len(y)), pairs.max(axis=1, initial=0)
    near = (y[earlier] - y[later]) ** 2 + (x[earlier] - x[later]) ** 2 < distance * distance
    earlier, later = earlier[near], later[near]
    for _ in range(_ROUNDS):
        waits = np.zeros(len(y), np.bool_)
        waits[later[open_[earlier]]] = True
        first = open_ & ~waits
        stays |= first
        open_ &= ~first
        open_[later[first[earlier]]] = False
    return stays
