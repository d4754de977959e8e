"""One stored image of a TIFF: its grid of tiles, how they are packed, and where they lie."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SlideError
from pipeline.geometry import Box, Shape, ceil_div
from pipeline.readers.tiff.tags import DAMAGED, Directory

__all__ = ["Page", "read_page"]

MOST_TILE_PIXELS = 2**26
"""Largest tile or strip that is decoded: a bomb is not, nor what would not fit beside a block."""

MOST_SIDE = 2**31 - 1

RGB, YCBCR, GREY, GREY_INVERTED = 2, 6, 1, 0
JPEG = 7
APERIO_YCBCR, APERIO_RGB = 33003, 33005

# Tags, by their names in TIFF 6.0 and its supplements.
_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_DESCRIPTION, _STRIP_OFFSETS, _SAMPLES, _ROWS, _STRIP_COUNTS = 270, 273, 277, 278, 279
_X_RESOLUTION, _Y_RESOLUTION, _PLANAR, _UNIT, _PREDICTOR = 282, 283, 284, 296, 317
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_COUNTS = 322, 323, 324, 325
_EXTRA, _FORMAT, _JPEG_TABLES, _ICC = 338, 339, 347, 34675


@dataclass(frozen=True)
class Page:
    """One image of a TIFF, cut into tiles (a strip is a tile as wide as the image).

    ``shape`` and ``tile`` are ``(rows, columns)``; ``samples`` per pixel; with ``planar`` the
    tiles of the first sample come first, then those of the second. ``alpha`` is TIFF's number
    for what the fourth sample is: 0 unspecified, 1 premultiplied, 2 straight; None without one.
    """

    name: str
    directory: Directory = field(repr=False, compare=False)
    shape: Shape
    tile: Shape
    tiled: bool
    samples: int
    planar: bool
    compression: int
    photometric: int
    predictor: int
    alpha: int | None
    bits: int
    reduced: bool

    @property
    def counts(self) -> Shape:
        """Rows and columns of tiles."""
        return (ceil_div(self.shape[0], self.tile[0]), ceil_div(self.shape[1], self.tile[1]))

    def tile_box(self, index: Shape) -> Box:
        """Give tile ``index`` at its full size, also where that leaves the image."""
        return Box(index[0] * self.tile[0], index[1] * self.tile[1], *self.tile)

    def touching(self, box: Box) -> tuple[range, range]:
        """Give the rows and columns of the tiles that hold a pixel of ``box``."""
        if not box.area:
            return range(0), range(0)
        (height, width), (y, x) = self.tile, (box.y, box.x)
        return (
            range(y // height, ceil_div(box.y_stop, height)),
            range(x // width, ceil_div(box.x_stop, width)),
        )

    @cached_property
    def tiles(self) -> NDArray[np.int64]:
        """Where each tile is: ``(planes, rows, columns, 2)`` byte offset and length; 0 is none.

        Raises `SlideError` where the file has fewer of them than the image's size asks for, or
        one lies outside the file.
        """
        planes = self.samples if self.planar else 1
        rows, columns = self.counts
        wanted = planes * rows * columns
        codes = (_TILE_OFFSETS, _TILE_COUNTS) if self.tiled else (_STRIP_OFFSETS, _STRIP_COUNTS)
        offsets, lengths = (self.directory.array(code) for code in codes)
        if min(len(offsets), len(lengths)) < wanted or {offsets.dtype.kind, lengths.dtype.kind} != {
            "u"
        }:
            raise SlideError(
                f"{self.name}: an image of {self.shape[1]} x {self.shape[0]} px needs {wanted} "
                f"tiles and has {min(len(offsets), len(lengths))}; {DAMAGED}"
            )
        places = np.empty((wanted, 2), np.int64)
        places[:, 0], places[:, 1] = offsets[:wanted], lengths[:wanted]
        places[(places == 0).any(axis=1)] = 0
        return places.reshape(planes, rows, columns, 2)

    @cached_property
    def jpeg_tables(self) -> bytes | None:
        """Quantisation and Huffman tables that all tiles share."""
        return self.directory.raw(_JPEG_TABLES) or None

    @property
    def description(self) -> str:
        """What its writer says of it."""
        return self.directory.text(_DESCRIPTION)

    @property
    def icc_profile(self) -> bytes | None:
        """The embedded ICC profile."""
        return self.directory.raw(_ICC) or None

    @property
    def mpp(self) -> tuple[float, float] | None:
        """Micrometres per pixel ``(y, x)`` as the resolution tags say; None where they do not."""
        unit_um = {2: 25400.0, 3: 10000.0}.get(self.directory.integer(_UNIT, 2))
        y, x = self.directory.number(_Y_RESOLUTION), self.directory.number(_X_RESOLUTION)
        if unit_um is None or not y or not x or not (np.isfinite([y, x]).all() and min(y, x) > 0):
            return None
        return (unit_um / y, unit_um / x)


def read_page(name: str, directory: Directory) -> Page:
    """Read how a directory's image is stored; no tile is touched.

    Raises `SlideError` where the directory contradicts itself or claims what no slide has.
    """
    shape = (directory.integer(_HEIGHT, 0), directory.integer(_WIDTH, 0))
    tiled = _TILE_OFFSETS in directory or _TILE_WIDTH in directory
    if tiled:
        tile = (directory.integer(_TILE_HEIGHT, 0), directory.integer(_TILE_WIDTH, 0))
    else:
        tile = (min(directory.integer(_ROWS, shape[0]), shape[0]), shape[1])
    if not all(0 < n <= MOST_SIDE for n in (*shape, *tile)):
        raise SlideError(
            f"{name}: an image of {shape[1]} x {shape[0]} px in tiles of {tile[1]} x {tile[0]}; "
            f"{DAMAGED}"
        )
    bits, formats = set(directory.integers(_BITS, (1,))), set(directory.integers(_FORMAT, (1,)))
    extra = directory.integers(_EXTRA)
    return Page(
        name=name,
        directory=directory,
        shape=shape,
        tile=tile,
        tiled=tiled,
        samples=directory.integer(_SAMPLES, 1),
        planar=directory.integer(_PLANAR, 1) == 2,
        compression=directory.integer(_COMPRESSION, 1),
        photometric=directory.integer(_PHOTOMETRIC, RGB),
        predictor=directory.integer(_PREDICTOR, 1),
        alpha=extra[0] if extra else None,
        # Samples of several depths, or of signed or real numbers, are what nothing here reads.
        bits=bits.pop() if len(bits) == 1 and formats == {1} else 0,
        reduced=bool(directory.integer(_SUBFILE, 0) & 1),
    )
