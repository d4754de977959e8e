"""A mask -> objects: its connected pieces, divided where one has several maxima.

Everything here is decided by values and positions nearby. A piece is what is connected through
edges; a flood from several seeds goes by values, and among equal values by the distance to the
nearest seed, then by row and column.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.objects.maxima import find_maxima

__all__ = ["divide"]

Floats = NDArray[np.float32]
Labels = NDArray[np.int32]
Slices = tuple[slice, slice]


def divide(mask: NDArray[np.bool_], seeds: Floats | None, min_distance: float) -> Labels:
    """Give each pixel of ``mask`` (y, x) the number of its object; the others 0.

    Objects grow from the maxima of ``seeds`` that are ``min_distance`` pixels apart, by default
    of the distance to the nearest pixel outside the piece. A piece with none or one is one
    object.
    """
    from scipy.ndimage import find_objects as boxes_of
    from scipy.ndimage import label

    pieces, count = label(mask)
    boxes = boxes_of(pieces)
    landscape = np.full(mask.shape, -np.inf, np.float32)
    if seeds is None:
        for number, box in enumerate(boxes, 1):
            _measure_depth(landscape, pieces, number, box)
    else:
        landscape[mask] = seeds[mask]
    maxima = find_maxima(landscape, min_distance)
    seeds_in = np.bincount(pieces[maxima.y, maxima.x], minlength=count + 1)
    labels: Labels = pieces
    for number in np.flatnonzero(seeds_in > 1).tolist():
        box = boxes[number - 1]
        piece = pieces[box] == number
        parts = _flood(landscape[box], np.where(piece, maxima.plateaus[box], 0), piece)
        labels[box][piece] = parts[piece] + count
    return labels


def _measure_depth(landscape: Floats, pieces: Labels, number: int, box: Slices) -> None:
    """Fill in a piece's distances to the nearest pixel that is not its own."""
    from scipy.ndimage import distance_transform_edt

    around = tuple(slice(max(span.start - 1, 0), span.stop + 1) for span in box)
    piece = pieces[around] == number
    # With nothing around it, all of it is equally deep.
    depth = np.ones(piece.shape) if piece.all() else distance_transform_edt(piece)
    landscape[around][piece] = depth[piece]


def _flood(landscape: Floats, seeds: Labels, piece: NDArray[np.bool_]) -> Labels:
    """Divide a piece among its seeds: from each downwards, highest values first.

    No two pixels are equal, so that the order in which a flood's pixels have waited, which is
    not local, plays no part.
    """
    from scipy.ndimage import distance_transform_edt
    from skimage.segmentation import watershed

    away = distance_transform_edt(seeds == 0)
    y, x = np.nonzero(piece)
    order = np.lexsort((away[y, x], -landscape[y, x]))
    ranks = np.zeros(piece.shape)
    ranks[y[order], x[order]] = np.arange(len(order))
    flooded: Labels = watershed(ranks, seeds, connectivity=1, mask=piece)
    return flooded
