"""The commands about results: what is done, whether it is whole, and whether two are the same."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.run import run_shown
from pipeline.commands.terminal import INCOMPLETE, open_console, print_lines, table_of

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.books.rows import Row
    from pipeline.checks.compare import Comparison
    from pipeline.checks.examine import Examined
    from pipeline.results import Results

__all__ = ["diff", "rerun", "retry", "status"]


@click.command()
@click.argument("results", type=click.Path())
@click.option("--verify", is_flag=True, help="Also read every block back; list what is damaged.")
@click.option(
    "--repair", is_flag=True, help="With --verify: drop what is damaged; the next run redoes it."
)
def status(results: str, verify: bool, repair: bool) -> int:
    """Say what is done in the directory RESULTS. Exit code 0 only if all of it is.

    With --verify the exit code is 0 only if all that is stored can be read back, too.
    """
    from pipeline.errors import ConfigError
    from pipeline.results import open_results

    if repair and not verify:
        raise ConfigError("--repair: drops what --verify finds; give both")
    opened = open_results(results)
    console = open_console()
    examined = dict(_examined(console, opened)) if verify else {}
    damaged = {name for name, each in examined.items() if each.damages}
    head, *rows = opened.table()
    rows = [(row[0], "damaged", *row[2:]) if row[0] in damaged else row for row in rows]
    told = _told(console, results)
    known = dict.fromkeys([*_without_store(console, results), *told])
    missing = [name for name in known if name not in opened and name not in opened.unopened]
    rows += [(name, _without(told.get(name)), *"----") for name in missing]
    console.print(table_of([head, *sorted(rows)]))
    print_lines(console, [*_reasons(opened, told, examined), *_damages(examined), *_lost(results)])
    if verify:
        print_lines(console, list(_verdict(examined)))
        print_lines(console, _repaired(opened, examined) if repair else _how(results, damaged))
    return 0 if all(row[1] == "done" for row in rows) else INCOMPLETE


@click.command()
@click.argument("first", type=click.Path())
@click.argument("second", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Say it as JSON, and show no progress.")
def diff(first: str, second: str, as_json: bool) -> int:
    """Say in what the results in the directories FIRST and SECOND differ.

    Settings, slides, states, coverage, values of every level, objects by their ids. Exit code 0
    only if none does; versions and machines are said, too, and do not count.
    """
    return _diff(first, second, as_json=as_json)


@click.command()
@click.argument("results", type=click.Path())
@click.option("--output", type=click.Path(), help="Where it goes; RESULTS with -rerun by default.")
def rerun(results: str, output: str | None) -> int:
    """Do again what made the directory RESULTS, into another, and say in what they differ.

    Exit code 0 only if all was done and nothing differs.
    """
    from pipeline.books.kept import kept_config
    from pipeline.errors import ConfigError
    from pipeline.files import places

    folder = places.absolute(results)
    target = places.absolute(output or f"{folder}-rerun")
    if target == folder:
        raise ConfigError(f"--output {target}: holds the results themselves; name another place")
    config = kept_config(folder)
    output_config = config.output.model_copy(update={"directory": target})
    summary = run_shown(config.model_copy(update={"output": output_config}))
    if not summary.outcomes:
        return INCOMPLETE
    code = _diff(folder, target, as_json=False)
    return code if summary.complete else INCOMPLETE


@click.command()
@click.argument("results", type=click.Path())
def retry(results: str) -> int:
    """Try the slides of RESULTS again that failed, or have failed blocks: these blocks only.

    Exit code 0 only if all of them are done now.
    """
    from pipeline.books.kept import kept_config

    config = kept_config(results)
    failed = _failed(results)
    if not failed:
        print_lines(open_console(), ["nothing failed: there is nothing to try again"])
        return 0
    return 0 if run_shown(config, only=failed).complete else INCOMPLETE


def _lost(results: str) -> Iterator[str]:
    """Say how many jobs of workers the last run lost, of which causes."""
    from pipeline.books.names import RUNS
    from pipeline.books.runs import read_runs
    from pipeline.files import places
    from pipeline.files.urls import join

    for run in read_runs(join(places.absolute(results), RUNS))[:1]:
        lost: Mapping[str, int] = run.get("scheduler", {}).get("jobs_ended", {})
        if lost:
            causes = ", ".join(f"{count} {cause}" for cause, count in sorted(lost.items()))
            yield f"jobs of workers that ended in the last run and were replaced: {causes}"


def _failed(results: str) -> set[str]:
    """Give the slides that have failed blocks, or that a run could not do."""
    from pipeline.results import open_results

    console = open_console()
    opened, told = open_results(results), _told(console, results)
    failed = {name for name, each in told.items() if each.state in ("failed", "refused")}
    failed |= {slide.slide_id for slide in opened.values() if slide.failures}
    if not told:  # made before runs kept that: what has no store failed
        failed |= set(_without_store(console, results))
    return failed


def _told(console: Console, results: str) -> Mapping[str, Row]:
    """Give what the last run said of each slide."""
    from pipeline.books.names import STATUS
    from pipeline.books.rows import read_rows
    from pipeline.errors import StoreError
    from pipeline.files import places
    from pipeline.files.urls import join

    try:
        rows = read_rows(join(places.absolute(results), STATUS))
    except StoreError as error:
        print_lines(console, [f"note: what the last run said is not known: {error}"])
        return {}
    return {row.slide_id: row for row in rows}


def _without(said: Row | None) -> str:
    """Say what a slide without a store is: of one that was done it has been removed."""
    return "no store" if said is None or said.state in ("done", "partial") else said.state


def _without_store(console: Console, results: str) -> list[str]:
    """Give the slides of the kept run file without a store."""
    from pipeline.books.kept import not_begun
    from pipeline.errors import ConfigError

    try:
        return [job.slide_id for job in not_begun(results)]
    except ConfigError as error:
        print_lines(console, [f"note: slides without a store are not known: {error}"])
        return []


def _reasons(
    opened: Results, told: Mapping[str, Row], examined: Mapping[str, Examined]
) -> Iterator[str]:
    for slide in opened.values():
        for failure in slide.failures:
            yield f"{slide.slide_id}: block {tuple(failure['block'])}: {failure['reason']}"
    for name, error in opened.unopened.items():
        if name not in examined:  # what is wrong with it is said there
            yield f"{name}: {error}"
    for name, each in told.items():
        # What became of a store is said by the store itself.
        if each.reason and name not in opened.unopened and not _committed(opened, name):
            yield f"{name}: {each.reason}"


def _committed(opened: Results, name: str) -> bool:
    return name in opened and opened[name].seen.committed


def _examined(console: Console, opened: Results) -> Iterator[tuple[str, Examined]]:
    """Read the stores back, one after another: each in all threads there are."""
    from pipeline.checks.examine import examine
    from pipeline.clusters import cluster
    from pipeline.commands.progress import watching
    from pipeline.errors import DamagedStoreError

    damaged = [
        name for name, error in opened.unopened.items() if isinstance(error, DamagedStoreError)
    ]
    with cluster("threads"):
        for name in sorted([*opened, *damaged]):
            with watching(console, name) as watch:
                yield name, examine(opened.path_of(name), watch)


def _damages(examined: Mapping[str, Examined]) -> list[str]:
    return [f"{name}: {each}" for name, found in examined.items() for each in found.damages]


def _verdict(examined: Mapping[str, Examined]) -> Iterator[str]:
    blocks = sum(each.blocks for each in examined.values())
    seconds = sum(each.seconds for each in examined.values())
    count = sum(len(each.damages) for each in examined.values())
    found = f"{count} torn or missing" if count else "nothing is torn or missing"
    yield f"{len(examined)} stores, {blocks:,} blocks read back in {seconds:.1f} s: {found}"
    old = [name for name, each in examined.items() if not each.checked]
    if old:
        yield (
            f"note: made before blocks had checksums, so that a changed byte may not show: "
            f"{', '.join(old)}"
        )


def _how(results: str, damaged: set[str]) -> list[str]:
    if not damaged:
        return []
    command = f"wsi-pipeline status {shlex.quote(results)} --verify --repair"
    return [f"next: {command}, then run again: only that is done again"]


def _repaired(opened: Results, examined: Mapping[str, Examined]) -> list[str]:
    """Drop what is damaged, while no run writes there; say what was done."""
    from pipeline.books.lease import lease

    if not any(found.damages for found in examined.values()):
        return []
    lines: list[str] = []
    with lease(opened.directory, lost=lines.append):
        for name, found in examined.items():
            if found.damages:
                lines.append(f"{name}: {_mended(opened.path_of(name), found)}")
    return [*lines, "next: run again, which does only that, and verify again"]


def _mended(path: str, found: Examined) -> str:
    from pipeline.store.mend import mend

    mended = mend(path, found.damages)
    if mended.moved:
        return f"moved to {mended.moved}, for nothing says what it holds"
    if mended.left == len(found.damages):
        return "left as it is: what cannot be read or moved is not dropped"
    left = f"; {mended.left} that cannot be read are left" if mended.left else ""
    return f"{mended.dropped} files dropped: what is torn, and what was made of it{left}"


def _diff(first: str, second: str, *, as_json: bool) -> int:
    from pipeline.checks.compare import compare
    from pipeline.clusters import cluster
    from pipeline.commands.progress import watching

    console = open_console()
    with cluster("threads"):
        if as_json:
            found = compare(first, second)
        else:
            with watching(console, "diff") as watch:
                found = compare(first, second, watch)
    if as_json:
        click.echo(json.dumps(_as_json(found), indent=2, ensure_ascii=False, default=str))
    else:
        print_lines(console, list(_said(found)))
    return INCOMPLETE if found.differences else 0


def _as_json(found: Comparison) -> dict[str, Any]:
    return {
        "equal": not found.differences,
        "differences": [each.as_json() for each in found.differences],
        "made_differently": [each.as_json() for each in found.made],
        "slides": found.slides,
        "blocks": found.blocks,
        "seconds": round(found.seconds, 3),
    }


def _said(found: Comparison) -> Iterator[str]:
    yield from map(str, found.differences)
    if found.made:
        yield "made differently, which is no difference of results:"
        yield from (f"  {each}" for each in found.made)
    count = len(found.differences)
    said = f"{count or 'no'} {'difference' if count < 2 else 'differences'}"
    compared = f"{found.slides} slides, {found.blocks:,} blocks compared in {found.seconds:.1f} s"
    yield f"{compared}: {said}"
