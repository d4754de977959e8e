"""What will be done to convert a slide: a frozen value. Making it writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.geometry import Grid, Index, Shape
from pipeline.lazy import map_blocks, read_blocks, write_blocks
from pipeline.ngff import MEAN, MICROMETER, Placement
from pipeline.plan.memory import BASE_BYTES, check_budget, reader_bytes
from pipeline.slide import Slide
from pipeline.slide.level import BLOCK, LevelLike
from pipeline.store import ImageLayout, StoredArray, halvings, image_outputs

__all__ = ["LEVELS", "Conversion", "plan_conversion"]

LEVELS = ("x2", "stored")
"""Where the coarser levels come from: each from the one before, or all from the slide."""

CHUNK = 256
"""Most pixels along the side of a chunk: 192 KiB of RGB, a viewer's tile."""

_WRITING_BYTES = 3 + 2 * 3
"""Bytes a pixel takes while it is written: the block, its chunks encoded, the shard."""

_HALVING_BYTES = 2 * 4 * 3 + 3 + 3
"""Bytes a pixel takes while it is made from four: those, with an even border, a shard, itself."""


@dataclass(frozen=True)
class Conversion:
    """Everything that will be done for one slide.

    ``sources`` are the levels that are read, finest first: one, or all that are stored.
    """

    slide: Slide
    sources: tuple[LevelLike, ...]
    path: str
    layout: ImageLayout

    @property
    def outputs(self) -> tuple[StoredArray, ...]:
        """The levels of the store, finest first."""
        return image_outputs(self.path, self.layout)

    def blocks(self, level: int) -> da.Array:
        """Give a whole level that is copied: read, write, lazily."""
        grid = self.layout.grids[level]
        planes = map_blocks(
            _planes,
            read_blocks(self.sources[level], grid),
            grid,
            axes="yxs",
            channels=3,
            dtype=np.uint8,
        )
        return write_blocks(planes, self.outputs[level], grid, verb="read-write")

    @property
    def settings(self) -> dict[str, Any]:
        """Whatever changes a stored value, as JSON: a store belongs to exactly one of these."""
        crop, layout = self.slide.crop, self.layout
        return {
            "slide.identity": self.slide.metadata.identity,
            "slide.reader": self.slide.ref.reader,
            **({} if crop is None else {"slide.crop": [crop.y, crop.x, *crop.shape]}),
            **self.sources[0].settings,
            "image.levels": "x2" if layout.method else "stored",
            "image.scale": [layout.unit, *layout.places[0].scale],
            "image.block": layout.grids[0].cell,
            "image.chunk": layout.chunk,
        }

    def check_budget(self, threads: int, limit_bytes: int) -> None:
        """Raise `MemoryBudgetError` where a worker would need more than it has."""
        check_budget(
            self.worker_bytes(threads=threads),
            limit_bytes,
            slide=self.slide.path,
            block=self.layout.grids[0].cell,
        )

    def worker_bytes(self, *, threads: int) -> int:
        """Predicted peak of a worker with so many threads, each at a block of its own."""
        side = self.layout.grids[0].cell
        reading = max(source.reading_bytes((side, side)) for source in self.sources)
        task = max(reading, _WRITING_BYTES * side**2, _HALVING_BYTES * side**2)
        kept = max(reader_bytes(source) for source in self.sources)
        return BASE_BYTES + kept + threads * task

    def record(self, failures: Mapping[tuple[int, Index], str], seconds: float) -> dict[str, Any]:
        """Say as JSON what became of it; what could not be read, on every level it shows on."""
        unreadable = set()
        for level, index in failures:
            box = self.layout.grids[level].box(index)
            unreadable.add((level, box))
            for coarser in range(len(self.sources), len(self.layout.grids)):
                unreadable.add((coarser, box.divided(2 ** (coarser - level))))
        return {
            "failures": [
                {"level": level, "block": list(index), "reason": reason}
                for (level, index), reason in sorted(failures.items())
            ],
            "unreadable": [
                [level, box.y, box.x, box.height, box.width] for level, box in sorted(unreadable)
            ],
            "seconds": round(seconds, 3),
        }


def plan_conversion(
    slide: Slide,
    path: str,
    *,
    mpp: float | None = None,
    levels: str = "x2",
    block: int | None = None,
    chunk: int | None = None,
) -> Conversion:
    """Plan to convert a slide into a store at ``path``, at ``mpp`` um per pixel or its own.

    A slide whose scale is not known is placed in pixels. Raises `ConfigError` where the
    options cannot be meant together, `SlideError` where ``mpp`` is given and the slide's own is
    not known.
    """
    if levels not in LEVELS:
        raise ConfigError(f"levels: {levels!r}; it is {' or '.join(LEVELS)}")
    if levels == "stored" and mpp is not None:
        raise ConfigError(
            f"levels: the stored ones have no {mpp:g} um/px; use x2, or leave out mpp"
        )
    count = len(slide.metadata.levels) if levels == "stored" else 1
    sources = tuple(slide.level(i) for i in range(count)) if mpp is None else (slide.at(mpp),)
    block, chunk = _sides(sources[0], block, chunk)
    if levels == "stored":
        grids = tuple(Grid(source.plane, block) for source in sources)
    else:
        grids = halvings(Grid(sources[0].plane, block))
    known = slide.mpp_problem is None
    l0_size = slide.believed_mpp if known else (1.0, 1.0)
    first = sources[0]
    layout = ImageLayout(
        grids=grids,
        places=tuple(Placement.of(l0_size, source.downsample, source.origin) for source in sources)
        if levels == "stored"
        else tuple(Placement.pyramid(l0_size, first.downsample, len(grids), first.origin)),
        unit=MICROMETER if known else None,
        method=None if levels == "stored" else MEAN,
        chunk=chunk,
        fill=round(sum(first.background) / 3),
    )
    return Conversion(slide, sources, path, layout)


def _planes(block: NDArray[np.uint8], _index: Index, _value: None) -> NDArray[np.uint8]:
    """Give ``(y, x, 3)`` as ``(3, y, x)``: a view, it is encoded chunk by chunk anyway."""
    return block.transpose(2, 0, 1)


def _sides(source: LevelLike, block: int | None, chunk: int | None) -> tuple[int, int]:
    """Give the sides of a block and of a chunk in it, as asked or as they fit."""
    if block is None:
        step = chunk or _tile_side(source.stored.tile)
        block = max(round(BLOCK / step), 1) * step
    if block < 1 or (chunk is not None and chunk < 1):
        raise ConfigError(f"block {block}, chunk {chunk}: at least 1")
    if chunk is None:
        chunk = max(n for n in range(1, CHUNK + 1) if block % n == 0)
    if block % chunk:
        raise ConfigError(f"chunk: {chunk} does not divide a block of {block} px")
    return block, chunk


def _tile_side(tile: Shape) -> int:
    """Give a side that cuts no tile of the file in two, or 1 where none is small enough."""
    longer, shorter = max(tile), min(tile)
    return longer if longer % shorter == 0 and longer <= 2 * BLOCK else 1
