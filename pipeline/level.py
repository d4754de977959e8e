"""One stored resolution of a slide, as a token that can be read anywhere."""

from __future__ import annotations

import contextlib
from contextlib import closing
from dataclasses import dataclass

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SlideError
from pipeline.geometry import Box, Frame, Grid, Index, Shape, ceil_div
from pipeline.handles import Pool
from pipeline.lazy import Source, map_blocks, read_blocks
from pipeline.readers import Reader, open_reader

__all__ = ["BLOCK", "Level", "SlideRef", "slides"]

BLOCK = 2048
"""The side of a block in pixels, before it is fitted to tiles or patches."""

OPEN_SLIDES = 8
"""Slides one process keeps open: a few in flight, and far from any descriptor limit."""


@dataclass(frozen=True, slots=True)
class SlideRef:
    """Names a slide: where it is, how it is read, and which file it was when it was opened.

    ``stamp`` is ``(bytes, mtime in ns)``: a slide that was replaced gets another ref, and so
    a new handle and other graph keys.
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


@dataclass(frozen=True, slots=True)
class Level:
    """One stored resolution of a slide: a `pipeline.lazy.Source` of ``(y, x, 3)`` uint8.

    ``downsample`` is ``(y, x)`` level-0 pixels per pixel, ``tile`` the file's own ``(rows,
    columns)``, ``background`` the RGB of whatever lies outside.
    """

    slide: SlideRef
    index: int
    plane: Shape
    downsample: tuple[float, float]
    tile: Shape
    background: tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, columns, 3."""
        return (*self.plane, 3)

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """Always uint8."""
        return np.dtype(np.uint8)

    @property
    def axes(self) -> str:
        """``"yxs"``."""
        return "yxs"

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

    def array(self, block: int = BLOCK, halo: int = 0) -> da.Array:
        """Give the level as a lazy array of square blocks, each with ``halo`` pixels around.

        Without a halo its shape is the level's; with one, the blocks overlap.
        """
        return read_blocks(self, Grid(self.plane, block), Frame(halo=halo))

    def reduced(self, factor: int) -> da.Array:
        """Give the level averaged over ``factor x factor`` pixels: lazy ``(3, y, x)`` uint8."""
        return _reduced(self, self.plane, factor)

    def reduced_where_readable(self, factor: int) -> da.Array:
        """Give the same with a fourth channel: 255 where the block was read, else 0 (in all)."""
        return _reduced(_WhereReadable(self), self.plane, factor)

    def _read_with(self, reader: Reader, box: Box) -> NDArray[np.uint8]:
        inside = box.clipped(self.plane)
        if inside == box:
            return reader.read(self.index, box)
        pixels = np.empty((*box.shape, 3), np.uint8)
        pixels[:] = self.background
        if inside.area:
            pixels[inside.within(box)] = reader.read(self.index, inside)
        return pixels


@dataclass(frozen=True, slots=True)
class _WhereReadable:
    """A level whose boxes are ``(y, x, 4)``: RGB and 255; all 0 where a box cannot be read."""

    level: Level

    @property
    def shape(self) -> tuple[int, int, int]:
        return (*self.level.plane, 4)

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        return self.level.dtype

    @property
    def axes(self) -> str:
        return self.level.axes

    def read(self, box: Box) -> NDArray[np.uint8]:
        pixels = np.zeros((*box.shape, 4), np.uint8)
        with contextlib.suppress(SlideError):
            pixels[..., :3] = self.level.read(box)
            pixels[..., 3] = 255
        return pixels


def _reduced(source: Source, plane: Shape, factor: int) -> da.Array:
    grid = Grid(plane, ceil_div(BLOCK, factor) * factor)
    small = Grid((ceil_div(plane[0], factor), ceil_div(plane[1], factor)), grid.cell // factor)
    return map_blocks(
        _average,
        read_blocks(source, grid),
        small,
        axes="yxs",
        channels=source.shape[2],
        dtype=np.uint8,
        factor=factor,
    )


def _average(
    block: NDArray[np.uint8], _index: Index, _value: None, *, factor: int
) -> NDArray[np.uint8]:
    """Average ``(y, x, s)`` over squares, those cut by the border over what they have."""
    rows = np.arange(0, block.shape[0], factor)
    columns = np.arange(0, block.shape[1], factor)
    sums = np.add.reduceat(block, rows, axis=0, dtype=np.uint32)
    sums = np.add.reduceat(sums, columns, axis=1)
    count = np.minimum(factor, block.shape[0] - rows)[:, None] * np.minimum(
        factor, block.shape[1] - columns
    )
    means = (sums + count[..., None] // 2) // count[..., None]
    averaged: NDArray[np.uint8] = means.astype(np.uint8).transpose(2, 0, 1)
    return averaged
