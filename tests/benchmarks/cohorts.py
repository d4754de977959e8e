"""What many slides cost beside their pixels, and what it costs to find that all is done.

As a program, ``python -m tests.benchmarks.cohorts RUN_FILE`` runs once and says as JSON what that
took, starting and importing not counted.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.books.outcomes import Silence, SlideOutcome
from tests.benchmarks.models import model_card
from tests.benchmarks.rows import Row, Wanted

__all__ = ["CLUSTER", "COHORTS", "MANY", "RESUME", "cohort_row", "many_row"]

MANY, CLUSTER, RESUME = "many slides", "many slides, local cluster", "resume"
"""The jobs: small slides by the hundred, in threads and with the scheduler in the client's process,
and a large one that is done."""

COHORTS = (MANY, CLUSTER, RESUME)

FEW_SLIDES, MANY_SLIDES = 100, 1000
IN_THREADS, IN_PROCESSES = (
    "{kind: threads, workers: 1}",
    ("{kind: local, workers: 2, slides_at_once: 2, dashboard: none}"),
)
SMALL, LARGE = (512, 512), (100_000, 80_000)
MOST_KEPT = 8
"""Groups of tasks of slides that are under way, or that have only just ended."""

MOST_GROWTH, MOST_OVERHEAD_S, MOST_RESUME_S = 1.1, 0.15, 3.0
_TILE = 256
_KIBIBYTE = 1024  # what ru_maxrss counts in, on Linux


@dataclass(frozen=True)
class Took:
    """What a run took, and how much it did.

    ``kept`` are the groups of tasks that a scheduler in this process still knows at the end.
    """

    seconds: float
    peak_bytes: int
    slides: int
    computed: int
    kept: int = 0


def cohort_row(name: str, folder: Path, *, quick: bool) -> Row:
    """Measure one of the jobs; ``quick`` is a tenth of it, of half as many on a cluster."""
    place = folder / name.replace(" ", "-")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    try:
        if name == RESUME:
            return _resume(place, quick=quick)
        on_cluster, share = name == CLUSTER, 10 if quick else 1
        share *= 2 if on_cluster else 1
        counts = (FEW_SLIDES // share, MANY_SLIDES // share)
        return many_row(name, place, counts, IN_PROCESSES if on_cluster else IN_THREADS)
    finally:
        shutil.rmtree(place)


def many_row(name: str, place: Path, counts: tuple[int, int], cluster: str) -> Row:
    """Run few slides, then many, and compare the client's peaks."""
    slides = place / "slides"
    slides.mkdir()
    _write_tiles(slides / "0.tiff", SMALL)
    run_file = _run_file(place, "slides/*.tiff", cluster)
    peaks = []
    for count in counts:
        for number in range(1, count):
            if not (slides / f"{number}.tiff").exists():
                os.link(slides / "0.tiff", slides / f"{number}.tiff")
        shutil.rmtree(place / "results", ignore_errors=True)
        took = _run(run_file)
        if took.computed != count:
            raise AssertionError(f"{took.computed} blocks of {count} slides were computed")
        if took.kept > MOST_KEPT:
            raise AssertionError(f"the scheduler still knows {took.kept} groups of tasks")
        peaks.append(took.peak_bytes)
    growth, each = peaks[1] / peaks[0], took.seconds / took.slides
    return Row(
        f"{name}: {took.slides:,}",
        SMALL_SLIDE,
        said=f"{each * 1e3:.0f} ms each, client {growth:.2f} x of {counts[0]}",
        wanted=(
            Wanted(f"<= {MOST_OVERHEAD_S * 1e3:.0f} ms", each <= MOST_OVERHEAD_S),
            Wanted(f"<= {MOST_GROWTH} x", growth <= MOST_GROWTH),
        ),
        peak_mib=peaks[1] / 2**20,
    )


def _resume(place: Path, *, quick: bool) -> Row:
    width, height = (n // 10 for n in LARGE) if quick else LARGE
    _write_tiles(place / "large.tiff", (width, height))
    run_file = _run_file(place, "large.tiff", IN_THREADS)
    first, again = _run(run_file), _run(run_file)
    if again.computed or not first.computed:
        raise AssertionError(f"{first.computed} blocks were computed, then {again.computed}")
    return Row(
        f"{RESUME}: {first.computed:,} blocks done",
        f"{width} x {height} px",
        said=f"{again.seconds:.2f} s",
        wanted=(Wanted(f"<= {MOST_RESUME_S:g} s", again.seconds <= MOST_RESUME_S),),
        peak_mib=again.peak_bytes / 2**20,
    )


SMALL_SLIDE = f"{SMALL[0]} x {SMALL[1]} px"


def _run_file(place: Path, slides: str, cluster: str) -> Path:
    path = place / "run.yaml"
    card = model_card("means", place)
    path.write_text(
        f"slides: {slides}\nmodel: {card}\ntissue: {{method: none}}\ncluster: {cluster}\n",
        encoding="utf-8",
    )
    return path


def _run(run_file: Path) -> Took:
    command = [sys.executable, "-m", "tests.benchmarks.cohorts", str(run_file)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Took(**json.loads(done.stdout))


def _write_tiles(path: Path, size: tuple[int, int]) -> None:
    """Write a TIFF of that width and height whose tiles are all the same few bytes of the file."""
    import imagecodecs
    import numpy as np

    random = np.random.default_rng(0)
    coarse = random.integers(100, 255, (_TILE // 16, _TILE // 16, 3), np.uint8)
    tile = imagecodecs.jpeg8_encode(coarse.repeat(16, 0).repeat(16, 1), level=80)
    width, height = size
    count = -(-width // _TILE) * -(-height // _TILE)
    short, long, ratio = 3, 4, 5
    tags = [
        (254, long, [0]),
        (256, long, [width]),
        (257, long, [height]),
        (258, short, [8, 8, 8]),
        (259, short, [7]),
        (262, short, [6]),
        (277, short, [3]),
        (282, ratio, [20_000, 1]),  # per cm: 0.5 um
        (283, ratio, [20_000, 1]),
        (284, short, [1]),
        (296, short, [3]),
        (322, short, [_TILE]),
        (323, short, [_TILE]),
        (324, long, [8] * count),
        (325, long, [len(tile)] * count),
        (530, short, [2, 2]),
    ]
    place = 8 + len(tile) + len(tile) % 2
    entries, values = b"", b""
    after = place + 2 + 12 * len(tags) + 4
    for tag, kind, numbers in tags:
        data = struct.pack(f"<{len(numbers)}{'H' if kind == short else 'I'}", *numbers)
        many = len(numbers) // (2 if kind == ratio else 1)
        if len(data) <= 4:
            where = data.ljust(4, b"\0")
        else:
            where = struct.pack("<I", after + len(values))
            values += data
        entries += struct.pack("<HHI", tag, kind, many) + where
    head = struct.pack("<2sHI", b"II", 42, place)
    ifd = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    path.write_bytes(head + tile + b"\0" * (len(tile) % 2) + ifd + values)


@dataclass
class Looked(Silence):
    """A report that looks at the scheduler in this process each time a slide ends."""

    kept: int = 0

    def ended(self, outcome: SlideOutcome) -> None:  # noqa: ARG002
        from distributed import get_client

        with contextlib.suppress(ValueError):  # there is no cluster
            cluster: Any = get_client().cluster
            self.kept = len(cluster.scheduler.task_groups)


def _main() -> None:
    import pipeline.batch
    import pipeline.model.runtime

    pipeline.model.runtime.runtime_version()  # is imported now
    started = time.perf_counter()
    looked = Looked()
    summary = pipeline.batch.run(sys.argv[1], report=looked)
    seconds = time.perf_counter() - started
    if not summary.complete:
        raise AssertionError(next(each.reason for each in summary.outcomes if each.reason))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIBIBYTE
    computed = sum(each.computed for each in summary.outcomes)
    print(json.dumps(asdict(Took(seconds, peak, len(summary.outcomes), computed, looked.kept))))


if __name__ == "__main__":
    _main()
