"""What becomes of a run's slides, and what a run tells of itself while it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.manifest import Job

__all__ = ["Report", "Silence", "SlideOutcome", "Summary"]


@dataclass(frozen=True)
class SlideOutcome:
    """What became of one slide, and why.

    ``done``; ``partial`` where blocks or exports are missing from a store that is there; or
    ``failed``.
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


@dataclass(frozen=True)
class Summary:
    """What became of a run."""

    directory: str
    outcomes: tuple[SlideOutcome, ...]
    seconds: float

    @property
    def complete(self) -> bool:
        """Whether every block of every slide is done."""
        return all(outcome.state == "done" for outcome in self.outcomes)


class Report(Protocol):
    """Told how a run goes on; `pipeline.progress` shows it."""

    def began(self, jobs: Sequence[Job], dashboard: str | None) -> None:
        """Say that a run begins."""
        ...

    def slide(self, job: Job) -> None:
        """Say that a slide begins."""
        ...

    def blocks(self, stage: str, finished: int, total: int) -> None:
        """Say how far its blocks are."""
        ...

    def note(self, text: str) -> None:
        """Say something the user should know."""
        ...

    def ended(self, outcome: SlideOutcome) -> None:
        """Say what became of a slide."""
        ...


@dataclass
class Silence:
    """A report that tells nobody but keeps the notes."""

    notes: list[str] = field(default_factory=list)

    def began(self, jobs: Sequence[Job], dashboard: str | None) -> None:
        """See `Report`."""

    def slide(self, job: Job) -> None:
        """See `Report`."""

    def blocks(self, stage: str, finished: int, total: int) -> None:
        """See `Report`."""

    def note(self, text: str) -> None:
        """See `Report`."""
        self.notes.append(text)

    def ended(self, outcome: SlideOutcome) -> None:
        """See `Report`."""
