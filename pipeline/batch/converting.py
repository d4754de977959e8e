"""A slide converted to OME-Zarr, whole: planned, done, and what became of it."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import __version__
from pipeline.errors import SlideError, StoreError, reason_of
from pipeline.execute.schedulers import scheduler_in_force
from pipeline.execute.work import Watch, build_pyramid, compute_blocks, invalidate, tell_nobody
from pipeline.files import places
from pipeline.files.urls import shown
from pipeline.geometry import Index
from pipeline.plan.conversion import Conversion, plan_conversion
from pipeline.readers.carried import described
from pipeline.slide import Slide, open_slide
from pipeline.slide.level import slides
from pipeline.store import Kept, begin_image, commit_image, done, look

__all__ = ["Converted", "convert"]


@dataclass(frozen=True)
class Converted:
    """What became of a conversion.

    ``failures`` are by level and block; ``notes`` are what to know of the rest.
    """

    path: str
    levels: int
    computed: int
    seconds: float
    failures: Mapping[tuple[int, Index], str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every block is stored."""
        return not self.failures


def convert(
    slide: Slide | str | PathLike[str],
    out: str | PathLike[str],
    *,
    mpp: float | None = None,
    levels: str = "x2",
    block: int | None = None,
    chunk: int | None = None,
    watch: Watch | None = None,
) -> Converted:
    """Write a slide as a sharded OME-Zarr 0.5 image, or what is left of it, and commit it.

    ``levels`` is ``x2`` (each level the mean of 2 x 2 pixels of the one before) or ``stored``
    (the slide's own, copied exactly); ``mpp`` resamples the finest. Blocks are computed on the
    scheduler in force. A block that cannot be read is tried twice, then recorded, and the rest
    goes on; the next call tries it again.

    Raises `ConfigError` where the options cannot be meant together, `SlideError` where the
    slide cannot be opened, `StaleStoreError` where ``out`` was begun with other settings,
    `StoreError` where it holds something else or cannot be written, `MemoryBudgetError` where
    a worker has less memory than is predicted.
    """
    opened = slide if isinstance(slide, Slide) else open_slide(slide)
    path = places.absolute(out)
    plan = plan_conversion(opened, path, mpp=mpp, levels=levels, block=block, chunk=chunk)
    scheduler = scheduler_in_force()
    plan.check_budget(scheduler.threads, scheduler.limit_bytes)
    started = time.monotonic()
    kept, notes = _kept(opened)
    begin_image(path, plan.layout, plan.settings, kept)
    computed, failures = _copy(plan, watch or tell_nobody, started)
    return Converted(
        path,
        len(plan.layout.grids),
        computed,
        time.monotonic() - started,
        failures,
        notes,
    )


def _copy(
    plan: Conversion, watch: Watch, started: float
) -> tuple[int, dict[tuple[int, Index], str]]:
    """Do what is left and commit; give the blocks read now, and why some are missing."""
    scheduler, outputs = scheduler_in_force(), plan.outputs
    copied = range(len(plan.sources))
    left = {level: set(outputs[level].grid) - done(outputs[level]) for level in copied}
    seen = look(plan.path)
    if not any(left.values()) and seen is not None and seen.committed:
        return 0, {}
    made = outputs[copied[-1] :]  # the last level that is copied, and those made from it
    invalidate(plan.path, [made], left[copied[-1]])
    failures: dict[tuple[int, Index], str] = {}
    for level in copied:
        broken = compute_blocks(
            scheduler,
            plan.blocks(level),
            sorted(left[level]),
            partial(watch, f"level {level}"),
            fatal=StoreError,
        )
        failures |= {(level, index): reason_of(error) for index, error in broken.items()}
    build_pyramid(scheduler, made, set(made[0].grid), partial(watch, "pyramid"))
    commit_image(plan.path, plan.layout, plan.record(failures, time.monotonic() - started))
    return sum(len(blocks) for blocks in left.values()), failures


def _kept(slide: Slide) -> tuple[Kept, tuple[str, ...]]:
    """Give what goes with the pixels, and notes on what of it cannot be had."""
    images: dict[str, NDArray[np.uint8]] = {}
    notes = []
    if slide.mpp_problem is not None:
        notes.append(
            "its um per pixel are not known, so that sizes are in pixels; --assume-mpp says them"
        )
    for name in slide.metadata.associated:
        try:
            images[name] = slide.associated_image(name)
        except SlideError as error:
            notes.append(f"associated image {name} is left out: {error}")
    with slides.using(slide.ref) as reader:
        profile = reader.icc_profile()
    provenance: dict[str, Any] = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "versions": {
            "wsi-pipeline": __version__,
            **{name: version(name) for name in ("numpy", "openslide-bin", "zarr")},
        },
        "source": shown(slide.path),
        "notes": notes,
    }
    attributes = {"slide": described(slide.metadata), "provenance": provenance}
    return Kept(attributes, images, profile), tuple(notes)
