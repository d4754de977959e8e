"""What results say of a part of a slide: scores, labels, tissue and objects, read from there only.

Arrays come from the level that has as many pixels as a picture shows, objects from those parts of
their table that can hold any. Everything is in level-0 pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box
from pipeline.ngff import PALETTE, Placement
from pipeline.objects.outlines import shapely_module
from pipeline.slide.crop import Region
from pipeline.store import Coverage, placed_outputs, read_placements, stored_outputs
from pipeline.store.labels import read_colours
from pipeline.store.tables import read_parts
from pipeline.tissue import resample_mask

if TYPE_CHECKING:
    from pipeline.results.stored import StoredSlide

__all__ = [
    "MOST_OUTLINES",
    "Objects",
    "Raster",
    "labels_in",
    "objects_in",
    "scores_in",
    "tissue_in",
]

MOST_OUTLINES = 20_000
"""Objects that are outlined; of more only the middles are kept, 16 bytes each."""

_MARGIN = 1  # blocks around: an outline may reach out of the block that it belongs to


@dataclass(frozen=True)
class Raster:
    """Values ``(y, x)`` and what they cover.

    ``limits`` are the least and the greatest score there can be, ``classes`` value, name and
    colour of labels.
    """

    name: str
    values: NDArray[Any]
    covered: Region
    limits: tuple[float, float] = (0.0, 1.0)
    classes: tuple[tuple[int, str, str], ...] = ()


@dataclass
class Objects:
    """Objects of one class: their middles ``(n, 2)`` and outlines, x and y of each corner.

    There are no ``rings`` where they are more than `MOST_OUTLINES`.
    """

    name: str
    colour: str
    middles: list[NDArray[np.float64]] = field(default_factory=list)
    rings: list[NDArray[np.float64]] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(map(len, self.middles))


def scores_in(stored: StoredSlide, name: str, channel: str, region: Region, size: int) -> Raster:
    """Give the scores of one channel of an output, NaN where nothing was analysed.

    Raises `StoreError` where they cannot be read.
    """
    values, covered = _read(stored, stored.folder_of(name), region, size)
    scores = stored.as_scores(values[stored.channels_of(name).index(channel)], name)
    scores[~_analysed(stored, stored.folder_of(name), covered, scores.shape)] = np.nan
    return Raster(channel, scores, covered, limits=stored.range_of(name))


def labels_in(stored: StoredSlide, name: str, region: Region, size: int) -> Raster:
    """Give the labels of an output; see `scores_in`."""
    folder = stored.folder_of(name)
    values, covered = _read(stored, folder, region, size)
    colours = read_colours(stored.path, name)
    classes = tuple(
        (value, meaning, colours[value]) for value, meaning in stored.classes(name).items()
    )
    return Raster(name, values[0], covered, classes=classes)


def tissue_in(stored: StoredSlide, region: Region, size: int) -> Raster:
    """Give where tissue is; see `scores_in`."""
    mask = stored.tissue  # all of it: it is made of a coarse level
    step, origin = _placed(stored.tissue_placement, stored)
    box = region.box(step, origin).clipped((mask.shape[0], mask.shape[1]))
    values = mask[box.within(Box(0, 0, mask.shape[0], mask.shape[1]))]
    rows, columns = (min(n, size) for n in box.shape)
    if values.size:
        values = resample_mask(values, (rows, columns))
    return Raster("tissue", values, _covered(box, step, origin))


def objects_in(stored: StoredSlide, name: str, region: Region) -> list[Objects]:
    """Give the objects whose middle lies in a region, by class.

    Raises `StoreError` where they cannot be read, `MissingExtraError` without pyarrow or shapely.
    """
    found: dict[str, Objects] = {}
    for table in read_parts(stored.path, name, _rows_of_blocks(stored, region)):
        x, y = table["x"].to_numpy(), table["y"].to_numpy()
        inside = (x >= region.x) & (x < region.x + region.width)
        inside &= (y >= region.y) & (y < region.y + region.height)
        of = np.array([each or name for each in table["class"].to_pylist()], object)
        for class_name in sorted(set(of[inside])):
            chosen = np.flatnonzero(inside & (of == class_name))
            colour = PALETTE[len(found) % len(PALETTE)]
            objects = found.setdefault(class_name, Objects(class_name, colour))
            objects.middles.append(np.stack([x[chosen], y[chosen]], axis=1))
            if objects.count <= MOST_OUTLINES:
                objects.rings += _rings(table["geometry"].take(chosen).to_pylist())
            else:
                objects.rings.clear()
    return list(found.values())


def _rings(outlines: list[bytes]) -> Iterator[NDArray[np.float64]]:
    """Give every ring, holes too; nothing of a point."""
    shapely = shapely_module()
    for ring in shapely.get_rings(shapely.from_wkb(outlines)):
        yield shapely.get_coordinates(ring)


def _rows_of_blocks(stored: StoredSlide, region: Region) -> range:
    """Give the rows of blocks whose objects may lie in a region."""
    settings = stored.provenance["settings"]
    # Block and scale are those of what the model saw.
    seen = stored.provenance["slide"]["seen_mpp"][0] / stored.level0_mpp[0]
    block = settings["output.block"] * seen
    first, last = int(region.y // block), int((region.y + region.height) // block)
    return range(first - _MARGIN, last + 1 + _MARGIN)


def _read(
    stored: StoredSlide, folder: str, region: Region, size: int
) -> tuple[NDArray[Any], Region]:
    """Give values ``(c, y, x)`` of the coarsest level that has ``size`` in a region, and where."""
    levels = placed_outputs(stored.path, folder)
    placed = [_placed(place, stored) for _, place in levels]
    wanted = max(region.width, region.height) / size
    fine = [i for i, (step, _) in enumerate(placed) if max(step) <= max(wanted, 1e-9)]
    index = max(fine, default=0)
    step, origin = placed[index]
    array, _ = levels[index]
    box = region.box(step, origin).clipped(array.plane)
    return array.read(box), _covered(box, step, origin)


def _covered(box: Box, step: tuple[float, float], origin: tuple[float, float]) -> Region:
    (y, x), (y0, x0) = step, origin
    return Region(x0 + box.x * x, y0 + box.y * y, box.width * x, box.height * y)


def _placed(
    place: Placement, stored: StoredSlide
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Give the size of a level's pixels and where the first begins, in level-0 pixels."""
    (y_um, x_um), mpp = place.corner(stored.level0_mpp), stored.level0_mpp
    return (place.scale[0] / mpp[0], place.scale[1] / mpp[1]), (y_um / mpp[0], x_um / mpp[1])


def _analysed(
    stored: StoredSlide, folder: str, covered: Region, shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Give where blocks were analysed, for each value of what covers a region."""
    path = f"{stored.path}/{folder}" if folder else stored.path
    (y, x), (y0, x0) = _placed(read_placements(path)[0], stored)
    block = stored_outputs(stored.path, folder)[0].block
    coverage = stored.coverage == Coverage.ANALYSED
    rows, columns = (
        ((start + (np.arange(n) + 0.5) / n * extent - origin) // (step * block))
        .astype(int)
        .clip(0, blocks - 1)
        for start, n, extent, origin, step, blocks in (
            (covered.y, shape[0], covered.height, y0, y, coverage.shape[0]),
            (covered.x, shape[1], covered.width, x0, x, coverage.shape[1]),
        )
    )
    analysed: NDArray[np.bool_] = coverage[np.ix_(rows, columns)]
    return analysed
