"""How this package reads and converts slides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.contenders import Run, Setting, write_sample

__all__ = ["WANTED_MPP", "convert", "read_level_0", "read_resampled", "verify"]

WANTED_MPP = 0.5


@contextmanager
def read_level_0(at: Setting) -> Iterator[Run]:
    """Read all of level 0 through its dask array, on the threaded scheduler."""
    import pipeline

    level = pipeline.open_slide(at.slide, crop=False).levels[0]
    _read(level[:1, :1], at.cores)  # all is imported now
    yield lambda: _read(level, at.cores)


@contextmanager
def read_resampled(at: Setting) -> Iterator[Run]:
    """Read all of a slide at 0.5 um per pixel; pixels are those of its level 0."""
    import pipeline

    slide = pipeline.open_slide(at.slide, crop=False)
    level = slide.at(WANTED_MPP)
    _read(level.array()[:1, :1], at.cores)

    def run() -> int:
        height, width = level.plane
        if _read(level.array(), at.cores) != height * width:
            raise AssertionError(f"{at.slide}: not all of {width} x {height} px were made")
        return slide.shape[0] * slide.shape[1]

    yield run


@contextmanager
def verify(at: Setting) -> Iterator[Run]:
    """Read every tile of every level, as ``inspect --verify`` does."""
    import pipeline
    from pipeline.checks.verify import verify as verify_slide

    slide = pipeline.open_slide(at.slide, crop=False)
    _read(slide.levels[0][:1, :1], at.cores)

    def run() -> int:
        verified = verify_slide(slide)
        if verified.unreadable:
            raise AssertionError(f"{at.slide}: {verified.unreadable[0]}")
        return sum(info.shape[0] * info.shape[1] for info in slide.metadata.levels)

    with pipeline.cluster("threads", workers=at.cores):
        yield run


@contextmanager
def convert(at: Setting) -> Iterator[Run]:
    """Write the slide as OME-Zarr with a pyramid, as ``wsi-pipeline convert`` does."""
    import pipeline

    def run(path: str, out: str) -> int:
        slide = pipeline.open_slide(path, crop=False)
        made = pipeline.convert(slide, Path(at.folder, out))
        if not made.complete:
            raise AssertionError(f"{path}: {made.failures}")
        return slide.shape[0] * slide.shape[1]

    with pipeline.cluster("threads", workers=at.cores):
        run(write_sample(at.folder), "sample.zarr")
        yield lambda: run(at.slide, "slide.zarr")


def _read(level: Any, cores: int) -> int:
    """Compute every block of a ``(y, x, 3)`` array; of each only its count of pixels is kept."""
    counts = level.map_blocks(_count, dtype=np.int64, chunks=(1, 1, 1))
    return int(counts.compute(scheduler="threads", num_workers=cores).sum())


def _count(block: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.full((1, 1, 1), block.shape[0] * block.shape[1], np.int64)
