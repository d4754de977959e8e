"""The command that makes the report of a results directory."""

from __future__ import annotations

import click

from pipeline.commands.terminal import open_console, print_lines

__all__ = ["report"]


@click.command()
@click.argument("results", type=click.Path())
@click.option("--output", type=click.Path(), help="Where it goes; RESULTS/report.html by default.")
def report(results: str, output: str | None) -> int:
    """Make a page of what is in the directory RESULTS, which needs nothing else to be shown.

    At any time, also while a run goes on. Slides that have not changed since the page was made
    are not drawn again; where there are more than 20 each has a page of its own beside it.
    """
    from pipeline.commands.progress import watching
    from pipeline.report import write_report

    console = open_console()
    with watching(console, "slides") as watch:
        written = write_report(results, output, watch)
    slides = f"{written.slides} slide{'' if written.slides == 1 else 's'}"
    print_lines(console, [f"{written.path}: {slides}, {written.drawn} drawn anew"])
    if written.pages:
        print_lines(console, [f"  a page for each in {written.pages}"])
    return 0
