"""The only place where anything is computed."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Index
from pipeline.memory import check_budget
from pipeline.plan import Plan, Tissue
from pipeline.schedulers import scheduler_in_force
from pipeline.slide import Slide
from pipeline.store import Coverage, begin, commit, done, look
from pipeline.tissue import TissueSettings, load_mask, mostly_black, tissue_mask
from pipeline.work import Watch, build_pyramid, compute_blocks, invalidate, tell_nobody

__all__ = ["Outcome", "find_tissue", "run"]

PICTURE_PIXELS = 2**24
"""Most pixels of the picture in which tissue is looked for: some 300 MB while it is."""


@dataclass(frozen=True)
class Outcome:
    """What became of one slide's blocks."""

    coverage: NDArray[np.uint8]
    computed: int
    failures: Mapping[Index, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether every block is analysed or background."""
        return not self.failures

    def count(self, what: Coverage) -> int:
        """Give the number of blocks in a state."""
        return int((self.coverage == what).sum())


def find_tissue(slide: Slide, settings: TissueSettings, mpp: float, mask: str | None) -> Tissue:
    """Find a slide's tissue on its coarsest level that still has ``mpp`` um per pixel.

    The level is read block by block on the scheduler in force and averaged down; only the
    coarse picture comes here. What cannot be read counts as tissue, so that its own blocks are
    tried and say why. ``mask`` is a user's own, which is read instead.
    """
    l0_mpp = (slide.mpp.y, slide.mpp.x) if slide.mpp else (1.0, 1.0)
    wanted = mpp / max(l0_mpp)
    level = slide.coarse(wanted)
    # Whatever scale a header claims, the picture stays one that a client can hold.
    least = math.ceil(math.sqrt(math.prod(level.plane) / PICTURE_PIXELS))
    factor = max(round(wanted / max(level.downsample)), least, 1)
    step = (level.downsample[0] * factor, level.downsample[1] * factor)
    small = level.reduced_where_readable(factor)
    shape = (small.shape[1], small.shape[2])
    if mask is not None or settings.method == "none":
        # What was not read covers the slide exactly, whatever is left over of the level's pixels.
        whole = (slide.shape[0] / shape[0], slide.shape[1] / shape[1])
        described: dict[str, Any] = {"method": settings.method, "step": list(whole)}
        if mask is None:
            return Tissue(np.ones(shape, np.bool_), whole, described)
        loaded = load_mask(mask, shape, slide.shape)
        return Tissue(loaded, whole, {**described, "method": "mask", "mask": _digest(loaded)})
    picture: NDArray[np.uint8] = scheduler_in_force().compute(small)
    unread = picture[3] == 0
    rgb = picture[:3].transpose(1, 2, 0)
    if unread.any():
        rgb = np.where(unread[..., None], np.uint8(255), rgb)
    found = tissue_mask(rgb, (l0_mpp[0] * step[0], l0_mpp[1] * step[1]), settings) | unread
    described = {
        "method": settings.method,
        "step": list(step),
        "min_area_um2": settings.min_area_um2,
        "min_hole_um2": settings.min_hole_um2,
    }
    return Tissue(found, step, described, tuple(_remarks(rgb, unread)), level.origin)


def _remarks(rgb: NDArray[np.uint8], unread: NDArray[np.bool_]) -> Iterator[str]:
    if unread.any():
        yield (
            f"{unread.mean():.1%} of it cannot be read at the level where tissue is looked for, "
            "and counts as tissue"
        )
    if mostly_black(rgb):
        yield (
            "most of it is black: tissue is told from bright glass; for fluorescence set "
            "tissue.method: none, or mask"
        )


def run(
    plan: Plan, provenance: Mapping[str, Any] | None = None, watch: Watch | None = None
) -> Outcome:
    """Do what is left of a plan and commit its store.

    Blocks that are stored already are not computed again. A block that fails is tried
    `pipeline.work.ATTEMPTS` times, then recorded as failed with its reason, and the rest goes
    on. Raises `StaleStoreError` where the store was begun with other settings,
    `MemoryBudgetError` where a worker has less memory than is predicted.
    """
    started = time.monotonic()
    scheduler = scheduler_in_force()
    check_budget(
        plan.worker_bytes(threads=scheduler.threads),
        scheduler.limit_bytes,
        slide=plan.slide.path,
        block=plan.grid.cell,
    )
    begin(plan.path, plan.layout, plan.settings, provenance or {}, plan.tissue.mask)
    outputs = plan.outputs
    left = set(plan.todo) - done(outputs[0])
    seen = look(plan.path)
    if not left and seen is not None and seen.committed:
        return Outcome(_coverage(plan, {}), 0, {}, time.monotonic() - started)
    if left:
        invalidate(plan.path, outputs, left)
    tell = watch or tell_nobody
    failures = compute_blocks(scheduler, plan.blocks, sorted(left), partial(tell, "blocks"))
    build_pyramid(scheduler, outputs, set(plan.todo), partial(tell, "pyramid"))
    reasons = {index: str(error) for index, error in failures.items()}
    outcome = Outcome(_coverage(plan, reasons), len(left), reasons, time.monotonic() - started)
    commit(plan.path, plan.layout, outcome.coverage, _record(outcome))
    return outcome


def _digest(mask: NDArray[np.bool_]) -> str:
    return hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()


def _coverage(plan: Plan, failures: Mapping[Index, str]) -> NDArray[np.uint8]:
    coverage = np.full(plan.grid.counts, Coverage.BACKGROUND, np.uint8)
    for index in plan.todo:
        coverage[index] = Coverage.FAILED if index in failures else Coverage.ANALYSED
    return coverage


def _record(outcome: Outcome) -> dict[str, Any]:
    return {
        "blocks": {state.name.lower(): outcome.count(state) for state in Coverage},
        "failures": [
            {"block": list(index), "reason": reason}
            for index, reason in sorted(outcome.failures.items())
        ],
        "seconds": round(outcome.seconds, 3),
    }
