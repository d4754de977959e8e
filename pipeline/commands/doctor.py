"""The command that looks at an installation and a run file before they are relied upon."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from pipeline.commands.terminal import INCOMPLETE, open_console, override_option, print_lines

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.config import RunConfig
    from pipeline.doctor import Finding

__all__ = ["doctor"]

_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}
_STATE, _CHECK = 8, 13
"""Columns of a state and of a check's name, a space after each."""


@click.command()
@click.argument("config", type=click.Path(), required=False)
@override_option
@click.option("--no-cluster", is_flag=True, help="Start no workers, and ask none.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1),
    default=60.0,
    show_default=True,
    help="Seconds to wait for workers, and for each answer of theirs.",
)
@click.option("--json", "as_json", is_flag=True, help="Say it as JSON, and show no progress.")
def doctor(
    config: str | None, overrides: tuple[str, ...], no_cluster: bool, timeout: float, as_json: bool
) -> int:
    """Look at the installation, and at all that the run file CONFIG names, and say what is ill.

    Versions, readers, the model on the provider it is asked to run on, the results directory,
    room, memory; then its workers are started, or found, and asked whether they see the same.
    Nothing is left behind. Exit code 1 where there is a problem, 2 where CONFIG cannot be read.
    """
    from pipeline.config.runfile import load_config
    from pipeline.doctor import examine

    if config is None and overrides:
        raise click.UsageError("-o sets keys of a run file: name CONFIG too")
    loaded = None if config is None else load_config(config, overrides)
    began = time.monotonic()

    def look(say: Callable[[str], None]) -> Iterator[Finding]:
        return examine(loaded, cluster=not no_cluster, timeout_s=timeout, say=say)

    if as_json:
        found = list(look(lambda _check: None))
        click.echo(json.dumps(_as_json(found, loaded), indent=2, ensure_ascii=False))
    else:
        found = _shown(look)
        print_lines(open_console(), list(_ended(found, time.monotonic() - began, config)))
    return INCOMPLETE if any(each.state == "problem" for each in found) else 0


def _shown(look: Callable[[Callable[[str], None]], Iterator[Finding]]) -> list[Finding]:
    """Print findings as they come; on a terminal, also what is looked at."""
    console, found = open_console(), []
    with _looking(console) as say:
        for each in look(say):
            found.append(each)
            if each.state != "skipped":
                _show(console, each)
    return found


@contextmanager
def _looking(console: Console) -> Iterator[Callable[[str], None]]:
    if not console.is_terminal:
        yield lambda _check: None
        return
    with console.status("") as status:
        yield lambda check: status.update(f"looking at: {check}")


def _show(console: Console, finding: Finding) -> None:
    from rich.table import Table
    from rich.text import Text

    lines = [finding.said, *([f"remedy: {finding.remedy}"] if finding.remedy else [])]
    if not console.is_terminal:  # a log's lines are not broken
        heads = [
            f"{finding.state:<{_STATE}} {finding.check:<{_CHECK}}",
            " " * (_STATE + _CHECK + 1),
        ]
        print_lines(console, [f"{head} {line}" for head, line in zip(heads, lines, strict=False)])
        return
    row = Table.grid(padding=(0, 1))
    row.add_column(width=_STATE)
    row.add_column(width=_CHECK)
    row.add_column(overflow="fold")
    row.add_row(
        Text(finding.state, _STYLES[finding.state]), Text(finding.check), Text("\n".join(lines))
    )
    console.print(row, highlight=False)


def _ended(found: Sequence[Finding], seconds: float, config: str | None) -> Iterator[str]:
    skipped = [each for each in found if each.state == "skipped"]
    if skipped:
        yield f"not looked at, because of that: {', '.join(each.check for each in skipped)}"
    counts = [_counted(found, state) for state in ("problem", "warning")]
    yield f"{' and '.join(counts)}, in {seconds:.1f} s"
    if config is not None and not any(each.state == "problem" for each in found):
        yield "next:"
        yield f"  wsi-pipeline run {shlex.quote(config)}"


def _counted(found: Sequence[Finding], state: str) -> str:
    count = sum(each.state == state for each in found)
    return f"{count or 'no'} {state}{'' if count == 1 else 's'}"


def _as_json(found: Sequence[Finding], config: RunConfig | None) -> dict[str, object]:
    return {
        "format": 1,
        "directory": None if config is None else config.output.directory,
        "problems": sum(each.state == "problem" for each in found),
        "warnings": sum(each.state == "warning" for each in found),
        "findings": [asdict(each) for each in found],
    }
