"""The runs of a results directory, kept in run.json: when, where, by what, on what, to which end.

The file holds ``{"runs": [...]}``, the last one first, and is replaced whole.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from pipeline.books.holder import stamp, user
from pipeline.books.names import RUNS, cannot_hold, named
from pipeline.books.outcomes import SlideOutcome, Summary
from pipeline.books.provenance import surroundings
from pipeline.errors import StoreError
from pipeline.execute.schedulers import scheduler_in_force
from pipeline.files import places
from pipeline.files.notation import parse_json
from pipeline.files.urls import join, shown
from pipeline.manifest.jobs import Job
from pipeline.manifest.shards import Shard
from pipeline.model import Model

__all__ = ["MOST_RUNS", "RunRecord", "identities", "read_runs", "written"]

_log = logging.getLogger(__name__)

MOST_RUNS = 20
"""Runs that are kept."""

_EVERY_S = 10.0
"""Least time between two writings while slides end."""

_URL = re.compile(r"(?:s3|gs|https?)://[^\s'\",\]]+", re.IGNORECASE)


class RunRecord:
    """A `pipeline.books.outcomes.Report` that keeps run.json; close it, or use it in ``with``.

    ``kind`` is that of the cluster, ``arguments`` are those of the command.
    """

    def __init__(
        self,
        folder: str,
        shard: Shard | None = None,
        *,
        model: Model,
        kind: str,
        arguments: Sequence[str] = (),
    ) -> None:
        self._folder, self._path = folder, join(folder, named(RUNS, shard))
        self._states: dict[str, str] = {}
        self._slides: dict[str, str] = {}
        self._earlier: list[str] = []
        self._written = 0.0
        self._open = False
        self._run: dict[str, Any] = {
            "started": _now(),
            "ended": None,
            "exit": None,
            "user": user(),
            "pid": os.getpid(),
            **surroundings(),
            "arguments": [_URL.sub(lambda url: shown(url[0]), each) for each in arguments],
            "shard": shard,
            "scheduler": {"kind": kind},
            "models": _models(model),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        self._end("interrupted" if interrupted else None)

    def began(self, jobs: Sequence[Job], dashboard: str | None) -> None:  # noqa: ARG002
        """See `pipeline.books.outcomes.Report`; `ConfigError` where nothing can be written."""
        scheduler = scheduler_in_force()
        self._run["scheduler"] |= {
            "processes": scheduler.processes,
            "threads": scheduler.threads,
            "memory_limit_bytes": scheduler.limit_bytes,
        }
        self._states = {job.slide_id: "pending" for job in jobs}
        try:
            self._earlier = [_text(run) for run in read_runs(self._path)[: MOST_RUNS - 1]]
        except StoreError as error:
            _log.info("%s; written anew", error)
        try:
            self._write()
        except OSError as error:
            raise cannot_hold(self._folder, error) from error
        self._open = True

    def slide(self, job: Job) -> None:
        """See `pipeline.books.outcomes.Report`."""

    def blocks(self, job: Job, stage: str, finished: int, total: int) -> None:
        """See `pipeline.books.outcomes.Report`."""

    def note(self, job: Job | None, text: str) -> None:
        """See `pipeline.books.outcomes.Report`."""

    def ended(self, outcome: SlideOutcome) -> None:
        """See `pipeline.books.outcomes.Report`."""
        slide_id = outcome.job.slide_id
        self._states[slide_id] = outcome.state
        if outcome.identity:
            self._slides[slide_id] = outcome.identity
        if time.monotonic() - self._written >= _EVERY_S:
            self._count_jobs()
            self._write_or_tell()

    def closed(self, summary: Summary) -> None:
        """See `pipeline.books.outcomes.Report`."""
        self._count_jobs()
        if summary.signal is not None:
            self._end("interrupted")
        else:
            self._end("done" if summary.complete else "incomplete")

    def _end(self, how: str | None) -> None:
        if not self._open:
            return
        self._open = False
        self._run |= {"ended": _now(), "exit": how}
        self._write_or_tell()

    def _count_jobs(self) -> None:
        if ended := scheduler_in_force().jobs_ended:
            self._run["scheduler"] |= {"jobs_ended": ended}

    def _write_or_tell(self) -> None:
        try:
            self._write()
        except OSError as error:
            _log.warning("%s: cannot be written: %s", self._path, error.strerror)

    def _write(self) -> None:
        # Whatever becomes of it: what cannot be written is not tried with every slide.
        self._written = time.monotonic()
        run = {**self._run, "states": dict(Counter(self._states.values())), "slides": self._slides}
        places.write_whole(self._path, _joined([_text(run), *self._earlier]))


def written(runs: Iterable[Mapping[str, Any]]) -> bytes:
    """Give runs, the last one first, as the content of a file."""
    return _joined(map(_text, runs))


def read_runs(path: str) -> tuple[Mapping[str, Any], ...]:
    """Read a file of runs, the last one first; none where there is no file.

    Raises `StoreError` where it cannot be read, or is none.
    """
    try:
        said = parse_json(places.read(path))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # no JSON, or no text
        raise StoreError(f"{path}: damaged: {error}; remove it, and run again") from error
    runs = said.get("runs") if isinstance(said, dict) else None
    if not isinstance(runs, list) or not all(map(_may_be_run, runs)):
        raise StoreError(f"{path}: holds no list of runs; remove it, and run again")
    return tuple(runs)


def _may_be_run(said: object) -> bool:
    """Say whether it has what a run has, where it has it: other programs may have written it."""
    if not isinstance(said, dict):
        return False
    slides, states = said.get("slides", {}), said.get("states", {})
    return isinstance(slides, dict) and isinstance(states, dict)


def identities(runs: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Give the identity of each slide that was opened, as the last run that did so found it."""
    found: dict[str, str] = {}
    for run in runs:
        found = {**run.get("slides", {}), **found}
    return found


def _models(model: Model) -> list[dict[str, Any]]:
    cards = (model.card, *model.others)
    return [
        {
            "name": card.name,
            "version": card.version,
            "sha256": member.digest,
            "provider": member.provider,
        }
        for card, member in zip(cards, model.ref.members, strict=True)
    ]


def _joined(runs: Iterable[str]) -> bytes:
    return ('{"runs": [\n' + ",\n".join(runs) + "\n]}\n").encode()


def _text(run: Mapping[str, Any]) -> str:
    return json.dumps(run, indent=1, ensure_ascii=False)


def _now() -> str:
    return stamp(time.time())
