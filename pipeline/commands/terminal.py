"""What all commands say in the same way: exit codes, the console, a table."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "INCOMPLETE",
    "INTERRUPTED",
    "REFUSED",
    "log_shown",
    "open_console",
    "override_option",
    "print_lines",
    "table_of",
]

INCOMPLETE, REFUSED, INTERRUPTED = 1, 2, 128
"""Exit codes: something is not done; nothing was begun; and the signal, 130 for Ctrl-C."""

override_option = click.option(
    "-o",
    "--override",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a key of the run file, e.g. -o output.block=1024; can be repeated.",
)
"""What commands have that read a run file."""

_LOG_COLUMNS = 160
"""Width where no terminal has one: a file's lines need not be broken."""


@contextmanager
def log_shown() -> Iterator[None]:
    """Show what is logged for people during a ``with`` block: what is copied, and how far it is.

    That is what the package's own logger says; those of its modules speak to the run's log.
    """
    log, handler = logging.getLogger("pipeline"), logging.StreamHandler()
    handler.addFilter(lambda record: record.name == log.name)
    handler.setFormatter(logging.Formatter("note: %(message)s"))
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def open_console() -> Console:
    """Give the console that fits where the output goes."""
    from rich.console import Console

    # A kernel of Jupyter tells what it starts to write for a terminal, and a cell is none.
    console = Console(force_terminal=False if "JPY_PARENT_PID" in os.environ else None)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _LOG_COLUMNS
    return console


def print_lines(console: Console, lines: Sequence[str]) -> None:
    """Print lines as they are: no markup, no breaks."""
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def table_of(rows: Sequence[Sequence[str]]) -> object:
    """Give rows as a table for a console; the first is its head."""
    from rich.table import Table

    head, *body = rows
    table = Table(box=None, pad_edge=False, padding=(0, 1), collapse_padding=True)
    for number, column in enumerate(head):
        first = number == 0
        table.add_column(
            column, justify="left" if first else "right", no_wrap=not first, overflow="fold"
        )
    for row in body:
        table.add_row(*row)
    return table
