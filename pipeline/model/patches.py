"""A block of pixels -> patches of the global grid -> batches -> the maps of a block.

Patches are laid out on one grid over the whole level, whatever the blocks are: a patch that
two blocks share is predicted alike by both, so a block's border is never a seam. A classifier
is the same as a segmenter, with a stride as large as what is kept of a patch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ModelError
from pipeline.geometry import Box, Grid, Index, Shape
from pipeline.model.batches import fill_batch, patch_pixels
from pipeline.model.blending import patch_weights
from pipeline.model.refs import MapRef, ModelRef, SessionRef
from pipeline.model.session import NotFinite, input_buffer, run_batch
from pipeline.model.symmetry import Symmetry, symmetries

__all__ = ["map_boxes", "predict_block"]

Maps = tuple[NDArray[np.float32], ...]


def predict_block(
    rgb: NDArray[np.uint8], index: Index, wanted: bytes | None, *, model: ModelRef, level_grid: Grid
) -> Maps:
    """Give the maps of block ``index`` of ``level_grid``: ``(c, y, x)`` float32 each.

    ``rgb`` ``(y, x, 3)`` covers ``model.frame.around(level_grid.box(index))``; what each map
    covers is in `map_boxes`. ``wanted`` has one bit per patch that has a part in the block,
    row by row; where no patch is predicted the maps are NaN. None wants all.

    Raises `ModelError` where a value is not finite, with the place.
    """
    l_box = level_grid.box(index)
    l_outer = model.frame.around(l_box)
    patches = Grid(level_grid.shape, model.step)
    touching = list(patches.touching(model.predicted_for(l_box)))
    cells = [patches.whole(patch) for patch in _selected(touching, wanted)]
    boxes = map_boxes(model, l_box, level_grid.shape)
    whole = len(cells) == len(touching)
    stitched = [
        _Stitched.empty(*each, model, whole=whole) for each in zip(model.maps, boxes, strict=True)
    ]
    ways = symmetries(model.tta)
    share = np.float32(1 / (len(model.members) * len(ways)))
    # One member after the other over the whole block: each with batches of its own size, and
    # every pixel's sum in one order, whatever the blocks and batches are.
    for number, member in enumerate(model.members):
        batch = input_buffer(member)
        for first in range(0, len(cells), len(batch)):
            chosen = cells[first : first + len(batch)]
            given = (cell.expanded(model.halo) for cell in chosen)
            seen = [
                patch_pixels(rgb, l_outer, box, level_grid.shape, member.border) for box in given
            ]
            fill_batch(batch, seen, member)
            for way in ways:
                is_first = number == 0 and way is ways[0]
                _place(stitched, _run(member, model, batch, chosen, way), chosen, share, is_first)
    return tuple(each.finished() for each in stitched)


def map_boxes(model: ModelRef, l_box: Box, l_plane: Shape) -> tuple[Box, ...]:
    """Give what each map of a block covers, in its own pixels."""
    return tuple(
        l_box.expanded(each.reach).clipped(l_plane).divided(each.stride) for each in model.maps
    )


@dataclass(frozen=True, slots=True)
class _Stitched:
    """A map that is being put together; averages also keep the sum of their weights."""

    map: MapRef
    o_box: Box
    total: NDArray[np.float32]
    weight: NDArray[np.float32] | None
    patch_weight: NDArray[np.float32] | None

    @classmethod
    def empty(cls, ref: MapRef, o_box: Box, model: ModelRef, *, whole: bool) -> _Stitched:
        """Give a map without values; of one that is ``whole`` every pixel will get one."""
        shape = (ref.channels, *o_box.shape)
        if model.method == "crop":
            values = np.empty(shape, np.float32) if whole else np.full(shape, np.nan, np.float32)
            return cls(ref, o_box, values, None, None)
        weights = patch_weights(model.method, model.patch // ref.stride)
        weight = np.zeros(o_box.shape, np.float32)
        return cls(ref, o_box, np.zeros(shape, np.float32), weight, weights)

    def add(self, patches: NDArray[np.float32], cells: Sequence[Box], *, first: bool) -> None:
        """Add what patches ``(n, c, y, x)`` say, whose cells are given in input pixels.

        Of a cropped patch the middle counts, as large as its cell; a graph may give that only.
        """
        if self.patch_weight is None and cells[0].height == self.map.stride:
            self._add_pixels(patches, cells, first)
            return
        for patch, cell in zip(patches, cells, strict=True):
            self._add_one(patch, cell, first)

    def _add_pixels(self, patches: NDArray[np.float32], cells: Sequence[Box], first: bool) -> None:
        """Add the one pixel of each patch, all at once: a small classifier does little else."""
        o_places = np.array([(cell.y, cell.x) for cell in cells]) // self.map.stride
        places = o_places - (self.o_box.y, self.o_box.x)
        # Another map may reach further around the block than this one.
        inside = ((places >= 0) & (places < self.o_box.shape)).all(axis=1)
        rows, columns = places[inside].T
        middle = (patches.shape[-1] - 1) // 2
        values = patches[inside, :, middle, middle].T
        if first:
            self.total[:, rows, columns] = values
        else:
            self.total[:, rows, columns] += values

    def _add_one(self, patch: NDArray[np.float32], cell: Box, first: bool) -> None:
        box = cell.divided(self.map.stride)
        covered = box.expanded((patch.shape[-1] - box.height) // 2)
        part = (box if self.patch_weight is None else covered).intersection(self.o_box)
        if not part.area:
            return
        rows, columns = part.within(covered)
        here = part.within(self.o_box)
        values = patch[:, rows, columns]
        if self.patch_weight is None or self.weight is None:
            if first:
                self.total[(slice(None), *here)] = values
            else:
                self.total[(slice(None), *here)] += values
            return
        weights = self.patch_weight[rows, columns]
        self.total[(slice(None), *here)] += values * weights
        if first:
            self.weight[here] += weights

    def finished(self) -> NDArray[np.float32]:
        """Give the map; NaN where no patch has a part."""
        if self.weight is not None:
            with np.errstate(invalid="ignore"):  # 0 / 0, where nothing was predicted
                self.total[...] /= self.weight
        return self.total


def _place(
    stitched: Sequence[_Stitched],
    given: list[NDArray[np.float32]],
    cells: Sequence[Box],
    share: np.float32,
    first: bool,
) -> None:
    for values, into in zip(given, stitched, strict=True):
        into.add(values if share == 1 else values * share, cells, first=first)


def _run(
    member: SessionRef,
    model: ModelRef,
    batch: NDArray[np.float32],
    cells: Sequence[Box],
    way: Symmetry,
) -> list[NDArray[np.float32]]:
    try:
        given = run_batch(member, model.maps, way.of_batch(batch, member.layout), len(cells))
    except NotFinite as error:
        cell = cells[error.patch]
        raise ModelError(
            f"{member.onnx}: output {error.output} is NaN or infinite in the patch around "
            f"x {cell.x + cell.width // 2}, y {cell.y + cell.height // 2} of what the model sees"
        ) from error
    return [way.undone(values) for values in given]


def _selected(patches: Sequence[Index], wanted: bytes | None) -> Iterator[Index]:
    if wanted is None:
        return iter(patches)
    bits = np.unpackbits(np.frombuffer(wanted, np.uint8), count=len(patches))
    return (patch for patch, bit in zip(patches, bits, strict=True) if bit)
