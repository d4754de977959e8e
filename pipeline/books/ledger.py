"""What has become of each slide of a run, kept in status.csv while the run goes on.

The file is replaced whole, so that it can be read at any moment: when a run begins, about once a
second while something changes, and when it ends.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Self

from pipeline.books.holder import stamp
from pipeline.books.names import STATUS, cannot_hold, named
from pipeline.books.outcomes import SlideOutcome, Summary
from pipeline.books.rows import HEAD, Row, read_rows
from pipeline.errors import StoreError
from pipeline.files import places
from pipeline.files.urls import is_url, join
from pipeline.manifest.jobs import Job
from pipeline.manifest.shards import Shard

__all__ = ["Ledger"]

_log = logging.getLogger(__name__)

_EVERY_S, _EVERY_REMOTE_S = 1.0, 5.0
"""Least time between two writings; a bucket's server is paid for each."""

_MIB = 2**20


class Ledger:
    """A `pipeline.books.outcomes.Report` that keeps status.csv; close it, or use it in ``with``.

    An event costs microseconds: what is written is written by a thread that sleeps where nothing
    happens. Rows of slides that this run does not have stay as they are.
    """

    def __init__(
        self, folder: str, shard: Shard | None = None, *, every_s: float | None = None
    ) -> None:
        self._folder = folder
        self._path = join(folder, named(STATUS, shard))
        self._every_s = every_s or (_EVERY_REMOTE_S if is_url(folder) else _EVERY_S)
        self._rows: dict[str, Row] = {}
        self._before: dict[str, Row] = {}
        self._began: dict[str, float] = {}
        self._lines: dict[str, str] = {}
        self._lock = threading.Lock()
        self._changed, self._stop = threading.Event(), threading.Event()
        self._writer: threading.Thread | None = None
        self._told = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def began(self, jobs: Sequence[Job], dashboard: str | None) -> None:  # noqa: ARG002
        """See `pipeline.books.outcomes.Report`; `ConfigError` where nothing can be written."""
        earlier = self._earlier()
        rows = {job.slide_id: earlier.get(job.slide_id, Row(job.slide_id)) for job in jobs}
        self._rows = {**rows, **{name: row for name, row in earlier.items() if name not in rows}}
        self._before = dict(self._rows)
        try:
            self._write()
        except OSError as error:
            raise cannot_hold(self._folder, error) from error
        self._writer = threading.Thread(target=self._go_on, name="pipeline-ledger", daemon=True)
        self._writer.start()

    def slide(self, job: Job) -> None:
        """See `pipeline.books.outcomes.Report`."""
        with self._lock:
            self._began[job.slide_id] = time.monotonic()
            self._put(replace(self._row(job), state="running", reason="", updated=_now()))

    def blocks(self, job: Job, stage: str, finished: int, total: int) -> None:
        """See `pipeline.books.outcomes.Report`."""
        if stage != "blocks":
            return
        with self._lock:
            self._put(replace(self._row(job), blocks_done=finished, blocks_total=total))

    def note(self, job: Job | None, text: str) -> None:
        """See `pipeline.books.outcomes.Report`."""

    def ended(self, outcome: SlideOutcome) -> None:
        """See `pipeline.books.outcomes.Report`."""
        job = outcome.job
        with self._lock:
            self._began.pop(job.slide_id, None)
            before = self._before.get(job.slide_id, Row(job.slide_id))
            self._put(_ended(self._row(job), before, outcome))

    def closed(self, summary: Summary) -> None:  # noqa: ARG002
        """See `pipeline.books.outcomes.Report`."""
        self._close()

    def _row(self, job: Job) -> Row:
        return self._rows.get(job.slide_id) or Row(job.slide_id)

    def _put(self, row: Row) -> None:
        self._rows[row.slide_id] = row
        self._lines.pop(row.slide_id, None)
        self._changed.set()

    def _earlier(self) -> dict[str, Row]:
        """Give what an earlier run has written; what it was doing when it was killed is undone."""
        try:
            rows = read_rows(self._path)
        except StoreError as error:
            _log.info("%s; written anew", error)
            rows = ()
        return {row.slide_id: _left(row) for row in rows}

    def _close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is None:
            return
        self._stop.set()
        self._changed.set()
        writer.join()
        with self._lock:
            for name in self._began:
                self._put(_left(self._at(self._rows[name])))
            self._began.clear()
        self._write_or_tell()

    def _go_on(self) -> None:
        while True:
            self._changed.wait()
            if self._stop.is_set():
                return
            self._changed.clear()
            self._write_or_tell()
            self._stop.wait(self._every_s)

    def _write_or_tell(self) -> None:
        """Write, or say once that it cannot be: a disk that is full may have room again."""
        try:
            self._write()
            self._told = False
        except OSError as error:
            if not self._told:
                _log.warning(
                    "%s: cannot be written: %s; it is not what it should be",
                    *(self._path, error.strerror),
                )
            self._told = True
            self._changed.set()

    def _write(self) -> None:
        places.write_whole(self._path, self._text().encode())

    def _text(self) -> str:
        """Give the file; only lines that have changed are made anew."""
        with self._lock:
            for name in self._began:
                self._lines[name] = self._at(self._rows[name]).line()
            for name, row in self._rows.items():
                if name not in self._lines:
                    self._lines[name] = row.line()
            return "".join([HEAD, *(self._lines[name] for name in self._rows)])

    def _at(self, row: Row) -> Row:
        """Give the row of a slide under way with the seconds it has taken so far."""
        taken = time.monotonic() - self._began[row.slide_id]
        return replace(row, seconds=round(taken, 1), mpx_per_s=None)


def _left(row: Row) -> Row:
    """Give a row as it is when nobody works on its slide any more."""
    if row.state != "running":
        return row
    return replace(row, state="pending", updated=_now())


def _ended(row: Row, before: Row, outcome: SlideOutcome) -> Row:
    """Give the row of a slide that has come to its end; ``before`` is that of an earlier run."""
    row = replace(row, state=outcome.state, reason=" ".join(outcome.reason.split()), updated=_now())
    blocks = (outcome.analysed, outcome.background, outcome.failed)
    if any(blocks):
        done, background, failed = blocks
        row = replace(row, blocks_done=done, blocks_background=background)
        row = replace(row, blocks_failed=failed, blocks_total=sum(blocks))
    if not outcome.computed and before.state == outcome.state:
        # What was there already took as long, and as much, as it did then.
        return replace(
            row,
            seconds=before.seconds,
            mpx_per_s=before.mpx_per_s,
            predicted_mib=before.predicted_mib,
            peak_mib=before.peak_mib,
        )
    return replace(
        row,
        seconds=round(outcome.seconds, 1),
        mpx_per_s=_pace(outcome),
        predicted_mib=_mib(outcome.predicted_bytes),
        peak_mib=_mib(outcome.peak_bytes),
    )


def _pace(outcome: SlideOutcome) -> float | None:
    if not outcome.pixels or outcome.seconds <= 0:
        return None
    return round(outcome.pixels / 1e6 / outcome.seconds, 2)


def _mib(amount: int) -> int | None:
    return round(amount / _MIB) if amount else None


def _now() -> str:
    return stamp(time.time())
