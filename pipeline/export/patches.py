"""The patches of a store: where they lie, and their scores or features, read row by row.

A model that gives one value for each patch is a classifier of patches: each pixel of its scores
is a patch. Features have patches in any case. What is no tissue was not predicted and is no
patch here, nor is what failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box, Grid, Shape
from pipeline.ngff import Placement
from pipeline.plan.seen import Tissue, wanted_patches
from pipeline.results.stored import StoredSlide
from pipeline.store import Coverage, StoredArray, read_patches, stored_outputs

__all__ = ["Column", "Lying", "Patches", "feature_patches", "lying", "scored_patches"]


@dataclass(frozen=True, slots=True)
class Lying:
    """How the pixels of an array lie on the slide: their size and the corner of the first.

    Both in level-0 pixels, ``(y, x)``.
    """

    downsample: tuple[float, float]
    origin: tuple[float, float]


@dataclass(frozen=True)
class Column:
    """One output of the patches: its array and channels, and what makes them of stored values."""

    output: str
    array: StoredArray
    channels: tuple[str, ...]
    dtype: np.dtype[Any]
    made: Callable[[NDArray[Any]], NDArray[Any]]

    def read(self, box: Box) -> NDArray[Any]:
        """Give the values ``(c, y, x)`` of a box."""
        return self.made(self.array.read(box))


@dataclass(frozen=True)
class Patches:
    """Patches, by row and column.

    ``index`` is row and column of each ``(n, 2)``; ``corners`` x and y of its upper left corner
    ``(n, 2)``, and ``size`` its width and height, in level-0 pixels.
    """

    index: NDArray[np.int32]
    corners: NDArray[np.float64]
    size: tuple[float, float]
    columns: tuple[Column, ...]

    def __len__(self) -> int:
        return len(self.index)

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each value; that of its output goes before it where two are the same."""
        named = [(each.output, name) for each in self.columns for name in each.channels]
        unique = len({name for _, name in named}) == len(named)
        return tuple(name if unique else f"{output}: {name}" for output, name in named)

    def rows(self) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Give which patches, and their values ``(n, c)``: those of one row of blocks at a time."""
        grid = self.columns[0].array.grid
        starts = np.arange(grid.counts[0] + 1) * grid.cell
        cuts = np.searchsorted(self.index[:, 0], starts)
        for row, (first, last) in enumerate(pairwise(cuts.tolist())):
            if first == last:
                continue
            index = self.index[first:last]
            left, right = int(index[:, 1].min()), int(index[:, 1].max()) + 1
            height = grid.box((row, 0)).height
            box = Box(row * grid.cell, left, height, right - left)
            y, x = index[:, 0] - box.y, index[:, 1] - box.x
            values = np.concatenate([each.read(box)[:, y, x] for each in self.columns])
            yield slice(first, last), values.T


def lying(place: Placement, mpp: tuple[float, float]) -> Lying:
    """Give how an array lies on its slide of ``mpp`` um per level-0 pixel."""
    y, x = place.corner(mpp)
    return Lying(
        (place.scale[0] / mpp[0], place.scale[1] / mpp[1]),
        (y / mpp[0], x / mpp[1]),
    )


def scored_patches(stored: StoredSlide) -> Patches | None:
    """Give the patches that have scores, with all their scores; None where no model gives such."""
    settings = stored.provenance["settings"]
    step = settings["model.patch"] - 2 * settings["model.halo"]
    names = [
        name
        for name, kind in stored.kinds.items()
        if kind == "scores" and settings[f"model.output.{name}"][3] == step
    ]
    if not names:
        return None
    columns = tuple(
        Column(
            name,
            stored_outputs(stored.path, stored.folder_of(name))[0],
            stored.channels_of(name),
            np.dtype(np.float32),
            partial(stored.as_scores, name=name),
        )
        for name in names
    )
    plane = lying(stored.placement_of(names[0]), stored.level0_mpp)
    there = _predicted(stored, columns[0].array, plane)
    index = np.argwhere(there).astype(np.int32)
    return _placed(index, plane, columns)


def feature_patches(stored: StoredSlide, name: str) -> Patches:
    """Give the patches that have features, with these as they are stored."""
    folder = stored.folder_of(name)
    index, _ = read_patches(stored.path, folder)
    array = stored_outputs(stored.path, folder)[0]
    column = Column(name, array, stored.channels_of(name), array.dtype, _as_they_are)
    return _placed(index, lying(stored.placement_of(name), stored.level0_mpp), (column,))


def _as_they_are(values: NDArray[Any]) -> NDArray[Any]:
    return values


def _placed(index: NDArray[np.int32], plane: Lying, columns: tuple[Column, ...]) -> Patches:
    step, origin = np.array(plane.downsample), np.array(plane.origin)
    corners = np.ascontiguousarray((index * step + origin)[:, ::-1], np.float64)
    return Patches(index, corners, (plane.downsample[1], plane.downsample[0]), columns)


def _predicted(stored: StoredSlide, array: StoredArray, plane: Lying) -> NDArray[np.bool_]:
    """Say which patches were predicted, as the plan decided it; those of failed blocks were not."""
    settings, mask = stored.provenance["settings"], stored.tissue
    mask_lies = lying(stored.tissue_placement, stored.level0_mpp)
    tissue = Tissue(mask, mask_lies.downsample, {}, origin=mask_lies.origin)
    wanted = wanted_patches(
        Grid(array.plane, 1),
        plane,
        _l0_shape(stored, mask_lies, mask.shape),
        tissue,
        settings["tissue.min_fraction"],
    )
    done = stored.coverage == Coverage.ANALYSED
    rows, columns = (np.arange(n) // array.block for n in array.plane)
    predicted: NDArray[np.bool_] = wanted & done[np.ix_(rows, columns)]
    return predicted


def _l0_shape(stored: StoredSlide, mask: Lying, shape: tuple[int, ...]) -> Shape:
    """Give the slide's rows and columns; what its tissue mask covers where it does not say."""
    said = stored.provenance.get("slide", {}).get("shape")
    if said is not None:
        return (said[0], said[1])
    rows, columns = (
        round(start + n * step)
        for start, n, step in zip(mask.origin, shape, mask.downsample, strict=True)
    )
    return (rows, columns)
