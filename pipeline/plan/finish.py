"""The maps of a block -> what each output of the model stores of it.

Scores are quantised, features kept as they are, labels decided, objects found: pure functions
from one block to one block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ModelError
from pipeline.geometry import Box, Grid, Index
from pipeline.lazy import Target
from pipeline.model import MapRef, ModelRef, ObjectsRef, OutputRef, map_boxes

if TYPE_CHECKING:
    from pipeline.objects import PlacedObjects

__all__ = ["Placing", "Together", "as_labels", "finish_block", "quantise"]

Maps = tuple[NDArray[np.float32], ...]

_BAND = 2**16
"""Scores quantised at once: they stay in a core's cache, where those of a block would not."""


@dataclass(frozen=True, slots=True)
class Placing:
    """Where what the model sees lies: level-0 pixels per pixel and of its corner, ``(y, x)``.

    ``mpp`` is um per level-0 pixel.
    """

    step: tuple[float, float]
    origin: tuple[float, float]
    mpp: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Together:
    """All outputs of a block: a `pipeline.lazy.Target` that hands each value to its own."""

    targets: tuple[Target, ...]
    strides: tuple[int, ...]

    def write(self, box: Box, values: Sequence[Any]) -> None:
        """Store one value per target; ``box`` is in pixels of what the model sees."""
        for target, stride, value in zip(self.targets, self.strides, values, strict=True):
            target.write(box.divided(stride), value)


def finish_block(
    maps: Maps,
    index: Index,
    wanted: bytes | None,
    *,
    model: ModelRef,
    level_grid: Grid,
    stored_as: str,
    placing: Placing,
) -> tuple[Any, ...]:
    """Give what each output stores of a block: an array ``(c, y, x)``, or a table of objects.

    ``maps`` are those of `pipeline.model.predict_block`, NaN where ``wanted`` left patches out;
    ``stored_as`` is the type of scores. Raises `ModelError` where values do not fit their type.
    """
    l_box = level_grid.box(index)
    outer = map_boxes(model, l_box, level_grid.shape)
    finished: list[Any] = []
    for output in model.outputs:
        map_, values, o_outer = model.maps[output.map], maps[output.map], outer[output.map]
        o_box = l_box.divided(map_.stride)
        if output.objects is not None:
            o_plane = Grid(level_grid.shape, map_.stride).counts
            found = _objects(values, o_outer, o_box, o_plane, map_, output.objects, placing)
            finished.append(found)
            continue
        inside = values[(slice(None), *o_box.within(o_outer))]
        unknown = None if wanted is None else np.isnan(inside[0])
        finished.append(_array(inside, unknown, output, stored_as))
    return tuple(finished)


def _array(
    values: NDArray[np.float32],
    unknown: NDArray[np.bool_] | None,
    output: OutputRef,
    stored_as: str,
) -> NDArray[Any]:
    if output.kind == "labels":
        return as_labels(values, output, unknown)
    background = output.value_range[0] if output.kind == "scores" else 0.0
    if unknown is not None and unknown.any():
        values = np.where(unknown, np.float32(background), values)
    if output.kind == "features":
        return _as_float(values, output.dtype, output.name)
    return quantise(values, stored_as, output.value_range, output.name)


def quantise(
    scores: NDArray[np.float32], stored_as: str, value_range: tuple[float, float], name: str
) -> NDArray[Any]:
    """Give scores as they are stored: uint8 spans ``value_range``, float types as they are.

    Raises `ModelError` where a score lies outside the range by more than half a step: it
    would be stored as something it is not.
    """
    if np.dtype(stored_as) != np.uint8:
        return _as_float(scores, stored_as, name)
    low, high = value_range
    stored = np.empty(scores.size, np.uint8)
    buffer = np.empty(min(_BAND, scores.size), np.float32)
    flat = scores.reshape(-1)
    for first in range(0, flat.size, _BAND):
        band = flat[first : first + _BAND]
        steps = buffer[: band.size]
        if low:
            band = np.subtract(band, np.float32(low), out=steps)
        np.multiply(band, np.float32(255 / (high - low)), out=steps)
        least, largest = steps.min(), steps.max()
        if least < -0.5 or largest > 255.5:
            raise ModelError(
                f"{name}: scores from {scores.min():g} to {scores.max():g} do not fit "
                f"{low:g} to {high:g}; set the card's activation or range, or output.dtype: float32"
            )
        if least < 0 or largest > 255:
            np.clip(steps, 0, 255, out=steps)
        stored[first : first + _BAND] = np.rint(steps, out=steps)
    return stored.reshape(scores.shape)


def _as_float(values: NDArray[np.float32], stored_as: str, name: str) -> NDArray[Any]:
    limit = float(np.finfo(stored_as).max)
    if values.size and np.abs(values).max() > limit:
        raise ModelError(
            f"{name}: values from {values.min():g} to {values.max():g} do not fit {stored_as}, "
            f"which ends at {limit:g}; use float32 (output.dtype, or the card's dtype for features)"
        )
    return np.asarray(values, np.dtype(stored_as))


def as_labels(
    values: NDArray[np.float32], output: OutputRef, unknown: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """Give the label ``(1, y, x)`` of every pixel; 0 where it is ``unknown`` ``(y, x)``.

    The greatest of several channels; of one channel, where it reaches the threshold. A map
    that holds numbers of classes already, one channel for several names, is looked up.
    """
    lookup = np.array(output.values, np.uint8)
    if len(values) > 1:
        labels = lookup[np.argmax(values, axis=0)]
    elif len(lookup) > 1:
        numbers = values[0] if unknown is None else np.where(unknown, np.float32(0), values[0])
        if numbers.size and (numbers.min() < 0 or numbers.max() >= len(lookup)):
            raise ModelError(
                f"{output.name}: class numbers from {numbers.min():g} to {numbers.max():g}, the "
                f"card names {len(lookup)}; add the missing outputs.channels"
            )
        labels = lookup[numbers.astype(np.intp)]
    else:
        labels = np.where(values[0] >= np.float32(output.threshold), lookup[0], np.uint8(0))
    if unknown is not None:
        labels = np.where(unknown, np.uint8(0), labels)
    given: NDArray[np.uint8] = labels[None]
    return given


def _objects(
    values: NDArray[np.float32],
    o_outer: Box,
    o_box: Box,
    o_plane: tuple[int, int],
    map_: MapRef,
    objects: ObjectsRef,
    placing: Placing,
) -> PlacedObjects:
    from pipeline.objects import Finder, find_objects

    step = (placing.step[0] * map_.stride, placing.step[1] * map_.stride)
    um = (placing.mpp[0] * step[0], placing.mpp[1] * step[1])
    finder = Finder(
        method=objects.method,
        foreground=objects.foreground,
        seeds=objects.seeds,
        boundary=objects.boundary,
        classes=objects.classes,
        threshold=objects.threshold,
        min_distance=objects.min_distance_um / max(um),
        min_area=objects.min_area_um2 / (um[0] * um[1]),
    )
    # What no patch was predicted for is no object's.
    known = np.nan_to_num(values, nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    found = find_objects(known, o_outer, o_box, o_plane, finder)
    return found.placed(step, placing.origin, placing.mpp)
