"""The command that runs, and what is said at its end: also of what is run again."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

import click

from pipeline.commands.plan import show_plan
from pipeline.commands.terminal import INCOMPLETE, open_console, override_option, print_lines

if TYPE_CHECKING:
    from pipeline.books.outcomes import Summary
    from pipeline.config import RunConfig
    from pipeline.manifest.shards import Shard

__all__ = ["run", "run_shown"]

_MOST_LISTED = 10
"""Slides whose files are named at the end, and slides that are not done; the books have all."""


@click.command()
@click.argument("config", type=click.Path())
@override_option
@click.option("--dry-run", is_flag=True, help="Say what would be done, as `plan --no-time` does.")
@click.option(
    "--shard",
    metavar="I/N",
    help="Do the I-th of N parts of the slides, I from 1: one of N runs side by side.",
)
def run(config: str, overrides: tuple[str, ...], dry_run: bool, shard: str | None) -> int:
    """Do what the run file CONFIG says, or what is left of it.

    Exit code 0 only if every block of every slide is done.
    """
    from pipeline.config.runfile import load_config
    from pipeline.manifest.shards import parse_shard

    part = None if shard is None else parse_shard(shard)
    loaded = load_config(config, overrides)
    if dry_run:
        return show_plan(loaded, timed=False)
    return 0 if run_shown(loaded, shard=part).complete else INCOMPLETE


def run_shown(
    config: RunConfig, *, only: Collection[str] | None = None, shard: Shard | None = None
) -> Summary:
    """Run with a report for people, and say at the end where things are and what to do next."""
    from pipeline.batch import run as run_batch
    from pipeline.commands.progress import report_for

    console = open_console()
    with report_for(console) as report:
        summary = run_batch(config, report=report, only=only, shard=shard, arguments=sys.argv[1:])
    print_lines(console, list(_ended(summary)))
    return summary


def _ended(summary: Summary) -> Iterator[str]:
    outcomes = summary.outcomes
    done = [outcome for outcome in outcomes if outcome.state == "done"]
    left = [outcome for outcome in outcomes if outcome.state != "done"]
    yield summary.headline
    made = [path for outcome in outcomes[:_MOST_LISTED] for path in outcome.made]
    yield from (f"  {path}" for path in made)
    yield from (f"  {path}" for path in summary.made)
    if len(outcomes) > _MOST_LISTED:
        yield f"  ... {summary.directory}/status.csv has every slide"
        yield from (
            f"  {each.job.slide_id}: {each.state}{f': {each.reason}' if each.reason else ''}"
            for each in left[:_MOST_LISTED]
        )
        if len(left) > _MOST_LISTED:
            yield f"  ... and {len(left) - _MOST_LISTED} more that are not done"
    if done:
        look = (
            f"import pipeline; print(pipeline.open_results({_quoted(summary.directory)})"
            f"[{_quoted(done[0].job.slide_id)}].levels)"
        )
        yield "next:"
        for verb in ("view", "status"):
            yield f"  wsi-pipeline {verb} {shlex.quote(summary.directory)}"
        yield f"  python -c {shlex.quote(look)}"
    if left or summary.broken:
        yield "not everything is done: mend what the lines above name, then run again"


def _quoted(text: str) -> str:
    """Give Python text in double quotes: the shell needs the single ones."""
    return json.dumps(text, ensure_ascii=False)
