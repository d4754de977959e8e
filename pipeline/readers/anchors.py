"""Where OpenSlide must begin to read so that it gives stored pixels: integers, no pixels.

``read_region`` takes its position in whole level-0 pixels. Where a level's downsample is no
whole number, pixel ``k`` of the level lies at ``k * downsample``, between two of them: what is
given is resampled by what the position was rounded by, and depends on where a region begins.
Some pixels lie so close to a whole number that cairo copies instead (`EXACT`). A region that
begins there holds stored pixels to its end, so each stretch of a level is read from the nearest
such pixel before it, its anchor, as far back as `REACH`. Where there is none, a stretch begins
with itself, and lies up to half a level-0 pixel off.

Anchors follow from the level's length and downsample alone: a pixel has one value whatever box
it is read in.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

__all__ = ["REGION", "anchors", "pieces"]

STRETCH = 512
"""Pixels of a row or column that have one anchor."""

REGION = 4096
"""Longest region read at once: beyond it OpenSlide itself cuts, and truncates the position."""

REACH = REGION - STRETCH
"""How far before its stretch an anchor may lie."""

NEARER = 128
"""Pixels by which another anchor must be nearer to be worth a region of its own."""

EXACT = 1 / 513
"""A region so little off is copied, not resampled: cairo rounds positions to 1/256."""


def anchors(length: int, downsample: float) -> tuple[int, ...]:
    """Give the anchor of each stretch of a row or column of ``length`` pixels.

    >>> anchors(1500, 4.0)
    (0, 512, 1024)
    >>> anchors(2221, 2.0005055500659967)
    (0, 0, 0, 0, 1985)
    """
    at = np.arange(length)
    exact = np.flatnonzero(abs(np.rint(at * downsample) / downsample - at) < EXACT)
    starts = range(0, length, STRETCH)
    nearest = exact[np.searchsorted(exact, starts, side="right") - 1].tolist()
    chosen, kept = [], 0
    for start, anchor in zip(starts, nearest, strict=True):
        if anchor - kept >= NEARER or start - kept > REACH:
            kept = anchor
        chosen.append(kept if start - kept <= REACH else start)
    return tuple(chosen)


def pieces(start: int, stop: int, starts: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
    """Cut ``start:stop`` into ``(anchor, start, stop)`` of one anchor each.

    >>> list(pieces(500, 1100, (0, 200, 200)))
    [(0, 500, 512), (200, 512, 1100)]
    """
    while start < stop:
        stretch = start // STRETCH
        anchor = starts[stretch]
        while starts[stretch : stretch + 1] == (anchor,) and stretch * STRETCH < stop:
            stretch += 1
        end = min(stretch * STRETCH, stop)
        yield anchor, start, end
        start = end
