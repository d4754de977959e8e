"""How a run is shown in a terminal: bars with an ETA, or one line now and then without one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pipeline.books.outcomes import SlideOutcome, Summary, describe_outcome
from pipeline.execute.work import Watch
from pipeline.manifest.jobs import Job

__all__ = ["Bars", "Lines", "report_for", "watching"]

_SECONDS_BETWEEN_LINES = 10.0


def report_for(console: Console) -> Bars | Lines:
    """Give the report that fits where the output goes."""
    return Bars(console) if console.is_terminal else Lines(console)


@contextmanager
def watching(console: Console, name: str) -> Iterator[Watch]:
    """Show for a ``with`` block how far one slide is: a bar with an ETA, or lines in a log."""
    if not console.is_terminal:
        yield _Pace(console, name).tell
        return
    with _bars(console) as progress:
        task = progress.add_task(name, total=None)
        stage = ""

        def tell(what: str, finished: int, total: int) -> None:
            nonlocal stage
            if what != stage:  # a new stage has a pace of its own
                progress.reset(task, total=total, description=f"{name}: {what}")
                stage = what
            progress.update(task, completed=finished, total=total)

        yield tell


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


class Bars:
    """A bar for the slides, and one for the blocks of each slide under way."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = _bars(console)
        self._total: TaskID | None = None
        self._under_way: dict[str, TaskID] = {}
        self._stages: dict[str, str] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def began(self, jobs: Sequence[Job], dashboard: str | None) -> None:
        """See `pipeline.books.outcomes.Report`."""
        if dashboard:
            self._say(f"dashboard: {dashboard}")
        self._total = self._progress.add_task("slides", total=len(jobs))

    def slide(self, job: Job) -> None:
        """See `pipeline.books.outcomes.Report`."""
        self._leave(job)
        title = f"{job.slide_id}: looking for tissue"
        self._under_way[job.slide_id] = self._progress.add_task(title, total=None)

    def blocks(self, job: Job, stage: str, finished: int, total: int) -> None:
        """See `pipeline.books.outcomes.Report`."""
        task = self._under_way.get(job.slide_id)
        if task is None:
            return
        if stage != self._stages.get(job.slide_id):
            # A new stage has a pace of its own.
            self._progress.reset(task, total=total, description=f"{job.slide_id}: {stage}")
            self._stages[job.slide_id] = stage
        self._progress.update(task, completed=finished, total=total)

    def note(self, job: Job | None, text: str) -> None:
        """See `pipeline.books.outcomes.Report`."""
        self._say(_note(job, text))

    def ended(self, outcome: SlideOutcome) -> None:
        """See `pipeline.books.outcomes.Report`."""
        self._leave(outcome.job)
        self._say(describe_outcome(outcome))

    def closed(self, summary: Summary) -> None:
        """See `pipeline.books.outcomes.Report`."""

    def _leave(self, job: Job) -> None:
        task = self._under_way.pop(job.slide_id, None)
        self._stages.pop(job.slide_id, None)
        if task is None:
            return
        self._progress.remove_task(task)
        if self._total is not None:
            self._progress.advance(self._total)

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class Lines:
    """Plain lines for logs: a slide's end, and every few seconds how far it is."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._slides = self._begun = 0
        self._paces: dict[str, _Pace] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def began(self, jobs: Sequence[Job], dashboard: str | None) -> None:
        """See `pipeline.books.outcomes.Report`."""
        self._slides = len(jobs)
        if dashboard:
            self._say(f"dashboard: {dashboard}")

    def slide(self, job: Job) -> None:
        """See `pipeline.books.outcomes.Report`."""
        self._paces[job.slide_id] = _Pace(self._console, job.slide_id)
        self._begun += 1
        self._say(f"{job.slide_id}: slide {self._begun} of {self._slides}")

    def blocks(self, job: Job, stage: str, finished: int, total: int) -> None:
        """See `pipeline.books.outcomes.Report`."""
        if job.slide_id in self._paces:
            self._paces[job.slide_id].tell(stage, finished, total)

    def note(self, job: Job | None, text: str) -> None:
        """See `pipeline.books.outcomes.Report`."""
        self._say(_note(job, text))

    def ended(self, outcome: SlideOutcome) -> None:
        """See `pipeline.books.outcomes.Report`."""
        self._paces.pop(outcome.job.slide_id, None)
        self._say(describe_outcome(outcome))

    def closed(self, summary: Summary) -> None:
        """See `pipeline.books.outcomes.Report`."""

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def _note(job: Job | None, text: str) -> str:
    return f"note: {text}" if job is None else f"note: {job.slide_id}: {text}"


class _Pace:
    """A line every few seconds, saying how far something is."""

    def __init__(self, console: Console, name: str) -> None:
        self._console, self._name, self._stage = console, name, ""
        self._since = self._told = time.monotonic()

    def tell(self, stage: str, finished: int, total: int) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._since, self._told = stage, now, now
        if now - self._told < _SECONDS_BETWEEN_LINES or finished == total:
            return
        self._told = now
        left = (now - self._since) / finished * (total - finished)
        self._console.print(
            f"{self._name}: {stage} {finished}/{total}, about {left:.0f} s left",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
