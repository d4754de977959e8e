"""What becomes of a run's slides, and what a run tells of itself while it goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Protocol

from pipeline.display.describe import as_html, as_text
from pipeline.manifest.jobs import Job

__all__ = [
    "STATES",
    "Observers",
    "Report",
    "Silence",
    "SlideOutcome",
    "Summary",
    "describe_outcome",
]

_MOST_ROWS = 50

STATES = ("pending", "running", "done", "partial", "failed", "refused")
"""What a slide of a run can be."""


@dataclass(frozen=True)
class SlideOutcome:
    """What became of one slide, and why.

    ``done``; ``partial`` where blocks or exports are missing from a store that is there;
    ``failed``; ``refused`` where nothing was begun, because its store was made with other
    settings or it would not fit into memory; ``pending`` where the run was ended before it was.

    ``pixels`` are those of the blocks computed now, as the model sees them. ``predicted_bytes``
    and ``peak_bytes`` are of the largest worker; 0 where not known.
    """

    job: Job
    state: str
    analysed: int = 0
    background: int = 0
    failed: int = 0
    computed: int = 0
    seconds: float = 0.0
    reason: str = ""
    made: tuple[str, ...] = ()
    pixels: int = 0
    predicted_bytes: int = 0
    peak_bytes: int = 0
    identity: str = ""


@dataclass(frozen=True, repr=False)
class Summary:
    """What became of a run; ``signal`` is the one that ended it early.

    ``made`` is what was made of the whole run, ``broken`` why something could not be.
    """

    directory: str
    outcomes: tuple[SlideOutcome, ...]
    seconds: float
    signal: int | None = None
    made: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every block of every slide is done, and all is made that was asked for."""
        return not self.broken and all(outcome.state == "done" for outcome in self.outcomes)

    @property
    def headline(self) -> str:
        """How many slides are done, how many are not, and how long it took."""
        states = [outcome.state for outcome in self.outcomes]
        counts = Counter(state for state in states if state != "done")
        others = "".join(f", {count} {state}" for state, count in sorted(counts.items()))
        done = f"{states.count('done')} of {len(states)} slides done"
        return f"{done}{others} in {self.seconds:.1f} s"

    def table(self) -> list[tuple[str, ...]]:
        """Say per slide, under a head: id, state, blocks in each state, seconds, reason."""
        head = ("slide", "state", "analysed", "background", "failed", "seconds", "reason")
        return [head, *(_row(outcome) for outcome in self.outcomes)]

    def __repr__(self) -> str:
        facts = {"results": self.directory, "slides": self.headline}
        return as_text("Run", facts, [describe_outcome(each) for each in self._listed])

    def _repr_html_(self) -> str:
        facts = {"results": self.directory, "slides": self.headline}
        head, *rows = self.table()
        if len(rows) > _MOST_ROWS:
            facts["more"] = f"{len(rows) - _MOST_ROWS} slides; status.csv of the results has all"
        return as_html("Run", facts, [head, *rows[:_MOST_ROWS]])

    @property
    def _listed(self) -> tuple[SlideOutcome, ...]:
        return self.outcomes[:_MOST_ROWS]


def describe_outcome(outcome: SlideOutcome) -> str:
    """Say in a line what became of a slide."""
    if outcome.state in ("failed", "refused"):
        return f"{outcome.job.slide_id}: {outcome.state}: {outcome.reason}"
    if outcome.state == "pending":
        return f"{outcome.job.slide_id}: not ended; what is stored stays"
    text = (
        f"{outcome.job.slide_id}: {outcome.state}: {outcome.analysed} blocks analysed, "
        f"{outcome.background} background, {outcome.failed} failed "
        f"({outcome.computed} computed now, {outcome.seconds:.1f} s)"
    )
    return f"{text}: {outcome.reason}" if outcome.reason else text


def _row(outcome: SlideOutcome) -> tuple[str, ...]:
    counts = (outcome.analysed, outcome.background, outcome.failed)
    return (
        *(outcome.job.slide_id, outcome.state),
        *(str(count) for count in counts),
        *(f"{outcome.seconds:.1f}", outcome.reason),
    )


class Report(Protocol):
    """Told how a run goes on, from several threads; `pipeline.commands.progress` shows it."""

    def began(self, jobs: Sequence[Job], dashboard: str | None) -> None:
        """Say that a run begins."""
        ...

    def slide(self, job: Job) -> None:
        """Say that a slide begins; several may be under way at once."""
        ...

    def blocks(self, job: Job, stage: str, finished: int, total: int) -> None:
        """Say how far a slide's blocks are."""
        ...

    def note(self, job: Job | None, text: str) -> None:
        """Say something the user should know, of a slide or of the run."""
        ...

    def ended(self, outcome: SlideOutcome) -> None:
        """Say what became of a slide."""
        ...

    def closed(self, summary: Summary) -> None:
        """Say what became of the run."""
        ...


@dataclass
class Silence:
    """A report that tells nobody but keeps the notes."""

    notes: list[str] = field(default_factory=list)

    def began(self, jobs: Sequence[Job], dashboard: str | None) -> None:
        """See `Report`."""

    def slide(self, job: Job) -> None:
        """See `Report`."""

    def blocks(self, job: Job, stage: str, finished: int, total: int) -> None:
        """See `Report`."""

    def note(self, job: Job | None, text: str) -> None:
        """See `Report`."""
        self.notes.append(text if job is None else f"{job.slide_id}: {text}")

    def ended(self, outcome: SlideOutcome) -> None:
        """See `Report`."""

    def closed(self, summary: Summary) -> None:
        """See `Report`."""


@dataclass(frozen=True)
class Observers:
    """Several reports told as one, one call at a time: they need no locks of their own."""

    reports: Sequence[Report]
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    def began(self, jobs: Sequence[Job], dashboard: str | None) -> None:
        """See `Report`."""
        self._tell(lambda each: each.began(jobs, dashboard))

    def slide(self, job: Job) -> None:
        """See `Report`."""
        self._tell(lambda each: each.slide(job))

    def blocks(self, job: Job, stage: str, finished: int, total: int) -> None:
        """See `Report`."""
        self._tell(lambda each: each.blocks(job, stage, finished, total))

    def note(self, job: Job | None, text: str) -> None:
        """See `Report`."""
        self._tell(lambda each: each.note(job, text))

    def ended(self, outcome: SlideOutcome) -> None:
        """See `Report`."""
        self._tell(lambda each: each.ended(outcome))

    def closed(self, summary: Summary) -> None:
        """See `Report`."""
        self._tell(lambda each: each.closed(summary))

    def _tell(self, tell: Callable[[Report], None]) -> None:
        with self._lock:
            for each in self.reports:
                tell(each)
