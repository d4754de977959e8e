"""A slide of 8 Gpx beside one of 320 Mpx: does a run take more memory, or longer for its tissue?

Both show the same tissue, as much larger, on a quarter of their glass. A run is from the path to
the committed store, its tissue found and its model opened on the clock, in threads; then all of the
store is read back, as ``wsi-pipeline status --verify`` does, off the clock. Mpx are those of the
patches that have tissue: the smaller slide, whose pieces have more border, has more of them.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from tests.benchmarks.contenders import Contender, Run, Setting, write_sample
from tests.benchmarks.predictions import pixels_of, plan_of

if TYPE_CHECKING:
    from tests.benchmarks.measure import Measured
    from tests.benchmarks.rows import Row

__all__ = [
    "LARGE",
    "LARGE_JOBS",
    "check_verified",
    "large_row",
    "large_rows",
    "runs_whole",
    "write_quarter",
]

LARGE = "large"
SIZES = ((20_000, 16_000), (100_000, 80_000))
MOST_MEMORY, MOST_SECONDS = 1.1, 1.1
"""Of the larger slide, times the smaller one's: peak memory, and seconds per Mpx of tissue."""

_MARGIN = 0.09  # of the glass, on each side: leaves a quarter of it to tissue
_MPP = 0.5


def write_quarter(path: Path, width: int, height: int) -> None:
    """Write a synthetic slide a quarter of which is tissue, unless it is there."""
    from pipeline.demo.scene import Scene
    from pipeline.demo.svs import write_svs

    if path.exists():
        return
    left, top = round(width * _MARGIN), round(height * _MARGIN)
    scene = Scene(width - 2 * left, height - 2 * top, mpp=_MPP, seed=0)
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as free:
        part = Path(free, "slide")
        write_svs(part, lambda x, y: scene.render(x - left, y - top), (width, height), mpp=_MPP)
        part.replace(path)


def runs_whole(name: str) -> Contender:
    """Give a contender that runs a model over the tissue of a slide and verifies the store."""

    @contextmanager
    def contender(at: Setting) -> Iterator[Run]:
        import pipeline
        from pipeline.execute import run

        def predict(at: Setting, store: str) -> int:
            plan = plan_of(at, name, store, tissue="otsu")
            outcome = run(plan)
            if not outcome.complete:
                raise AssertionError(f"{at.slide}: {outcome.failures}")
            return pixels_of(plan)

        with pipeline.cluster("threads", workers=at.cores):
            # All is imported now; its model is a file of its own, so that no session is open.
            free = Path(at.folder, "sample")
            free.mkdir()
            sample = replace(at, slide=write_sample(at.folder), folder=str(free))
            predict(sample, "sample.zarr")
            yield lambda: predict(at, "out.zarr")
            check_verified(str(Path(at.folder, "out.zarr")))

    return contender


def check_verified(store: str) -> None:
    """Read a store back; `AssertionError` where it is not committed or anything is damaged."""
    from pipeline.checks.examine import examine
    from pipeline.store import look

    seen, examined = look(store), examine(store)
    if seen is None or not seen.committed or examined.damages or not examined.blocks:
        raise AssertionError(f"{store}: not whole: {examined}")


LARGE_JOBS = {
    f"{LARGE}, dense 1 x 1 convolution": runs_whole("1x1"),
    f"{LARGE}, classify by means": runs_whole("means"),
}
"""By name; each is run over both slides."""

PATCHES = dict(zip(LARGE_JOBS, (512, 256), strict=True))
"""The side of a patch of each."""


def large_rows(folder: Path, *, rounds: int, cores: int) -> Iterator[Row]:
    """Run every job over both slides once in each round."""
    from tests.benchmarks.measure import measure

    slides = [_slide(folder, *size) for size in SIZES]
    for job in LARGE_JOBS:
        took: dict[Path, list[Measured]] = {slide: [] for slide in slides}
        for number in range(rounds):
            for slide in slides if number % 2 == 0 else reversed(slides):
                print(f"{job}: {slide.name}", file=sys.stderr, flush=True)
                took[slide].append(measure(job, "ours", slide, cores=cores, folder=folder))
        yield large_row(job, *took.values())


def large_row(job: str, small: list[Measured], large: list[Measured]) -> Row:
    """Compare the runs over the larger slide with those over the smaller one."""
    from tests.benchmarks.rows import Ratio, Row, Wanted

    speed = Ratio.of(large, small)
    memory = median(b.peak_bytes / a.peak_bytes for a, b in zip(small, large, strict=True))
    longer = 1 / speed.median
    (pixels,) = {run.pixels for run in large}
    patches = pixels // PATCHES[job] ** 2
    seconds = median(run.seconds for run in large)
    return Row(
        job,
        " x ".join(f"{n:,}" for n in SIZES[1]),
        said=f"{seconds:.1f} s for {patches:,} patches, {longer:.2f} x per Mpx of them and "
        f"{memory:.2f} x memory of {SIZES[0][0]:,} x {SIZES[0][1]:,}",
        wanted=(
            Wanted(f"<= {MOST_SECONDS} x seconds", longer <= MOST_SECONDS),
            Wanted(f"<= {MOST_MEMORY} x memory", memory <= MOST_MEMORY),
        ),
        peak_mib=median(run.peak_bytes for run in large) / 2**20,
        cpu_s=median(run.cpu_s for run in large),
    )


def _slide(folder: Path, width: int, height: int) -> Path:
    path = folder / f"quarter-{width}x{height}.svs"
    if not path.exists():
        print(f"writing {path}", file=sys.stderr, flush=True)
    write_quarter(path, width, height)
    with path.open("rb") as file:
        while file.read(2**24):
            pass
    return path
