"""The jobs: who does them, and how far from the others this package should be."""

from __future__ import annotations

from dataclasses import dataclass

from tests.benchmarks import baselines, limits, writing
from tests.benchmarks.contenders import Contender
from tests.benchmarks.dense import map_overlap_predicts, openslide_predicts
from tests.benchmarks.large import LARGE_JOBS
from tests.benchmarks.ours import WANTED_MPP, convert, read_level_0, read_resampled, verify
from tests.benchmarks.predictions import bare_session, bare_sessions, predicts, predicts_in
from tests.benchmarks.published import classifies_as_published, openslide_classifies

__all__ = ["JOBS", "Job", "Rival", "contender"]


@dataclass(frozen=True)
class Rival:
    """Someone else who does a job; ``wanted`` is how many times as fast ours should be at least."""

    name: str
    contender: Contender
    wanted: float | None = None


@dataclass(frozen=True)
class Job:
    """Something to do: by us, by a limit if there is one, and by baselines.

    ``mpp`` is that of the synthetic slide, ``most`` the most it may have of columns and rows:
    few enough for a real network, and whole blocks, as many for each of two cores; ``quick`` the
    same where it is to be quick;
    ``any_slide`` says whether a user's will do as well, whatever its scale. ``model`` is a real
    model it needs.
    """

    name: str
    ours: Contender
    limit: Rival | None = None
    baselines: tuple[Rival, ...] = ()
    mpp: float = 0.5
    any_slide: bool = True
    model: str | None = None
    most: tuple[int, int] | None = None
    quick: tuple[int, int] | None = None

    @property
    def contenders(self) -> dict[str, Contender]:
        """All of them by name, ours first."""
        limit = () if self.limit is None else (self.limit,)
        rivals = {each.name: each.contender for each in (*limit, *self.baselines)}
        return {"ours": self.ours, **rivals}


JOBS = {
    job.name: job
    for job in (
        Job(
            "read level 0",
            read_level_0,
            Rival("imagecodecs", limits.decode_level_0, 0.85),
            (
                Rival("OpenSlide in processes", baselines.openslide_reads, 4),
                Rival("tifffile in threads", baselines.tifffile_reads),
            ),
        ),
        Job(
            "read at 0.5 um",
            read_resampled,
            Rival("read level 0", read_level_0),
            mpp=WANTED_MPP / 2,
            any_slide=False,
        ),
        Job("verify", verify, Rival("imagecodecs", limits.decode_all_levels)),
        Job(
            "convert x2",
            convert,
            None,
            (
                Rival("ngff-zarr", baselines.ngff_zarr_converts),
                Rival("OpenSlide in processes, level 0 only", baselines.openslide_writes),
            ),
        ),
        Job(
            "write ready scores",
            writing.writes_blocks,
            Rival("zarr-python", writing.zarr_writes),
        ),
        Job(
            "classify tissue patches, ResNet-18",
            predicts("resnet-18", tissue="otsu"),
            Rival("bare session", bare_session("resnet-18", tissue="otsu"), 0.95),
            (
                Rival("the blog's code", classifies_as_published("resnet-18"), 3),
                Rival("OpenSlide and session in processes", openslide_classifies("resnet-18")),
            ),
            any_slide=False,
            most=(12_288, 8_192),
        ),
        Job(
            "two workers, ResNet-18",
            predicts_in(2, "resnet-18"),
            Rival("two bare sessions", bare_sessions(2, "resnet-18")),
            (
                Rival("one worker", predicts_in(1, "resnet-18"), 1.85),
                Rival("one bare session", bare_sessions(1, "resnet-18")),
            ),
            most=(8_192, 8_192),
            quick=(4_096, 2_048),
        ),
        Job(
            "dense, 1 x 1 convolution",
            predicts("1x1"),
            Rival("read level 0", read_level_0, 0.25),
            (Rival("OpenSlide in processes, with pyramid", openslide_predicts("1x1"), 2.5),),
            any_slide=False,
        ),
        Job(
            "dense, small U-Net",
            predicts("u-net"),
            Rival("bare session", bare_session("u-net"), 0.92),
            (Rival("map_overlap and to_zarr, level 0 only", map_overlap_predicts("u-net")),),
            any_slide=False,
            most=(8_960, 4_480),
        ),
        Job(
            "dense, InstanSeg",
            predicts("instanseg"),
            Rival("bare session", bare_session("instanseg")),
            most=(3_840, 1_920),
            quick=(1_920, 1_920),
            model="instanseg",
        ),
        Job(
            "classify, FocusLiteNN",
            predicts("focuslitenn"),
            Rival("read level 0", read_level_0),
            model="focuslitenn",
        ),
    )
}
"""By name, in the order of the table."""


def contender(job: str, name: str) -> Contender:
    """Give a contender of a job by their names."""
    return LARGE_JOBS[job] if job in LARGE_JOBS else JOBS[job].contenders[name]
