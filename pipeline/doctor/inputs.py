"""Whether a run's slides and its model are there and work, and fit in its workers."""

from __future__ import annotations

import time
from collections.abc import Iterator

from pipeline.doctor.case import Case
from pipeline.doctor.findings import Finding, told
from pipeline.doctor.there import Sample, read_samples
from pipeline.execute.standing import standing
from pipeline.geometry import Box
from pipeline.model import SessionRef
from pipeline.model.runtime import PROVIDERS
from pipeline.model.session import sessions
from pipeline.model.trial import noise, sample_box, try_model
from pipeline.plan.memory import Worker, check_budget
from pipeline.slide import Slide

__all__ = ["first_slide", "held_against", "memory", "missing", "model", "plan", "samples", "slides"]

_SAMPLE = 512
"""Longest side of a sample: one of the file's tiles where it has such."""

_NEARLY_FULL = 0.9
"""Part of a worker's memory above which a prediction that is as far off as any measured fails."""


def slides(case: Case) -> Iterator[Finding]:
    """Say which slides there are."""
    found = case.jobs
    if not found:
        yield Finding.problem("slides: none", "name some in slides:", slides=0)
        return
    ids = ", ".join(told([job.slide_id for job in found]))
    yield Finding.ok(f"{_counted(len(found), 'slide')}: {ids}", slides=len(found))


def missing(case: Case) -> Iterator[Finding]:
    """Say which of them are not there."""
    reasons = [reason for _, reason in case.missing]
    for reason in told(reasons):
        yield Finding.problem(reason.partition("; ")[0], "check the path, or leave the slide out")
    if not reasons:
        yield Finding.ok("every slide that is not behind a URL is there", missing=0)


def first_slide(case: Case) -> Iterator[Finding]:
    """Open the first slide that is there, and read a few tiles of it."""
    slide = case.slide
    began = time.perf_counter()
    pixels = read_samples(samples(slide))
    seconds = time.perf_counter() - began
    y, x = slide.believed_mpp
    yield Finding.ok(
        f"{slide.path}: {slide.shape[1]} x {slide.shape[0]} px, {x:.4g} x {y:.4g} um/px, "
        f"read by {slide.ref.reader} ({slide.reason}); samples of all "
        f"{len(slide.metadata.levels)} levels read, {pixels / 1e6:.2g} Mpx in {seconds:.2g} s",
        path=slide.path,
        reader=slide.ref.reader,
        seconds=seconds,
    )


def samples(slide: Slide) -> list[Sample]:
    """Give the first tile and the middle one of each level, to be read."""
    found: list[Sample] = []
    for index in range(len(slide.metadata.levels)):
        level = slide.level(index)
        height, width = (min(_SAMPLE, *each) for each in zip(level.tile, level.plane, strict=True))
        y, x = (
            (n // 2) // step * step for n, step in zip(level.plane, (height, width), strict=True)
        )
        found += (
            (level, Box(*corner, height, width).clipped(level.plane))
            for corner in sorted({(0, 0), (y, x)})
        )
    return found


def model(case: Case) -> Iterator[Finding]:
    """Load the model and run a few patches of noise on the provider that is asked for."""
    loaded, asked = case.recipe.model, case.config.inference.provider
    trial = try_model(loaded, noise(sample_box(loaded)))
    got = [_chain(member) for member in loaded.ref.members]
    digests = [member.digest for member in loaded.ref.members]
    names = ", ".join(each.name for each in (loaded.card, *loaded.others))
    yield Finding.ok(
        f"{names} (SHA-256 {', '.join(digest[:12] for digest in digests)}), tried on "
        f"{_counted(trial.patches, 'patch', 'patches')} of noise: asked for {asked}, got "
        f"{'; '.join(dict.fromkeys(trial.runs))}",
        digests=digests,
        asked=asked,
        sessions=got,
    )
    for each in trial.warnings:
        said, _, remedy = each.partition("; ")
        yield Finding.warning(f"{said} (of noise)", remedy or "look at the card")


def _chain(member: SessionRef) -> list[str]:
    """Give the providers that a session really has, the one that runs it first."""
    names = {name: short for short, name in PROVIDERS.items()}
    with sessions.using(member) as session:
        return [names.get(each, each) for each in session.opened.get_providers()]


def plan(case: Case) -> Iterator[Finding]:
    """Plan the first slide, and hold the plan against what is stored of it."""
    made = case.plan
    there = standing(made)
    mpp = made.layout.mpp[1] * made.level.downsample[1]
    yield Finding.ok(
        f"{case.first.slide_id}: {_counted(len(made.todo), 'block')} of {made.grid.cell} px at "
        f"{mpp:.4g} um/px "
        f"({made.grid.size - len(made.todo)} without tissue), {there.stored} of them stored",
        blocks=len(made.todo),
        stored=there.stored,
    )
    if not made.todo:
        yield Finding.warning(
            f"{case.first.slide_id}: no tissue was found, nothing would be analysed",
            "look at tissue.method and tissue.min_area_um2",
        )


def memory(case: Case) -> Iterator[Finding]:
    """Hold the predicted peak of a worker against what it may use."""
    yield from held_against(case, case.workforce.worker, case.workforce.processes)


def held_against(case: Case, worker: Worker, count: int) -> Iterator[Finding]:
    """Hold the predicted peak against what one of ``count`` workers may use.

    Raises `MemoryBudgetError` where it is more.
    """
    made, limit, threads = case.plan, worker.limit_bytes, worker.threads
    needed = made.worker_bytes(worker)
    check_budget(needed, limit, slide=made.slide.path, block=made.grid.cell)
    if limit is None:
        yield Finding.warning(
            f"{_mib(needed)} predicted for the first slide; what a worker may use is not known",
            "set cluster.memory_limit",
        )
        return
    each = "the worker" if count == 1 else f"each of {count} workers"
    said = (
        f"{_mib(needed)} predicted for the first slide; {each} may use {_mib(limit)}, with "
        f"{_counted(threads, 'thread')}"
    )
    numbers = {"predicted_bytes": needed, "limit_bytes": limit}
    if needed > limit * _NEARLY_FULL:
        remedy = f"raise cluster.memory_limit, or set output.block below {made.grid.cell}"
        yield Finding.warning(said, remedy, **numbers)
    else:
        yield Finding.ok(said, **numbers)


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"


def _counted(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or f'{one}s'}"
