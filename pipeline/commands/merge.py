"""The command that puts the books of shards together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from pipeline.commands.terminal import INCOMPLETE, open_console, print_lines, table_of

if TYPE_CHECKING:
    from pipeline.books.merging import Merged

__all__ = ["merge"]

_MOST_LISTED = 20


@click.command()
@click.argument("results", type=click.Path())
def merge(results: str) -> int:
    """Put what the shards of a run have done in the directory RESULTS together.

    Writes status.csv and run.json there from those of the shards, and says what is missing; it
    may be done while shards are running, and again. Exit code 0 only if everything is done.
    """
    from pipeline.books.merging import merge as merge_books
    from pipeline.files import places

    merged = merge_books(places.absolute(results))
    console = open_console()
    console.print(table_of(list(_table(merged))))
    print_lines(console, list(_said(merged)))
    return 0 if merged.complete else INCOMPLETE


def _table(merged: Merged) -> Iterator[Sequence[str]]:
    from pipeline.books.outcomes import STATES

    yield ("shard", "slides", *STATES)
    for (number, count), rows in merged.shards.items():
        yield _counts(f"{number} of {count}", [row.state for row in rows])
    yield _counts("together", [row.state for row in merged.rows])


def _counts(name: str, states: Sequence[str]) -> Sequence[str]:
    from pipeline.books.outcomes import STATES

    counted = Counter(states)
    return (name, str(len(states)), *(str(counted[state] or "-") for state in STATES))


def _said(merged: Merged) -> Iterator[str]:
    for number, count in merged.running:
        yield f"shard {number} of {count} is running"
    for number, count in merged.missing_shards:
        yield f"shard {number} of {count} has not begun: run it with --shard {number}/{count}"
    if merged.missing_slides is None:
        yield "note: there is no manifest.csv: slides that no shard has are not known"
    yield from _listed([f"{name}: in no shard" for name in merged.missing_slides or ()])
    broken = [row for row in merged.rows if row.state not in ("done", "pending", "running")]
    yield from _listed([f"{row.slide_id}: {row.state}: {row.reason}" for row in broken])
    yield f"written: {merged.directory}: status.csv, run.json"


def _listed(lines: Sequence[str]) -> Iterator[str]:
    yield from lines[:_MOST_LISTED]
    if len(lines) > _MOST_LISTED:
        yield f"and {len(lines) - _MOST_LISTED} more, in status.csv"
