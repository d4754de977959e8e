"""What a great many slides would take, said for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from math import ceil, floor, log10
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.terminal import open_console, print_lines

if TYPE_CHECKING:
    from pipeline.config import RunConfig
    from pipeline.scaling import Limit, Need, Scale

__all__ = ["show_scale"]

_ON_CPU = ("cpu", "openvino")


def show_scale(slides: int, hours: float, config: RunConfig | None, *, as_json: bool) -> int:
    """Print what so many slides need to be done in some hours: those of a run file, or usual ones.

    Raises `ConfigError` where that cannot be meant, or cannot be done.
    """
    from pipeline.scaling import SLIDES_AT_ONCE, Scale, limits, scale
    from pipeline.scaling.measured import TYPICAL_SAID

    asked, on, said = Scale(slides, hours), "CPU", TYPICAL_SAID
    if config is not None:
        at_once = config.cluster.slides_at_once
        kind, said = _planned(config)
        asked = Scale(
            *(slides, hours, kind),
            at_once=SLIDES_AT_ONCE if at_once == "auto" else int(at_once),
        )
        on = "CPU" if config.inference.provider in _ON_CPU else "GPU"
    need, found = scale(asked), limits(asked)
    if as_json:
        click.echo(json.dumps(_as_json(asked, need, found, on), indent=2, ensure_ascii=False))
        return 0
    rows = [*_rows(asked, need, on), *_limits(found)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = (f"{a.ljust(widths[0])}  {b.ljust(widths[1])}  {c}" for a, b, c in rows)
    print_lines(open_console(), [f"{slides:,} slides in {hours:g} hours", *lines, said])
    return 0


def _planned(config: RunConfig) -> tuple[Any, str]:
    """Give what the slides of a run file are like, and what that rests on."""
    from pipeline.batch import dry_run
    from pipeline.batch.planning import Planner
    from pipeline.scaling import kind_of

    planner = Planner(config, timed=True)
    forecasts = list(planner.judged(dry_run(config)))
    kind = kind_of(forecasts, planner.workforce.blocks_at_once)
    tried = planner.calibration
    blocks = 0 if tried is None else tried.blocks
    return kind, (
        f"a slide is taken to be like the {len(kind.loads)} of the run file; {blocks} blocks of "
        f"{planner.calibrated_on} were tried here; without tissue, pyramids and exports"
    )


def _rows(asked: Scale, need: Need, on: str) -> Iterator[tuple[str, str, str]]:
    kind, slides, costs = asked.kind, asked.slides, asked.costs
    workers, shards = need.schedulers * need.workers, up_to_two(need.schedulers)
    why = f"{two(need.slides)} slides each, by --shard I/{shards.replace(',', '')}"
    yield "schedulers", shards, f"{why}; busy {two(need.busy * 100)}% of a core"
    why = f"{up_to_two(need.workers)} per scheduler, {need.efficiency:.0%} of {need.hours:.3g} h"
    why += f" at work; simulated with {asked.at_once} slides of each scheduler under way at once, "
    why += f"{costs.open_s:g} s to open one, {costs.close_s:g} s to commit it"
    yield "workers", f"{up_to_two(workers)} threads", why
    work = f"{two(slides * kind.seconds / 3600)} of it work"
    why = f"{work}: {two(kind.seconds)} s of one thread per slide"
    yield f"{on} hours", two(workers * need.hours), why
    yield "blocks", two(slides * kind.blocks), f"{two(kind.blocks)} per slide, where tissue is"
    if kind.read_bytes is None:
        yield "read", "-", "no slide is a file here: sizes are not known"
    else:
        read = slides * kind.read_bytes
        pace = f"{_bytes(read / need.hours / 3600)}/s while it runs"
        why = f"{_bytes(kind.read_bytes)} per slide, its whole file once; {pace}"
        yield "read", _bytes(read), why
    yield "written", _bytes(slides * kind.written_bytes), "arrays, before compression"
    why = f"{two(kind.files)} per slide: a block of an array is one; look at the quota"
    yield "files", two(slides * kind.files), why
    why = f"in one directory, and {shards} times status.csv, run.json and a lease: one of each for "
    yield "results", f"{slides:,} stores", why + "a shard, put together by merge"


def _limits(found: list[Limit]) -> Iterator[tuple[str, str, str]]:
    label = "breaks first"
    for each in found:
        yield (label, f"{two(each.slides)} slides", f"in one run: {each.what}, {each.why}")
        label = "then"


def _as_json(asked: Scale, need: Need, found: list[Limit], on: str) -> dict[str, Any]:
    """Give all of it, not rounded: seconds, hours, bytes; keys stay."""
    kind, slides, workers = asked.kind, asked.slides, need.schedulers * need.workers
    read = kind.read_bytes
    return {
        "format": 1,
        "slides": slides,
        "hours": asked.hours,
        "slide": {
            "blocks": kind.blocks,
            "seconds": kind.seconds,
            "read_bytes": read,
            "written_bytes": kind.written_bytes,
            "files": kind.files,
        },
        "schedulers": need.schedulers,
        "slides_per_scheduler": need.slides,
        "scheduler_busy": need.busy,
        "workers": workers,
        "workers_per_scheduler": need.workers,
        "efficiency": need.efficiency,
        "takes_hours": need.hours,
        "worker_hours": workers * need.hours,
        "work_hours": slides * kind.seconds / 3600,
        "workers_are": on,
        "blocks": slides * kind.blocks,
        "read_bytes": None if read is None else slides * read,
        "written_bytes": slides * kind.written_bytes,
        "files": slides * kind.files,
        "limits": [asdict(each) for each in found],
        "slides_at_once": asked.at_once,
        "costs": asdict(asked.costs),
        "ceilings": asdict(asked.ceilings),
    }


def two(number: float) -> str:
    """Give a number as well as it is known: two digits of it.

    >>> two(83334), two(167.2), two(12.4), two(0.118), two(3), two(0)
    ('83,000', '170', '12', '0.12', '3', '0')
    """
    return _digits(number, round)


def up_to_two(count: int) -> str:
    """Give a number of things that are needed, two digits of it: rather more than fewer.

    >>> up_to_two(12), up_to_two(641), up_to_two(11001)
    ('12', '650', '12,000')
    """
    return _digits(count, ceil)


def _digits(number: float, rounded: Any) -> str:
    if not number:
        return "0"
    unit = 10.0 ** (floor(log10(abs(number))) - 1)
    # Units below one as their inverse: 0.01 is no number of the machine's, 100 is.
    value = rounded(number / unit) * unit if unit >= 1 else rounded(number / unit) / round(1 / unit)
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _bytes(size: float) -> str:
    """Give bytes for people, in powers of 1000 as disks are sold.

    >>> _bytes(1e15), _bytes(23_040), _bytes(1.66e9)
    ('1 PB', '23 kB', '1.7 GB')
    """
    for power, name in ((15, "PB"), (12, "TB"), (9, "GB"), (6, "MB"), (3, "kB")):
        if size >= 10**power:
            return f"{two(size / 10**power)} {name}"
    return f"{two(size)} B"
