"""The books of shards put together: what has become of all slides, and what is missing."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.books.lease import held
from pipeline.books.names import LEASE, RUNS, STATUS, named, shards_of
from pipeline.books.rows import Row, read_rows, written
from pipeline.books.runs import MOST_RUNS, read_runs
from pipeline.books.runs import written as runs_written
from pipeline.errors import ConfigError, StoreError
from pipeline.files import places
from pipeline.files.urls import join
from pipeline.manifest.shards import Shard

__all__ = ["Merged", "merge"]

MANIFEST = "manifest.csv"


@dataclass(frozen=True)
class Merged:
    """What shards have done together.

    ``missing_slides`` are in the directory's manifest and in no shard; None where there is no
    manifest. ``running`` are the shards that are at work.
    """

    directory: str
    rows: tuple[Row, ...]
    shards: Mapping[Shard, tuple[Row, ...]]
    missing_shards: tuple[Shard, ...]
    missing_slides: tuple[str, ...] | None
    running: tuple[Shard, ...]

    @property
    def complete(self) -> bool:
        """Whether all slides of all shards are done, and none is missing."""
        done = all(row.state == "done" for row in self.rows)
        return done and not self.missing_shards and not self.missing_slides


def merge(folder: str) -> Merged:
    """Put the books of all shards together into status.csv and run.json.

    Of each slide the row that was changed last counts, so that slides may be shared out anew. It
    can be done at any time, and again. Raises `ConfigError` where there are no shards, or a run
    of all slides is at work; `StoreError` where a shard's books are damaged.
    """
    try:
        there = places.names(folder)
        if (holder := held(folder)) is not None:
            raise ConfigError(f"{folder}: a run {holder} and keeps its books itself; wait for it")
        merged = _read(folder, there)
        places.write_whole(join(folder, STATUS), written(merged.rows))
        places.write_whole(join(folder, RUNS), runs_written(_runs(folder, there)))
    except StoreError:
        raise
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror}; name a results directory") from error
    return merged


def _read(folder: str, there: Sequence[str]) -> Merged:
    names = shards_of(STATUS, there)
    if not names:
        raise ConfigError(
            f"{folder}: no {named(STATUS, (1, 2))} or the like; run with --shard first"
        )
    running = tuple(shard for shard in shards_of(LEASE, there) if held(folder, shard))
    shards = {
        shard: tuple(_settled(read_rows(join(folder, name)), shard in running))
        for shard, name in names.items()
    }
    manifest = _manifest(join(folder, MANIFEST)) if MANIFEST in there else None
    found = _latest([*_whole(folder, manifest), *(row for rows in shards.values() for row in rows)])
    missing = None if manifest is None else [name for name in manifest if name not in found]
    return Merged(
        folder,
        tuple(_ordered(found, manifest or ())),
        shards,
        tuple(_missing(shards)),
        None if missing is None else tuple(missing),
        running,
    )


def _settled(rows: Sequence[Row], running: bool) -> Iterator[Row]:
    """Give rows as they are now: of a shard that was killed, no slide is running."""
    for row in rows:
        yield replace(row, state="pending") if row.state == "running" and not running else row


def _whole(folder: str, manifest: Sequence[str] | None) -> list[Row]:
    """Give what runs of all slides have brought to an end, and earlier merging has written."""
    rows = read_rows(join(folder, STATUS))
    ended = [row for row in rows if row.state not in ("pending", "running")]
    return [row for row in ended if manifest is None or row.slide_id in manifest]


def _latest(rows: Sequence[Row]) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for row in rows:
        if row.slide_id not in found or row.updated >= found[row.slide_id].updated:
            found[row.slide_id] = row
    return found


def _ordered(found: Mapping[str, Row], manifest: Sequence[str]) -> Iterator[Row]:
    yield from (found[name] for name in manifest if name in found)
    named_there = set(manifest)
    yield from (row for name, row in found.items() if name not in named_there)


def _missing(shards: Mapping[Shard, Sequence[Row]]) -> Iterator[Shard]:
    """Give the shards that have not begun, of as many as there were shared out last."""
    last = max(shards, key=lambda shard: max((row.updated for row in shards[shard]), default=""))
    count = last[1]
    yield from ((each, count) for each in range(1, count + 1) if (each, count) not in shards)


def _manifest(path: str) -> list[str]:
    """Give the ids in the manifest that a run has kept."""
    rows = csv.DictReader(io.StringIO(places.read_text(path), newline=""))
    if "slide_id" not in (rows.fieldnames or ()):
        raise ConfigError(f"{path}: no column slide_id; run again to have it written anew")
    return [row["slide_id"] for row in rows if row["slide_id"]]


def _runs(folder: str, there: Sequence[str]) -> list[Mapping[str, Any]]:
    """Give the last run of each shard and the runs of all slides, the last one first."""
    whole = [run for run in read_runs(join(folder, RUNS)) if not run.get("shard")]
    shards = [
        run for name in shards_of(RUNS, there).values() for run in read_runs(join(folder, name))[:1]
    ]
    runs = [*shards, *whole[:MOST_RUNS]]
    return sorted(runs, key=lambda run: str(run.get("started", "")), reverse=True)
