"""Objects for the page: one block's centres, scores, classes and outlines as plain numbers.

What is sent, all little-endian: the length of a head (uint32), the head (JSON, padded with
spaces to a multiple of 4), and then per object x, y and score (float32 each, level-0 pixels, NaN
where there is no score) and class (int32, -1 for none); per ring its first point (uint32, one
more for the end) and its object (uint32); and the points, x and y in turn (float32).
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box, Grid, Index
from pipeline.ngff import PALETTE
from pipeline.objects.outlines import shapely_module
from pipeline.store.tables import StoredTable, read_part
from pipeline.view.growing import Blocks, Kept
from pipeline.view.planes import Plane

__all__ = ["CELLS", "HIGHEST", "ObjectLayer"]

CELLS = 32
"""Cells of the density along the side of a block."""

HIGHEST = 20_000.0
"""Objects per mm2 that the brightest colour stands for: more than the densest of nuclei."""

_POLYGON = 3
_SMALLEST = 16  # cells of the coarsest density: a slide that is small has few blocks


@dataclass(frozen=True)
class ObjectLayer:
    """A table of objects, block by block; a density where the blocks are too small to see them.

    ``blocks`` is where the blocks of its parts lie: a plane with a pixel for each; ``there``
    are those that have a part.
    """

    key: str
    title: str
    table: StoredTable
    blocks: Plane
    there: Collection[Index]
    mpp: tuple[float, float]
    class_names: tuple[str, ...]
    epoch: str
    kept: Kept

    @property
    def planes(self) -> tuple[Plane, ...]:
        """The planes of its density, finest first."""
        return self._density.planes(self._finest, _SMALLEST)

    def describe(self) -> dict[str, Any]:
        """Give what the page needs to know of it."""
        classes = [
            {"value": i, "name": name, "colour": PALETTE[i % len(PALETTE)]}
            for i, name in enumerate(self.class_names)
        ]
        return {
            "key": self.key,
            "kind": "objects",
            "title": self.title,
            "classes": classes,
            "blocks": self.blocks.as_json(),
            "unit": "per mm\u00b2",
            "limits": [0.0, HIGHEST],
            "power": 2,
        }

    def tile(self, plane: int, box: Box) -> bytes:
        """Give how many there are: the root of their density, as an image of one channel."""
        from pipeline.view.planes import png

        return png(self.density(plane, box))

    def density(self, plane: int, box: Box) -> NDArray[np.uint8]:
        """Give uint8 ``(y, x)``: 255 times the root of density by `HIGHEST`."""
        counts = self._density.box(plane, box, np.dtype(np.float32))
        y, x = self.planes[plane].step
        area_mm2 = y * x * self.mpp[0] * self.mpp[1] / 1e6
        roots = np.sqrt(np.minimum(counts / area_mm2 / HIGHEST, 1.0)) * 255
        # One object in a large cell is no less there.
        return np.where(counts > 0, np.maximum(np.rint(roots), 1), 0).astype(np.uint8)

    def part(self, index: Index) -> bytes:
        """Give one block's objects; none where it has no part (yet)."""
        return _encoded(read_part(self.table, index) if index in self.there else None)

    @property
    def _finest(self) -> Plane:
        (rows, columns), (y, x) = self.blocks.shape, self.blocks.step
        shape = (rows * CELLS, columns * CELLS)
        return Plane(shape, (y / CELLS, x / CELLS), self.blocks.origin)

    @property
    def _density(self) -> Blocks:
        grid = Grid(self._finest.shape, CELLS)
        key = (self.epoch, self.table.folder)
        return Blocks(key, grid, self.there, self._counts, _summed, self.kept)

    def _counts(self, index: Index) -> NDArray[np.float32]:
        key = (self.epoch, self.table.folder, index, 0)
        return self.kept.get(key, lambda: self._counted(index))

    def _counted(self, index: Index) -> NDArray[np.float32]:
        part = read_part(self.table, index)
        finest, counts = self._finest, np.zeros((CELLS, CELLS), np.float32)
        cells = [
            np.clip(
                ((part[name].to_numpy() - origin) / step).astype(np.int64) - i * CELLS, 0, CELLS - 1
            )
            for name, origin, step, i in zip("yx", finest.origin, finest.step, index, strict=True)
        ]
        np.add.at(counts, (cells[0], cells[1]), 1)
        return counts


def _summed(counts: NDArray[Any]) -> NDArray[Any]:
    rows, columns = counts.shape
    halved: NDArray[Any] = counts.reshape(rows // 2, 2, columns // 2, 2).sum(axis=(1, 3))
    return halved


def _encoded(part: Any | None) -> bytes:
    numbers: list[NDArray[Any]] = [np.zeros(0, "<f4")] * 3 + [np.zeros(0, "<i4")]
    names: list[str] = []
    if part is not None:
        classes = part["class"].combine_chunks()
        codes = classes.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        names = classes.dictionary.to_pylist()
        scores = part["score"].to_numpy().astype("<f4")
        numbers = [part["x"].to_numpy().astype("<f4"), part["y"].to_numpy().astype("<f4")]
        numbers += [scores, codes.astype("<i4")]
    starts, owners, points = _rings(part)
    head = {"count": len(numbers[0]), "classes": names, "rings": len(owners), "points": len(points)}
    said = json.dumps(head).encode()
    said += b" " * (-len(said) % 4)
    arrays = [*numbers, starts, owners, points]
    return b"".join([len(said).to_bytes(4, "little"), said, *(each.tobytes() for each in arrays)])


def _rings(part: Any | None) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Give where each ring begins, whose it is, and all points ``(n, 2)``; none of points."""
    none = (np.zeros(1, "<u4"), np.zeros(0, "<u4"), np.zeros((0, 2), "<f4"))
    if part is None or not len(part):
        return none
    shapely = shapely_module()
    shapes = shapely.from_wkb(part["geometry"].to_numpy(zero_copy_only=False))
    parts, owners = shapely.get_parts(shapes, return_index=True)
    polygons = shapely.get_type_id(parts) == _POLYGON
    rings, of = shapely.get_rings(parts[polygons], return_index=True)
    if not len(rings):
        return none
    points, ring_of = shapely.get_coordinates(rings, return_index=True)
    starts = np.searchsorted(ring_of, np.arange(len(rings) + 1))
    return starts.astype("<u4"), owners[polygons][of].astype("<u4"), points.astype("<f4")
