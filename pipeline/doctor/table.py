"""What is looked at of a run file, in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from pipeline.doctor import cluster as clusters
from pipeline.doctor import directory, inputs
from pipeline.doctor.case import ELSEWHERE, Case
from pipeline.doctor.findings import Check

__all__ = ["CLUSTER", "RUN", "checks_of"]

RUN = (
    Check("slides", inputs.slides),
    Check("missing", inputs.missing, ("slides",)),
    Check("first slide", inputs.first_slide, ("slides",)),
    Check("model", inputs.model, ("onnxruntime",)),
    Check("results", directory.results),
    Check("lease", directory.lease, ("results",)),
    Check("plan", inputs.plan, ("first slide", "model", "results")),
    Check("space", directory.space, ("plan",)),
    Check("memory", inputs.memory, ("plan",)),
    Check("dashboard", clusters.dashboard),
)
"""Of a run file, with nothing started."""

CLUSTER = (
    Check("workers", clusters.workers),
    Check("round trips", clusters.round_trips, ("workers",)),
    Check("clocks", clusters.clocks, ("round trips",)),
    Check("versions", clusters.versions_there, ("round trips",)),
    Check("shared files", clusters.shared_files, ("versions", "results")),
    Check("slide there", clusters.slide_there, ("versions", "first slide")),
    Check("model there", clusters.model_there, ("versions", "model")),
    Check("memory there", clusters.memory_there, ("workers", "plan")),
)
"""Of a run file's workers."""


def checks_of(case: Case, *, cluster: bool) -> Iterator[Check]:
    """Give the checks that fit a run file; with ``cluster`` those of its workers too."""
    for check in (*RUN, *(CLUSTER if cluster else ())):
        if _applies(check, case.config.cluster.kind):
            yield replace(check, look=partial(check.look, case))


def _applies(check: Check, kind: str) -> bool:
    """Say whether there is anything to look at in a kind of cluster."""
    if check.name == "dashboard":
        return kind not in ("threads", *ELSEWHERE)  # the scheduler is not ours
    if check.name in ("memory", "memory there"):
        return (kind in ELSEWHERE) == (check.name == "memory there")
    return kind != "threads" or check not in CLUSTER
