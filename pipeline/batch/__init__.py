"""Many slides, several at a time: the only place where a slide's failure is contained."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Event

import dask

from pipeline.batch.flight import in_flight, slides_at_once
from pipeline.batch.following import Following
from pipeline.batch.recipe import Recipe
from pipeline.books.kept import Kept
from pipeline.books.lease import lease
from pipeline.books.ledger import Ledger
from pipeline.books.outcomes import Observers, Report, Silence, SlideOutcome, Summary
from pipeline.books.runs import RunRecord
from pipeline.clusters import cluster, cluster_of, join_as_worker, reported
from pipeline.clusters.dashboard import dashboard_notes
from pipeline.clusters.workforce import blocks_at_once, workforce_of
from pipeline.config import RunConfig
from pipeline.config.runfile import load_config
from pipeline.display.notebook import in_notebook
from pipeline.errors import (
    ConfigError,
    DiskFullError,
    MemoryBudgetError,
    PipelineError,
    SchedulerLostError,
    StaleStoreError,
    StoreError,
    reason_of,
)
from pipeline.execute import RESOURCES, open_sessions
from pipeline.execute.distributing import WINDOW, WORKER_DEATHS
from pipeline.execute.schedulers import scheduler_in_force
from pipeline.execute.workers import worker_in_force
from pipeline.files import places
from pipeline.logs.report import logging_to
from pipeline.manifest.jobs import Job, jobs, missing
from pipeline.manifest.shards import Shard, shard_of
from pipeline.plan import Plan
from pipeline.process.stopping import (
    Interrupted,
    Stopped,
    ask_to_stop,
    check_stopped,
    draining,
    stop_asked,
)
from pipeline.process.underway import of_slide

__all__ = ["dry_run", "run"]

_log = logging.getLogger(__name__)


def run(
    config: RunConfig | str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    report: Report | None = None,
    only: Collection[str] | None = None,
    shard: Shard | None = None,
    arguments: Sequence[str] = (),
) -> Summary:
    """Do what a run file says, or what is left of it.

    ``only`` for slides of these ids; ``shard`` for one of several runs that share them out.
    ``arguments`` are those of a command, to be recorded. ``report`` is told how it goes on; without
    one a notebook shows bars, and anything else nothing.

    A slide that fails is reported and the others go on, unless ``on_error`` is ``stop``.
    Ctrl-C and SIGTERM let running blocks end; then `Interrupted`, a `KeyboardInterrupt`, is
    raised. Raises `ConfigError` and `ModelError` before anything is computed,
    `SchedulerLostError` where nothing more can be, `StoreError` where another run has taken over.
    """
    config = config if isinstance(config, RunConfig) else load_config(config, overrides)
    join_as_worker(config.cluster)
    terminal = report or (Following() if in_notebook() else Silence())
    make_demo(config, terminal)
    every, recipe = jobs(config), Recipe.of(config)
    todo = every if shard is None else shard_of(every, shard)
    todo = todo if only is None else tuple(job for job in todo if job.slide_id in only)
    folder = places.absolute(config.output.directory)
    with ExitStack() as opened:
        taken: list[str] = []
        opened.enter_context(lease(folder, shard, lost=partial(_lost, taken)))
        kept = Kept(config, every, folder)
        log = opened.enter_context(logging_to(folder, shard))
        ledger = opened.enter_context(Ledger(folder, shard))
        record = opened.enter_context(
            RunRecord(
                folder,
                shard,
                model=recipe.model,
                kind=config.cluster.kind,
                arguments=arguments,
            )
        )
        told = Observers([terminal, log, ledger, record])
        opened.enter_context(draining(partial(told.note, None)))
        client = opened.enter_context(
            cluster_of(
                config.cluster,
                home=folder,
                tell=partial(told.note, None),
                needed_bytes=recipe.needed_bytes,
                gpu=recipe.on_gpus,
            )
        )
        opened.enter_context(log.of_workers(client))
        shown = client is not None and config.cluster.dashboard != "none"
        link = client.dashboard_link if shown and client is not None else None
        told.began(todo, link)
        for text in dashboard_notes(config.cluster, link):
            told.note(None, text)
        opened.enter_context(reported(config.cluster, client))
        for job, reason in missing(todo):
            told.note(job, reason)
        summary = _Run(recipe, told, kept).over(todo)
        told.closed(summary)
        if not taken and "report" in config.export:
            summary = _reported(summary, told)
        if taken:
            raise StoreError(taken[0])
        if summary.signal is not None:
            raise Interrupted(summary.signal)
    return summary


def _reported(summary: Summary, told: Report) -> Summary:
    """Make the report of a run that has come to its end, one way or another: its books say which.

    Where that fails, what was computed is there all the same.
    """
    from pipeline.report import write_report

    try:
        written = write_report(summary.directory)
    except PipelineError as error:
        reason = str(error)
    except Exception as error:  # noqa: BLE001 - a defect of a page must not hide what was done
        _log.error("the report failed", exc_info=error)
        reason = reason_of(error)
    else:
        return replace(summary, made=(written.path,))
    told.note(None, f"export report: {reason}")
    return replace(summary, broken=(f"export report: {reason}",))


def _lost(taken: list[str], by: str) -> None:
    taken.append(by)
    ask_to_stop()


@dataclass
class _Run:
    """One run over many slides: what it is told, whom it tells, and whether it goes on."""

    recipe: Recipe
    report: Report
    kept: Kept
    enough: Event = field(default_factory=Event)

    def over(self, todo: Sequence[Job]) -> Summary:
        """Do every slide that can be done; outcomes are in the order of the slides."""
        started, config = time.monotonic(), self.recipe.config
        scheduler, outcomes = scheduler_in_force(), {}
        together = blocks_at_once(config.cluster, scheduler)
        at_once = slides_at_once(config.cluster.slides_at_once, together)
        self.recipe = replace(self.recipe, worker=worker_in_force(scheduler))
        with dask.config.set(
            {
                WINDOW: max(config.cluster.live_tasks // at_once, 1),
                WORKER_DEATHS: config.cluster.worker_deaths,
                RESOURCES: config.cluster.resources,
            }
        ):
            if not stop_asked():
                open_sessions(self.recipe.model.ref)  # what no worker can run fails no slide
            for outcome in in_flight(todo, self.contained, at_once, self.enough.is_set):
                outcomes[outcome.job.slide_id] = outcome
                if outcome.state in ("done", "partial"):
                    self.kept.settle()
        left = [outcomes.get(job.slide_id, SlideOutcome(job, "pending")) for job in todo]
        return Summary(self.kept.folder, tuple(left), time.monotonic() - started, stop_asked())

    def contained(self, job: Job) -> SlideOutcome:
        """Do a slide and tell of it; whatever stops it is its outcome, and no other's."""
        self.report.slide(job)
        with of_slide(job.slide_id):
            outcome = self._outcome(job)
        bad = outcome.state in ("partial", "failed", "refused")
        if bad and self.recipe.config.on_error == "stop":
            self.enough.set()
        self.report.ended(outcome)
        return outcome

    def _outcome(self, job: Job) -> SlideOutcome:
        started = time.monotonic()
        state = "failed"
        try:
            check_stopped()
            return self.recipe.run(
                job, partial(self.report.blocks, job), partial(self.report.note, job)
            )
        except Stopped:
            return SlideOutcome(job, "pending", seconds=time.monotonic() - started)
        except SchedulerLostError:
            raise
        except (StaleStoreError, MemoryBudgetError) as error:
            state, reason = "refused", str(error)
        except DiskFullError as error:
            self.enough.set()
            reason = str(error)
        except PipelineError as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001 - a defect, or a file nobody has seen the like of
            _log.error("%s: failed", job.slide_id, exc_info=error)
            reason = reason_of(error)
        return SlideOutcome(job, state, seconds=time.monotonic() - started, reason=reason)


def dry_run(
    config: RunConfig, *, report: Report | None = None
) -> Iterator[tuple[Job, Plan | PipelineError]]:
    """Plan every slide of a run and give the plans, or why there is none; no output is touched.

    Each slide's tissue is looked for, in this process. Memory is that of the run file's workers.
    """
    report = report or Silence()
    make_demo(config, report)
    todo, recipe = jobs(config), Recipe.of(config)
    force = workforce_of(config.cluster, recipe.needed_bytes, gpu=recipe.on_gpus)
    recipe = replace(recipe, worker=force.worker)
    report.began(todo, None)
    with cluster("threads"):
        for job in todo:
            report.slide(job)
            yield job, _planned(recipe, job, report)


def _planned(recipe: Recipe, job: Job, report: Report) -> Plan | PipelineError:
    try:
        return recipe.plan(job, partial(report.note, job))
    except PipelineError as error:
        return error


def make_demo(config: RunConfig, report: Report) -> None:
    """Write the synthetic slide a run file asks for, unless it is there."""
    if config.demo is None or Path(config.demo.slide).exists():
        return
    from pipeline.demo import write_demo

    demo = config.demo
    report.note(None, f"writing the synthetic slide {demo.slide} ({demo.width} x {demo.height} px)")
    try:
        Path(demo.slide).parent.mkdir(parents=True, exist_ok=True)
        write_demo(demo.slide, demo.width, demo.height, mpp=demo.mpp, seed=demo.seed)
    except PipelineError:
        raise
    except OSError as error:
        raise ConfigError(
            f"demo.slide: {demo.slide}: cannot be written: {error.strerror}; name another place"
        ) from error
