"""Whether every tile of a slide can be read: each is read once, whole blocks of them at a time.

What fails is read again tile by tile, so that the tiles themselves are named; and with them those
that a reader cannot read without them. Only reading is checked: a tile that decodes to nonsense
is readable.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import reason_of
from pipeline.execute.schedulers import scheduler_in_force
from pipeline.execute.work import Watch, compute_blocks, tell_nobody
from pipeline.geometry import Box, Grid, Index, Shape, ceil_div
from pipeline.lazy import read_blocks
from pipeline.slide import Slide
from pipeline.slide.level import Level

__all__ = ["Unreadable", "Verified", "verify"]

_PIXELS_AT_ONCE = 2**22
_LARGEST_SIDE = 4096  # of what is called a tile: a whole image may be one


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A tile that cannot be read: its box in its level's pixels, and the reader's reason."""

    level: int
    box: Box
    reason: str


@dataclass(frozen=True)
class Verified:
    """What came of reading a slide: tiles in all, and those that cannot be read."""

    tiles: int
    seconds: float
    unreadable: tuple[Unreadable, ...]

    @property
    def regions(self) -> tuple[Unreadable, ...]:
        """The same with neighbouring tiles as one rectangle, which has its first one's reason."""
        return tuple(_joined_down(_joined_across(self.unreadable)))


@dataclass(frozen=True, slots=True)
class Tiles:
    """A level as a source of one element per tile of its file: 1, once that was read."""

    level: Level
    tile: Shape

    @property
    def shape(self) -> tuple[int, int, int]:
        """One, rows and columns of tiles."""
        rows, columns = (ceil_div(n, t) for n, t in zip(self.level.plane, self.tile, strict=True))
        return (1, rows, columns)

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        """Always uint8."""
        return np.dtype(np.uint8)

    @property
    def axes(self) -> str:
        """``"cyx"``."""
        return "cyx"

    def pixels(self, box: Box) -> Box:
        """Give the part of the level that some tiles cover."""
        (height, width) = self.tile
        return Box(box.y * height, box.x * width, box.height * height, box.width * width).clipped(
            self.level.plane
        )

    def read(self, box: Box) -> NDArray[Any]:
        """Read the tiles of ``box``; raises `SlideError` where one cannot be."""
        self.level.read(self.pixels(box))
        return np.ones((1, *box.shape), np.uint8)

    @property
    def at_once(self) -> int:
        """How many tiles, in rows and in columns, are read at a time."""
        area, (_, rows, columns) = math.prod(self.tile), self.shape
        side = math.isqrt(_PIXELS_AT_ONCE // area)
        for across in (rows, columns):
            if side > across:  # the other way there may be more
                side = max(side, _PIXELS_AT_ONCE // area // across)
        return max(side, 1)


def verify(slide: Slide, watch: Watch | None = None) -> Verified:
    """Read every tile of every level once, on the scheduler in force, and say which cannot be.

    Open the slide with ``crop=False``: tiles outside of its scanned area are tiles too.
    """
    started, tell = time.monotonic(), watch or tell_nobody
    tiles, unreadable = 0, []
    for number in range(len(slide.metadata.levels)):
        level = slide.level(number)
        height, width = (min(side, _LARGEST_SIDE) for side in level.tile)
        source = Tiles(level, (height, width))
        tiles += math.prod(source.shape)
        unreadable += sorted(_unreadable(source, number, tell), key=lambda each: each.box)
    return Verified(tiles, time.monotonic() - started, tuple(unreadable))


def _unreadable(source: Tiles, number: int, tell: Watch) -> Iterator[Unreadable]:
    _, rows, columns = source.shape
    many, one = Grid((rows, columns), source.at_once), Grid((rows, columns), 1)
    stage = f"level {number}"
    failed = _failures(source, many, set(many), partial(tell, stage))
    suspects = {index for block in failed for index in one.touching(many.box(block))}
    broken = _failures(source, one, suspects, partial(tell, f"{stage}, single tiles"))
    for index, reason in broken.items():
        yield Unreadable(number, source.pixels(one.box(index)), reason)


def _failures(source: Tiles, grid: Grid, indices: set[Index], tell: Any) -> dict[Index, str]:
    if not indices:
        return {}
    blocks = read_blocks(source, grid)
    # Once is enough: what fails is read again, tile by tile, and a level tries twice itself.
    errors = compute_blocks(scheduler_in_force(), blocks, sorted(indices), tell, attempts=1)
    return {index: reason_of(error) for index, error in errors.items()}


def _joined_across(tiles: tuple[Unreadable, ...]) -> Iterator[Unreadable]:
    open_: Unreadable | None = None
    for tile in tiles:
        if open_ is not None and _continues(open_, tile):
            open_ = Unreadable(open_.level, open_.box.union(tile.box), open_.reason)
            continue
        if open_ is not None:
            yield open_
        open_ = tile
    if open_ is not None:
        yield open_


def _continues(left: Unreadable, right: Unreadable) -> bool:
    rows = (left.level, left.box.y, left.box.height) == (right.level, right.box.y, right.box.height)
    return rows and left.box.x_stop == right.box.x


def _joined_down(rows: Iterator[Unreadable]) -> list[Unreadable]:
    ended: dict[tuple[int, int, int, int], Unreadable] = {}
    for row in rows:
        above = ended.pop((row.level, row.box.x, row.box.width, row.box.y), None)
        grown = (
            row if above is None else Unreadable(row.level, above.box.union(row.box), above.reason)
        )
        ended[row.level, row.box.x, row.box.width, row.box.y_stop] = grown
    return sorted(ended.values(), key=lambda each: (each.level, each.box))
