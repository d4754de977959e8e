"""What many slides cost beside their pixels, and what it costs to find that all is done.

As a program, ``python -m tests.benchmarks.cohorts RUN_FILE`` runs once and says as JSON what that
took, starting and importing not counted.
"""

from __future__ import annotations

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

from tests.benchmarks.models import model_card
from tests.benchmarks.rows import Row

__all__ = ["MANY", "RESUME", "cohort_row"]

MANY, RESUME = "many slides", "resume"
"""The jobs: small slides by the hundred, and a large one that is done."""

FEW_SLIDES, MANY_SLIDES = 100, 1000
SMALL, LARGE = (512, 512), (100_000, 80_000)
MOST_GROWTH, MOST_OVERHEAD_S, MOST_RESUME_S = 1.1, 0.15, 3.0
_TILE = 256
_KIBIBYTE = 1024  # what ru_maxrss counts in, on Linux


@dataclass(frozen=True)
class Took:
    """What a run took, and how much it did."""

    seconds: float
    peak_bytes: int
    slides: int
    computed: int


def cohort_row(name: str, folder: Path, *, quick: bool) -> Row:
    """Measure one of the jobs, on one core; ``quick`` is a tenth of it."""
    place = folder / name.replace(" ", "-")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    try:
        return _many(place, 10 if quick else 1) if name == MANY else _resume(place, quick=quick)
    finally:
        shutil.rmtree(place)


def _many(place: Path, share: int) -> Row:
    slides = place / "slides"
    slides.mkdir()
    _write_tiles(slides / "0.tiff", SMALL)
    run_file = _run_file(place, "slides/*.tiff")
    peaks = []
    for count in (FEW_SLIDES // share, MANY_SLIDES // share):
        for number in range(1, count):
            if not (slides / f"{number}.tiff").exists():
                os.link(slides / "0.tiff", slides / f"{number}.tiff")
        shutil.rmtree(place / "results", ignore_errors=True)
        took = _run(run_file)
        if took.computed != count:
            raise AssertionError(f"{took.computed} blocks of {count} slides were computed")
        peaks.append(took.peak_bytes)
    growth, each = peaks[1] / peaks[0], took.seconds / took.slides
    return Row(
        f"{MANY}: {took.slides:,}",
        SMALL_SLIDE,
        said=(
            f"{each * 1e3:.0f} ms each, client {growth:.2f} x of {FEW_SLIDES // share}",
            f"{MOST_OVERHEAD_S * 1e3:.0f} ms, {MOST_GROWTH} x",
        ),
        peak_mib=peaks[1] / 2**20,
    )


def _resume(place: Path, *, quick: bool) -> Row:
    width, height = (n // 10 for n in LARGE) if quick else LARGE
    _write_tiles(place / "large.tiff", (width, height))
    run_file = _run_file(place, "large.tiff")
    first, again = _run(run_file), _run(run_file)
    if again.computed or not first.computed:
        raise AssertionError(f"{first.computed} blocks were computed, then {again.computed}")
    return Row(
        f"{RESUME}: {first.computed:,} blocks done",
        f"{width} x {height} px",
        said=(f"{again.seconds:.2f} s", f"{MOST_RESUME_S:g} s"),
        peak_mib=again.peak_bytes / 2**20,
    )


SMALL_SLIDE = f"{SMALL[0]} x {SMALL[1]} px"


def _run_file(place: Path, slides: str) -> Path:
    path = place / "run.yaml"
    card = model_card("means", place)
    path.write_text(
        f"slides: {slides}\nmodel: {card}\ntissue: {{method: none}}\n"
        "cluster: {kind: threads, workers: 1}\n",
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


def _main() -> None:
    import pipeline.batch
    import pipeline.model.runtime

    pipeline.model.runtime.runtime_version()  # is imported now
    started = time.perf_counter()
    summary = pipeline.batch.run(sys.argv[1])
    seconds = time.perf_counter() - started
    if not summary.complete:
        raise AssertionError(next(each.reason for each in summary.outcomes if each.reason))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIBIBYTE
    computed = sum(each.computed for each in summary.outcomes)
    print(json.dumps(asdict(Took(seconds, peak, len(summary.outcomes), computed))))


if __name__ == "__main__":
    _main()
