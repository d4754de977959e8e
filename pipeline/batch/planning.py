"""What a run would do with each of its slides, and with all: numbers, before anything is begun."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.clusters.workforce import Workforce, workforce_of
from pipeline.config import RunConfig
from pipeline.errors import MemoryBudgetError, ModelError, PipelineError, SlideError, StoreError
from pipeline.execute.calibration import Calibration, calibrate
from pipeline.execute.standing import Standing, standing
from pipeline.manifest.jobs import Job
from pipeline.plan import Plan
from pipeline.plan.memory import check_budget

__all__ = ["Forecast", "Planner", "Totals", "as_json", "totals"]


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run would do with one slide; nothing is known of one that cannot be planned.

    ``state`` is one of `pipeline.books.outcomes.STATES`: pending, partial or done by what its store
    has, refused or failed by what a run would say, which is the ``reason``. ``level`` is the
    stored level that is read, ``mpp`` what the model sees, ``(y, x)``. Of its ``blocks`` with
    tissue some are ``stored``, and ``left`` are to be done; of these ``failed`` did the last
    time. ``output_bytes`` are before compression. ``seconds`` are an estimate for what is left,
    None without one.
    """

    slide_id: str
    path: str
    state: str
    reason: str = ""
    level: int | None = None
    resampled: bool = False
    mpp: tuple[float, float] | None = None
    block: int = 0
    blocks: int = 0
    background: int = 0
    patches: int = 0
    memory_bytes: int = 0
    output_bytes: int = 0
    output_files: int = 0
    stored: int = 0
    left: int = 0
    failed: int = 0
    seconds: float | None = None

    @property
    def refused(self) -> bool:
        """Whether a run would do nothing of it."""
        return self.state in ("refused", "failed")


@dataclass(frozen=True, slots=True)
class Totals:
    """All slides together; those that would be refused or fail are counted, and nothing else.

    ``memory_bytes`` is that of the slide that needs most.
    """

    slides: int
    refused: int
    blocks: int
    background: int
    patches: int
    memory_bytes: int
    output_bytes: int
    output_files: int
    stored: int
    left: int
    failed: int
    seconds: float | None


def totals(forecasts: Sequence[Forecast]) -> Totals:
    """Add up what a run would do."""
    good = [each for each in forecasts if not each.refused]
    seconds = [each.seconds for each in good if each.seconds is not None]
    return Totals(
        slides=len(forecasts),
        refused=len(forecasts) - len(good),
        blocks=sum(each.blocks for each in good),
        background=sum(each.background for each in good),
        patches=sum(each.patches for each in good),
        memory_bytes=max((each.memory_bytes for each in good), default=0),
        output_bytes=sum(each.output_bytes for each in good),
        output_files=sum(each.output_files for each in good),
        stored=sum(each.stored for each in good),
        left=sum(each.left for each in good),
        failed=sum(each.failed for each in good),
        seconds=sum(seconds) if seconds else None,
    )


class Planner:
    """Judges plans one by one, and tries a few blocks of the first that has any to do.

    ``calibrated_on`` is the id of that slide; ``trouble`` says of others why they could not be
    tried.
    """

    def __init__(self, config: RunConfig, *, timed: bool) -> None:
        self.workforce: Workforce = workforce_of(config.cluster)
        self.calibration: Calibration | None = None
        self.calibrated_on = ""
        self.trouble: list[str] = []
        self._timed = timed

    def judged(self, planned: Iterator[tuple[Job, Plan | PipelineError]]) -> Iterator[Forecast]:
        """Say of each slide what a run would do; see `pipeline.batch.dry_run`."""
        for job, plan in planned:
            if isinstance(plan, Plan):
                yield self._forecast(job, plan)
            else:
                yield Forecast(job.slide_id, job.path, "failed", str(plan))

    def _forecast(self, job: Job, plan: Plan) -> Forecast:
        known = _described(job, plan)
        try:
            check_budget(
                plan.memory_bytes,
                plan.worker.limit_bytes if plan.worker else None,
                slide=plan.slide.path,
                block=plan.grid.cell,
            )
            there = standing(plan)
        except (MemoryBudgetError, StoreError) as error:
            return replace(known, state="refused", reason=str(error))
        if there.left and self._timed and self.calibration is None:
            self._calibrate(job, plan)
        return replace(
            known,
            state=there.state,
            stored=there.stored,
            left=there.left,
            failed=there.failed,
            seconds=self._seconds(plan, there),
        )

    def _calibrate(self, job: Job, plan: Plan) -> None:
        try:
            threads = self.workforce.session_threads
            self.calibration = calibrate(plan, session_threads=threads)
            self.calibrated_on = job.slide_id
        except (SlideError, ModelError) as error:
            self.trouble.append(f"{job.slide_id}: could not be tried: {error}")

    def _seconds(self, plan: Plan, there: Standing) -> float | None:
        if not self._timed or (there.left and self.calibration is None):
            return None
        if self.calibration is None:
            return 0.0
        return self.calibration.seconds_for(plan, there.left, self.workforce.blocks_at_once)


def _described(job: Job, plan: Plan) -> Forecast:
    mpp, down, stored = plan.layout.mpp, plan.level.downsample, plan.level.stored
    return Forecast(
        slide_id=job.slide_id,
        path=job.path,
        state="pending",
        level=stored.index,
        resampled=down != stored.downsample,
        mpp=(mpp[0] * down[0], mpp[1] * down[1]),
        block=plan.grid.cell,
        blocks=len(plan.todo),
        background=plan.grid.size - len(plan.todo),
        patches=plan.patch_count,
        memory_bytes=plan.memory_bytes,
        output_bytes=plan.output_bytes,
        output_files=plan.output_files,
    )


def as_json(forecasts: Sequence[Forecast], planner: Planner, config: RunConfig) -> dict[str, Any]:
    """Give all of it as JSON: bytes, seconds, um per pixel; keys stay."""
    force, tried = planner.workforce, planner.calibration
    return {
        "format": 1,
        "directory": config.output.directory,
        "workers": {
            "kind": config.cluster.kind,
            "processes": force.processes,
            "threads": force.worker.threads,
            "limit_bytes": force.worker.limit_bytes,
            "unknown": force.unknown,
        },
        "calibration": None
        if tried is None
        else {"slide_id": planner.calibrated_on, **asdict(tried)},
        "slides": [asdict(each) for each in forecasts],
        "total": asdict(totals(forecasts)),
    }
