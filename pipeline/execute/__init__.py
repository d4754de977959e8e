"""The only place where anything is computed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import dask
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import reason_of
from pipeline.execute.peaks import begin_peak, end_peak
from pipeline.execute.schedulers import Scheduler, scheduler_in_force
from pipeline.execute.standing import stored_blocks
from pipeline.execute.work import Watch, build_pyramid, compute_blocks, invalidate, tell_nobody
from pipeline.execute.workers import worker_in_force
from pipeline.geometry import Index
from pipeline.model import ModelRef, facts
from pipeline.plan import Plan
from pipeline.plan.memory import check_budget
from pipeline.plan.pyramid import parents
from pipeline.plan.regions import regions_done, write_regions
from pipeline.process import trim
from pipeline.process.metrics import taken
from pipeline.process.underway import Work
from pipeline.store import (
    Coverage,
    begin,
    commit,
    done,
    look,
    table_done,
    table_drop,
    write_patches,
)
from pipeline.store.labels import write_label
from pipeline.tissue.quality import MEANINGS

__all__ = ["RESOURCES", "Outcome", "open_sessions", "run"]

RESOURCES = "wsi-pipeline.resources"
"""Where dask's config says what a worker must have declared to be given blocks of the model."""


@dataclass(frozen=True)
class Outcome:
    """What became of one slide's blocks; ``pixels`` are those of the ``computed`` ones.

    ``predicted_bytes`` and ``peak_bytes`` are the memory of the largest worker, as it was
    predicted and meanwhile measured; 0 where nothing was computed.
    """

    coverage: NDArray[np.uint8]
    computed: int
    failures: Mapping[Index, str] = field(default_factory=dict)
    seconds: float = 0.0
    pixels: int = 0
    predicted_bytes: int = 0
    peak_bytes: int = 0

    @property
    def complete(self) -> bool:
        """Whether every block is analysed or background."""
        return not self.failures

    def count(self, what: Coverage) -> int:
        """Give the number of blocks in a state."""
        return int((self.coverage == what).sum())


def run(
    plan: Plan, provenance: Mapping[str, Any] | None = None, watch: Watch | None = None
) -> Outcome:
    """Do what is left of a plan and commit its store.

    Blocks that are stored already are not computed again. A block that fails is tried
    `pipeline.execute.work.ATTEMPTS` times, then recorded as failed with its reason, and the rest
    goes on. Raises `StaleStoreError` where the store was begun with other settings,
    `MemoryBudgetError` where a worker has less memory than is predicted, `ModelError` where a
    worker cannot run the model as it is asked to.
    """
    started = time.monotonic()
    scheduler = scheduler_in_force()
    worker = plan.worker or worker_in_force(scheduler)
    predicted_bytes = plan.worker_bytes(worker)
    check_budget(
        predicted_bytes,
        worker.limit_bytes,
        slide=plan.slide.path,
        block=plan.grid.cell,
    )
    begin(plan.path, plan.layout, plan.settings, provenance or {}, plan.tissue.mask)
    if plan.tissue.quality is not None:
        write_label(plan.path, "quality", plan.tissue.quality, plan.layout, MEANINGS)
    left = set(plan.todo) - stored_blocks(plan)
    seen = look(plan.path)
    if not left and seen is not None and seen.committed and _derived(plan):
        return Outcome(_coverage(plan, {}), 0, {}, time.monotonic() - started)
    if left:
        invalidate(plan.path, plan.arrays, left)
        for regions in plan.regions:  # a region may reach into any block
            table_drop(regions.table, table_done(regions.table))
    trim()  # what encoding the tissue of a large slide took
    begin_peak(scheduler, plan.path)
    ran = open_sessions(plan.model.ref) if left else []
    tell = watch or tell_nobody
    failures = compute_blocks(
        scheduler,
        plan.blocks,
        sorted(left),
        partial(tell, "blocks"),
        resources=dask.config.get(RESOURCES, None) or None,
    )
    _derive(plan, scheduler, set(failures), tell)
    reasons = {index: reason_of(error) for index, error in failures.items()}
    outcome = Outcome(
        _coverage(plan, reasons),
        len(left),
        reasons,
        time.monotonic() - started,
        pixels=sum(plan.grid.box(index).area for index in left),
        predicted_bytes=predicted_bytes,
        peak_bytes=end_peak(scheduler, plan.path),
    )
    record = {
        **_record(outcome),
        "stage_seconds": _stage_seconds(scheduler, Work.on(plan.path).slide),
        **({"sessions": ran} if ran else {}),
    }
    commit(plan.path, plan.layout, outcome.coverage, record)
    return outcome


def open_sessions(model: ModelRef) -> list[list[dict[str, Any]]]:
    """Open a model in every worker process, before any block; say how it runs.

    By member of the model, then by process: see `pipeline.model.facts`. Raises `ModelError` where
    it cannot be run as it is asked to, once and not for every block.
    """
    scheduler = scheduler_in_force()
    return [scheduler.everywhere(facts, member) for member in model.members]


def _derive(plan: Plan, scheduler: Scheduler, failed: set[Index], tell: Watch) -> None:
    """Make what is made of the finest blocks once they are there: coarser levels and tables."""
    for levels in plan.arrays:
        build_pyramid(scheduler, levels, set(plan.todo), partial(tell, "pyramid"))
    for array in plan.layout.arrays:
        if array.kind == "features":
            write_patches(plan.path, array.folder, *plan.patches_of(array, failed))
    for regions in plan.regions:
        if not regions_done(regions, table_done(regions.table)):
            write_regions(regions, scheduler.compute, partial(tell, "regions"))


def _stage_seconds(scheduler: Scheduler, slide: str) -> dict[str, float]:
    """Give the seconds all workers together spent at each stage of a slide's blocks."""
    total: Counter[str] = Counter()
    for each in scheduler.everywhere(taken, slide):
        total.update(each)
    return {stage: round(seconds, 3) for stage, seconds in sorted(total.items())}


def _derived(plan: Plan) -> bool:
    """Say whether all is there that `_derive` makes of blocks: something may have been lost."""
    for levels in plan.arrays:
        blocks = set(plan.todo)
        for coarse in levels[1:]:
            blocks = parents(blocks)
            if not blocks <= done(coarse):
                return False
    return all(regions_done(regions, table_done(regions.table)) for regions in plan.regions)


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
        "memory": {
            "predicted_bytes": outcome.predicted_bytes,
            "peak_bytes": outcome.peak_bytes,
        },
    }
