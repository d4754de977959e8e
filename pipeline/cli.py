"""The command ``wsi-pipeline``: thin, and importing only what a subcommand needs."""

from __future__ import annotations

import json
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline import __version__
from pipeline.errors import PipelineError
from pipeline.model_commands import model
from pipeline.slide_commands import convert, inspect
from pipeline.terminal import (
    INCOMPLETE,
    INTERRUPTED,
    REFUSED,
    log_shown,
    open_console,
    print_lines,
    table_of,
)

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.config import RunConfig
    from pipeline.outcomes import Summary
    from pipeline.plan import Plan

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; one clear line and an exit code for whatever goes wrong."""
    warnings.formatwarning = _warning_line
    try:
        with log_shown():
            code = cli.main(arguments, prog_name="wsi-pipeline", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(REFUSED)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted: what is stored stays; run again to continue", err=True)
        sys.exit(INTERRUPTED)
    except PipelineError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(REFUSED)
    sys.exit(code)


def _warning_line(message: Warning | str, *_: object, **__: object) -> str:
    return f"warning: {' '.join(str(message).split())}\n"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="wsi-pipeline")
def cli() -> None:
    """Run ONNX models over whole-slide images, block by block, into OME-Zarr.

    \b
    wsi-pipeline run configs/demo.yaml          make a synthetic slide and find its nuclei
    wsi-pipeline inspect slide.svs              say what is in a slide
    wsi-pipeline convert slide.svs slide.zarr   write a slide as OME-Zarr
    wsi-pipeline run my.yaml --dry-run          say what a run would do
    wsi-pipeline model check card.yaml          hold a model card against its model
    wsi-pipeline status results                 say what a run has done
    """  # noqa: D301 - click wants the control character itself


cli.add_command(inspect)
cli.add_command(convert)
cli.add_command(model)


@cli.command()
@click.argument("slide", type=click.Path())
@click.argument("out", type=click.Path(dir_okay=False))
@click.option("--size", default=1024, show_default=True, help="Longer side in pixels.")
def thumbnail(slide: str, out: str, size: int) -> None:
    """Write a picture of the whole of SLIDE to OUT (a .png file)."""
    from pipeline.describe import png_bytes
    from pipeline.errors import ConfigError
    from pipeline.slide import open_slide

    if Path(out).suffix.lower() != ".png":
        raise ConfigError(f"{out}: a thumbnail is a PNG; let its name end in .png")
    if size < 1:
        raise ConfigError(f"--size {size}: at least 1")
    picture = open_slide(slide).thumbnail(size)
    try:
        Path(out).write_bytes(png_bytes(picture))
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written: {error.strerror}") from error
    click.echo(f"{out}: {picture.shape[1]} x {picture.shape[0]} px")


@cli.command()
@click.argument("config", type=click.Path())
@click.option(
    "-o",
    "--override",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a key of the run file, e.g. -o output.block=1024; can be repeated.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done; write no results.")
def run(config: str, overrides: tuple[str, ...], dry_run: bool) -> int:
    """Do what the run file CONFIG says, or what is left of it.

    Exit code 0 only if every block of every slide is done.
    """
    from pipeline.runfile import load_config

    loaded = load_config(config, overrides)
    return _dry_run(loaded) if dry_run else _run(loaded)


@cli.command()
@click.argument("results", type=click.Path())
def status(results: str) -> int:
    """Say what is done in the directory RESULTS. Exit code 0 only if all of it is."""
    from pipeline.batch import not_begun
    from pipeline.errors import ConfigError
    from pipeline.results import open_results

    opened = open_results(results)
    console = open_console()
    try:
        missing = not_begun(results)
    except ConfigError as error:
        missing = ()
        print_lines(console, [f"note: slides without a store are not known: {error}"])
    rows = [(job.slide_id, "no store", *"----") for job in missing]
    console.print(table_of([*opened.table(), *rows]))
    print_lines(
        console,
        [
            f"{slide.slide_id}: block {tuple(failure['block'])}: {failure['reason']}"
            for slide in opened.values()
            for failure in slide.failures
        ],
    )
    done = not missing and all(slide.state == "done" for slide in opened.values())
    return 0 if done else INCOMPLETE


def _run(config: RunConfig) -> int:
    from pipeline.batch import run as run_batch
    from pipeline.progress import report_for

    console = open_console()
    with report_for(console) as report:
        summary = run_batch(config, report=report)
    _tell(console, summary)
    return 0 if summary.complete else INCOMPLETE


def _tell(console: Console, summary: Summary) -> None:
    """Say where things are and what to do next."""
    done = [outcome for outcome in summary.outcomes if outcome.state == "done"]
    lines = [f"{len(done)} of {len(summary.outcomes)} slides done in {summary.seconds:.1f} s"]
    lines += [f"  {path}" for outcome in summary.outcomes for path in outcome.made]
    if done:
        look = (
            f"import pipeline; print(pipeline.open_results({_quoted(summary.directory)})"
            f"[{_quoted(done[0].job.slide_id)}].levels)"
        )
        lines += [
            "next:",
            f"  wsi-pipeline status {shlex.quote(summary.directory)}",
            f"  python -c {shlex.quote(look)}",
        ]
    if not summary.complete:
        lines.append("not everything is done: mend what the lines above name, then run again")
    print_lines(console, lines)


def _quoted(text: str) -> str:
    """Give Python text in double quotes: the shell needs the single ones."""
    return json.dumps(text, ensure_ascii=False)


def _dry_run(config: RunConfig) -> int:
    from pipeline.batch import dry_run as plan_batch
    from pipeline.progress import report_for

    console = open_console()
    head = (
        *("slide", "level", "um/px", "block", "blocks", "skipped", "patches"),
        *("memory", "output", "files"),
    )
    rows: list[Sequence[str]] = [head]
    refused = []
    with report_for(console) as report:
        for job, plan in plan_batch(config, report=report):
            if isinstance(plan, PipelineError):
                refused.append(f"{job.slide_id}: would fail: {plan}")
            else:
                rows.append(_plan_row(job.slide_id, plan))
    console.print(table_of(rows))
    print_lines(
        console,
        [
            (
                "skipped blocks hold no tissue; memory is the predicted peak of a worker with one "
                "thread; output is before compression"
            ),
            *refused,
        ],
    )
    return INCOMPLETE if refused else 0


def _plan_row(slide_id: str, plan: Plan) -> Sequence[str]:
    return (
        slide_id,
        _level_said(plan),
        f"{plan.layout.mpp[1] * plan.level.downsample[1]:.4g}",
        f"{plan.grid.cell} px",
        str(len(plan.todo)),
        str(plan.grid.size - len(plan.todo)),
        str(plan.patch_count),
        f"{plan.memory_bytes / 2**20:.0f} MiB",
        f"{plan.output_bytes / 2**20:.0f} MiB",
        str(plan.output_files),
    )


def _level_said(plan: Plan) -> str:
    resampled = plan.level.downsample != plan.level.stored.downsample
    return f"{plan.level.stored.index}{' resampled' if resampled else ''}"
