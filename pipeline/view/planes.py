"""Where the resolutions of a layer lie on the slide, and how its tiles become PNG or JPEG.

Everything is placed in level-0 pixels of the slide: `Plane` says how large a pixel of an array
is there and where its first one begins, so that the page needs no other geometry.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.geometry import Box, Grid, Shape
from pipeline.ngff import Placement

__all__ = ["TILE", "Plane", "jpeg", "placed", "png"]

TILE = 512
"""Side of a tile in pixels of its plane."""

_QUALITY = 90


@dataclass(frozen=True, slots=True)
class Plane:
    """One resolution of a layer: ``shape`` rows and columns of pixels.

    ``step`` is level-0 pixels per pixel and ``origin`` where the corner of the first one lies,
    ``(y, x)`` both.
    """

    shape: Shape
    step: tuple[float, float]
    origin: tuple[float, float] = (0.0, 0.0)

    def tile(self, row: int, column: int) -> Box | None:
        """Give the pixels of a tile; None where the plane has no such tile.

        >>> Plane((700, 512), (1.0, 1.0)).tile(1, 0)
        Box(y=512, x=0, height=188, width=512)
        """
        box = Grid(self.shape, TILE).box((row, column))
        return box if box.area else None

    def as_json(self) -> dict[str, Any]:
        """Give what the page needs to know of it."""
        return {"shape": list(self.shape), "step": list(self.step), "origin": list(self.origin)}


def placed(shape: Shape, place: Placement, mpp: tuple[float, float]) -> Plane:
    """Give where an array lies that is placed in um; ``mpp`` is um per level-0 pixel."""
    (y, x), (y_um, x_um) = place.corner(mpp), place.scale
    return Plane(shape, (y_um / mpp[0], x_um / mpp[1]), (y / mpp[0], x / mpp[1]))


def png(values: NDArray[np.uint8]) -> bytes:
    """Encode ``(y, x)`` or ``(y, x, 3)`` as PNG: quickly, for it goes no further than this machine.

    There is no colour profile in it, so that a browser gives back the very values.
    """
    out = io.BytesIO()
    Image.fromarray(values).save(out, format="PNG", compress_level=1)
    return out.getvalue()


def jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Encode ``(y, x, 3)`` as JPEG of quality 90, its colours as fine as its grey."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="JPEG", quality=_QUALITY, subsampling=0)
    return out.getvalue()
