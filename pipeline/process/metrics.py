"""What this process has done, in numbers: blocks, pixels, seconds of each stage.

Plain counters. Where prometheus_client is installed Dask's servers have it loaded, and what is
counted here is on the ``/metrics`` of the process: a worker's, or the scheduler's where that
lives in the client.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, NamedTuple

__all__ = ["Done", "count", "slide_ended", "taken", "totals"]

_MOST_SLIDES = 1000
"""Slides whose seconds are kept apart until `taken`; those of a run that died never are."""


class Done(NamedTuple):
    """One stage of one block: ``pixels`` of a block that is done with it, none before."""

    seconds: float
    pixels: int = 0
    failed: bool = False


@dataclass
class Counted:
    """Blocks done, attempts at a block that failed, pixels of what is done, seconds per stage."""

    blocks: int = 0
    attempts_failed: int = 0
    pixels: int = 0
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, stage: str, done: Done) -> None:
        """Count one stage of one block."""
        self.seconds[stage] += done.seconds
        if done.failed:
            self.attempts_failed += 1
        elif done.pixels:
            self.blocks += 1
            self.pixels += done.pixels


@dataclass
class _Process:
    """All counters of this process."""

    lock: Lock = field(default_factory=Lock)
    total: Counted = field(default_factory=Counted)
    by_slide: dict[str, Counted] = field(default_factory=dict)
    slides: Counter[str] = field(default_factory=Counter)
    blocks_failed: int = 0
    exposed: bool = False


_HERE = _Process()


def count(slide: str, stage: str, done: Done) -> None:
    """Count one stage of one block of a slide."""
    with _HERE.lock:
        _HERE.total.add(stage, done)
        if slide not in _HERE.by_slide:
            while len(_HERE.by_slide) >= _MOST_SLIDES:
                _HERE.by_slide.pop(next(iter(_HERE.by_slide)))
            _HERE.by_slide[slide] = Counted()
        _HERE.by_slide[slide].add(stage, done)
    _expose()


def slide_ended(state: str, blocks_failed: int) -> None:
    """Count a slide in the client, by what became of it, and its blocks that were given up."""
    with _HERE.lock:
        _HERE.slides[state] += 1
        _HERE.blocks_failed += blocks_failed
    _expose()


def taken(slide: str) -> dict[str, float]:
    """Give the seconds this process spent in each stage of a slide, and forget them.

    For `Scheduler.everywhere`; their sum over processes is the slide's. What a worker that died
    had spent is not known.
    """
    with _HERE.lock:
        counted = _HERE.by_slide.pop(slide, Counted())
    return dict(counted.seconds)


def totals() -> dict[str, float]:
    """Give all numbers of this process, by their Prometheus names."""
    return {
        f"{family.name}_total{_labels(labels)}": value
        for family in _families()
        for labels, value in family.values
    }


class _Family(NamedTuple):
    """One metric: each of its values has its labels."""

    name: str
    said: str
    values: list[tuple[dict[str, str], float]]


def _families() -> list[_Family]:
    with _HERE.lock:
        total, slides = _HERE.total, dict(_HERE.slides)
        blocks = [({"state": "done"}, total.blocks), ({"state": "failed"}, _HERE.blocks_failed)]
        failed, pixels, seconds = total.attempts_failed, total.pixels, dict(total.seconds)
    return [
        _Family("wsi_pipeline_blocks", "Blocks done here; failed for good (client).", [*blocks]),
        _Family("wsi_pipeline_attempts_failed", "Failed attempts at a block.", [({}, failed)]),
        _Family("wsi_pipeline_pixels", "Pixels of the blocks done, as models see.", [({}, pixels)]),
        _Family(
            "wsi_pipeline_stage_seconds",
            "Time spent in each stage of blocks.",
            [({"stage": stage}, spent) for stage, spent in seconds.items()],
        ),
        _Family(
            "wsi_pipeline_slides",
            "Slides that ended, by state (client).",
            [({"state": state}, number) for state, number in slides.items()],
        ),
    ]


def _labels(labels: dict[str, str]) -> str:
    return "{" + ",".join(f'{k}="{v}"' for k, v in labels.items()) + "}" if labels else ""


class _Collector:
    """What prometheus_client asks for the numbers when somebody looks."""

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily

        for family in _families():
            names = list(family.values[0][0]) if family.values else ["state"]
            metric = CounterMetricFamily(family.name, family.said, labels=names)
            for labels, value in family.values:
                metric.add_metric([labels[name] for name in names], value)
            yield metric


def _expose() -> None:
    """Have Dask's server in this process show the numbers, if there is one that can."""
    if _HERE.exposed or "prometheus_client" not in sys.modules:
        return
    with _HERE.lock:
        if _HERE.exposed:
            return
        _HERE.exposed = True
    from prometheus_client import REGISTRY

    REGISTRY.register(_Collector())
