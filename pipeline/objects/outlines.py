"""Outlines of labelled pixels, exactly along pixel edges, as polygons.

A region's outline is kept as its *corners*: the lattice points where the second difference of
its mask (south-east less north-east less south-west plus north-west) is not 0. Corners add up:
those of two regions that share no pixel, summed, are those of their union. So what was cut by
a block's border is joined without a seam, and what cancels is the cut.

Regions are connected through edges (4-connected); where two of a region's pixels touch at a
corner only, its outline passes between the pixels that are not its. Such outlines are valid as
they are: no ring touches itself, a hole may touch its shell or another hole at single points.

Lattice point ``(y, x)`` is the upper left corner of pixel ``(y, x)``; polygons are ``(x, y)``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import MissingExtraError

__all__ = [
    "Corners",
    "find_corners",
    "make_points",
    "make_polygons",
    "outline_mask",
    "shapely_module",
]

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Corners:
    """Corners of labelled regions, sorted by label, row and column.

    ``weights`` are the second differences: 1 or -1; 2 or -2 where pixels touch at a corner.
    """

    labels: Ints
    y: Ints
    x: Ints
    weights: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def summed(cls, parts: Iterable[Corners]) -> Corners:
        """Give the corners of the unions: those at the same place of the same label are added."""
        several = [part for part in parts if len(part)]
        if not several:
            none = np.zeros(0, np.int64)
            return cls(none, none, none, none.astype(np.int8))
        labels = np.concatenate([part.labels for part in several])
        y = np.concatenate([part.y for part in several])
        x = np.concatenate([part.x for part in several])
        weights = np.concatenate([part.weights for part in several])
        order = np.lexsort((x, y, labels))
        labels, y, x, weights = labels[order], y[order], x[order], weights[order]
        new = np.ones(len(labels), np.bool_)
        new[1:] = (np.diff(labels) != 0) | (np.diff(y) != 0) | (np.diff(x) != 0)
        sums = np.add.reduceat(weights, np.flatnonzero(new), dtype=np.int8)
        first = np.flatnonzero(new)[sums != 0]
        return cls(labels[first], y[first], x[first], sums[sums != 0])

    def relabelled(self, numbers: Ints) -> Corners:
        """Give them under other labels: ``numbers[label]``; those that become 0 are dropped."""
        labels = numbers[self.labels]
        there = labels != 0
        return Corners(labels[there], self.y[there], self.x[there], self.weights[there])


def find_corners(labels: NDArray[Any], origin: tuple[int, int] = (0, 0)) -> Corners:
    """Give the corners of all regions of a label image ``(y, x)``; 0 is none.

    ``origin`` is where its first pixel lies, ``(y, x)``. What lies outside counts as none.

    >>> found = find_corners(np.array([[0, 7], [0, 7]]))
    >>> list(zip(found.y.tolist(), found.x.tolist(), found.weights.tolist()))
    [(0, 1, 1), (0, 2, -1), (2, 1, -1), (2, 2, 1)]
    """
    padded = np.pad(labels, 1)
    across = padded[:, 1:] != padded[:, :-1]
    down = padded[1:] != padded[:-1]
    # Where nothing changes along the rows, or nothing along the columns, the difference is 0.
    y, x = np.nonzero((across[1:] | across[:-1]) & (down[:, 1:] | down[:, :-1]))
    signs = ((0, 0, 1), (0, 1, -1), (1, 0, -1), (1, 1, 1))
    parts = []
    for dy, dx, sign in signs:
        of = padded[y + dy, x + dx].astype(np.int64)
        there = of != 0
        weights = np.full(np.count_nonzero(there), sign, np.int8)
        parts.append(Corners(of[there], y[there] + origin[0], x[there] + origin[1], weights))
    return Corners.summed(parts)


def make_polygons(corners: Corners, *, filled: bool = False) -> tuple[Ints, NDArray[Any]]:
    """Give the labels, rising, and the polygon of each; ``filled`` leaves their holes out.

    Every label has to be one region that is connected through edges.
    """
    shapely = shapely_module()
    if not len(corners):
        return np.zeros(0, np.int64), np.zeros(0, object)
    # Two outlines pass where pixels touch at a corner: two corners there.
    at = np.repeat(np.arange(len(corners)), np.abs(corners.weights))
    ring, start = _walk(*_partners(corners, at))
    labels, shells = corners.labels[at[ring[start]]], corners.weights[at[ring[start]]] > 0
    counts = np.diff(np.append(start, len(ring)))
    # A polygon's shell comes before its holes, whichever of them was met first.
    order = np.lexsort((~shells, labels))
    if filled:
        order = order[shells[order]]
    # Closed: each ring ends with its first corner.
    sizes = counts[order] + 1
    ends = np.cumsum(sizes)
    steps = np.arange(ends[-1]) - np.repeat(ends - sizes, sizes)
    places = at[ring[np.repeat(start[order], sizes) + steps % np.repeat(counts[order], sizes)]]
    coordinates = np.stack([corners.x[places], corners.y[places]], axis=1).astype(np.float64)
    of_shells = np.flatnonzero(shells[order])
    offsets = (np.append(0, ends), np.append(of_shells, len(order)))
    polygons = shapely.from_ragged_array(shapely.GeometryType.POLYGON, coordinates, offsets)
    return labels[order[of_shells]], polygons


def outline_mask(mask: NDArray[np.bool_]) -> NDArray[Any]:
    """Give a polygon, its holes left open, for each connected piece of a mask ``(y, x)``."""
    from scipy.ndimage import label

    labels, _ = label(mask)  # through edges
    polygons: NDArray[Any] = make_polygons(find_corners(labels))[1]
    return polygons


def make_points(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[Any]:
    """Give points."""
    points: NDArray[Any] = shapely_module().points(x, y)
    return np.atleast_1d(points)


def shapely_module() -> Any:
    """Give shapely; `MissingExtraError` where it is not installed."""
    try:
        import shapely
    except ImportError as error:
        raise MissingExtraError(
            "outlines of objects need shapely, which is not installed; "
            "pip install 'wsi-pipeline[objects]'"
        ) from error
    return shapely


def _partners(corners: Corners, at: Ints) -> tuple[Ints, Ints]:
    """Give for each corner the one at the other end of its horizontal edge, and its vertical."""
    n = np.arange(len(at))
    labels, y, x = corners.labels[at], corners.y[at], corners.x[at]
    twice = np.zeros(len(at), np.int64)
    twice[1:] = at[1:] == at[:-1]
    # The first of two corners goes left. Its vertical edge goes down where the pixels that are
    # not the region's lie north-east and south-west, and up where they lie the other way.
    downwards = np.where(corners.weights[at] == 2, 1 - twice, twice)
    columns = np.lexsort((downwards, y, x, labels))
    across, down = n ^ 1, np.empty_like(n)
    down[columns] = columns[n ^ 1]
    return across, down


def _walk(across: Ints, down: Ints) -> tuple[Ints, Ints]:
    """Give all corners ring after ring, and where in that each ring starts.

    A ring starts at its first corner by row and column and goes right from there.
    """
    right, below = across.tolist(), down.tolist()
    seen = bytearray(len(right))
    order: list[int] = []
    starts: list[int] = []
    for first in range(len(right)):
        if seen[first]:
            continue
        starts.append(len(order))
        corner = first
        while not seen[corner]:
            other = right[corner]
            seen[corner] = seen[other] = 1
            order += (corner, other)
            corner = below[other]
    return np.array(order, np.int64), np.array(starts, np.int64)
