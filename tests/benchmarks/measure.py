"""One run measured: a process of its own, its clock, its memory seen from outside.

As a program this is that process: it prepares, says that it is ready, waits to be told, runs,
says what that took, and waits again before it takes anything down.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from tests.benchmarks.contenders import Setting
from tests.benchmarks.jobs import contender

__all__ = ["Measured", "measure"]

_EVERY_S = 0.02
_LOOKS_PER_SEARCH = 10  # searching for children takes a look at every process of the machine


@dataclass(frozen=True)
class Measured:
    """What one run took; memory and CPU are those of the process and its children."""

    pixels: int
    seconds: float
    cpu_s: float
    peak_bytes: int

    @property
    def mpx_s(self) -> float:
        """Million pixels a second."""
        return self.pixels / self.seconds / 1e6


def measure(job: str, name: str, slide: Path, *, cores: int, folder: Path) -> Measured:
    """Run one contender of a job once, in a new process.

    Raises `RuntimeError` with what it said where it fails.
    """
    with tempfile.TemporaryDirectory(prefix="run-", dir=folder) as free:
        given = {"job": job, "name": name, **asdict(Setting(str(slide), cores, free))}
        command = [sys.executable, "-m", "tests.benchmarks.measure", json.dumps(given)]
        with (
            Path(free, "errors").open("w+") as errors,
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            ) as child,
        ):
            answers, orders = child.stdout, child.stdin
            assert answers is not None
            assert orders is not None
            ready = answers.readline()
            answer = ""
            if ready:
                with _peak_of(child.pid) as peak:
                    orders.write("go\n")
                    orders.flush()
                    answer = answers.readline()
            orders.close()
            if child.wait() or not answer:
                errors.seek(0)
                raise RuntimeError(f"{job}, {name}: failed:\n{errors.read()}")
        return Measured(**json.loads(answer), peak_bytes=peak[0])


@contextmanager
def _peak_of(pid: int) -> Iterator[list[int]]:
    """Give the largest memory of a process and its children so far, until the block ends."""
    peak, ended = [0], threading.Event()

    def look() -> None:
        first = psutil.Process(pid)
        family = [first]
        looks = 0
        while True:
            if looks % _LOOKS_PER_SEARCH == 0:
                family = [first, *_children_of(first)]
            peak[0] = max(peak[0], sum(_resident(process) for process in family))
            looks += 1
            if ended.wait(_EVERY_S):
                return

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()


def _children_of(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:  # it failed; that is said elsewhere
        return []


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _cpu_s() -> float:
    """Give the CPU seconds of this process, and of children that live or were waited for."""
    here = psutil.Process()
    others = sum(sum(child.cpu_times()[:4]) for child in here.children(recursive=True))
    return time.process_time() + sum(here.cpu_times()[2:4]) + others


def _hold_to(cores: int) -> None:
    """Keep this process and its children on so many cores, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, allowed[:cores])


def _main() -> None:
    given = json.loads(sys.argv[1])
    prepared = contender(given.pop("job"), given.pop("name"))
    setting = Setting(**given)
    _hold_to(setting.cores)
    # What a contender prints must not be taken for an answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    with prepared(setting) as run:
        print("ready", file=answers, flush=True)
        if not sys.stdin.readline():
            return
        cpu_s, started = _cpu_s(), time.perf_counter()
        pixels = run()
        seconds = time.perf_counter() - started
        took = {"pixels": pixels, "seconds": seconds, "cpu_s": _cpu_s() - cpu_s}
        print(json.dumps(took), file=answers, flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    _main()
