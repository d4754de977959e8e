"""How much of each box of a level a mask of tissue covers, exactly by area."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["tissue_fraction"]


def tissue_fraction(
    mask: NDArray[np.bool_],
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
