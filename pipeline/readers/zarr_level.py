"""One array of an OME-Zarr image, read as a level of a slide: ``(y, x, 3)`` uint8."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SlideError, one_line
from pipeline.geometry import Box, Shape
from pipeline.readers.base import stored_downsample
from pipeline.readers.multiscales import Dataset

__all__ = ["BROKEN", "REMEDY", "ZarrLevel", "downsample", "why"]

REMEDY = "check that it is whole, or copy it again from where it comes from"

# zarr's own errors are ValueErrors, its codecs' are ValueErrors or RuntimeErrors; metadata that
# were cut short are no JSON, and those of another kind lack keys.
BROKEN = (
    *(ValueError, LookupError, TypeError, RuntimeError, AttributeError, ArithmeticError, OSError),
    MemoryError,  # a chunk of a few bytes may claim any size
)
"""What zarr raises where a store is not as it should be."""

_LARGEST_CHUNK_BYTES = 2**30  # what one read may allocate, whatever a header claims


class ZarrLevel:
    """One array, its axes, and what the image's metadata say of it.

    Raises `SlideError` where it is not a plane of RGB or grey, 8 bits each.
    """

    def __init__(self, path: str, array: Any, axes: str, dataset: Dataset) -> None:
        self.array, self.dataset = array, dataset
        self._path, self._axes = path, axes
        self._refuse_what_is_no_slide()
        rows, columns = axes.index("y"), axes.index("x")
        self.shape: Shape = (array.shape[rows], array.shape[columns])
        self.tile: Shape = (
            min(array.chunks[rows], self.shape[0]),
            min(array.chunks[columns], self.shape[1]),
        )

    def read(self, box: Box, what: str) -> NDArray[np.uint8]:
        """Give ``(y, x, 3)`` pixels; `SlideError` names ``what`` where they cannot be read."""
        spans = {"y": slice(box.y, box.y_stop), "x": slice(box.x, box.x_stop), "c": slice(None)}
        try:
            values = self.array[tuple(spans.get(axis, 0) for axis in self._axes)]
        except BROKEN as error:
            raise SlideError(f"{self._path}: cannot read {what}: {why(error)}; {REMEDY}") from error
        left = [axis for axis in self._axes if axis in spans]
        if "c" not in left:
            left, values = [*left, "c"], values[..., None]
        values = values.transpose([left.index(axis) for axis in "yxc"])
        if values.shape[2] == 3 and values.flags.c_contiguous:
            return np.asarray(values)
        pixels = np.empty((*box.shape, 3), np.uint8)
        for channel in range(3):  # plane by plane: numpy is slow at whole transpositions
            pixels[..., channel] = values[..., min(channel, values.shape[2] - 1)]
        return pixels

    def _refuse_what_is_no_slide(self) -> None:
        array, where = self.array, f"{self._path}/{self.array.path}"
        if len(array.shape) != len(self._axes) or not all(array.shape):
            raise SlideError(f"{where}: an array of {array.shape} for axes {self._axes}; {REMEDY}")
        sizes = dict(zip(self._axes, array.shape, strict=True))
        if array.dtype != np.uint8:
            raise SlideError(f"{where}: pixels are {array.dtype}; a slide is uint8, convert them")
        if sizes.get("c", 1) not in (1, 3):
            raise SlideError(
                f"{where}: {sizes['c']} channels; a slide has 3 (RGB) or 1 (grey), store those "
                "alone"
            )
        for axis in "tz":
            if sizes.get(axis, 1) != 1:
                raise SlideError(
                    f"{where}: {sizes[axis]} along {axis}; a slide is one plane, store it alone"
                )
        if math.prod(array.chunks) > _LARGEST_CHUNK_BYTES:
            raise SlideError(
                f"{where}: chunks of {array.chunks}, more than 1 GiB each; store it in smaller ones"
            )


def downsample(first: ZarrLevel, level: ZarrLevel) -> tuple[float, float]:
    """Give level-0 pixels per pixel: what the scales say, where the sizes do not deny it."""
    by_size = stored_downsample(first.shape, level.shape)
    scales = zip(level.dataset.scale, first.dataset.scale, strict=True)
    ratios = [coarse / fine if fine else math.nan for coarse, fine in scales]
    said = [round(n) if math.isfinite(n) and abs(n - round(n)) < 1e-6 else n for n in ratios]
    fits = all(
        n >= 1 and abs(l0 / n - size) <= 1
        for n, l0, size in zip(said, first.shape, level.shape, strict=True)
    )
    whole = fits and all(float(n).is_integer() for n in said)
    if whole or (fits and not by_size[0].is_integer()):
        return (float(said[0]), float(said[1]))
    return by_size


def why(error: Exception) -> str:
    """Say an error of zarr's in one line, and what the system says without its number."""
    said = error.strerror if isinstance(error, OSError) else None
    return said or one_line(error)
