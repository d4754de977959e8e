"""What is stored of a slide, in numbers: areas, how scores are spread, objects and their density.

Arrays are read a block at a time and tables a part at a time, so that memory does not grow with
the slide. Of an array of more than `MOST_PIXELS` a part is read, chunks taken at random (always
the same ones), and `share` says how much that is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box, Grid
from pipeline.ngff import Placement
from pipeline.results import StoredSlide
from pipeline.store import Coverage, StoredArray, read_placements, stored_outputs, table_done
from pipeline.store.tables import StoredTable, read_parts

__all__ = [
    "BINS",
    "MOST_PIXELS",
    "Areas",
    "Histogram",
    "Labelled",
    "Objects",
    "areas",
    "histograms",
    "labelled",
    "objects",
]

BINS = 32
"""Bars of a histogram; 256 values make eight of each."""

MOST_PIXELS = 64_000_000
"""Pixels of an output that are counted one by one: about a second."""

MOST_POINTS = 3_000
"""Objects that are drawn one by one."""

_CELLS = 120
"""Cells of a map of densities along its longer side."""


@dataclass(frozen=True)
class Areas:
    """Areas of a slide, mm2: all of it, its tissue, its analysed blocks, and the tissue in them."""

    slide: float
    tissue: float
    blocks: float
    analysed: float


@dataclass(frozen=True)
class Histogram:
    """How the scores of a channel are spread over the tissue that was analysed.

    ``counts`` are pixels in `BINS` equal parts of ``limits``; ``share`` is the part of them that
    was read.
    """

    channel: str
    limits: tuple[float, float]
    counts: tuple[int, ...]
    mean: float | None
    share: float

    @property
    def total(self) -> int:
        """Pixels counted."""
        return sum(self.counts)


@dataclass(frozen=True)
class Labelled:
    """The area of each class of a label map, mm2, without what is none; see `Histogram`."""

    name: str
    mm2: Mapping[int, float]
    share: float


@dataclass
class Objects:
    """The objects of a table: how many of each class, their areas, and where they are.

    ``inside`` are those in tissue: whole patches are predicted, which reach beyond it.
    ``points`` are x, y in level-0 pixels and number of the class, of the first `MOST_POINTS`;
    ``density`` counts all of them in cells of the slide, ``(rows, columns)``.
    """

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    inside: Counter[str] = field(default_factory=Counter)
    area_um2: float = 0.0
    truncated: int = 0
    points: list[tuple[float, float, str]] = field(default_factory=list)
    density: NDArray[np.int64] = field(default_factory=lambda: np.zeros((1, 1), np.int64))

    @property
    def total(self) -> int:
        """How many there are."""
        return sum(self.counts.values())


def areas(stored: StoredSlide, coverage: NDArray[np.uint8], block_um: tuple[float, float]) -> Areas:
    """Measure a slide: its tissue mask against its extent, and against the blocks analysed.

    ``block_um`` is the height and width of a block.
    """
    extent = extent_um(stored)
    tissue, place = stored.tissue, stored.tissue_placement
    corner = place.corner(stored.level0_mpp)
    # A pixel that reaches beyond the slide counts as far as it is in it.
    sides = [
        _overlaps(corner[axis], place.scale[axis], tissue.shape[axis], extent[axis])
        for axis in (0, 1)
    ]
    pixels = np.outer(*sides) * tissue
    centres = [
        corner[axis] + (np.arange(tissue.shape[axis]) + 0.5) * place.scale[axis] for axis in (0, 1)
    ]
    index = [
        np.clip((centre // block).astype(np.intp), 0, count - 1)
        for centre, block, count in zip(centres, block_um, coverage.shape, strict=True)
    ]
    done = coverage == Coverage.ANALYSED
    blocks = [_overlaps(0, block_um[axis], coverage.shape[axis], extent[axis]) for axis in (0, 1)]
    return Areas(
        slide=extent[0] * extent[1] / 1e6,
        tissue=float(pixels.sum()) / 1e6,
        blocks=float((np.outer(*blocks) * done).sum()) / 1e6,
        analysed=float((pixels * done[np.ix_(*index)]).sum()) / 1e6,
    )


def extent_um(stored: StoredSlide) -> tuple[float, float]:
    """Give height and width of the slide, um."""
    rows, columns = stored.provenance["slide"]["shape"]
    mpp = stored.level0_mpp
    return (rows * mpp[0], columns * mpp[1])


def _overlaps(start: float, step: float, count: int, stop: float) -> NDArray[np.float64]:
    """Give how much of each of ``count`` steps from ``start`` lies between 0 and ``stop``."""
    ends: NDArray[np.float64] = np.clip(start + np.arange(count + 1) * step, 0, stop)
    return np.diff(ends)


def histograms(stored: StoredSlide, coverage: NDArray[np.uint8]) -> list[Histogram]:
    """Count the first scores, a histogram for each channel."""
    token, place = stored.outputs[0], stored.placements[0]
    limits, mask = stored.score_range, _Mask(stored)
    counts = np.zeros((token.channels, BINS), np.int64)
    sums, total = np.zeros(token.channels), 0
    boxes, share = _boxes(token, coverage)
    for box in boxes:
        inside = mask.at(box, place)
        total += int(inside.sum())
        for number, plane in enumerate(token.read(box)):
            scores = stored.as_scores(plane[inside])
            counts[number] += np.histogram(np.clip(scores, *limits), BINS, limits)[0]
            sums[number] += scores.sum(dtype=np.float64)
    return [
        Histogram(
            channel,
            limits,
            tuple(int(n) for n in counts[number]),
            float(sums[number] / total) if total else None,
            share,
        )
        for number, channel in enumerate(stored.channels)
    ]


def labelled(stored: StoredSlide, coverage: NDArray[np.uint8], name: str) -> Labelled:
    """Count the pixels of each class of a label map."""
    folder = stored.folder_of(name)
    token = stored_outputs(stored.path, folder)[0]
    (height, width) = read_placements(f"{stored.path}/{folder}")[0].scale
    counts = np.zeros(256, np.int64)
    boxes, share = _boxes(token, coverage)
    for box in boxes:
        counts += np.bincount(token.read(box).ravel(), minlength=256)[:256]
    mm2 = {
        value: float(counts[value]) * height * width / 1e6 / share for value in stored.classes(name)
    }
    return Labelled(name, mm2, share)


def objects(stored: StoredSlide, name: str) -> Objects:
    """Count a table of objects, part by part."""
    rows, columns = stored.provenance["slide"]["shape"]
    cell = max(rows, columns) / _CELLS
    shape = (max(round(rows / cell), 1), max(round(columns / cell), 1))
    found = Objects(name, density=np.zeros(shape, np.int64))
    mask = _Mask(stored)
    if not table_done(StoredTable(stored.path, name, Grid((0, 0), 1))):
        return found  # no block was analysed
    for part in read_parts(stored.path, name):
        x, y = (part[axis].to_numpy() for axis in "xy")
        inside = mask.of(x, y, stored.level0_mpp)
        for counts, some in ((found.counts, part), (found.inside, part.filter(inside))):
            for each in some["class"].value_counts().to_pylist():
                counts[each["values"] or ""] += each["counts"]
        found.area_um2 += float(part["area_um2"].to_numpy().sum())
        found.truncated += int(part["truncated"].to_numpy(zero_copy_only=False).sum())
        found.density += np.histogram2d(y, x, shape, ((0, rows), (0, columns)))[0].astype(np.int64)
        left = MOST_POINTS - len(found.points)
        if left > 0:
            classes = part["class"].slice(0, left).to_pylist()
            found.points += zip(
                x[:left].tolist(), y[:left].tolist(), (each or "" for each in classes), strict=True
            )
    return found


class _Mask:
    """The tissue of a slide at the pixels of its outputs."""

    def __init__(self, stored: StoredSlide) -> None:
        self._tissue = stored.tissue
        self._place = stored.tissue_placement

    def of(
        self, x: NDArray[np.float64], y: NDArray[np.float64], mpp: tuple[float, float]
    ) -> NDArray[np.bool_]:
        """Say which points, in level-0 pixels, are in tissue."""
        corner = self._place.corner(mpp)
        index = []
        for axis, points in enumerate((y, x)):
            at = np.floor((points * mpp[axis] - corner[axis]) / self._place.scale[axis])
            index.append(np.clip(at.astype(np.intp), 0, self._tissue.shape[axis] - 1))
        there: NDArray[np.bool_] = self._tissue[index[0], index[1]]
        return there

    def at(self, box: Box, place: Placement) -> NDArray[np.bool_]:
        """Say which pixels of a box have their centre in tissue."""
        index = []
        spans = ((box.y, box.y_stop), (box.x, box.x_stop))
        for axis, (start, stop) in enumerate(spans):
            um = place.origin[axis] + np.arange(start, stop) * place.scale[axis]
            scale, size = self._place.scale[axis], self._tissue.shape[axis]
            at = np.floor((um - self._place.origin[axis]) / scale + 0.5).astype(np.intp)
            index.append(np.clip(at, 0, size - 1))
        there: NDArray[np.bool_] = self._tissue[np.ix_(*index)]
        return there


def _boxes(token: StoredArray, coverage: NDArray[np.uint8]) -> tuple[Iterator[Box], float]:
    """Give what to read of an array, its blocks or some of their chunks, and its share."""
    done = [(int(i), int(j)) for i, j in np.argwhere(coverage == Coverage.ANALYSED)]
    blocks = [token.grid.box(index) for index in done]
    total = sum(box.area for box in blocks)
    if total <= MOST_PIXELS:
        return iter(blocks), 1.0
    chunks = [chunk for box in blocks for chunk in _chunks(box, token.chunk)]
    random = np.random.default_rng(0)
    taken = random.permutation(len(chunks))[: max(MOST_PIXELS // token.chunk**2, 1)]
    picked = [chunks[number] for number in sorted(taken.tolist())]
    return iter(picked), sum(box.area for box in picked) / total


def _chunks(block: Box, side: int) -> Iterator[Box]:
    grid = Grid(block.shape, side)
    for index in grid:
        inner = grid.box(index)
        yield Box(block.y + inner.y, block.x + inner.x, *inner.shape)


def kept_block_um(stored: StoredSlide) -> tuple[float, float]:
    """Give height and width of a block, um."""
    settings: Mapping[str, Any] = stored.provenance["settings"]
    y, x = stored.provenance["slide"]["seen_mpp"]
    return (settings["output.block"] * y, settings["output.block"] * x)
