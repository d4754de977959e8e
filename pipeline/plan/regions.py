"""The connected regions of a stored label map, over all its blocks, as a table of outlines.

A region is pixels of one value that are connected through edges (4-connected, scikit-image's
``label(..., connectivity=1)``): each is one polygon, its holes left open, which is what QuPath
makes of a classified image once it is split. Value 0 is none.

One task per block finds the block's pieces and what there is to say of them: area, sum of
positions, first pixel, corners of the outline (`pipeline.objects.outlines`), and which piece each
pixel of its four faces belongs to. Pieces without a pixel on a face are regions already, and
those that are too small stay where they were found. The caller goes down the rows of blocks
and joins what touches; a region's row is written once nothing can be added to it. In memory
are one row of pieces, and the outlines of the regions that reach its lower face: what grows
with the plane is the outline of a region that does.

Results do not depend on the blocks, but for the part a region is in: that of the row of blocks
it ends in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Grid, Index
from pipeline.lazy import Source, map_blocks, read_blocks
from pipeline.objects import Objects
from pipeline.objects.outlines import make_polygons, shapely_module
from pipeline.objects.pieces import Pieces, Row, find_pieces, join
from pipeline.store.tables import StoredTable

__all__ = ["Labels", "Regions", "regions_done", "write_regions"]


class Labels(Source, Protocol):
    """A stored label map: ``read(box)`` gives ``(1, y, x)`` whole numbers."""

    @property
    def grid(self) -> Grid:
        """Its plane cut into blocks."""
        ...


@dataclass(frozen=True, slots=True)
class Regions:
    """Which regions of which map are wanted, and where they go.

    ``classes`` pairs values of the map and names; other values are none. ``step``, ``origin``
    and ``mpp`` place them, see `pipeline.objects.Objects.placed`. ``min_area_um2`` is that of
    a region's pixels. Parts of the table are ``(row of blocks, 0)``.
    """

    labels: Labels
    table: StoredTable
    classes: tuple[tuple[int, str], ...]
    step: tuple[float, float]
    origin: tuple[float, float]
    mpp: tuple[float, float]
    min_area_um2: float = 0.0

    @property
    def min_pixels(self) -> float:
        """Area of the smallest region that is kept, in pixels of the map."""
        return self.min_area_um2 / (self.step[0] * self.mpp[0] * self.step[1] * self.mpp[1])


def regions_done(regions: Regions, parts: set[Index]) -> bool:
    """Say whether all is written, by the table's parts that are there."""
    return {(row, 0) for row in range(regions.labels.grid.counts[0])} <= parts


def write_regions(
    regions: Regions,
    compute: Callable[[da.Array], NDArray[Any]],
    tell: Callable[[int, int], None] = lambda _row, _rows: None,
) -> int:
    """Find all regions and write their table; give how many there are.

    ``compute`` is a scheduler's: it is given one row of blocks at a time, and gives small
    things back. ``tell`` is told rows finished and rows in all. Written anew from the first
    row whenever it is called. Raises `StoreError` where labels cannot be read or parts cannot
    be written, `MissingExtraError` without shapely or pyarrow.
    """
    grid = regions.labels.grid
    blocks = _found(regions)
    above = Row.nothing(grid.shape[1])
    count = 0
    for row in range(grid.counts[0]):
        found = compute(blocks.blocks[:, row])
        joined = join(above, list(found[0, 0]))
        ended = np.ones(len(joined.pieces), np.bool_)
        if row + 1 < grid.counts[0]:
            ended[joined.face[joined.face > 0] - 1] = False
        large = joined.pieces.areas >= regions.min_pixels
        objects = _as_objects(regions, joined.pieces.only(ended & large))
        regions.table.write_part(
            (row, 0), objects.placed(regions.step, regions.origin, regions.mpp)
        )
        count += len(objects)
        above = joined.below(~ended)
        tell(row + 1, grid.counts[0])
    return count


def _found(regions: Regions) -> da.Array:
    """Give what there is in each block, lazily: one element per block."""
    grid = regions.labels.grid
    return map_blocks(
        find_pieces,
        read_blocks(regions.labels, grid),
        Grid(grid.counts, 1),
        axes="cyx",
        channels=1,
        dtype=object,
        cut=grid,
        values=tuple(value for value, _ in regions.classes),
        min_pixels=regions.min_pixels,
    )


def _as_objects(regions: Regions, pieces: Pieces) -> Objects:
    shapely = shapely_module()
    order = np.argsort(pieces.first)
    _, polygons = make_polygons(pieces.corners)
    polygons = polygons[order]
    y = (pieces.sums_y / np.maximum(pieces.areas, 1) + 0.5)[order]
    x = (pieces.sums_x / np.maximum(pieces.areas, 1) + 0.5)[order]
    astray = np.flatnonzero(~shapely.contains_xy(polygons, x, y)) if len(order) else order
    inner = shapely.point_on_surface(polygons[astray])
    x[astray], y[astray] = shapely.get_x(inner), shapely.get_y(inner)
    index = {value: number for number, (value, _) in enumerate(regions.classes)}
    return Objects(
        ids=pieces.first[order],
        x=x,
        y=y,
        areas=pieces.areas[order].astype(np.float64),
        scores=np.full(len(order), np.nan, np.float32),
        classes=np.array([index[int(value)] for value in pieces.values[order]], np.int32),
        class_names=tuple(name for _, name in regions.classes),
        truncated=np.zeros(len(order), np.bool_),
        geometries=polygons,
    )
