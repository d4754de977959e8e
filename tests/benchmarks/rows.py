"""The rounds of a job, and what they come to: rows of one table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks import remote
from tests.benchmarks.jobs import Job, Rival
from tests.benchmarks.measure import Measured, measure

__all__ = ["Row", "Wanted", "remote_row", "rows_of", "run_rounds", "table"]

Rounds = Mapping[str, Sequence[Measured]]
"""By contender, one run of each round."""

_HEAD = (
    *("job", "ours (Mpx/s)", "limit (Mpx/s)", "baseline (Mpx/s)", "ratio to limit"),
    *("ratio to baseline", "wanted", "spread (min..max)", "peak memory (MiB)", "CPU (s)"),
)
_NONE = "-"


@dataclass(frozen=True)
class Ratio:
    """Ours to another's speed, of each round: the median, the least and the largest."""

    median: float
    least: float
    largest: float

    @classmethod
    def of(cls, ours: Sequence[Measured], other: Sequence[Measured]) -> Ratio:
        """Compare two contenders round by round."""
        ratios = [a.mpx_s / b.mpx_s for a, b in zip(ours, other, strict=True)]
        return cls(median(ratios), min(ratios), max(ratios))


@dataclass(frozen=True)
class Wanted:
    """A figure that is to be reached, and whether it is."""

    text: str
    reached: bool

    def __str__(self) -> str:
        return f"{self.text} ({'yes' if self.reached else 'no'})"


@dataclass(frozen=True)
class Row:
    """One job beside its limit and one baseline; speeds, memory and CPU are medians.

    Memory and CPU are ours. ``said`` is what ours is where that is no speed. ``wanted`` are the
    figures it is to reach.
    """

    job: str
    slide: str
    ours_mpx_s: float | None = None
    limit: str | None = None
    limit_mpx_s: float | None = None
    ratio_to_limit: Ratio | None = None
    baseline: str | None = None
    baseline_mpx_s: float | None = None
    ratio_to_baseline: Ratio | None = None
    peak_mib: float | None = None
    cpu_s: float | None = None
    said: str | None = None
    wanted: tuple[Wanted, ...] = ()

    @property
    def cells(self) -> tuple[str, ...]:
        """What a person reads of it, in the order of the table's head."""
        ratios = (self.ratio_to_limit, self.ratio_to_baseline)
        spreads = [f"{each.least:.2f}..{each.largest:.2f}" for each in ratios if each]
        return (
            self.job,
            self.said or _said(self.ours_mpx_s, 1),
            _named(self.limit_mpx_s, self.limit),
            _named(self.baseline_mpx_s, self.baseline),
            *(_said(None if each is None else each.median, 2) for each in ratios),
            "; ".join(map(str, self.wanted)) or _NONE,
            "; ".join(spreads) or _NONE,
            _said(self.peak_mib, 0),
            _said(self.cpu_s, 2),
        )


def run_rounds(job: Job, slide: Path, *, rounds: int, cores: int, folder: Path) -> Rounds:
    """Run every contender once in each round; each round begins with another one.

    Raises `RuntimeError` where one fails, or contenders decoded different numbers of pixels.
    """
    names = list(job.contenders)
    found: dict[str, list[Measured]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(measure(job.name, name, slide, cores=cores, folder=folder))
    pixels = {name: {run.pixels for run in runs} for name, runs in found.items()}
    if len(set.union(*pixels.values())) != 1:
        raise RuntimeError(f"{job.name}: contenders decoded different numbers of pixels: {pixels}")
    return found


def rows_of(job: Job, slide: Path, rounds: Rounds) -> Iterator[Row]:
    """Give a row per baseline; the limit is in the first."""
    ours = rounds["ours"]
    mine = Row(
        job.name,
        slide.name,
        _speed(ours),
        peak_mib=median(run.peak_bytes for run in ours) / 2**20,
        cpu_s=median(run.cpu_s for run in ours),
    )
    limited = mine
    if job.limit is not None:
        limit = rounds[job.limit.name]
        ratio = Ratio.of(ours, limit)
        limited = replace(
            mine,
            limit=job.limit.name,
            limit_mpx_s=_speed(limit),
            ratio_to_limit=ratio,
            wanted=_wanted(ratio, job.limit, "limit"),
        )
    if not job.baselines:
        yield limited
    for row, rival in zip([limited, *[mine] * len(job.baselines)], job.baselines, strict=False):
        other = rounds[rival.name]
        ratio = Ratio.of(ours, other)
        yield replace(
            row,
            baseline=rival.name,
            baseline_mpx_s=_speed(other),
            ratio_to_baseline=ratio,
            wanted=row.wanted + _wanted(ratio, rival, "baseline"),
        )


def remote_row(slide: Path) -> Row:
    """Give the row of a region that is read over HTTP."""
    moved, most = remote.read_region(slide), (remote.MOST_BYTES, remote.MOST_REQUESTS)
    return Row(
        "remote region",
        slide.name,
        said=f"{moved.sent / 1e6:.2f} MB, {moved.requests} requests",
        wanted=(
            Wanted(f"<= {most[0] / 1e6:g} MB", moved.sent <= most[0]),
            Wanted(f"<= {most[1]} requests", moved.requests <= most[1]),
        ),
    )


def _wanted(ratio: Ratio, rival: Rival, what: str) -> tuple[Wanted, ...]:
    if rival.wanted is None:
        return ()
    return (Wanted(f"{what} >= {rival.wanted:g}", ratio.median >= rival.wanted),)


def table(rows: Sequence[Row]) -> str:
    """Give the rows as a table in Markdown."""
    cells: list[Sequence[Any]] = [_HEAD, *(row.cells for row in rows)]
    widths = [max(len(each[i]) for each in cells) for i in range(len(_HEAD))]
    lines = [
        "| " + " | ".join(cell.ljust(n) for cell, n in zip(each, widths, strict=True)) + " |"
        for each in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (n + 2) for n in widths) + "|", *lines[1:]])


def _speed(runs: Sequence[Measured]) -> float:
    return median(run.mpx_s for run in runs)


def _said(number: float | None, digits: int) -> str:
    return _NONE if number is None else f"{number:.{digits}f}"


def _named(number: float | None, name: str | None) -> str:
    return _NONE if number is None else f"{number:.1f} {name}"
