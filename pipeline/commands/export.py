"""The command that makes files for other programs out of results."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import TYPE_CHECKING

import click

from pipeline.commands.terminal import INCOMPLETE, open_console, print_lines
from pipeline.export import EXPORTS

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.results import Results

__all__ = ["export"]

_WIDTH = max(map(len, EXPORTS))
_KINDS = "\n".join(f"  {name.ljust(_WIDTH)}  {kind.gives}" for name, kind in EXPORTS.items())

_HELP = f"""Make files for other programs out of the directory RESULTS.

Of every slide, or of those that are named; they go beside the stores, or into DIR. Only what is
stored is read, part by part; the slides are needed for the overview alone. A slide that cannot be
exported is named with its reason, and the others go on. Exit code 0 only if all were.

\b
KIND is one of:
{_KINDS}
"""


@click.command(help=_HELP)
@click.argument("kind", type=click.Choice(list(EXPORTS)), metavar="KIND")
@click.argument("results", type=click.Path())
@click.option("--slide", "slides", multiple=True, metavar="ID", help="Only that; can be repeated.")
@click.option("--output", type=click.Path(), metavar="DIR", help="Where the files go.")
def export(kind: str, results: str, slides: tuple[str, ...], output: str | None) -> int:
    """Export one kind of every slide of a results directory."""
    from pipeline.clusters import cluster
    from pipeline.errors import ConfigError
    from pipeline.results import open_results

    opened = open_results(results)
    there = sorted({*opened, *opened.unopened})
    strangers = [name for name in slides if name not in there]
    if strangers:
        known = ", ".join(there[:10]) + (" ..." if len(there) > 10 else "")
        raise ConfigError(f"--slide {strangers[0]}: not in {results}; there is {known or 'none'}")
    chosen = [name for name in there if not slides or name in slides]
    console, started = open_console(), time.monotonic()
    with cluster("threads"):
        done = [_exported(console, kind, opened, name, output) for name in chosen]
    took = f"in {time.monotonic() - started:.1f} s"
    print_lines(console, [f"{sum(done)} of {len(done)} slides exported as {kind} {took}"])
    return 0 if all(done) else INCOMPLETE


def _exported(console: Console, kind: str, opened: Results, name: str, output: str | None) -> bool:
    """Export a slide and say what was made, or why nothing was; give whether it was."""
    from pipeline.commands.progress import watching
    from pipeline.errors import PipelineError
    from pipeline.export import export as export_store

    try:
        with watching(console, name) as watch:
            made: Collection[str] = export_store(
                kind, opened.path_of(name), output=output, tell=watch
            )
    except PipelineError as error:
        print_lines(console, [f"{name}: not exported: {error}"])
        return False
    print_lines(console, [f"{name}: {path}" for path in made])
    return True
