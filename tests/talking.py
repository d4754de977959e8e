"""A slide of six blocks that says what is done to it, and of which one cannot be read."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SlideError
from pipeline.geometry import Box, Grid
from pipeline.lazy import map_blocks, read_blocks, write_blocks
from pipeline.process.underway import Work

GRID = Grid((20, 30), 10)
BROKEN = (1, 2)


@dataclass(frozen=True)
class Talking:
    """A source that says when it is read, and of which one block cannot be."""

    shape: tuple[int, int, int] = (20, 30, 3)
    dtype: np.dtype[Any] = np.dtype(np.uint8)  # noqa: RUF009 - never changed
    axes: str = "yxs"

    def read(self, box: Box) -> NDArray[Any]:
        logging.getLogger("pipeline.readers.talking").info("reading %s px", box.area)
        logging.getLogger("foreign").warning("so-so")
        logging.getLogger("foreign").info("chatter")
        if GRID.box(BROKEN) == box:
            raise SlideError("it is torn")
        return np.zeros((*box.shape, 3), np.uint8)


@dataclass(frozen=True)
class Nowhere:
    """A target that says when it is written, and keeps nothing."""

    def write(self, _box: Box, _values: Any) -> None:
        logging.getLogger("pipeline.store.nowhere").info("written")


def first_of(block: NDArray[Any], _index: Any, _value: None) -> NDArray[Any]:
    logging.getLogger("pipeline.model.first").info("predicted")
    return np.moveaxis(block[..., :1], 2, 0)


def blocks_of(work: Work | None) -> da.Array:
    pixels = read_blocks(Talking(), GRID, work=work)
    first = map_blocks(first_of, pixels, GRID, axes="yxs", channels=1, dtype="u1", work=work)
    return write_blocks(first, Nowhere(), GRID, work)


def compute(work: Work | None, *indices: tuple[int, int]) -> dict[Any, Any]:
    """Compute some blocks on the scheduler in force, each once; give the errors."""
    # Here, because workers import this module, too, and need none of it.
    from pipeline.execute.schedulers import scheduler_in_force
    from pipeline.execute.work import compute_blocks

    blocks = blocks_of(work)
    return compute_blocks(scheduler_in_force(), blocks, indices, lambda *_: None, attempts=1)
