"""What becomes of a run's slides, and what a run tells of itself while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Protocol

from pipeline.manifest.jobs import Job

__all__ = ["STATES", "Observers", "Report", "Silence", "SlideOutcome", "Summary"]

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


@dataclass(frozen=True)
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
