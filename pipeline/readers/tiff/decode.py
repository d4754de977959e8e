"""One tile's bytes -> its pixels: the only place where slides meet `imagecodecs`.

The codecs release the GIL. Before one is called its header is read, so that a stream which
claims other pixels than its page is refused and not allocated; and what ends early is refused,
because libjpeg would fill the rest with grey.

Colours of JPEG follow the page's photometric tag, as libtiff and OpenSlide read it: Aperio's
streams carry no marker that says otherwise. Only where the tag says RGB and the stream says
YCbCr, by a JFIF or an Adobe marker, as Bio-Formats writes it, the stream is believed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from pipeline.readers.streams import jpeg2000_shape
from pipeline.readers.tiff.page import (
    APERIO_YCBCR,
    GREY,
    GREY_INVERTED,
    JPEG,
    RGB,
    YCBCR,
    Page,
)

__all__ = ["JPEG2000", "DamagedTileError", "Decode", "decoder", "refusal"]

Pixels = NDArray[np.uint8]

Decode = Callable[[bytes, Pixels], Pixels]
"""``(data, scratch)`` -> pixels of the scratch's shape, in the scratch or elsewhere.

Raises `DamagedTileError` where the data do not hold exactly those.
"""

JPEG2000 = {APERIO_YCBCR, 33004, 33005, 34712}
_WEBP = {34927, 50001}
_LOSSLESS: dict[int, Callable[..., Any]] = {
    5: imagecodecs.lzw_decode,
    8: imagecodecs.deflate_decode,
    32946: imagecodecs.deflate_decode,
    32773: imagecodecs.packbits_decode,
    34926: imagecodecs.zstd_decode,
    50000: imagecodecs.zstd_decode,
}
_UNCOMPRESSED = 1
_SAMPLES = {GREY: (1,), GREY_INVERTED: (1,), RGB: (3, 4), YCBCR: (3,)}

_END_OF_IMAGE = b"\xff\xd9"
_PADDING = 64
"""Bytes that may follow a JPEG stream within its tile."""


class DamagedTileError(ValueError):
    """A tile whose bytes do not give the pixels that its page promises."""


def refusal(page: Page) -> str | None:
    """Say why a page cannot be decoded here; None where it can."""
    bare = {_UNCOMPRESSED, *_LOSSLESS}
    if page.compression not in {JPEG, *JPEG2000, *_WEBP, *bare}:
        return f"TIFF compression {page.compression}"
    if page.bits != 8:
        return f"{page.bits or 'mixed, signed or real'} bits per sample where 8 unsigned are read"
    if page.samples not in _SAMPLES.get(page.photometric, ()):
        return f"{page.samples} samples of TIFF photometric interpretation {page.photometric}"
    if page.photometric == YCBCR and page.compression in bare:
        return f"YCbCr samples in TIFF compression {page.compression}"
    if page.samples == 4 and (page.alpha not in (1, 2) or page.compression == JPEG):
        return "a fourth sample that is not said to be alpha, or is in a JPEG"
    if page.predictor != 1 and (page.predictor != 2 or page.compression not in _LOSSLESS):
        return f"TIFF predictor {page.predictor} with compression {page.compression}"
    if (
        page.planar
        and page.samples > 1
        and (page.photometric == YCBCR or page.compression in _WEBP)
    ):
        return f"planar samples in TIFF compression {page.compression}"
    return None


def decoder(page: Page, *, aperio: bool) -> Decode:
    """Give what decodes the tiles of a page that `refusal` has nothing against.

    ``aperio`` says that compression 33003 means YCbCr whatever the photometric tag says.
    """
    if page.compression == JPEG:
        return partial(_jpeg, tables=page.jpeg_tables, space=_jpeg_space(page))
    if page.compression in JPEG2000:
        ycbcr = page.photometric == YCBCR or (aperio and page.compression == APERIO_YCBCR)
        return partial(_jpeg2000, ycbcr=ycbcr)
    if page.compression in _WEBP:
        return _webp
    return partial(_lossless, decode=_LOSSLESS.get(page.compression), predicted=page.predictor == 2)


def _jpeg_space(page: Page) -> str | None:
    """Give the colour space of a page's JPEG streams; None where each is asked."""
    if page.samples == 1 or page.planar:
        return "grayscale"
    return "ycbcr" if page.photometric == YCBCR else None


def _jpeg(data: bytes, scratch: Pixels, *, tables: bytes | None, space: str | None) -> Pixels:
    if data.rfind(_END_OF_IMAGE, -_PADDING) < 0:
        raise DamagedTileError("a JPEG stream that ends early")
    if space is None:
        space = "ycbcr" if _says_ycbcr(data) else "rgb"
    out = "grayscale" if space == "grayscale" else "rgb"
    flat = scratch[..., 0] if scratch.shape[2] == 1 else scratch
    try:
        # Refuses a stream of another shape before it allocates anything for it.
        imagecodecs.jpeg8_decode(data, tables=tables, colorspace=space, outcolorspace=out, out=flat)
    except (ValueError, RuntimeError) as error:
        raise DamagedTileError(f"JPEG: {error}") from error
    return scratch


def _says_ycbcr(data: bytes) -> bool:
    """Say whether a JPEG stream declares its colours: JFIF means YCbCr, Adobe names it."""
    at = 2
    while data[at : at + 1] == b"\xff" and at + 4 <= len(data):
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xE0 and data[at + 4 : at + 8] == b"JFIF":
            return True
        if marker == 0xEE and data[at + 4 : at + 9] == b"Adobe" and length >= 14:
            return data[at + 15] == 1
        if marker == 0xDA:  # the pixels begin
            return False
        at += 2 + length
    return False


def _jpeg2000(data: bytes, scratch: Pixels, *, ycbcr: bool) -> Pixels:
    if jpeg2000_shape(data) != scratch.shape:
        raise DamagedTileError(
            f"JPEG 2000 of (rows, columns, components) {jpeg2000_shape(data)}, not {scratch.shape}"
        )
    try:
        pixels = imagecodecs.jpeg2k_decode(data)
    except (ValueError, RuntimeError) as error:
        raise DamagedTileError(f"JPEG 2000: {error}") from error
    if pixels.dtype != np.uint8:
        raise DamagedTileError(f"JPEG 2000 of {pixels.dtype}")
    pixels = pixels.reshape(scratch.shape)
    return _rgb_of_ycbcr(pixels) if ycbcr else pixels


def _rgb_of_ycbcr(pixels: Pixels) -> Pixels:
    """Convert full-range BT.601 YCbCr, as JFIF defines it, rounded to nearest."""
    y, cb, cr = (pixels[..., i].astype(np.float32) for i in range(3))
    cb -= 128
    cr -= 128
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
    converted: Pixels = np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
    return converted


def _webp(data: bytes, scratch: Pixels) -> Pixels:
    try:
        imagecodecs.webp_decode(data, hasalpha=scratch.shape[2] == 4, out=scratch)
    except (ValueError, RuntimeError) as error:
        raise DamagedTileError(f"WebP: {error}") from error
    return scratch


def _lossless(
    data: bytes, scratch: Pixels, *, decode: Callable[..., Any] | None, predicted: bool
) -> Pixels:
    flat: Any = data
    if decode is not None:
        try:
            flat = decode(data, out=scratch.reshape(-1))
        except (ValueError, RuntimeError) as error:
            raise DamagedTileError(str(error)) from error
    flat = np.frombuffer(flat, np.uint8, count=min(len(flat), scratch.size))
    if flat.size < scratch.size:
        raise DamagedTileError(f"{flat.size} bytes where {scratch.size} are pixels")
    pixels: Pixels = flat.reshape(scratch.shape)
    if predicted:  # each sample is the difference to its left neighbour's, modulo 256
        pixels = np.add.accumulate(pixels, axis=1, dtype=np.uint8)
    return pixels
