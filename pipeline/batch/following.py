"""A run as a notebook shows it: bars while it goes on, and in the end what became of it.

What is shown in the end stays in the notebook's file, readable without a kernel.
"""

from __future__ import annotations

import html
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pipeline.books.outcomes import SlideOutcome, Summary, describe_outcome
from pipeline.display.notebook import Shown
from pipeline.manifest.jobs import Job

__all__ = ["Following"]

_SECONDS_BETWEEN = 0.2
_MOST_LINES = 20
"""Slides under way, and lines of what happened, that are shown; the log has all."""


@dataclass
class Following:
    """A `pipeline.books.outcomes.Report` in the output of a cell; one call at a time."""

    dashboard: str | None = None
    slides: int = 0
    ended_slides: int = 0
    under_way: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    _shown: Shown | None = None
    _since: float = field(default_factory=time.monotonic)
    _told: float = 0.0

    def began(self, jobs: Sequence[Job], dashboard: str | None) -> None:
        """See `pipeline.books.outcomes.Report`."""
        self.slides, self.dashboard = len(jobs), dashboard
        self._tell(now=True)

    def slide(self, job: Job) -> None:
        """See `pipeline.books.outcomes.Report`."""
        self.under_way[job.slide_id] = ("looking for tissue", 0, 0)
        self._tell()

    def blocks(self, job: Job, stage: str, finished: int, total: int) -> None:
        """See `pipeline.books.outcomes.Report`."""
        if job.slide_id in self.under_way:
            self.under_way[job.slide_id] = (stage, finished, total)
            self._tell()

    def note(self, job: Job | None, text: str) -> None:
        """See `pipeline.books.outcomes.Report`."""
        self.lines.append(f"note: {text}" if job is None else f"note: {job.slide_id}: {text}")
        self._tell(now=True)

    def ended(self, outcome: SlideOutcome) -> None:
        """See `pipeline.books.outcomes.Report`."""
        self.ended_slides += self.under_way.pop(outcome.job.slide_id, None) is not None
        if outcome.state != "done":
            self.lines.append(describe_outcome(outcome))
        self._tell(now=outcome.state != "done")

    def closed(self, summary: Summary) -> None:
        """See `pipeline.books.outcomes.Report`."""
        self.under_way.clear()
        self.dashboard = None  # its link leads nowhere any more
        self.lines.append(summary.headline)
        self._tell(now=True)

    def _tell(self, *, now: bool = False) -> None:
        moment = time.monotonic()
        if not now and moment - self._told < _SECONDS_BETWEEN:
            return
        self._told = moment
        page, text = "".join(self._page()), "\n".join(self._text())
        if self._shown is None:
            self._shown = Shown(page, text)
        else:
            self._shown.replace(page, text)

    def _page(self) -> Iterator[str]:
        """Give what is shown, piece by piece; the colours are those of the page around it."""
        if self.under_way or self.ended_slides < self.slides:
            seconds = time.monotonic() - self._since
            yield "<table>"
            yield _bar("slides", f"{seconds:.0f} s", self.ended_slides, self.slides)
            for slide_id, (stage, finished, total) in self._listed():
                yield _bar(slide_id, stage, finished, total)
            yield "</table>"
        if self.dashboard:
            link = html.escape(self.dashboard, quote=True)
            yield f"<div>dashboard: <a href='{link}' target='_blank'>{link}</a></div>"
        yield from (f"<div>{html.escape(line)}</div>" for line in self.lines[-_MOST_LINES:])

    def _text(self) -> Iterator[str]:
        if self.under_way or self.ended_slides < self.slides:
            yield f"slides: {self.ended_slides} of {self.slides}"
            for slide_id, (stage, finished, total) in self._listed():
                yield f"{slide_id}: {stage} {finished}/{total}"
        if self.dashboard:
            yield f"dashboard: {self.dashboard}"
        yield from self.lines[-_MOST_LINES:]

    def _listed(self) -> list[tuple[str, tuple[str, int, int]]]:
        return list(self.under_way.items())[:_MOST_LINES]


def _bar(name: str, said: str, finished: int, total: int) -> str:
    """Give a row with a bar; one without a value, as a browser has it, where nothing is known."""
    value = f" value='{finished}' max='{total}'" if total else ""
    cells = (
        html.escape(name),
        f"<progress{value}></progress>",
        f"{finished}/{total}" if total else "",
        html.escape(said),
    )
    return "".join(
        ("<tr>", *(f"<td style='text-align:left'>{cell}</td>" for cell in cells), "</tr>")
    )
