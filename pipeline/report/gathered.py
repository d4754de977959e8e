"""What is known of a run and of each of its slides, from its books and its stores' metadata."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.books.lease import held
from pipeline.books.names import CONFIG, LEASE, MANIFEST, RUNS, STATUS, shards_of
from pipeline.books.rows import Row, read_rows
from pipeline.books.runs import read_runs
from pipeline.errors import ConfigError, StoreError
from pipeline.files import places
from pipeline.files.urls import join
from pipeline.results import Results, StoredSlide, open_results

__all__ = ["Entry", "Gathered", "gather"]


@dataclass(frozen=True)
class Entry:
    """What is known of one slide before any of its arrays is read.

    ``row`` is that of status.csv; ``path`` the slide's, where the manifest or the store says it;
    ``problem`` is why its store cannot be opened.
    """

    slide_id: str
    row: Row
    stored: StoredSlide | None = None
    path: str = ""
    problem: str = ""

    @property
    def state(self) -> str:
        """One of `pipeline.books.outcomes.STATES`, ``damaged``, or ``no store`` if it is gone."""
        if self.problem:
            return "damaged"
        if self.row.state in ("done", "partial") and self.stored is None:
            return "no store"
        if self.row.state == "pending" and self.stored is not None and self.stored.seen.committed:
            return self.stored.state  # made before there were books, or its books are gone
        return self.row.state

    @property
    def reason(self) -> str:
        """Why it is not done."""
        return self.problem or self.row.reason


@dataclass(frozen=True)
class Gathered:
    """A results directory: its runs, the last one first, its slides, and its run file.

    ``running`` is who writes there now; ``notes`` say what could not be read.
    """

    folder: str
    runs: Sequence[Mapping[str, Any]]
    entries: Sequence[Entry]
    config: str
    running: str
    notes: Sequence[str]


def gather(folder: str) -> Gathered:
    """Look at a results directory; `StoreError` where it holds no results.

    Books that are damaged are told of, and what they say is left out.
    """
    results = open_results(folder)
    there = places.names(folder)
    notes: list[str] = []
    runs = _runs(folder, there, notes)
    # The run that makes this of itself holds its lease to the end.
    over = os.getpid() if runs and runs[0].get("ended") else None
    holders = (held(folder, shard) for shard in (None, *shards_of(LEASE, there)))
    writing = (who for who in holders if who is not None and not (who.here and who.pid == over))
    running = next(map(str, writing), "")
    manifest = _manifest(folder, there, notes)
    rows = {row.slide_id: row for row in _rows(folder, there, notes, running=bool(running))}
    return Gathered(
        folder,
        runs,
        tuple(_entries(results, rows, manifest)),
        places.read(join(folder, CONFIG)).decode(errors="replace") if CONFIG in there else "",
        running,
        tuple(notes),
    )


def _entries(
    results: Results, rows: Mapping[str, Row], manifest: Mapping[str, str]
) -> Iterator[Entry]:
    """Give the slides as the manifest has them, then those only the books or the stores know."""
    names = dict.fromkeys([*manifest, *rows, *sorted([*results, *results.unopened])])
    for name in names:
        stored = results.slides.get(name)
        path = manifest.get(name, "")
        if not path and stored is not None:
            path = stored.provenance.get("slide", {}).get("path", "")
        problem = str(results.unopened[name]) if name in results.unopened else ""
        yield Entry(name, rows.get(name, Row(name)), stored, path, problem)


def _rows(folder: str, there: Sequence[str], notes: list[str], *, running: bool) -> Iterator[Row]:
    """Give the rows of all status files, each slide's last one after those before it."""
    found: list[Row] = []
    for name in [STATUS, *shards_of(STATUS, there).values()]:
        try:
            found += read_rows(join(folder, name))
        except StoreError as error:
            notes.append(str(error))
    for row in sorted(found, key=lambda row: row.updated):
        killed = row.state == "running" and not running
        yield replace(row, state="pending") if killed else row


def _runs(folder: str, there: Sequence[str], notes: list[str]) -> tuple[Mapping[str, Any], ...]:
    found: list[Mapping[str, Any]] = []
    for name in [RUNS, *shards_of(RUNS, there).values()]:
        try:
            found += read_runs(join(folder, name))
        except StoreError as error:
            notes.append(str(error))
    return tuple(sorted(found, key=lambda run: str(run.get("started", "")), reverse=True))


def _manifest(folder: str, there: Sequence[str], notes: list[str]) -> dict[str, str]:
    """Give the path of each slide of the kept manifest, by its id."""
    if MANIFEST not in there:
        return {}
    path = join(folder, MANIFEST)
    try:
        lines = csv.DictReader(io.StringIO(places.read_text(path), newline=""), strict=True)
        return {row["slide_id"]: row["image_path"] for row in lines if row["slide_id"]}
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error, KeyError) as error:
        notes.append(f"{path}: damaged: {error}; run again to have it written anew")
        return {}
