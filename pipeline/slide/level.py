"""One stored resolution of a slide, as a token that can be read anywhere.

`LevelLike` is what a plan reads: a stored `Level`, or something made of one on the way.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Protocol, overload

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from pipeline.display.describe import as_html
from pipeline.errors import SlideError
from pipeline.geometry import Box, Shape
from pipeline.handles import Pool
from pipeline.lazy import Source, sliceable
from pipeline.readers import LevelInfo, Reader, open_reader
from pipeline.readers.anchors import REGION
from pipeline.slide.arrays import BLOCK, AsArrays, read_beyond

__all__ = ["BLOCK", "READING_BYTES_OTHER", "Level", "LevelLike", "Levels", "SlideRef", "slides"]

READING_BYTES = {"tiff": 3 + 3, "openslide": 4 + 3 + 3}
"""Bytes a pixel takes while a reader reads it, at most: its RGB, once more where the box leaves the
slide, and OpenSlide's ARGB."""

READING_BYTES_OTHER = 12
"""The same for any other reader: what its library decodes, and that in another order."""

OPEN_SLIDES = 8
"""Slides one process keeps open: a few in flight, and far from any descriptor limit."""


@dataclass(frozen=True, slots=True)
class SlideRef:
    """Names a slide: where it is, how it is read, and which file it was when it was opened.

    ``stamp`` is what `pipeline.readers.ranges.locate` gives: a slide that was replaced gets
    another ref, and so a new handle and other graph keys.
    """

    path: str
    reader: str
    stamp: tuple[int, int]


slides: Pool[SlideRef, Reader] = Pool(
    lambda ref: open_reader(ref.path, ref.reader),
    size=OPEN_SLIDES,
    close=lambda reader: reader.close(),
)
"""This process's open slides."""


class LevelLike(Source, Protocol):
    """What can stand for a level: a source of ``(y, x, 3)`` uint8 that knows where it lies.

    A stored level does, one that is resampled, one whose colours are corrected. It is a small
    frozen token. Take `AsArrays` as a base for the methods that follow from these.
    """

    @property
    def slide(self) -> SlideRef:
        """The slide that is read."""
        ...

    @property
    def stored(self) -> Level:
        """The stored level that is read in the end."""
        ...

    @property
    def plane(self) -> Shape:
        """Rows and columns."""
        ...

    @property
    def downsample(self) -> tuple[float, float]:
        """Level-0 pixels per pixel, ``(y, x)``."""
        ...

    @property
    def origin(self) -> tuple[float, float]:
        """Where the corner of the first pixel lies from the slide's, in level-0 ``(y, x)``."""
        ...

    @property
    def background(self) -> tuple[int, int, int]:
        """The RGB of whatever lies outside."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """Whatever changes a pixel, as JSON; the settings of a store have it."""
        ...

    def reading_bytes(self, shape: Shape) -> int:
        """Predict the peak of reading ``shape`` pixels at once."""
        ...

    def array(self, block: int = ..., halo: int = ...) -> da.Array:
        """Give it as a lazy array of square blocks, each with ``halo`` pixels around."""
        ...

    def reduced(self, factor: int) -> da.Array:
        """Give it averaged over ``factor x factor`` pixels: lazy ``(3, y, x)`` uint8."""
        ...

    def reduced_where_readable(self, factor: int) -> da.Array:
        """Give the same with a fourth channel: 255 where the block was read, else 0 (in all)."""
        ...


@dataclass(frozen=True, slots=True, repr=False)
class Level(AsArrays):
    """One stored resolution of a slide, or the part of it that the slide is cropped to.

    ``downsample`` is ``(y, x)`` level-0 pixels per pixel, ``tile`` the file's own ``(rows,
    columns)``, ``background`` the RGB of whatever lies outside. ``offset`` is the stored pixel
    ``(y, x)`` it begins with, ``origin`` where the corner of that lies from the slide's, in
    level-0 pixels: 0, or less where the crop begins inside of a pixel.
    """

    slide: SlideRef
    index: int
    plane: Shape
    downsample: tuple[float, float]
    tile: Shape
    background: tuple[int, int, int]
    offset: Shape = (0, 0)
    origin: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def of(
        cls,
        slide: SlideRef,
        index: int,
        info: LevelInfo,
        background: tuple[int, int, int],
        crop: Box | None,
    ) -> Level:
        """Give level ``index``, cut to every pixel that ``crop`` (level-0 pixels) touches."""
        whole = cls(slide, index, info.shape, info.downsample, info.tile, background)
        if crop is None:
            return whole
        (y, height, y0), (x, width, x0) = (
            _cut(start, stop, downsample, size)
            for start, stop, downsample, size in zip(
                (crop.y, crop.x),
                (crop.y_stop, crop.x_stop),
                info.downsample,
                info.shape,
                strict=True,
            )
        )
        return replace(whole, plane=(height, width), offset=(y, x), origin=(y0, x0))

    @property
    def stored(self) -> Level:
        """Itself."""
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """Whatever changes a pixel, as JSON."""
        return {"slide.level": self.index}

    def reading_bytes(self, shape: Shape) -> int:
        """Predict the peak of reading ``shape`` pixels at once."""
        pixels = shape[0] * shape[1]
        bytes_ = pixels * READING_BYTES.get(self.slide.reader, READING_BYTES_OTHER)
        if not self.index or self.slide.reader != "openslide":
            # A tile is decoded whole: it may be a strip as wide as the image, or all of it.
            return bytes_ + self.tile[0] * self.tile[1] * 3
        # Where its downsample is no whole number it may be read from as far back as `REGION`.
        rows, columns = (
            min(REGION, start + n) for start, n in zip(self.offset, self.plane, strict=True)
        )
        return max(bytes_, pixels * 3 + rows * columns * 4)

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Give ``(y, x, 3)`` pixels of ``box``; outside the level they are background.

        Raises `SlideError` where the file's pixels cannot be read.
        """
        try:
            with slides.using(self.slide) as reader:
                return self._read_with(reader, box)
        except SlideError:
            # An error in another thread spoils the handle for all that share it. A handle of
            # our own tells whether it is these pixels that are broken.
            with closing(open_reader(self.slide.path, self.slide.reader)) as reader:
                return self._read_with(reader, box)

    def _read_with(self, reader: Reader, box: Box) -> NDArray[np.uint8]:
        return read_beyond(
            lambda inside: reader.read(self.index, self._in_file(inside)),
            box,
            self.plane,
            self.background,
        )

    def _in_file(self, box: Box) -> Box:
        return Box(box.y + self.offset[0], box.x + self.offset[1], box.height, box.width)


def _cut(start: int, stop: int, downsample: float, size: int) -> tuple[int, int, float]:
    """Give first pixel, pixels and origin of what level-0 pixels ``start`` to ``stop`` touch.

    >>> _cut(10, 50, 4.0, 100)
    (2, 11, -2.0)
    """
    first = min(math.floor(start / downsample), size - 1)
    last = min(math.ceil(stop / downsample), size)
    return first, max(last - first, 1), min(first * downsample - start, 0.0)


class Levels(Sequence[da.Array]):
    """The levels of a slide as lazy ``(y, x, 3)`` uint8 arrays, level 0 first."""

    def __init__(self, levels: tuple[Level, ...]) -> None:
        self._levels = levels

    def __len__(self) -> int:
        return len(self._levels)

    @overload
    def __getitem__(self, index: int) -> da.Array: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[da.Array]: ...
    def __getitem__(self, index: int | slice) -> da.Array | Sequence[da.Array]:
        if isinstance(index, slice):
            return Levels(self._levels[index])
        level = self._levels[index]
        rows, columns = (max(BLOCK // n, 1) * n for n in level.tile)
        return sliceable(level, (rows, columns, 3))

    def __iter__(self) -> Iterator[da.Array]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return "\n".join(f"{i}: {array!r}" for i, array in enumerate(self))

    def _repr_html_(self) -> str:
        head = ("level", "size", "downsample", "tile", "chunks")
        rows = [
            (
                str(level.index),
                f"{level.plane[1]} x {level.plane[0]}",
                f"{level.downsample[1]:g}",
                f"{level.tile[1]} x {level.tile[0]}",
                f"{array.chunksize[1]} x {array.chunksize[0]}",
            )
            for level, array in zip(self._levels, self, strict=True)
        ]
        return as_html("Levels, each a lazy dask array (y, x, 3)", {}, [head, *rows])
