"""An Aperio SVS written tile by tile, in the memory of a row of tiles of a reduced level.

OpenSlide's ``aperio`` driver (https://openslide.org/formats/aperio/) goes by the order of the
directories, their descriptions and, for label and macro, NewSubfileType: first the tiled
baseline, then a stripped thumbnail, the tiled reduced levels, label and macro. Tiles are JPEG
in YCbCr 4:2:0, encoded here: tifffile, given RGB, would mark one colour space and store the
other unless told both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import BinaryIO

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipeline.demo.scene import TILE, WHITE
from pipeline.process import cores

__all__ = ["Paint", "write_svs"]

Pixels = NDArray[np.uint8]
Paint = Callable[[int, int], Pixels]  # left, top -> (TILE, TILE, 3)
Size = tuple[int, int]  # width, height

_FACTOR = 4  # between one level and the next
_SMALL = 512  # a level whose longer side is no more has none below it
_QUALITY = 80
_BIGTIFF_PIXELS = 2**31  # at two bytes a pixel, more than JPEG ever takes, TIFF's 4 GiB are full
_LIBRARY = "Aperio Image Library v12.0.15 "


@dataclass(frozen=True)
class _Level:
    """A reduced level in a file of RGB rows, which may be longer and more than the level's."""

    path: Path
    size: Size
    stored_width: int

    def rows(self) -> Iterator[Pixels]:
        """Read the level from its top, `TILE` rows at a time, at last perhaps fewer."""
        with self.path.open("rb") as file:
            for top in range(0, self.size[1], TILE):
                high = min(TILE, self.size[1] - top)
                stored = file.read(high * self.stored_width * 3)
                yield np.frombuffer(stored, np.uint8).reshape(high, self.stored_width, 3)

    def tiles(self) -> Iterator[bytes]:
        """Encode the level's tiles, row by row."""
        for rows in self.rows():
            for left in range(0, self.size[0], TILE):
                part = rows[:, left : left + TILE]
                tile = np.full((TILE, TILE, 3), WHITE, np.uint8)
                tile[: part.shape[0], : part.shape[1]] = part
                yield _jpeg(tile)

    def next(self) -> _Level:
        """Write the level below, averages of this one."""
        width, height = (side // _FACTOR for side in self.size)
        below = _Level(self.path.with_name(self.path.name + "+"), (width, height), width)
        with below.path.open("wb") as file:
            for rows in self.rows():
                whole = rows[: len(rows) // _FACTOR * _FACTOR, : width * _FACTOR]
                if whole.size:
                    file.write(_average(whole, _FACTOR).tobytes())
        return below

    def thumbnail(self) -> Image.Image:
        """Read the level and shrink it to at most 1024 pixels."""
        image = np.concatenate([rows[:, : self.size[0]] for rows in self.rows()])
        return Image.fromarray(_average(image, -(-max(self.size) // 1024)))


def write_svs(path: Path, paint: Paint, size: Size, *, mpp: float) -> None:
    """Write a slide of ``size`` (width, height) whose level 0 is ``paint``ed tile by tile.

    Reduced levels are averages of 4 x 4 pixels, until one is about 500 pixels. They pass
    through files beside ``path``, whose folder should be a temporary one.
    """
    full, grid = _by(size), f"({TILE}x{TILE})"
    about = f"|AppMag = {10 / mpp:g}|MPP = {mpp!r}"
    with tifffile.TiffWriter(path, bigtiff=size[0] * size[1] >= _BIGTIFF_PIXELS) as tiff:
        text = f"\r\n{full} [0,0 {full}] {grid} JPEG/YCC Q={_QUALITY}{about}"
        first = path.with_name("level")
        with first.open("wb") as file:
            _write_tiled(tiff, _painted(paint, size, file), size, text)
        levels = _levels_below(first, size)
        thumbnail = next(
            (level for level in reversed(levels) if max(level.size) > _SMALL), levels[0]
        ).thumbnail()
        _write_whole(tiff, thumbnail, f"\n{full} -> {_by(thumbnail.size)} - {about}")
        for level in levels if max(size) > _SMALL else []:
            text = f"\r\n{full} {grid} -> {_by(level.size)} JPEG/YCC Q={_QUALITY}"
            _write_tiled(tiff, level.tiles(), level.size, text)
        label = _draw_label(["synthetic", full, f"{mpp:g} um/px"])
        _write_whole(tiff, label, f"\nlabel {_by(label.size)}", kind=1)
        macro = _draw_macro(thumbnail, label)
        _write_whole(tiff, macro, f"\nmacro {_by(macro.size)}", kind=9)


def _painted(paint: Paint, size: Size, averages: BinaryIO) -> Iterator[bytes]:
    """Encode level 0's tiles, row by row; the averages of a row are written before it is given."""

    def made(left: int, top: int) -> tuple[bytes, Pixels]:
        tile = paint(left, top)
        return _jpeg(tile), _average(tile, _FACTOR)

    with ThreadPoolExecutor(cores()) as pool:
        for top in range(0, size[1], TILE):
            row = list(pool.map(made, range(0, size[0], TILE), repeat(top)))
            averages.write(np.concatenate([average for _, average in row], axis=1).tobytes())
            yield from (encoded for encoded, _ in row)


def _levels_below(first: Path, size: Size) -> list[_Level]:
    """Write the reduced levels of a slide of ``size``, the first already in its file."""
    stored_width = -(-size[0] // TILE) * TILE // _FACTOR
    levels = [_Level(first, (size[0] // _FACTOR, size[1] // _FACTOR), stored_width)]
    while max(levels[-1].size) > _SMALL and min(levels[-1].size) >= _FACTOR:
        levels.append(levels[-1].next())
    return levels


def _write_tiled(tiff: tifffile.TiffWriter, tiles: Iterator[bytes], size: Size, text: str) -> None:
    tiff.write(
        tiles,
        shape=(size[1], size[0], 3),
        dtype=np.uint8,
        tile=(TILE, TILE),
        photometric="ycbcr",
        subsampling=(2, 2),
        compression="jpeg",
        description=_LIBRARY + text,
        metadata=None,
        software=False,
    )


def _write_whole(
    tiff: tifffile.TiffWriter, image: Image.Image, text: str, *, kind: int = 0
) -> None:
    """Write a stripped picture; ``kind`` is Aperio's NewSubfileType: 1 a label, 9 a macro."""
    tiff.write(
        np.asarray(image),
        photometric="rgb",
        rowsperstrip=64,
        compression="lzw",
        subfiletype=kind,
        description=_LIBRARY + text,
        metadata=None,
        software=False,
    )


def _jpeg(tile: Pixels) -> bytes:
    return bytes(
        imagecodecs.jpeg8_encode(
            tile, level=_QUALITY, colorspace="rgb", outcolorspace="ycbcr", subsampling="420"
        )
    )


def _average(pixels: Pixels, factor: int) -> Pixels:
    return np.asarray(Image.fromarray(pixels).reduce(factor))


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _draw_label(lines: list[str]) -> Image.Image:
    label = Image.new("RGB", (387, 463), (250, 250, 248))
    draw = ImageDraw.Draw(label)
    for number, line in enumerate(lines):
        draw.text((24, 40 + 60 * number), line, fill=(20, 20, 30), font_size=36)
    return label


def _draw_macro(thumbnail: Image.Image, label: Image.Image) -> Image.Image:
    """Draw the glass from afar, the label at its left and the specimen in its middle."""
    macro = Image.new("RGB", (1280, 431), (WHITE, WHITE, WHITE))
    macro.paste(label.resize((340, 407)), (12, 12))
    specimen = thumbnail.copy()
    specimen.thumbnail((800, 380))
    macro.paste(specimen, (400 + (840 - specimen.width) // 2, (431 - specimen.height) // 2))
    return macro
