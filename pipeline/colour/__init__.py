"""Colours as their scanner means them: through an ICC profile to sRGB. Pure, pixel by pixel.

The rendering intent is the profile's own, as OpenSlide's documentation suggests; the engine is
LittleCMS, through Pillow, in 8 bits. Its transforms keep nothing between pixels here
(``NOCACHE``), so that threads share one and the same pixel always gives the same colour.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from pipeline.errors import SlideError
from pipeline.geometry import ceil_div

__all__ = ["described", "to_srgb"]

Pixels = NDArray[np.uint8]

_STRIP = 2**20
"""Pixels converted at once: each takes four bytes and three more meanwhile."""

_IGNORE = "set colour.icc: ignore to take the colours as they are stored"
_PROFILES = 8


@lru_cache(_PROFILES)
def to_srgb(profile: bytes) -> Callable[[Pixels], Pixels]:
    """Give what turns ``(y, x, 3)`` uint8 of an ICC profile into sRGB of the same shape.

    It may be called by several threads at once. Raises `SlideError` where the profile is
    damaged or not one of RGB.
    """
    source = _opened(profile)
    space = source.profile.xcolor_space.strip()
    if space != "RGB":
        raise SlideError(f"its ICC profile is for {space or 'unknown'} colours, not RGB; {_IGNORE}")
    try:
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            "RGB",
            "RGB",
            renderingIntent=ImageCms.Intent(ImageCms.getDefaultIntent(source)),
            flags=ImageCms.Flags.NOCACHE,
        )
    except (ImageCms.PyCMSError, ValueError) as error:
        raise SlideError(f"its ICC profile cannot be applied: {error}; {_IGNORE}") from error

    def convert(pixels: Pixels) -> Pixels:
        converted = np.empty_like(pixels)
        rows = ceil_div(_STRIP, max(pixels.shape[1], 1))
        for y in range(0, pixels.shape[0] if pixels.size else 0, rows):
            strip = Image.fromarray(pixels[y : y + rows])
            ImageCms.applyTransform(strip, transform, inPlace=True)
            converted[y : y + rows] = np.asarray(strip)
        return converted

    return convert


def described(profile: bytes) -> str:
    """Say what a profile calls itself, and its size; also of one that is damaged."""
    try:
        name = ImageCms.getProfileDescription(_opened(profile)).strip()
    except SlideError:
        name = "damaged"
    return f"{name or 'unnamed'} ({len(profile)} bytes)"


def _opened(profile: bytes) -> ImageCms.ImageCmsProfile:
    try:
        return ImageCms.ImageCmsProfile(BytesIO(profile))
    except OSError as error:
        raise SlideError(f"its ICC profile is damaged; {_IGNORE}") from error
