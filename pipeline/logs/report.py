"""The log of a run: what happens, by slide and block, as JSON lines beside the results."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

from pipeline.books.outcomes import SlideOutcome, Summary
from pipeline.files.urls import join, shown
from pipeline.logs.listening import Entry, entry, listening
from pipeline.logs.logfile import LogFile
from pipeline.manifest.jobs import Job
from pipeline.manifest.shards import Shard
from pipeline.process import metrics

__all__ = ["LogReport", "logging_to"]

FOLDER = "logs"
"""Folder of the logs in a results directory."""

_LEVELS = {"done": "INFO", "pending": "INFO", "partial": "WARNING"}
"""How much it matters what became of a slide; the rest is an error."""


@contextmanager
def logging_to(directory: str, shard: Shard | None = None) -> Iterator[LogReport]:
    """Keep what happens during a ``with`` block in ``logs/run.jsonl`` of a results directory.

    Whatever is logged or warned of in this process; give the report for what the run itself
    tells. It goes on in the file that is there. ``shard`` is part of the file's name, for runs
    that work on one directory. If it cannot be written that is said once, and nothing raised.
    """
    name = f"run-{shard[0]}-of-{shard[1]}" if shard else "run"
    file = LogFile(join(directory, FOLDER), name)
    report = LogReport(file.write)
    with contextlib.ExitStack() as opened:
        opened.callback(file.close)
        opened.push(partial(_broken_off, file.write))
        opened.enter_context(listening(file.write))
        yield report


class LogReport:
    """A `pipeline.books.outcomes.Report` that is kept; of blocks only each stage's ends.

    What became of slides is also counted for `pipeline.process.metrics`.
    """

    def __init__(self, keep: Callable[[Entry], None]) -> None:
        self._keep = keep

    def of_workers(self, client: Any) -> AbstractContextManager[None]:
        """Keep for a ``with`` block what a client's workers log, too; None has none."""
        if client is None:
            return contextlib.nullcontext()
        from pipeline.logs.forwarding import workers_heard

        return workers_heard(client, self._keep)

    def began(self, jobs: Sequence[Job], dashboard: str | None) -> None:
        """See `pipeline.books.outcomes.Report`."""
        self._say("run began", slides=len(jobs), dashboard=dashboard)

    def slide(self, job: Job) -> None:
        """See `pipeline.books.outcomes.Report`."""
        self._say("slide began", job, path=shown(job.path))

    def blocks(self, job: Job, stage: str, finished: int, total: int) -> None:
        """See `pipeline.books.outcomes.Report`."""
        if finished == total:
            self._say(f"{stage}: {total} finished", job, work=stage, total=total)

    def note(self, job: Job | None, text: str) -> None:
        """See `pipeline.books.outcomes.Report`."""
        self._say(text, job, event="note")

    def ended(self, outcome: SlideOutcome) -> None:
        """See `pipeline.books.outcomes.Report`."""
        metrics.slide_ended(outcome.state, outcome.failed)
        self._say(
            f"slide {outcome.state}" + (f": {outcome.reason}" if outcome.reason else ""),
            outcome.job,
            level=_LEVELS.get(outcome.state, "ERROR"),
            state=outcome.state,
            analysed=outcome.analysed,
            background=outcome.background,
            failed=outcome.failed,
            computed=outcome.computed,
            seconds=round(outcome.seconds, 3),
            pixels=outcome.pixels,
            predicted_bytes=outcome.predicted_bytes,
            peak_bytes=outcome.peak_bytes,
        )

    def closed(self, summary: Summary) -> None:
        """See `pipeline.books.outcomes.Report`."""
        states = [outcome.state for outcome in summary.outcomes]
        self._say(
            "run ended" + (f" early, by signal {summary.signal}" if summary.signal else ""),
            level="INFO" if summary.complete else "WARNING",
            signal=summary.signal,
            seconds=round(summary.seconds, 3),
            slides={state: states.count(state) for state in sorted(set(states))},
        )

    def _say(
        self, message: str, job: Job | None = None, *, level: str = "INFO", **fields: Any
    ) -> None:
        about = {} if job is None else {"slide": job.slide_id}
        self._keep(entry(level, __name__, message, **about, **fields))


def _broken_off(
    keep: Callable[[Entry], None],
    _kind: type[BaseException] | None,
    error: BaseException | None,
    _trace: object,
) -> None:
    """Say of a run that ends by an error which one it was."""
    if error is not None:
        name = type(error).__name__
        keep(entry("ERROR", __name__, f"run broken off: {name}: {error}", error=name))
