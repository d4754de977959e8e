"""The least work there can be: a slide's JPEG tiles fetched and decoded, and nothing else.

Nothing of this package is used. Each thread decodes into one buffer that it keeps: no memory is
asked for, no pixel is put anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.benchmarks.contenders import Run, Setting

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["decode_all_levels", "decode_level_0", "decoded", "levels_of"]

_TILES_AT_ONCE = 32


@dataclass(frozen=True)
class Tiles:
    """The tiles of a level: where each lies, and how many pixels of the image it has."""

    places: tuple[tuple[int, int], ...]  # offset, length
    pixels: tuple[int, ...]
    shape: tuple[int, int, int]
    tables: bytes | None
    colours: str

    def some(self) -> Iterator[Tiles]:
        """Give them a few at a time."""
        for start in range(0, len(self.places), _TILES_AT_ONCE):
            stop = start + _TILES_AT_ONCE
            yield Tiles(
                self.places[start:stop],
                self.pixels[start:stop],
                self.shape,
                self.tables,
                self.colours,
            )


@contextmanager
def decode_level_0(at: Setting) -> Iterator[Run]:
    """Decode every tile of level 0."""
    with _decoding(levels_of(at.slide)[:1], at) as run:
        yield run


@contextmanager
def decode_all_levels(at: Setting) -> Iterator[Run]:
    """Decode every tile of every level."""
    with _decoding(levels_of(at.slide), at) as run:
        yield run


@contextmanager
def _decoding(levels: list[Tiles], at: Setting) -> Iterator[Run]:
    parts = [part for level in levels for part in level.some()]
    file = os.open(at.slide, os.O_RDONLY)
    try:
        _decode(file, parts[0])  # all is imported now
        with ThreadPoolExecutor(at.cores) as pool:
            yield lambda: sum(pool.map(lambda part: _decode(file, part), parts))
    finally:
        os.close(file)


def _decode(file: int, tiles: Tiles) -> int:
    for _ in decoded(file, tiles):
        pass
    return sum(tiles.pixels)


def decoded(file: int, tiles: Tiles) -> Iterator[NDArray[np.uint8]]:
    """Give each tile's pixels, at its full size, in a buffer that the next one overwrites."""
    import imagecodecs
    import numpy as np

    buffer = np.empty(tiles.shape, np.uint8)
    for offset, length in tiles.places:
        imagecodecs.jpeg8_decode(
            os.pread(file, length, offset),
            tables=tiles.tables,
            colorspace=tiles.colours,
            outcolorspace="rgb",
            out=buffer,
        )
        yield buffer


def levels_of(path: str) -> list[Tiles]:
    """Find the tiles of each level of a TIFF of JPEG tiles, with tifffile.

    Raises `ValueError` for other files.
    """
    import tifffile

    levels = []
    with tifffile.TiffFile(path) as tiff:
        for level in tiff.series[0].levels:
            page = level.keyframe
            if not page.is_tiled or page.compression != tifffile.COMPRESSION.JPEG:
                raise ValueError(f"{path}: not a TIFF of JPEG tiles, which the limit is made for")
            height, width, samples = page.shape
            rows, columns = page.tilelength, page.tilewidth
            levels.append(
                Tiles(
                    tuple(zip(page.dataoffsets, page.databytecounts, strict=True)),
                    tuple(
                        min(rows, height - y) * min(columns, width - x)
                        for y in range(0, height, rows)
                        for x in range(0, width, columns)
                    ),
                    (rows, columns, samples),
                    page.jpegtables,
                    "ycbcr" if page.photometric == tifffile.PHOTOMETRIC.YCBCR else "rgb",
                )
            )
    return levels
