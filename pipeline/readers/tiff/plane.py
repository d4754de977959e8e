"""The tiles of one plane of samples, fetched, decoded and put together into a box.

This is the inner loop of all reading: plain integers, one buffer a thread, no object per tile.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SlideError
from pipeline.geometry import Box
from pipeline.readers.ranges import Bytes, LocalBytes
from pipeline.readers.tiff.decode import DamagedTileError, Decode
from pipeline.readers.tiff.page import Page

__all__ = ["REMEDY", "Plane"]

Pixels = NDArray[np.uint8]

Tile = tuple[int, int, int, int]
"""Top and left in the image, and offset and length in the file."""

LOCAL_BYTES, REMOTE_BYTES = 2**17, 2**24
"""Compressed bytes held at once: a few tiles, decoded while they are in the processor's cache;
over a network whatever a block needs, fetched side by side."""

REMEDY = "check that the file is whole, or copy it again from where it comes from"

_buffers = threading.local()


@dataclass(frozen=True)
class Plane:
    """Where some samples of a level come from: one plane of a page, into ``channels``."""

    page: Page
    number: int
    decode: Decode
    channels: slice

    def read(self, file: Bytes, box: Box, out: Pixels, what: str) -> None:
        """Fill ``channels`` of ``out`` ``(y, x, samples)``, which covers ``box``.

        Tiles that the file leaves out are white. Raises `SlideError` where one cannot be read,
        which begins with what is read, such as ``level 0``.
        """
        if not box.area:
            return
        height, width = self.page.tile
        samples = self.channels.stop - self.channels.start
        together = samples == out.shape[2]
        # Rows of bytes, which numpy copies at half the cost of pixels of three.
        rows_out = out.reshape(len(out), -1)
        for run in self._runs(file, box):
            self._check(file, run, what)
            data = iter(
                file.read_many([(offset, length) for _, _, offset, length in run if length])
            )
            for top, left, _, length in run:
                y, y_stop = max(top, box.y), min(top + height, box.y_stop)
                x, x_stop = max(left, box.x), min(left + width, box.x_stop)
                rows = slice(y - box.y, y_stop - box.y)
                if not length:
                    out[rows, x - box.x : x_stop - box.x, self.channels] = 255
                    continue
                pixels = self._decoded(next(data), top, left, what)
                part = slice(y - top, y_stop - top)
                if together:
                    place = slice((x - box.x) * samples, (x_stop - box.x) * samples)
                    columns = slice((x - left) * samples, (x_stop - left) * samples)
                    rows_out[rows, place] = pixels.reshape(len(pixels), -1)[part, columns]
                else:
                    out[rows, x - box.x : x_stop - box.x, self.channels] = pixels[
                        part, x - left : x_stop - left
                    ]

    def _runs(self, file: Bytes, box: Box) -> Iterator[list[Tile]]:
        """Give the tiles that ``box`` touches in runs whose bytes may be held together."""
        most = LOCAL_BYTES if isinstance(file, LocalBytes) else REMOTE_BYTES
        (rows, columns), (height, width) = self.page.touching(box), self.page.tile
        places = self.page.tiles[
            self.number, rows.start : rows.stop, columns.start : columns.stop
        ].tolist()
        run: list[Tile] = []
        held = 0
        for i, row in zip(rows, places, strict=True):
            for j, (offset, length) in zip(columns, row, strict=True):
                if run and held + length > most:
                    yield run
                    run, held = [], 0
                run.append((i * height, j * width, offset, length))
                held += length
        if run:
            yield run

    def _check(self, file: Bytes, run: list[Tile], what: str) -> None:
        """Refuse tiles that cannot be where, or as large as, the file says."""
        page = self.page
        limit = page.tile[0] * page.tile[1] * page.samples * 4 + 2**16
        for top, left, offset, length in run:
            if offset < 0 or length < 0 or offset + length > file.size or length > limit:
                why = f"its {length} bytes at {offset} of {file.size}"
                raise self._unreadable(top, left, what, why)

    def _decoded(self, data: bytes, top: int, left: int, what: str) -> Pixels:
        page, samples = self.page, self.channels.stop - self.channels.start
        height, width = page.tile
        if not page.tiled:  # the last strip holds only the rows there are
            height = min(height, page.shape[0] - top)
        try:
            return self.decode(
                data, _buffer(height * width * samples).reshape(height, width, samples)
            )
        except DamagedTileError as error:
            raise self._unreadable(top, left, what, str(error)) from error

    def _unreadable(self, top: int, left: int, what: str, why: str) -> SlideError:
        box = Box(top, left, *self.page.tile).clipped(self.page.shape)
        return SlideError(
            f"{self.page.name}: cannot read {what}, rows {box.y}:{box.y_stop}, "
            f"columns {box.x}:{box.x_stop}: {why}; {REMEDY}"
        )


def _buffer(size: int) -> Pixels:
    """Give this thread's own buffer, so that no tile has to be allocated."""
    kept: Pixels | None = getattr(_buffers, "kept", None)
    if kept is None or kept.size < size:
        kept = _buffers.kept = np.empty(size, np.uint8)
    return kept[:size]
