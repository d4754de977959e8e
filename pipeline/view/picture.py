"""Small still pictures: a slide in a list, and what a notebook shows where nothing runs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.geometry import Box
from pipeline.slide import Slide
from pipeline.view.colours import ramp
from pipeline.view.layers import ValueLayer
from pipeline.view.planes import Plane
from pipeline.view.shown import ShownSlide

__all__ = ["still", "thumbnail"]

_THUMBNAIL = 256
_STILL = 640


def thumbnail(slide: Slide) -> NDArray[np.uint8]:
    """Give the whole of a slide, its longer side 256 pixels or its own: ``(y, x, 3)``."""
    return slide.thumbnail(_THUMBNAIL)


def still(shown: ShownSlide, size: int = _STILL) -> NDArray[np.uint8]:
    """Give the whole of a slide under its first scores: ``(y, x, 3)``.

    White where the slide's file is gone.
    """
    height, width = shown.describe()["shape"]
    scale = max(max(height, width) / size, 1.0)
    shape = (max(round(height / scale), 1), max(round(width / scale), 1))
    pixels = np.full((*shape, 3), 255, np.uint8)
    if shown.slide is not None:
        resized = Image.fromarray(shown.slide.thumbnail(max(shape))).resize(shape[::-1])
        pixels = np.asarray(resized)
    values = next((each for each in shown.layers if isinstance(each, ValueLayer)), None)
    if values is None:
        return pixels
    colours = ramp()[_spread(values, shape, (height, width))].astype(np.float32)
    alpha = colours[..., 3:] / 255
    mixed = pixels * (1 - alpha) + colours[..., :3] * alpha
    return np.rint(mixed).astype(np.uint8)


def _spread(layer: ValueLayer, shape: tuple[int, int], whole: tuple[int, int]) -> NDArray[np.uint8]:
    """Give a layer's value at each pixel of a picture of the ``whole`` slide; 0 beyond it."""
    number = _coarse(layer.planes, whole[0] / shape[0])
    plane = layer.planes[number]
    values = layer.read(number, Box(0, 0, *plane.shape))
    rows, columns = (
        np.floor(((np.arange(n) + 0.5) * size / n - origin) / step).astype(np.int64)
        for n, size, origin, step in zip(shape, whole, plane.origin, plane.step, strict=True)
    )
    inside = [(at >= 0) & (at < n) for at, n in zip((rows, columns), plane.shape, strict=True)]
    spread = np.zeros(shape, np.uint8)
    spread[np.ix_(*inside)] = values[np.ix_(rows[inside[0]], columns[inside[1]])]
    return spread


def _coarse(planes: tuple[Plane, ...], l0_per_pixel: float) -> int:
    fine = [i for i, plane in enumerate(planes) if max(plane.step) <= l0_per_pixel * 1.01]
    return fine[-1] if fine else 0
