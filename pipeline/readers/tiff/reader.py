"""A TIFF's tiles, decoded straight from its bytes: the direct reader.

The tags are parsed once into an index of where each tile lies; a box is read by fetching
exactly its tiles and decoding each (`pipeline.readers.tiff.plane`). Nothing is resampled:
every level is the file's own, so that a pixel is the same in whatever box it is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SlideError
from pipeline.geometry import Box
from pipeline.readers.base import LevelInfo, Metadata, Mpp, check_sizes, stored_downsample
from pipeline.readers.ranges import Bytes, open_bytes
from pipeline.readers.tiff.decode import JPEG2000, decoder, refusal
from pipeline.readers.tiff.page import GREY_INVERTED, MOST_TILE_PIXELS, Page
from pipeline.readers.tiff.plane import REMEDY, Plane
from pipeline.readers.tiff.pyramid import Pyramid, read_pyramid

__all__ = ["TiffReader", "open_reader"]

Pixels = NDArray[np.uint8]

MOST_PICTURE_PIXELS = 2**26
"""Largest label, macro or thumbnail that is given whole."""

_IDENTITY_BYTES = 2**15
_WHITE = (255, 255, 255)


def open_reader(path: str) -> TiffReader:
    """Open the TIFF at ``path``, a file or a URL; `SlideError` says why where it cannot be read."""
    file = open_bytes(path)
    try:
        return TiffReader(file)
    except SlideError:
        file.close()
        raise


class TiffReader:
    """One open TIFF; its index is read-only and its buffers are each thread's own."""

    def __init__(self, file: Bytes) -> None:
        self._file = file
        self._pyramid = read_pyramid(file)
        check_sizes(file.name, [level[0].shape for level in self._pyramid.levels])
        self._aperio = self._pyramid.vendor == "aperio"
        self._levels = [self._planes(pages) for pages in self._pyramid.levels]

    @cached_property
    def metadata(self) -> Metadata:
        """What the file says of itself; naming its content reads some of it, so only when asked."""
        return _describe(self._file, self._pyramid)

    def read(self, level: int, box: Box) -> Pixels:
        """Give the RGB pixels of ``box``; see `pipeline.readers.base.Reader`."""
        planes = self._levels[level]
        page = planes[0].page
        samples = sum(plane.channels.stop - plane.channels.start for plane in planes)
        out = np.empty((*box.shape, samples), np.uint8)
        for plane in planes:
            plane.read(self._file, box, out, f"level {level}")
        return _as_rgb(out, page)

    @property
    def rounding(self) -> int:
        """By how much two right readings may differ: JPEG 2000's YCbCr becomes RGB by rounding."""
        pages = [page for level in self._pyramid.levels for page in level]
        return int(any(page.compression in JPEG2000 for page in pages))

    def check_whole(self) -> None:
        """Raise `SlideError` where the file ends before its tiles do."""
        for level, pages in enumerate(self._pyramid.levels):
            end = max(int(page.tiles.sum(axis=-1).max()) for page in pages)
            if end > self._file.size:
                raise SlideError(
                    f"{self._file.name}: truncated: tiles of level {level} go on to byte {end} of "
                    f"{self._file.size}; copy the file again from where it comes from"
                )

    def missing(self, level: int) -> Iterator[Box]:
        """Give the box of the first tile that the file leaves out, if it leaves any out."""
        page = self._pyramid.levels[level][0]
        for row, column in np.argwhere(page.tiles[0, ..., 1] == 0)[:1].tolist():
            yield page.tile_box((row, column)).clipped(page.shape)

    def associated_image(self, name: str) -> Pixels:
        """Give a label, macro or thumbnail image: ``(y, x, 3)`` uint8."""
        page = self._pyramid.associated.get(name)
        if page is None:
            known = ", ".join(self.metadata.associated) or "none"
            raise SlideError(f"{self._file.name}: no associated image {name!r}; it has: {known}")
        if page.shape[0] * page.shape[1] > MOST_PICTURE_PIXELS:
            raise SlideError(
                f"{self._file.name}: associated image {name!r} claims {page.shape[1]} x "
                f"{page.shape[0]} px; {REMEDY}"
            )
        box, planes = Box(0, 0, *page.shape), self._planes((page,))
        out = np.empty((*box.shape, page.samples), np.uint8)
        for plane in planes:
            plane.read(self._file, box, out, f"associated image {name!r}")
        return _as_rgb(out, page)

    def icc_profile(self) -> bytes | None:
        """Give the ICC profile that level 0 carries."""
        return self._pyramid.levels[0][0].icc_profile

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def _planes(self, pages: tuple[Page, ...]) -> tuple[Plane, ...]:
        """Say where a level's samples are; `SlideError` where they cannot be decoded."""
        for page in pages:
            why = refusal(page)
            if page.tile[0] * page.tile[1] > MOST_TILE_PIXELS:
                why = f"tiles or strips of {page.tile[1]} x {page.tile[0]} px"
            if why:
                raise SlideError(
                    f"{self._file.name}: an image of {page.shape[1]} x {page.shape[0]} px with "
                    f"{why}, which the direct reader does not read; convert it to a tiled TIFF"
                )
            if (page.shape, page.tile, page.samples) != (
                pages[0].shape,
                pages[0].tile,
                pages[0].samples,
            ):
                raise SlideError(f"{self._file.name}: channels of unequal size; {REMEDY}")
        if len(pages) > 1 and pages[0].samples != 1:
            raise SlideError(f"{self._file.name}: channels of {pages[0].samples} samples each")
        decoders = [decoder(page, aperio=self._aperio) for page in pages]
        if pages[0].planar or len(pages) > 1:
            numbered = [
                (page, number, decode)
                for page, decode in zip(pages, decoders, strict=True)
                for number in range(page.samples)
            ]
            return tuple(
                Plane(page, number, decode, slice(channel, channel + 1))
                for channel, (page, number, decode) in enumerate(numbered)
            )
        return (Plane(pages[0], 0, decoders[0], slice(0, pages[0].samples)),)


def _as_rgb(pixels: Pixels, page: Page) -> Pixels:
    """Give stored samples as RGB: grey three times, what is transparent over white."""
    if page.photometric == GREY_INVERTED and pixels.shape[2] == 1:
        pixels = 255 - pixels
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    if pixels.shape[2] == 3:
        return pixels
    alpha = pixels[..., 3:].astype(np.uint16)
    colours = pixels[..., :3].astype(np.uint16)
    if page.alpha != 1:  # straight; else it is multiplied in already
        colours = (colours * alpha + 127) // 255
    over: Pixels = np.minimum(colours + (255 - alpha), 255).astype(np.uint8)
    return over


def _describe(file: Bytes, pyramid: Pyramid) -> Metadata:
    first = pyramid.levels[0][0]
    return Metadata(
        vendor=pyramid.vendor,
        levels=tuple(
            LevelInfo(
                level[0].shape,
                (
                    min(level[0].tile[0], level[0].shape[0]),
                    min(level[0].tile[1], level[0].shape[1]),
                ),
                stored_downsample(first.shape, level[0].shape),
            )
            for level in pyramid.levels
        ),
        mpp=None if pyramid.mpp is None else Mpp(*pyramid.mpp, "header"),
        objective=pyramid.objective,
        bounds=None,
        background=_WHITE,
        associated=tuple(sorted(pyramid.associated)),
        properties=tuple(sorted(pyramid.properties.items())),
        identity=_identity(file, pyramid),
    )


def _identity(file: Bytes, pyramid: Pyramid) -> str:
    """Name the content by the levels' sizes and the coarsest level's tiles, as OpenSlide does.

    Little is read, and at one place: a slide may be on the other side of a network.
    """
    digest = hashlib.sha256()
    for level in pyramid.levels:
        digest.update(repr([(page.shape, page.tile, page.compression) for page in level]).encode())
    held, ranges = 0, []
    for page in pyramid.levels[-1]:
        for offset, length in page.tiles.reshape(-1, 2).tolist():
            if length and held < _IDENTITY_BYTES and offset + length <= file.size:
                ranges.append((offset, min(length, _IDENTITY_BYTES - held)))
                held += ranges[-1][1]
            digest.update(length.to_bytes(8, "little", signed=True))
    for data in file.read_many(ranges):
        digest.update(data)
    return f"{digest.hexdigest()}:{file.size}"
