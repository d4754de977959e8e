"""Pieces of regions: what a block holds of them, and how those of a row of blocks are joined.

What `pipeline.plan.regions` is made of. A piece is known by its number, from 1; in whatever says
which piece a pixel is of, 0 is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Grid, Index
from pipeline.objects.outlines import Corners, find_corners

__all__ = ["BlockPieces", "Pieces", "Row", "find_pieces", "join"]

Ints = NDArray[np.int64]
_COLUMNS = ("values", "areas", "sums_y", "sums_x", "first")


@dataclass(frozen=True, slots=True)
class Pieces:
    """Pieces by number, and their corners, labelled with it; positions are the plane's pixels.

    ``first`` is the place of the first pixel, ``y * width + x``; ``values`` are the label map's.
    """

    corners: Corners
    values: Ints
    areas: Ints
    sums_y: Ints
    sums_x: Ints
    first: Ints

    def __len__(self) -> int:
        return len(self.values)

    def only(self, kept: NDArray[np.bool_]) -> Pieces:
        """Give some of them, numbered anew in the same order."""
        corners = self.corners.relabelled(_numbers(kept))
        values, areas, sums_y, sums_x, first = (getattr(self, name)[kept] for name in _COLUMNS)
        return Pieces(corners, values, areas, sums_y, sums_x, first)

    def united(self, group: Ints, count: int, corners: Corners) -> Pieces:
        """Give the unions, whose corners are given: each piece becomes part of its group."""
        first = np.full(count, np.iinfo(np.int64).max)
        np.minimum.at(first, group, self.first)
        values = np.zeros(count, np.int64)
        values[group] = self.values
        sums = np.zeros((3, count), np.int64)
        for total, column in zip(sums, (self.areas, self.sums_y, self.sums_x), strict=True):
            np.add.at(total, group, column)
        return Pieces(corners, values, sums[0], sums[1], sums[2], first)

    @classmethod
    def listed(cls, several: Sequence[Pieces]) -> Pieces:
        """Give all of them one after another, without their corners."""
        columns = ([getattr(each, name) for each in several] for name in _COLUMNS)
        values, areas, sums_y, sums_x, first = map(np.concatenate, columns)
        return cls(Corners.summed([]), values, areas, sums_y, sums_x, first)


@dataclass(frozen=True, slots=True)
class BlockPieces:
    """What was found in a block; the faces are the pieces' numbers, 0 is none."""

    pieces: Pieces
    top: Ints
    bottom: Ints
    left: Ints
    right: Ints

    def shifted(self, by: int) -> BlockPieces:
        """Give the same with ``by`` added to the numbers on its faces."""
        faces = (self.top, self.bottom, self.left, self.right)
        return BlockPieces(self.pieces, *(np.where(face > 0, face + by, 0) for face in faces))


@dataclass(frozen=True, slots=True)
class Row:
    """Regions as far as they are known, and which of them each pixel of the lower face is of."""

    pieces: Pieces
    face: Ints

    @classmethod
    def nothing(cls, width: int) -> Row:
        """Give what is above the first row of a plane."""
        none = np.zeros(0, np.int64)
        pieces = Pieces(Corners.summed([]), none, none, none, none, none)
        return cls(pieces, np.zeros(width, np.int64))

    def below(self, open_: NDArray[np.bool_]) -> Row:
        """Give what the next row needs to know: the regions that are open."""
        return Row(self.pieces.only(open_), _numbers(open_)[self.face])


def find_pieces(
    block: NDArray[Any],
    index: Index,
    _value: None,
    *,
    cut: Grid,
    values: tuple[int, ...],
    min_pixels: float,
) -> NDArray[Any]:
    """Give a `BlockPieces`, as the only element of an array, of labels ``(1, y, x)``.

    ``cut`` is the grid the block is of. Pieces that touch no face and are smaller than
    ``min_pixels`` are left out.
    """
    from skimage.measure import label

    box = cut.box(index)
    wanted = np.where(np.isin(block[0], values), block[0], 0)
    labels, count = label(wanted, background=0, connectivity=1, return_num=True)
    kept = np.bincount(labels.ravel(), minlength=count + 1)[1:] >= min_pixels
    for face in _faces(labels):
        kept[face[face > 0] - 1] = True
    labels = _numbers(kept)[labels]
    y, x = np.nonzero(labels)
    number, count = labels[y, x] - 1, int(np.count_nonzero(kept))
    first = np.full(count, len(y), np.int64)
    np.minimum.at(first, number, np.arange(len(y)))
    areas = np.bincount(number, minlength=count)
    found = np.empty((1, 1, 1), object)
    found[0, 0, 0] = BlockPieces(
        Pieces(
            corners=find_corners(labels, (box.y, box.x)),
            values=wanted[y[first], x[first]].astype(np.int64),
            areas=areas,
            # Sums below 2**53 are exact as floats too.
            sums_y=np.bincount(number, y, count).astype(np.int64) + areas * box.y,
            sums_x=np.bincount(number, x, count).astype(np.int64) + areas * box.x,
            first=(y[first] + box.y) * cut.shape[1] + x[first] + box.x,
        ),
        *map(np.array, _faces(labels)),
    )
    return found


def join(above: Row, blocks: Sequence[BlockPieces]) -> Row:
    """Join a row of blocks with each other, and with what comes down from the row above."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    several = [above.pieces, *(block.pieces for block in blocks)]
    pieces, offsets = Pieces.listed(several), np.cumsum([0, *map(len, several)])
    moved = [block.shifted(by) for block, by in zip(blocks, offsets[1:], strict=False)]
    one = np.concatenate([above.face, *(block.right for block in moved[:-1])])
    other = np.concatenate([*(block.top for block in moved), *(block.left for block in moved[1:])])
    both = (one > 0) & (other > 0)
    one, other = one[both] - 1, other[both] - 1
    same = pieces.values[one] == pieces.values[other]
    joints = coo_array(
        (np.ones(np.count_nonzero(same), np.int8), (one[same], other[same])),
        shape=(len(pieces),) * 2,
    )
    count, found = connected_components(joints, directed=False) if len(pieces) else (0, [])
    group: Ints = np.asarray(found, np.int64)
    corners = Corners.summed(
        part.corners.relabelled(np.append(0, group[start : start + len(part)] + 1))
        for part, start in zip(several, offsets, strict=False)
    )
    face = np.concatenate([block.bottom for block in moved])
    return Row(pieces.united(group, int(count), corners), np.append(0, group + 1)[face])


def _numbers(kept: NDArray[np.bool_]) -> Ints:
    """Give the new number for each old one; 0 for 0 and for what is not kept."""
    return np.append(0, np.where(kept, np.cumsum(kept), 0))


def _faces(labels: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    return (labels[0], labels[-1], labels[:, 0], labels[:, -1])
