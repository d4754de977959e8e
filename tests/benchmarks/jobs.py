"""The jobs, and how this package does each of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks import baselines, limits
from tests.benchmarks.contenders import Contender, Run, Setting, write_sample
from tests.benchmarks.predictions import bare_session, bare_sessions, predicts, predicts_in

__all__ = ["JOBS", "Job", "contender"]

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
    from pipeline.verify import verify as verify_slide

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


@dataclass(frozen=True)
class Job:
    """Something to do: by us, by a limit if there is one, and by baselines.

    ``mpp`` is that of the synthetic slide, ``most`` the most it may have of columns and rows:
    few enough for a real network, and whole blocks, as many for each of two cores;
    ``any_slide`` says whether a user's will do as well. ``model`` is a real model it needs.
    """

    name: str
    ours: Contender
    limit: tuple[str, Contender] | None = None
    baselines: tuple[tuple[str, Contender], ...] = ()
    mpp: float = 0.5
    any_slide: bool = True
    model: str | None = None
    most: tuple[int, int] | None = None

    @property
    def contenders(self) -> dict[str, Contender]:
        """All of them by name, ours first."""
        limit = () if self.limit is None else (self.limit,)
        return {"ours": self.ours, **dict((*limit, *self.baselines))}


JOBS = {
    job.name: job
    for job in (
        Job(
            "read level 0",
            read_level_0,
            ("imagecodecs", limits.decode_level_0),
            (("OpenSlide in processes", baselines.openslide_reads),),
        ),
        Job(
            "read at 0.5 um",
            read_resampled,
            ("read level 0", read_level_0),
            mpp=WANTED_MPP / 2,
            any_slide=False,
        ),
        Job("verify", verify, ("imagecodecs", limits.decode_all_levels)),
        Job(
            "convert x2",
            convert,
            None,
            (
                ("ngff-zarr", baselines.ngff_zarr_converts),
                ("OpenSlide in processes, level 0 only", baselines.openslide_writes),
            ),
        ),
        Job(
            "classify, ResNet-18",
            predicts("resnet-18"),
            ("bare session", bare_session("resnet-18")),
            most=(8_192, 4_096),
        ),
        Job(
            "two workers, ResNet-18",
            predicts_in(2, "resnet-18"),
            ("two bare sessions", bare_sessions(2, "resnet-18")),
            (
                ("one worker, 1.85 x wanted", predicts_in(1, "resnet-18")),
                ("one bare session", bare_sessions(1, "resnet-18")),
            ),
            most=(8_192, 8_192),
        ),
        Job(
            "dense, small U-Net",
            predicts("u-net"),
            ("bare session", bare_session("u-net")),
            most=(8_960, 4_480),
        ),
        Job(
            "dense, InstanSeg",
            predicts("instanseg"),
            ("bare session", bare_session("instanseg")),
            most=(3_840, 1_920),
            model="instanseg",
        ),
        Job(
            "classify, FocusLiteNN",
            predicts("focuslitenn"),
            ("read level 0", read_level_0),
            model="focuslitenn",
        ),
    )
}
"""By name, in the order of the table."""


def contender(job: str, name: str) -> Contender:
    """Give a contender of a job by their names."""
    return JOBS[job].contenders[name]
