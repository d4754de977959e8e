"""A block of pixels -> patches of the global grid -> batches -> a block of scores.

Patches are cells of one grid over the whole level, whatever the blocks are: a patch that
two blocks share is predicted alike by both, so a block's border is never a seam. A
classifier is the same as a segmenter, with a stride as large as what is kept of a patch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ModelError
from pipeline.geometry import Box, Grid, Index
from pipeline.model.card import ModelRef
from pipeline.model.session import run_batch

__all__ = ["predict_block", "quantise"]


def predict_block(
    rgb: NDArray[np.uint8], index: Index, wanted: bytes | None, *, model: ModelRef, level_grid: Grid
) -> NDArray[np.float32]:
    """Give the scores ``(c, y, x)`` float32 of block ``index`` of ``level_grid``.

    ``rgb`` ``(y, x, 3)`` covers ``model.frame.around(level_grid.box(index))``. ``wanted`` has one
    bit per patch that touches the block, row by row; unwanted patches are not predicted and
    hold the least value of the model's range. None wants all.
    """
    l_box = level_grid.box(index)
    l_outer = model.frame.around(l_box)
    patches = Grid(level_grid.shape, model.core)
    todo = list(_selected(list(patches.touching(l_box)), wanted))
    o_box = l_box.divided(model.stride)
    scores = np.full((model.channels, *o_box.shape), model.value_range[0], np.float32)
    for first in range(0, len(todo), model.batch):
        chosen = [patches.whole(patch) for patch in todo[first : first + model.batch]]
        o_chosen = [box.divided(model.stride) for box in chosen]
        given = [box.expanded(model.halo) for box in chosen]
        # Unnamed, so that neither input nor output of a batch is held while the next one is run:
        # the runtime's arena would grow for it.
        _place(
            run_batch(model, _batch(rgb, l_outer, given, model), len(given)),
            o_chosen,
            scores,
            o_box,
        )
    return scores


def quantise(
    scores: NDArray[np.float32],
    _index: Index,
    _value: None,
    *,
    stored_as: str,
    value_range: tuple[float, float],
) -> NDArray[Any]:
    """Give scores as they are stored: uint8 spans ``value_range``, float types as they are.

    Raises `ModelError` where a score lies outside the range by more than half a step: it
    would be stored as something it is not.
    """
    if np.dtype(stored_as) != np.uint8:
        return _as_float(scores, stored_as)
    low, high = value_range
    steps = (scores - np.float32(low)) * np.float32(255 / (high - low))
    if steps.size and (steps.min() < -0.5 or steps.max() > 255.5):
        raise ModelError(
            f"scores from {scores.min():g} to {scores.max():g} do not fit "
            f"{low:g} to {high:g}; set the card's activation or range, or output.dtype: float32"
        )
    # In place: as floats, the scores of a block are the largest thing there is.
    np.clip(steps, 0, 255, out=steps)
    np.rint(steps, out=steps)
    stored: NDArray[np.uint8] = steps.astype(np.uint8)
    return stored


def _as_float(scores: NDArray[np.float32], stored_as: str) -> NDArray[Any]:
    limit = float(np.finfo(stored_as).max)
    if scores.size and np.abs(scores).max() > limit:
        raise ModelError(
            f"scores from {scores.min():g} to {scores.max():g} do not fit "
            f"{stored_as}, which ends at {limit:g}; set output.dtype: float32"
        )
    return np.asarray(scores, np.dtype(stored_as))


def _selected(patches: Sequence[Index], wanted: bytes | None) -> Iterator[Index]:
    if wanted is None:
        return iter(patches)
    bits = np.unpackbits(np.frombuffer(wanted, np.uint8), count=len(patches))
    return (patch for patch, bit in zip(patches, bits, strict=True) if bit)


def _batch(
    rgb: NDArray[np.uint8], l_outer: Box, boxes: Sequence[Box], model: ModelRef
) -> NDArray[np.float32]:
    """Give the model's input for patches at ``boxes``, filled up to its fixed batch size."""
    batch = np.zeros((model.batch, model.patch, model.patch, 3), np.float32)
    for place, box in zip(batch, boxes, strict=False):
        place[:] = rgb[box.within(l_outer)]
    used = batch[: len(boxes)]
    used *= np.float32(model.scale)
    if any(model.mean):
        used -= np.asarray(model.mean, np.float32)
    if any(std != 1 for std in model.std):
        used /= np.asarray(model.std, np.float32)
    if model.order == "BGR":
        batch = batch[..., ::-1]
    if model.layout == "NCHW":
        batch = batch.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(batch)


def _place(
    values: NDArray[np.float32], chosen: Sequence[Box], scores: NDArray[np.float32], o_box: Box
) -> None:
    """Put a batch's output into ``scores``, which cover ``o_box``.

    What is kept of each patch is the middle of its values, as large as its box in ``chosen``;
    a graph may give the middle only.
    """
    margin = (values.shape[-1] - chosen[0].height) // 2
    for box, patch in zip(chosen, values, strict=True):
        part = box.intersection(o_box)
        rows, columns = part.within(box.expanded(margin))
        scores[(slice(None), *part.within(o_box))] = patch[:, rows, columns]
