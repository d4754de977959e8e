"""OpenSlide's pixels over a background: premultiplied ``0xAARRGGBB`` -> RGB. Pure."""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import ceil_div

__all__ = ["lay_over"]

_STRIP = 2**18
"""Pixels converted at once: few enough to stay in a core's cache between the passes."""

_OPAQUE = 0xFF000000
_RGB = (2, 1, 0) if sys.byteorder == "little" else (1, 2, 3)
_ALPHA = 3 if sys.byteorder == "little" else 0


def lay_over(
    argb: NDArray[np.uint32], background: tuple[int, int, int], out: NDArray[np.uint8]
) -> None:
    """Write ``(y, x)`` premultiplied ARGB, laid over a colour, into ``(y, x, 3)`` ``out``.

    A colour ``c`` of alpha ``a`` is stored as ``c a / 255``; what is written is that plus
    ``background (255 - a) / 255``, rounded to nearest.
    """
    rows = ceil_div(_STRIP, max(argb.shape[1], 1))
    for y in range(0, argb.shape[0], rows):
        _strip(argb[y : y + rows], background, out[y : y + rows])


def _strip(
    argb: NDArray[np.uint32], background: tuple[int, int, int], out: NDArray[np.uint8]
) -> None:
    stored = argb.view(np.uint8).reshape(*argb.shape, 4)
    if argb.min(initial=_OPAQUE) >= _OPAQUE:
        for channel, byte in enumerate(_RGB):
            out[..., channel] = stored[..., byte]
        return
    if not argb.any():
        out[:] = background
        return
    alpha, alphas = stored[..., _ALPHA], np.arange(256)
    for channel, byte in enumerate(_RGB):
        shown = ((background[channel] * (255 - alphas) + 127) // 255).astype(np.uint8)
        # More than its alpha no premultiplied colour can be; if one is, it must not wrap.
        np.add(np.minimum(stored[..., byte], alpha), shown[alpha], out=out[..., channel])
