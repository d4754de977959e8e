"""Pixels of patches as a model's input: ordered, scaled, normalised, into a buffer that is kept."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box, Shape
from pipeline.model.refs import SessionRef

__all__ = ["fill_batch", "luma", "patch_pixels"]

_EPSILON = np.float32(1e-6)
"""What bioimage.io's zero_mean_unit_variance adds to a standard deviation."""

_ORDERS = {"RGB": (0, 1, 2), "BGR": (2, 1, 0)}


def patch_pixels(
    rgb: NDArray[np.uint8], l_outer: Box, box: Box, l_plane: Shape, border: str
) -> NDArray[np.uint8]:
    """Cut the patch at ``box`` out of ``rgb`` ``(y, x, 3)``, which covers ``l_outer``.

    What lies beyond the plane is as it was read, or with ``edge`` and ``reflect`` made of what of
    the patch lies within: of that alone, or it would depend on the block.
    """
    if border == "background":
        return rgb[box.within(l_outer)]
    inside = box.clipped(l_plane)
    if inside == box:
        return rgb[box.within(l_outer)]
    margins = (
        (inside.y - box.y, box.y_stop - inside.y_stop),
        (inside.x - box.x, box.x_stop - inside.x_stop),
        (0, 0),
    )
    mode: Literal["edge", "reflect"] = "edge" if border == "edge" else "reflect"
    padded: NDArray[np.uint8] = np.pad(rgb[inside.within(l_outer)], margins, mode=mode)
    return padded


def fill_batch(
    batch: NDArray[np.float32], patches: Sequence[NDArray[np.uint8]], ref: SessionRef
) -> None:
    """Fill a batch with patches ``(y, x, 3)``; what is left of it is 0.

    Scaled first, then less the mean, then divided by the standard deviation, each by itself.
    """
    planes = batch if ref.layout == "NCHW" else batch.transpose(0, 3, 1, 2)
    for place, pixels in zip(planes, patches, strict=False):
        if ref.order == "grey":
            np.multiply(luma(pixels), np.float32(ref.scale), out=place[0])
            _normalise(place[0], 0, ref)
        else:
            # Colours apart first, as bytes: widening every third of them takes half as long again.
            colours = _apart(pixels)
            for plane, channel in zip(place, _ORDERS[ref.order], strict=True):
                np.multiply(colours[channel], np.float32(ref.scale), out=plane)
                _normalise(plane, channel, ref)
        if ref.zscore == "patch":
            _standardise(place)
        elif ref.zscore == "channel":
            for plane in place:
                _standardise(plane)
    batch[len(patches) :] = 0


def luma(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Give ``(y, x)`` luma by ITU-R 601, rounded: what Pillow calls mode L.

    >>> luma(np.array([[[255, 0, 0], [7, 7, 7]]], np.uint8))
    array([[76,  7]], dtype=uint8)
    """
    weighted = rgb @ np.array([19595, 38470, 7471], np.uint32)
    grey: NDArray[np.uint8] = ((weighted + 0x8000) >> 16).astype(np.uint8)
    return grey


def _apart(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Give ``(y, x, 3)`` pixels as planes ``(3, y, x)``: this thread's own, until it asks again.

    By way of a copy that lies together: of a patch in its block every line of memory would be
    fetched three times. Both are kept, because what is allocated anew is paged in anew.
    """
    height, width, samples = pixels.shape
    kept: NDArray[np.uint8] | None = getattr(_own, "kept", None)
    if kept is None or kept.size < 2 * pixels.size:
        kept = _own.kept = np.empty(2 * pixels.size, np.uint8)
    together, planes = kept[: pixels.size], kept[pixels.size : 2 * pixels.size]
    # Rows of bytes, which numpy copies at half the cost of pixels of three.
    np.copyto(together.reshape(height, -1), pixels.reshape(height, -1))
    apart = planes.reshape(samples, height * width)
    np.copyto(apart, together.reshape(-1, samples).T)
    return apart.reshape(samples, height, width)


def _normalise(plane: NDArray[np.float32], channel: int, ref: SessionRef) -> None:
    mean, std = ref.mean[channel % len(ref.mean)], ref.std[channel % len(ref.std)]
    if mean:
        plane -= np.float32(mean)
    if std != 1:
        plane /= np.float32(std)


def _standardise(values: NDArray[np.float32]) -> None:
    # In float64: a patch has a million values, whose float32 sum would be off in the third digit.
    mean, std = values.mean(dtype=np.float64), values.std(dtype=np.float64)
    values -= np.float32(mean)
    values /= np.float32(std) + _EPSILON


_own = threading.local()
