"""What a great many slides would take: a simulation from figures that were measured.

Slides of one shard come one after another; some are under way at once. Each is opened, its blocks
go through one scheduler to its workers, and it is committed, which makes room for the next. From
that come the workers and the schedulers that a wanted time needs, and what they lose by waiting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush, heapreplace
from itertools import pairwise
from math import ceil, inf
from pathlib import Path
from random import Random

from pipeline.batch.planning import Forecast
from pipeline.errors import ConfigError
from pipeline.files.urls import is_url
from pipeline.scaling.measured import CEILINGS, COSTS, TYPICAL, Ceilings, Costs, Load, Slides

__all__ = [
    "SLIDES_AT_ONCE",
    "Limit",
    "Need",
    "Scale",
    "kind_of",
    "limits",
    "makespan",
    "scale",
    "sequence",
]


SLIDES_AT_ONCE = 16
"""Slides of one run that are under way at once where there are many workers; see `flight`."""

_MOST_BLOCKS = 30_000
"""Blocks of a simulation, about; what follows goes on at the pace of its second half."""

_MOST_SUMMED = 1000
"""Slides whose work is added up one by one."""

_MOST_LOADS = 24
"""Slides that a simulation tells apart: more are taken together by their work."""

_ROUNDS = 12
"""Times that schedulers are added until their workers lose little."""


@dataclass(frozen=True, slots=True)
class Scale:
    """A question: how many slides, of what kind, are to be done in what time."""

    slides: int
    hours: float
    kind: Slides = TYPICAL
    costs: Costs = COSTS
    ceilings: Ceilings = CEILINGS
    at_once: int = SLIDES_AT_ONCE

    def __post_init__(self) -> None:
        if self.slides < 1:
            raise ConfigError(f"--slides {self.slides}: nothing to do; give 1 or more")
        if not 0 < self.hours < inf:
            raise ConfigError(f"--hours {self.hours:g}: no time to do it in; give more than 0")

    @property
    def client_s(self) -> float:
        """CPU seconds of client and scheduler for a slide, the mean; books are not in it."""
        return self.kind.blocks * self.costs.block_s + self.costs.slide_s


@dataclass(frozen=True, slots=True)
class Need:
    """What so many slides need: ``schedulers`` runs side by side, each with ``workers`` threads.

    ``hours`` are what that takes. ``efficiency`` is the part of the workers' time that is work,
    ``busy`` the part of its core that a scheduler is, and ``slides`` are those of one of them.
    """

    schedulers: int
    workers: int
    slides: int
    hours: float
    efficiency: float
    busy: float


@dataclass(frozen=True, slots=True)
class Limit:
    """How many slides one run may have before something of it is used as far as it may be."""

    what: str
    slides: int
    why: str


def scale(asked: Scale) -> Need:
    """Find the fewest schedulers, and for them the fewest workers, that do it in the wanted time.

    Raises `ConfigError` where the time is less than the slides take with any number of workers.
    """
    schedulers = min(ceil(asked.slides / limits(asked)[0].slides), asked.slides)
    for _ in range(_ROUNDS):
        found = _fewest_workers(asked, schedulers)
        if found is not None and found.efficiency >= asked.ceilings.efficiency:
            return found
        if schedulers == asked.slides:
            break
        schedulers = min(ceil(schedulers * 1.5), asked.slides)
    if found is None:
        raise ConfigError(
            f"--hours {asked.hours:g}: less than the slides take with any number of workers; "
            "give more"
        )
    return found


def limits(asked: Scale) -> list[Limit]:
    """Say what one scheduler, its client and its books bear, what breaks first first."""
    costs, ceilings, wanted = asked.costs, asked.ceilings, asked.hours * 3600
    found = (
        Limit(
            "the scheduler's core",
            int(ceilings.scheduler / (asked.client_s / wanted + costs.row_s)),
            f"{costs.block_s * 1e3:.3g} ms of it per block, {costs.slide_s * 1e3:.3g} ms per "
            f"slide; busy {ceilings.scheduler:.0%} at most",
        ),
        Limit(
            "status.csv",
            int(ceilings.status_bytes_s / costs.row_bytes),
            f"{costs.row_bytes} bytes per slide, written whole every second; "
            f"{ceilings.status_bytes_s / 1e6:g} MB/s at most",
        ),
        Limit(
            "the client's memory",
            int(ceilings.client_bytes / costs.listed_bytes),
            f"{costs.listed_bytes / 1e3:.2g} kB per slide; "
            f"{ceilings.client_bytes / 2**30:g} GiB at most",
        ),
    )
    least_one = (replace(each, slides=max(each.slides, 1)) for each in found)
    return sorted(least_one, key=lambda each: each.slides)


def sequence(loads: Sequence[Load], slides: int) -> list[Load]:
    """Give so many slides as they come: all kinds again and again, each time in another order.

    More kinds than a few dozen are taken together; the mean stays.
    """
    kinds, random = _grouped(loads), Random(0)  # noqa: S311 - the same every time
    chosen: list[Load] = []
    while len(chosen) < slides:
        chosen += random.sample(kinds, len(kinds))
    return chosen[:slides]


def makespan(slides: Sequence[Load], workers: int, at_once: int, costs: Costs = COSTS) -> float:
    """Give how long one scheduler takes for these slides, in seconds.

    One worker without costs takes the sum of the work; any number of them as long as the slides
    take of which each waits for one before it to end.
    """
    free = [0.0] * workers
    ends: list[float] = []
    sent = last = 0.0
    for number, load in enumerate(slides):
        turn = heappop(ends) if number >= at_once else 0.0
        ready, sent = turn + costs.open_s, max(sent, turn) + costs.slide_s
        end, each = max(ready, sent), load.seconds / max(load.blocks, 1)
        for _ in range(load.blocks):
            sent = max(sent, ready) + costs.block_s  # one core sends all blocks, one by one
            done = max(sent, free[0]) + each
            heapreplace(free, done)
            end = max(end, done)
        heappush(ends, end + costs.close_s)
        last = max(last, end + costs.close_s)
    return last


def kind_of(forecasts: Sequence[Forecast], at_once: int) -> Slides:
    """Take all slides to be like those of a plan, whose blocks are done ``at_once`` at a time.

    Slides that would be refused do not count. Raises `ConfigError` where nothing says how long
    blocks take: none has tissue, or none of them is left to be tried.
    """
    good = [each for each in forecasts if not each.refused]
    # A forecast is of what is left of a slide, and of how long that takes side by side.
    tried = [each for each in good if each.left and each.seconds is not None]
    if not tried:
        raise ConfigError(
            "--slides: no slide of the run file has a block that could be tried; give it slides "
            "with tissue, and with -o output.directory=NAME results that are not there yet"
        )
    busy = sum((each.seconds or 0.0) * min(at_once, each.left) for each in tried)
    rate = busy / sum(each.left for each in tried)
    sizes = [_size_of(each.path) for each in good]
    known = [size for size in sizes if size is not None]
    return Slides(
        tuple(Load(each.blocks, each.blocks * rate) for each in good),
        read_bytes=sum(known) / len(known) if known else None,
        written_bytes=sum(each.output_bytes for each in good) / len(good),
        files=sum(each.output_files for each in good) / len(good),
    )


def _size_of(path: str) -> int | None:
    """Give the bytes of a slide that is one file here; None of others."""
    return Path(path).stat().st_size if not is_url(path) and Path(path).is_file() else None


def _grouped(loads: Sequence[Load]) -> list[Load]:
    if len(loads) <= _MOST_LOADS:
        return list(loads)
    ordered, part = sorted(loads, key=lambda load: load.seconds), len(loads) / _MOST_LOADS
    cuts = [round(part * number) for number in range(_MOST_LOADS + 1)]
    groups = [ordered[a:b] for a, b in pairwise(cuts)]
    return [
        Load(
            round(sum(load.blocks for load in group) / part),
            sum(load.seconds for load in group) / part,
        )
        for group in groups
    ]


def _fewest_workers(asked: Scale, schedulers: int) -> Need | None:
    """Find the fewest workers that are in time with so many schedulers; None where none are."""
    slides, wanted = ceil(asked.slides / schedulers), asked.hours * 3600
    work = _work(asked, slides)
    least = max(ceil(work / wanted), 1)
    # More than all blocks that are under way at once would never be busy.
    most = max(least, asked.at_once * max(load.blocks for load in asked.kind.loads))
    if _seconds(asked, slides, most) > wanted:
        return None
    while least < most:
        # Little is lost, as a rule: what is looked for lies near the least.
        workers = min((least + most) // 2, ceil(least * 1.04) + 1)
        if _seconds(asked, slides, workers) <= wanted:
            most = workers
        else:
            least = workers + 1
    seconds = _seconds(asked, slides, most)
    busy = slides * (asked.client_s / seconds + asked.costs.row_s)
    efficiency = min(work / (most * seconds), 1.0)
    return Need(schedulers, most, slides, seconds / 3600, efficiency, busy)


def _work(asked: Scale, slides: int) -> float:
    """Give the seconds of one thread for so many slides; few are not as the mean is."""
    if slides > _MOST_SUMMED:
        return slides * asked.kind.seconds
    return sum(load.seconds for load in sequence(asked.kind.loads, slides))


def _seconds(asked: Scale, slides: int, workers: int) -> float:
    """Give how long one scheduler takes; of many slides the first are simulated."""
    kinds = min(len(asked.kind.loads), _MOST_LOADS)
    enough = max(int(_MOST_BLOCKS / max(asked.kind.blocks, 1)), 4 * asked.at_once)
    half = kinds * ceil(enough / 2 / kinds)
    first = sequence(asked.kind.loads, min(slides, 2 * half))
    took = makespan(first, workers, asked.at_once, asked.costs)
    if slides <= 2 * half:
        return took
    pace = (took - makespan(first[:half], workers, asked.at_once, asked.costs)) / half
    return took + (slides - 2 * half) * pace
