"""A run file that is looked at: what several checks look at is opened once, for all of them."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property

from pipeline.batch import make_demo
from pipeline.batch.recipe import Recipe, slide_of
from pipeline.books.outcomes import Silence
from pipeline.clusters import cluster
from pipeline.clusters.workforce import Workforce, workforce_of
from pipeline.config import RunConfig
from pipeline.doctor.team import Team, started
from pipeline.errors import SlideError
from pipeline.files import places
from pipeline.manifest.jobs import Job, jobs, missing
from pipeline.plan import Plan
from pipeline.plan.memory import Worker
from pipeline.slide import Slide

__all__ = ["ELSEWHERE", "Case"]

ELSEWHERE = ("address", "scheduler_file")
"""Kinds of clusters whose workers are known once they answer, and not before."""


@dataclass
class Case:
    """A run file, and what its checks have opened; ``opened`` closes it.

    ``timeout_s`` is how long workers are waited for.
    """

    config: RunConfig
    timeout_s: float
    opened: ExitStack
    workforce: Workforce = field(init=False)

    def __post_init__(self) -> None:
        kind = self.config.cluster.kind
        # Now: once this process has tried the model it has more in use than a run begins with.
        unknown = Workforce(Worker(), unknown="they are asked once they answer")
        self.workforce = unknown if kind in ELSEWHERE else workforce_of(self.config.cluster)

    @property
    def folder(self) -> str:
        """Where the results are to be."""
        return places.absolute(self.config.output.directory)

    @cached_property
    def jobs(self) -> tuple[Job, ...]:
        """Its slides; the synthetic one is written where it asks for that."""
        make_demo(self.config, Silence())
        return jobs(self.config)

    @cached_property
    def missing(self) -> list[tuple[Job, str]]:
        """The slides that are not there, and why."""
        return missing(self.jobs)

    @cached_property
    def first(self) -> Job:
        """The first slide that is there; `SlideError` where none is."""
        absent = {job.slide_id for job, _ in self.missing}
        for job in self.jobs:
            if job.slide_id not in absent:
                return job
        raise SlideError("slides: none of them is there; check the paths")

    @cached_property
    def slide(self) -> Slide:
        """The first slide that is there, opened as a run would."""
        return slide_of(self.config, self.first)

    @cached_property
    def recipe(self) -> Recipe:
        """Its model, loaded, and what finds its tissue."""
        return Recipe.of(self.config)

    @cached_property
    def plan(self) -> Plan:
        """What would be done with the first slide."""
        recipe = replace(self.recipe, worker=self.workforce.worker)
        with cluster("threads"):
            return recipe.plan(self.first, lambda _note: None)

    @cached_property
    def team(self) -> Team:
        """Its workers, started or found, and waited for."""
        return started(self.config, self.timeout_s, self.opened)
