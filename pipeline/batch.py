"""Many slides, one after another: the only place where a slide's failure is contained."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dask.utils import parse_bytes

from pipeline import places
from pipeline.clusters import cluster
from pipeline.config import LevelConfig, RunConfig
from pipeline.errors import ConfigError, PipelineError, SlideError
from pipeline.execute import open_sessions
from pipeline.execute import run as run_plan
from pipeline.finding import finder
from pipeline.geometry import Index
from pipeline.manifest import Job, jobs
from pipeline.model import Model, load_models
from pipeline.outcomes import Report, Silence, SlideOutcome, Summary
from pipeline.plan import Options, Plan, Tissue, plan_slide
from pipeline.provenance import notes, provenance
from pipeline.restained import Stain
from pipeline.results import ENDING
from pipeline.runfile import dump_config, load_config, parse_config
from pipeline.seen import check_scale
from pipeline.slide import Slide, open_slide
from pipeline.staining import check_target, fit_stain
from pipeline.store import Coverage
from pipeline.urls import join, shown

__all__ = ["dry_run", "not_begun", "run"]

CONFIG_COPY = "config.yaml"

Find = Callable[[Slide, str], Tissue]
"""Finds the tissue of a slide and its id."""


def run(
    config: RunConfig | str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    report: Report | None = None,
) -> Summary:
    """Do what a run file says, or what is left of it.

    A slide that fails is reported and the others go on, unless ``on_error`` is ``stop``.
    Raises `ConfigError` and `ModelError` before anything is computed.
    """
    config = config if isinstance(config, RunConfig) else load_config(config, overrides)
    report = report or Silence()
    started = time.monotonic()
    make_demo(config, report)
    todo, model, find = jobs(config), _model_of(config), finder(config.tissue)
    folder = places.absolute(config.output.directory)
    kept = _has_config(folder)
    if not kept:
        _keep_config(config, folder)
    # A run that is refused must not leave its settings beside the stores of another.
    outcomes = []
    with _cluster_of(config) as client:
        shown = client is not None and config.cluster.dashboard != "none"
        report.began(todo, client.dashboard_link if shown else None)
        open_sessions(model.ref)  # what no worker can run is no slide's failure
        for job in todo:
            report.slide(job)
            outcomes.append(_contained(config, model, find, job, report))
            if kept and outcomes[-1].state != "failed":
                _keep_config(config, folder)
                kept = False
            report.ended(outcomes[-1])
            if outcomes[-1].state != "done" and config.on_error == "stop":
                break
    return Summary(folder, tuple(outcomes), time.monotonic() - started)


def dry_run(
    config: RunConfig, *, report: Report | None = None
) -> Iterator[tuple[Job, Plan | PipelineError]]:
    """Plan every slide of a run and give the plans, or why there is none; no output is touched.

    Each slide's tissue is looked for, in this process.
    """
    report = report or Silence()
    make_demo(config, report)
    todo, model, find = jobs(config), _model_of(config), finder(config.tissue)
    report.began(todo, None)
    with cluster("threads"):
        for job in todo:
            report.slide(job)
            yield job, _planned(config, model, find, job, report)


def _planned(
    config: RunConfig, model: Model, find: Find, job: Job, report: Report
) -> Plan | PipelineError:
    try:
        return _plan(config, model, find, job, report)
    except PipelineError as error:
        return error


def make_demo(config: RunConfig, report: Report) -> None:
    """Write the synthetic slide a run file asks for, unless it is there."""
    if config.demo is None or Path(config.demo.slide).exists():
        return
    from pipeline.demo import write_demo

    demo = config.demo
    report.note(f"writing the synthetic slide {demo.slide} ({demo.width} x {demo.height} px)")
    try:
        Path(demo.slide).parent.mkdir(parents=True, exist_ok=True)
        write_demo(demo.slide, demo.width, demo.height, mpp=demo.mpp, seed=demo.seed)
    except PipelineError:
        raise
    except OSError as error:
        raise ConfigError(
            f"demo.slide: {demo.slide}: cannot be written: {error.strerror}; name another place"
        ) from error


@contextmanager
def _cluster_of(config: RunConfig) -> Iterator[Any]:
    settings = config.cluster
    with cluster(
        settings.kind,
        workers=settings.workers,
        threads_per_worker=settings.threads_per_worker,
        memory_limit=settings.memory_limit,
        address=settings.address,
        dashboard=settings.dashboard,
    ) as client:
        yield client


def _contained(
    config: RunConfig, model: Model, find: Find, job: Job, report: Report
) -> SlideOutcome:
    started = time.monotonic()
    try:
        return _run_one(config, model, find, job, report)
    except PipelineError as error:
        return SlideOutcome(job, "failed", seconds=time.monotonic() - started, reason=str(error))


def _run_one(config: RunConfig, model: Model, find: Find, job: Job, report: Report) -> SlideOutcome:
    started = time.monotonic()
    plan = _plan(config, model, find, job, report)
    outcome = run_plan(plan, provenance(plan), report.blocks)
    made, broken = _export(config, plan)
    reasons = [_first_of(outcome.failures), *broken]
    return SlideOutcome(
        job,
        "done" if outcome.complete and not broken else "partial",
        analysed=outcome.count(Coverage.ANALYSED),
        background=outcome.count(Coverage.BACKGROUND),
        failed=outcome.count(Coverage.FAILED),
        computed=outcome.computed,
        seconds=time.monotonic() - started,
        reason="; ".join(reason for reason in reasons if reason),
        made=(plan.path, *made),
    )


def _first_of(failures: Mapping[Index, str]) -> str:
    """Give the first reason, and how many more there are; the store has them all."""
    if not failures:
        return ""
    first = min(failures)
    more = f"; and {len(failures) - 1} more" if len(failures) > 1 else ""
    return f"block {first}: {failures[first]}{more}"


def _plan(config: RunConfig, model: Model, find: Find, job: Job, report: Report) -> Plan:
    slide = _opened(config, job)
    tissue = find(slide, job.slide_id)
    output = config.output
    level, mpp = _asked(config)
    options = Options(
        level=level,
        mpp=mpp,
        block=None if output.block == "auto" else output.block,
        chunk=None if output.chunk == "auto" else output.chunk,
        dtype=output.dtype,
        min_fraction=config.tissue.min_fraction,
        icc=config.colour.icc,
        stain=_stain_of(config, slide, tissue),
    )
    path = join(places.absolute(output.directory), f"{job.slide_id}{ENDING}")
    plan = plan_slide(slide, model, tissue, options, path=path)
    for note in notes(plan):
        report.note(f"{job.slide_id}: {note}")
    return plan


def _stain_of(config: RunConfig, slide: Slide, tissue: Tissue) -> Stain | None:
    colour = config.colour
    if colour.normalise == "none":
        return None
    return fit_stain(slide, colour.normalise, colour.target, tissue=tissue, icc=colour.icc)


def _model_of(config: RunConfig) -> Model:
    """Load the model; `ConfigError` where its scale, or whose colours it sees, cannot be meant."""
    paths = [config.model] if isinstance(config.model, str) else config.model
    asked = config.inference
    gpu_bytes = 0 if asked.gpu_memory == "auto" else int(parse_bytes(asked.gpu_memory))
    model = load_models(paths).running(asked.provider, gpu_bytes=gpu_bytes, tta=asked.tta)
    level, mpp = _asked(config)
    check_scale(model, level=level, mpp=mpp)
    if config.colour.normalise != "none":
        check_target(config.colour.normalise, config.colour.target, config.colour.icc)
    return model


def _asked(config: RunConfig) -> tuple[int | None, float | None]:
    """Give the level and the um per pixel a run file asks for; neither is what the card says."""
    asked = config.resolution.mpp
    if isinstance(asked, LevelConfig):
        return asked.level, None
    return None, None if asked == "model" else float(asked)


def _opened(config: RunConfig, job: Job) -> Slide:
    """Open a slide, its scale said by the manifest, by the file, or by the run file, in this order.

    Raises `SlideError` where none of them says one that can be.
    """
    slide = open_slide(job.path, reader=config.reader)
    if job.mpp is not None:
        return slide.assuming(job.mpp, "from the manifest")
    if slide.mpp_problem is None:
        return slide
    if config.resolution.missing == "assume" and config.resolution.assume_mpp is not None:
        return slide.assuming(config.resolution.assume_mpp)
    raise SlideError(f"{job.path}: {slide.mpp_problem}")


def _export(config: RunConfig, plan: Plan) -> tuple[list[str], list[str]]:
    """Make what is asked for of a store; give the paths, and the reasons for what is missing."""
    from pipeline.export import export

    made, broken = [], []
    for kind in config.export:
        try:
            made.append(export(kind, plan.path, plan.slide))
        except PipelineError as error:
            broken.append(f"export {kind}: {error}")
    return made, broken


def not_begun(directory: str | os.PathLike[str]) -> tuple[Job, ...]:
    """Give the slides of a results directory's run file that have no store there.

    Raises `ConfigError` where the run file is not kept there or its slides are gone.
    """
    folder = places.absolute(directory)
    copy = join(folder, CONFIG_COPY)
    try:
        text, there = places.read_text(copy), set(places.names(folder))
    except OSError as error:
        raise ConfigError(f"{copy}: {error.strerror}; it is written by a run") from error
    config = parse_config(text, copy, Path())
    return tuple(job for job in jobs(config) if f"{job.slide_id}{ENDING}" not in there)


def _has_config(folder: str) -> bool:
    try:
        return places.exists(join(folder, CONFIG_COPY))
    except OSError as error:
        raise ConfigError(f"output.directory: {folder}: {error.strerror}") from error


def _keep_config(config: RunConfig, folder: str) -> None:
    slides = config.slides
    given = shown(slides) if isinstance(slides, str) else [shown(each) for each in slides]
    text = dump_config(config.model_copy(update={"slides": given}))
    try:
        places.write_whole(join(folder, CONFIG_COPY), text.encode())
    except OSError as error:
        raise ConfigError(
            f"output.directory: {folder}: cannot hold results: {error.strerror}; name another"
        ) from error
