"""What every way of reading a slide offers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SlideError
from pipeline.geometry import Box, Shape

__all__ = ["LevelInfo", "Metadata", "Mpp", "Reader", "check_sizes", "stored_downsample"]

MOST_SIDE, MOST_PIXELS = 2**22, 2**40
"""Of a slide that is believed: a metre of glass at 0.25 um, and a quarter of a million blocks.

A header of a few bytes may claim any size, and plans grow with it.
"""


@dataclass(frozen=True, slots=True)
class Mpp:
    """Micrometres per level-0 pixel, per axis, and who said so (``header``, ``assumed``)."""

    y: float
    x: float
    source: str


@dataclass(frozen=True, slots=True)
class LevelInfo:
    """One stored resolution: its size, its file's tile and its size against level 0.

    ``shape`` and ``tile`` are ``(rows, columns)`` in this level's pixels; ``downsample`` is
    ``(y, x)`` level-0 pixels per pixel.
    """

    shape: Shape
    tile: Shape
    downsample: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a slide's file says of itself.

    ``bounds`` is the scanned area in level-0 pixels where the file names one. ``background``
    is the RGB colour of what was not scanned. ``identity`` names the content: it stays when
    the file is moved or copied and changes when the image does.
    """

    vendor: str
    levels: tuple[LevelInfo, ...]
    mpp: Mpp | None
    objective: float | None
    bounds: Box | None
    background: tuple[int, int, int]
    associated: tuple[str, ...]
    properties: tuple[tuple[str, str], ...]
    identity: str


class Reader(Protocol):
    """One open slide. Its methods may be called from several threads at once."""

    @property
    def metadata(self) -> Metadata:
        """What the file says of itself."""
        ...

    def read(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Give the RGB pixels of ``box``, which lies inside ``level``: ``(y, x, 3)`` uint8.

        The same pixel has the same value whatever box it is read in. Raises `SlideError`
        where a pixel cannot be read; it never invents one.
        """
        ...

    def associated_image(self, name: str) -> NDArray[np.uint8]:
        """Give a label, macro or thumbnail image: ``(y, x, 3)`` uint8."""
        ...

    def icc_profile(self) -> bytes | None:
        """Give the embedded ICC profile of level 0; None where there is none."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...


def check_sizes(path: str, shapes: Iterable[Shape]) -> None:
    """Raise `SlideError` where a level has no pixel, or more of them than any slide."""
    for rows, columns in shapes:
        if min(rows, columns) < 1 or max(rows, columns) > MOST_SIDE or rows * columns > MOST_PIXELS:
            raise SlideError(
                f"{path}: claims a level of {columns} x {rows} px, and no slide has that: 1 to "
                f"{MOST_SIDE} px a side, {MOST_PIXELS} in all; check that the file is whole, or "
                "copy it again from where it comes from"
            )


def stored_downsample(l0_shape: Shape, shape: Shape) -> tuple[float, float]:
    """Give level-0 pixels per pixel, per axis.

    A pyramid divides by a whole number and rounds the size; the quotient of the sizes would
    carry that rounding into every coordinate, so the whole number is taken where it explains
    both sizes.

    >>> stored_downsample((16866, 13196), (4217, 3299))
    (4.0, 4.0)
    >>> stored_downsample((300, 5000), (18, 312))
    (16.0, 16.0)
    >>> stored_downsample((1000, 1000), (300, 300))
    (3.3333333333333335, 3.3333333333333335)
    """
    longer = l0_shape.index(max(l0_shape))  # there rounding weighs least
    whole = max(round(l0_shape[longer] / shape[longer]), 1)
    if all(
        n in (math.floor(l0 / whole), math.ceil(l0 / whole))
        for l0, n in zip(l0_shape, shape, strict=True)
    ):
        return (float(whole), float(whole))
    return (l0_shape[0] / shape[0], l0_shape[1] / shape[1])
