"""What OpenSlide's properties mean: text -> values, or None where it is no such value. Pure.

Files say anything; a property that cannot be meant is as good as none, and never an error.
What the file said stays visible in `Metadata.properties`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from pipeline.geometry import Box, Shape
from pipeline.readers.base import Mpp

__all__ = ["background", "bounds", "mpp", "objective", "tile"]

_DEFAULT_TILE = 256
_WHITE = (255, 255, 255)

Properties = Mapping[str, str]


def mpp(properties: Properties) -> Mpp | None:
    """Give um per level-0 pixel: whatever is positive and finite, however absurd.

    >>> mpp({"openslide.mpp-x": "0.25", "openslide.mpp-y": "896"})
    Mpp(y=896.0, x=0.25, source='header')
    """
    y, x = (_positive(properties, f"openslide.mpp-{axis}") for axis in "yx")
    return None if y is None or x is None else Mpp(y, x, "header")


def objective(properties: Properties) -> float | None:
    """Give the objective's magnification."""
    return _positive(properties, "openslide.objective-power")


def bounds(properties: Properties) -> Box | None:
    """Give the scanned area as the file names it, in the image or not; None where it does not.

    >>> said = {"y": "10", "x": "-5", "height": "20", "width": "30"}
    >>> bounds({f"openslide.bounds-{side}": value for side, value in said.items()})
    Box(y=10, x=-5, height=20, width=30)
    """
    y, x, height, width = (
        _integer(properties, f"openslide.bounds-{side}") for side in ("y", "x", "height", "width")
    )
    if y is None or x is None or height is None or width is None:
        return None
    return Box(y, x, height, width)


def background(properties: Properties) -> tuple[int, int, int]:
    """Give the colour of what was not scanned; white where the file does not say.

    >>> background({"openslide.background-color": "0C80FF"})
    (12, 128, 255)
    """
    said = properties.get("openslide.background-color", "")
    if not re.fullmatch("[0-9a-fA-F]{6}", said):
        return _WHITE
    red, green, blue = bytes.fromhex(said)
    return (red, green, blue)


def tile(properties: Properties, level: int, shape: Shape) -> Shape:
    """Give rows and columns of a level's tiles, no more than the level of ``shape`` has."""
    rows, columns = (
        _integer(properties, f"openslide.level[{level}].tile-{side}")
        for side in ("height", "width")
    )
    return (_within(rows, shape[0]), _within(columns, shape[1]))


def _within(side: int | None, length: int) -> int:
    return min(side if side and side > 0 else _DEFAULT_TILE, length)


def _positive(properties: Properties, name: str) -> float | None:
    try:
        value = float(properties[name])
    except (KeyError, ValueError):
        return None
    return value if 0 < value < math.inf else None


def _integer(properties: Properties, name: str) -> int | None:
    try:
        return int(properties[name])
    except (KeyError, ValueError):
        return None
