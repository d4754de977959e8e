"""The command that says what a run would do, how long it would take, and what it would leave."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.terminal import (
    INCOMPLETE,
    open_console,
    override_option,
    print_lines,
    table_of,
)
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.batch.planning import Forecast, Planner, Totals
    from pipeline.books.outcomes import SlideOutcome, Summary
    from pipeline.config import RunConfig
    from pipeline.execute.work import Watch
    from pipeline.manifest.jobs import Job

__all__ = ["plan", "show_plan"]

_WEEK_H = 168.0

_WIDE = 110
"""Columns of a terminal that hold all there is to say of a slide in a line."""

_SEEN = ("level", "um/px", "block", "blocks", "skipped", "patches")
_TAKES = ("memory", "output", "files", "left", "time")


@click.command()
@click.argument("config", type=click.Path(), required=False)
@override_option
@click.option("--json", "as_json", is_flag=True, help="Say it as JSON, and show no progress.")
@click.option("--no-time", is_flag=True, help="Try no blocks, and estimate no time.")
@click.option(
    "--slides",
    type=int,
    metavar="N",
    help="Say what N slides like those of CONFIG need instead; usual ones without CONFIG.",
)
@click.option(
    "--hours", type=float, metavar="H", help="With --slides: in what time. 168, a week, by default."
)
def plan(
    config: str | None, overrides: tuple[str, ...], *, as_json: bool, no_time: bool, **scale: Any
) -> int:
    """Say what a run of CONFIG would do: blocks, memory, bytes, files, time, what is left.

    Nothing is written, and the results directory is not touched. Exit code 1 where a slide would
    fail or be refused.

    With --slides it is a simulation of so many, from what was measured: schedulers, workers,
    hours, bytes and files, each with what it rests on.
    """
    from pipeline.config.runfile import load_config

    slides, hours = scale["slides"], scale["hours"]
    _check_options(config, overrides, slides=slides, hours=hours, no_time=no_time)
    loaded = None if config is None else load_config(config, overrides)
    if slides is not None:
        from pipeline.commands.scale import show_scale

        return show_scale(slides, _WEEK_H if hours is None else hours, loaded, as_json=as_json)
    assert loaded is not None  # noqa: S101 - see _check_options
    return _print_json(loaded, not no_time) if as_json else show_plan(loaded, timed=not no_time)


def _check_options(
    config: str | None,
    overrides: tuple[str, ...],
    *,
    slides: int | None,
    hours: float | None,
    no_time: bool,
) -> None:
    """Raise `ConfigError` where options are given that do not go together."""
    if config is None and slides is None:
        raise ConfigError("plan: no CONFIG; name a run file, or give --slides N")
    if config is None and overrides:
        raise ConfigError("plan: -o sets keys of a run file, and there is no CONFIG; name one")
    if slides is None and hours is not None:
        raise ConfigError("plan: --hours is for --slides N; give both, or neither")
    if slides is not None and no_time:
        raise ConfigError("plan: --slides is about time; leave --no-time out")


def show_plan(config: RunConfig, *, timed: bool) -> int:
    """Print for people what a run would do; give the exit code."""
    from pipeline.batch import dry_run
    from pipeline.batch.planning import Planner, totals
    from pipeline.commands.progress import watching

    console, planner = open_console(), Planner(config, timed=timed)
    with watching(console, "planning") as watch:
        planned = dry_run(config, report=_Telling(console, watch))
        forecasts = list(planner.judged(planned))
    whole = totals(forecasts)
    for columns in _tables(console.width):
        console.print(table_of(list(_rows(forecasts, whole, columns))))
    print_lines(console, list(_said(forecasts, whole, planner)))
    return INCOMPLETE if whole.refused else 0


def _print_json(config: RunConfig, timed: bool) -> int:
    from pipeline.batch import dry_run
    from pipeline.batch.planning import Planner, as_json

    planner = Planner(config, timed=timed)
    forecasts = list(planner.judged(dry_run(config)))
    said = as_json(forecasts, planner, config)
    click.echo(json.dumps(said, indent=2, ensure_ascii=False))
    return INCOMPLETE if any(each.refused for each in forecasts) else 0


class _Telling:
    """A `pipeline.books.outcomes.Report` of planning: how many slides are planned, and notes."""

    def __init__(self, console: Console, watch: Watch) -> None:
        self._console, self._watch = console, watch
        self._slides = self._begun = 0

    def began(self, jobs: Sequence[Job], _dashboard: str | None) -> None:
        self._slides = len(jobs)

    def slide(self, _job: Job) -> None:
        self._watch("slides", self._begun, self._slides)
        self._begun += 1

    def note(self, job: Job | None, text: str) -> None:
        print_lines(self._console, [f"note: {'' if job is None else f'{job.slide_id}: '}{text}"])

    def blocks(self, _job: Job, _stage: str, _finished: int, _total: int) -> None:
        """No block is computed."""

    def ended(self, _outcome: SlideOutcome) -> None:
        """No slide is run."""

    def closed(self, _summary: Summary) -> None:
        """There is no run."""


def _tables(width: int) -> list[tuple[str, ...]]:
    """Give the columns of a table, or of two where one would be too wide."""
    return [(*_SEEN, *_TAKES)] if width >= _WIDE else [_SEEN, _TAKES]


def _rows(
    forecasts: Sequence[Forecast], whole: Totals, columns: tuple[str, ...]
) -> Iterator[tuple[str, ...]]:
    yield ("slide", *columns)
    for each in forecasts:
        cells = {**_seen(each), **_taken(each)} if each.level is not None else {}
        yield (each.slide_id, *(cells.get(column, "-") for column in columns))
    if len(forecasts) > 1:
        cells = {
            "blocks": str(whole.blocks),
            "skipped": str(whole.background),
            "patches": str(whole.patches),
            **_taken(whole),
        }
        yield (f"{whole.slides} slides", *(cells.get(column, "") for column in columns))


def _seen(each: Forecast) -> dict[str, str]:
    return {
        "level": f"{each.level}{' resampled' if each.resampled else ''}",
        "um/px": "-" if each.mpp is None else f"{each.mpp[1]:.4g}",
        "block": f"{each.block} px",
        "blocks": str(each.blocks),
        "skipped": str(each.background),
        "patches": str(each.patches),
    }


def _taken(each: Forecast | Totals) -> dict[str, str]:
    refused = getattr(each, "state", "") == "refused"
    return {
        "memory": _size(each.memory_bytes),
        "output": _size(each.output_bytes),
        "files": str(each.output_files),
        "left": "refused" if refused else str(each.left),
        "time": "-" if each.seconds is None else _duration(each.seconds),
    }


def _said(forecasts: Sequence[Forecast], whole: Totals, planner: Planner) -> Iterator[str]:
    yield (
        "skipped blocks hold no tissue; output is before compression; left are blocks that are "
        "not stored yet"
    )
    yield _memory_said(planner)
    if planner.calibration is not None:
        yield _time_said(planner)
    yield from planner.trouble
    if whole.stored:
        again = f", {whole.failed} of them failed the last time" if whole.failed else ""
        yield f"{whole.stored} blocks are stored and stay; {whole.left} would be done{again}"
    for each in forecasts:
        if each.refused:
            fate = "be refused" if each.state == "refused" else "fail"
            yield f"{each.slide_id}: would {fate}: {each.reason}"


def _memory_said(planner: Planner) -> str:
    force = planner.workforce
    if force.unknown:
        return (
            f"memory is that of a worker with one thread; what it has is not known: {force.unknown}"
        )
    threads = f"{force.worker.threads} thread{'s' if force.worker.threads > 1 else ''}"
    has = force.worker.limit_bytes
    limit = "" if has is None else f", of the {_size(has)} that it has"
    return f"memory is the predicted peak of a worker with {threads}{limit}"


def _time_said(planner: Planner) -> str:
    tried, force = planner.calibration, planner.workforce
    if tried is None:
        return ""
    blocks = f"{tried.blocks} block{'s' if tried.blocks > 1 else ''}"
    return (
        f"time is an estimate: {blocks} of {planner.calibrated_on} were read and predicted here in "
        f"{tried.seconds:.1f} s, for {force.blocks_at_once} at a time; without tissue, pyramids "
        "and exports"
    )


def _size(size: int) -> str:
    """Give bytes for people.

    >>> _size(300 * 2**20), _size(25 * 2**30), _size(3 * 2**40)
    ('300 MiB', '25.0 GiB', '3072 GiB')
    """
    if size < 10 * 2**30:
        return f"{size / 2**20:.0f} MiB"
    return f"{size / 2**30:.1f} GiB" if size < 2**40 else f"{size / 2**30:.0f} GiB"


def _duration(seconds: float) -> str:
    """Give a duration for people, as well as it is known.

    >>> _duration(0), _duration(8.4), _duration(500), _duration(9000)
    ('0 s', '8 s', '8 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
