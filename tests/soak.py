"""A long life: ``python -m tests.soak`` runs many slides and says what grows.

``python -m tests.soak --slides 50 --blocks 1000 --plot soak.png`` is the whole length; the tests
run a short one. After every slide the client, and each worker of a local cluster, counts its memory
(after a collection, and with what the C library keeps returned), descriptors, threads, Python
objects, temporary files and child processes. The run's own folder is ``$TMPDIR`` meanwhile.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from math import isqrt
from pathlib import Path

import numpy as np
import psutil
import yaml

from tests.toys import write_tiff, write_toy_model

__all__ = ["COUNTED", "Life", "Sample", "growth", "live"]

BLOCK = 64
"""Side of a block in pixels: what is counted is blocks."""

COUNTED = ("memory", "descriptors", "threads", "objects", "files", "children")
"""What a `Sample` counts."""

FILLING = 10
"""Slides until what a process keeps of the last ones is full: 8 open slides, and some more."""

_EVERY_S = 0.25


@dataclass(frozen=True)
class Sample:
    """What a process had when a slide ended; ``memory`` is in bytes."""

    pid: int
    seconds: float
    memory: int
    descriptors: int
    threads: int
    objects: int
    files: int
    children: int


@dataclass
class Life:
    """What was counted: ``samples`` after every slide, ``memory`` (pid, s, bytes) all the time."""

    slides: int
    blocks: int
    kind: str
    seconds: float = 0.0
    computed: int = 0
    samples: list[Sample] = field(default_factory=list)
    memory: list[tuple[int, float, int]] = field(default_factory=list)

    def of(self, pid: int) -> list[Sample]:
        """Give the samples of a process, in their order."""
        return [sample for sample in self.samples if sample.pid == pid]

    @property
    def pids(self) -> list[int]:
        """The processes: the client, then the workers."""
        return list(dict.fromkeys(sample.pid for sample in self.samples))


def counted() -> Sample:
    """Count what this process has, in which a slide has just ended."""
    from pipeline.process import resident_bytes

    gc.collect()
    process = psutil.Process()
    return Sample(
        pid=process.pid,
        seconds=time.time(),
        memory=resident_bytes(),
        descriptors=process.num_fds(),
        threads=process.num_threads(),
        objects=len(gc.get_objects()),
        files=sum(len(files) for _, _, files in os.walk(tempfile.gettempdir())),
        children=len(process.children()),
    )


def growth(samples: Sequence[Sample], what: str) -> float:
    """Give how much more a process had in the end than when all was filled.

    The least of the last third of its slides less the least of the first third after `FILLING`:
    what a leak adds is there in every sample, what happens to be in use is not.
    """
    values = [float(getattr(sample, what)) for sample in samples[FILLING:]]
    third = max(len(values) // 3, 1)
    return min(values[-third:]) - min(values[:third])


def live(folder: Path, slides: int, blocks: int, kind: str, runs: int = 1) -> Life:
    """Run ``slides`` of so many blocks in ``runs`` runs, one after the other, and count."""
    from pipeline.batch import run
    from pipeline.books.outcomes import Silence, SlideOutcome
    from pipeline.execute.schedulers import scheduler_in_force

    began, life = time.time(), Life(slides, blocks, kind)

    class Counting(Silence):
        def ended(self, outcome: SlideOutcome) -> None:
            assert outcome.state == "done", outcome
            assert outcome.computed == blocks, outcome
            life.computed += outcome.computed
            shutil.rmtree(outcome.made[0])
            everywhere = [] if kind == "threads" else scheduler_in_force().everywhere(counted)
            for sample in (counted(), *everywhere):
                life.samples.append(replace(sample, seconds=sample.seconds - began))

    names = write_slides(folder, slides, blocks)
    each = -(-slides // runs)
    with temporary(folder / "tmp"), watched(life.memory, began):
        for first in range(0, slides, each):
            summary = run(
                str(run_file(folder, names[first : first + each], kind)), report=Counting()
            )
            assert summary.complete, summary
    life.seconds = time.time() - began
    return life


def write_slides(folder: Path, slides: int, blocks: int) -> list[str]:
    """Write a slide of so many blocks, and links to it: files of their own to whoever opens one."""
    rows = max(n for n in range(1, isqrt(blocks) + 1) if blocks % n == 0)
    y, x = np.mgrid[: rows * BLOCK, : blocks // rows * BLOCK]
    rgb = np.stack([y % 256, x % 256, (x + y) % 251], axis=2).astype(np.uint8)
    write_tiff(folder / "0.tiff", rgb, tile=256)
    for number in range(1, slides):
        os.link(folder / "0.tiff", folder / f"{number}.tiff")
    write_toy_model(folder / "model", "neighbours", outputs={"range": [0, 128]})
    return [f"{number}.tiff" for number in range(slides)]


def run_file(folder: Path, names: list[str], kind: str) -> Path:
    """Write a run of some of the slides, one at a time."""
    settings = {
        "slides": names,
        "model": "model/card.yaml",
        # OpenSlide keeps 32 MiB of tiles, which so small slides take long to fill.
        "reader": "tiff",
        "output": {"directory": f"results-{names[0]}", "block": BLOCK},
        "tissue": {"method": "none"},
        "cluster": {"kind": kind, "workers": 2, "slides_at_once": 1, "dashboard": "none"},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@contextmanager
def temporary(folder: Path) -> Iterator[None]:
    """Have this process and its children put temporary files into a folder of their own."""
    folder.mkdir()
    before, os.environ["TMPDIR"] = os.environ.get("TMPDIR"), str(folder)
    tempfile.tempdir = None
    try:
        yield
    finally:
        del os.environ["TMPDIR"]
        if before is not None:
            os.environ["TMPDIR"] = before
        tempfile.tempdir = None


@contextmanager
def watched(memory: list[tuple[int, float, int]], began: float) -> Iterator[None]:
    """Note the memory of this process and its children all the time."""
    ended, own = threading.Event(), psutil.Process()

    def watch() -> None:
        while not ended.wait(_EVERY_S):
            for process in (own, *own.children()):
                try:
                    resident = process.memory_info().rss
                except psutil.NoSuchProcess:  # a worker that has just ended
                    continue
                memory.append((process.pid, time.time() - began, resident))

    thread = threading.Thread(target=watch, name="watch")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def described(life: Life) -> Iterator[str]:
    """Say what each process had when all was filled, and how much more in the end."""
    yield (
        f"{life.kind}: {life.slides} slides, {life.computed:,} blocks in {life.seconds:.0f} s; "
        f"of each process what it had after slide {FILLING + 1}, and how much more in the end"
    )
    for number, pid in enumerate(life.pids):
        samples, told = life.of(pid), []
        if len(samples) <= FILLING:
            continue
        for what in COUNTED:
            had, more = getattr(samples[FILLING], what), growth(samples, what)
            if what == "memory":
                told.append(f"{had / 2**20:.1f} {more / 2**20:+.2f} MiB")
            else:
                told.append(f"{what} {had} {more:+.0f}")
        yield f"{f'worker {number}' if number else 'client'}: {', '.join(told)}"


def draw(life: Life, path: Path) -> None:
    """Draw memory, descriptors and threads over time."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True)
    for number, pid in enumerate(life.pids):
        name, colour = f"worker {number}" if number else "client", f"C{number}"
        samples = life.of(pid)
        minutes = [sample.seconds / 60 for sample in samples]
        always = [(seconds / 60, n / 2**20) for each, seconds, n in life.memory if each == pid]
        upper.plot(*zip(*always, strict=True), color=colour, alpha=0.4, lw=0.8, label=name)
        settled = [sample.memory / 2**20 for sample in samples]
        upper.plot(minutes, settled, ".-", color=colour, label=f"{name}, after a slide")
        for what, style in (("descriptors", "-"), ("threads", "--")):
            values = [getattr(sample, what) for sample in samples]
            lower.plot(minutes, values, style, color=colour, label=f"{name}: {what}")
    most = max((n for _, _, n in life.memory), default=0) / 2**20
    upper.set(ylabel="resident memory (MiB)", ylim=(0, 1.2 * most + 1))
    upper.set_title(
        f"{life.slides} slides of {life.blocks:,} blocks, {life.computed:,} in all ({life.kind})"
    )
    lower.set(xlabel="minutes", ylabel="number", ylim=(0, None), xlim=(0, None))
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small", frameon=False)
    figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Live, and say what was counted; as JSON with ``--json``."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--slides", type=int, default=50)
    parser.add_argument("--blocks", type=int, default=1000, help="of each slide")
    parser.add_argument("--kind", choices=("threads", "local"), default="threads")
    parser.add_argument("--runs", type=int, default=1, help="that share the slides out")
    parser.add_argument("--plot", type=Path, help="where a picture goes")
    parser.add_argument("--json", action="store_true", help="print all that was counted")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        life = live(Path(folder), asked.slides, asked.blocks, asked.kind, asked.runs)
    if asked.plot is not None:
        draw(life, asked.plot)
    for line in [json.dumps(asdict(life))] if asked.json else described(life):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
