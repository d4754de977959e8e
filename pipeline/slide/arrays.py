"""How whatever has a plane of RGB pixels becomes lazy arrays: block by block, and averaged."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SlideError
from pipeline.geometry import Box, Frame, Grid, Index, Shape, ceil_div
from pipeline.lazy import Source, map_blocks, read_blocks

__all__ = ["BLOCK", "AsArrays", "read_beyond"]

BLOCK = 2048
"""The side of a block in pixels, before it is fitted to tiles or patches."""


class Placed(Source, Protocol):
    """A source with a plane: what `AsArrays` is a base of."""

    @property
    def plane(self) -> Shape:
        """Rows and columns."""
        ...


class AsArrays:
    """What everything that stands for a level does alike: shape, dtype, axes and lazy arrays."""

    __slots__ = ()

    @property
    def shape(self: Placed) -> tuple[int, int, int]:
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

    def __repr__(self) -> str:
        from pipeline.slide.looks import text_of  # which knows what levels there are

        return text_of(self)  # type: ignore[arg-type]  # a base of what `LevelLike` asks for

    def _repr_html_(self) -> str:
        from pipeline.slide.looks import html_of

        return html_of(self)  # type: ignore[arg-type]  # as above

    def array(self: Placed, block: int = BLOCK, halo: int = 0) -> da.Array:
        """Give it as a lazy array of square blocks, each with ``halo`` pixels around.

        Without a halo its shape is the plane's; with one, the blocks overlap.
        """
        return read_blocks(self, Grid(self.plane, block), Frame(halo=halo))

    def reduced(self: Placed, factor: int) -> da.Array:
        """Give it averaged over ``factor x factor`` pixels: lazy ``(3, y, x)`` uint8."""
        return _reduced(self, self.plane, factor)

    def reduced_where_readable(self: Placed, factor: int) -> da.Array:
        """Give the same with a fourth channel: 255 where the block was read, else 0 (in all)."""
        return _reduced(_WhereReadable(self), self.plane, factor)


def read_beyond(
    read: Callable[[Box], NDArray[np.uint8]],
    box: Box,
    plane: Shape,
    background: tuple[int, int, int],
) -> NDArray[np.uint8]:
    """Give the pixels ``(y, x, 3)`` of a box that may leave the plane, where they are background.

    ``read`` is asked for what lies within.
    """
    inside = box.clipped(plane)
    if inside == box and box.area:
        return read(box)
    pixels = np.empty((*box.shape, 3), np.uint8)
    if not inside.area:
        _paint(pixels, background)
        return pixels
    rows, columns = inside.within(box)
    # The margins alone: to paint colours is slower than to decode the pixels in between.
    _paint(pixels[: rows.start], background)
    _paint(pixels[rows.stop :], background)
    _paint(pixels[rows, : columns.start], background)
    _paint(pixels[rows, columns.stop :], background)
    pixels[rows, columns] = read(inside)
    return pixels


def _paint(pixels: NDArray[np.uint8], colour: tuple[int, int, int]) -> None:
    pixels[...] = colour[0] if len(set(colour)) == 1 else colour


_ROWS = 64


@dataclass(frozen=True, slots=True)
class _WhereReadable:
    """A level whose boxes are ``(y, x, 4)``: RGB and 255; all 0 where a box cannot be read."""

    level: Placed

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
    # Smaller blocks than a model's: a client looks at a slide while little else needs memory.
    grid = Grid(plane, ceil_div(BLOCK // 2, factor) * factor)
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
    if factor == 1:
        return np.ascontiguousarray(block.transpose(2, 0, 1))
    height, width, samples = block.shape
    averaged = np.empty((samples, ceil_div(height, factor), ceil_div(width, factor)), np.uint8)
    # A few rows at a time: sums are four times as wide, and would be larger than the block.
    for y in range(0, averaged.shape[1], _ROWS):
        rows = block[y * factor : (y + _ROWS) * factor]
        averaged[:, y : y + _ROWS] = _means(rows, factor).transpose(2, 0, 1)
    return averaged


def _means(block: NDArray[np.uint8], factor: int) -> NDArray[np.uint32]:
    height, width, samples = block.shape
    # Row upon row, then column upon column: the only wide sums are those of what is left.
    down = np.zeros((ceil_div(height, factor), width, samples), np.uint32)
    for y in range(min(factor, height)):
        part = block[y::factor]
        down[: len(part)] += part
    sums = np.zeros((len(down), ceil_div(width, factor), samples), np.uint32)
    for x in range(min(factor, width)):
        columns = down[:, x::factor]
        sums[:, : columns.shape[1]] += columns
    rows, columns = (
        np.minimum(factor, n - np.arange(0, n, factor, dtype=np.uint32)) for n in (height, width)
    )
    count = (rows[:, None] * columns)[..., None]
    sums += count // 2
    sums //= count
    return sums
