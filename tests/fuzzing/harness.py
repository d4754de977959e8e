"""Runs cases in a child process that has little memory, little time and one folder.

The child is a fork of a process that has imported everything and started no thread, so that one
costs nothing to replace. What it does at the moment is in memory that both see: a child that hangs
(`faulthandler` ends it) or dies of a signal is known by its case, and the next one goes on after.
"""

from __future__ import annotations

import faulthandler
import importlib
import math
import mmap
import os
import random
import resource
import shutil
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import PipelineError
from tests.fuzzing.confined import bounded
from tests.fuzzing.mutating import Mutations

__all__ = ["MOST_SECONDS", "Failure", "Report", "Target", "files_of", "fuzz"]

MOST_SECONDS, MOST_WAITING = 20, 120
"""What one case may take of a processor, and by the clock: a hang is a failure, other work on the
machine is none."""

MOST_SAID = 20_000
"""Characters of the longest error: whatever a file holds, nobody reads more."""

_AT_A_TIME = 300
"""Cases of one child: what caches keep of them is no leak."""

_ENOUGH = 20
"""Different failures of one target after which it ends."""

Case = Callable[[Path, Path, Mutations], str]


@dataclass(frozen=True)
class Target:
    """One kind of input.

    ``prepare(seeds)`` writes what is mutated into a folder, once.
    ``case(seeds, folder, mutations)`` makes one case of it in an empty folder, tries it, and says
    what became of it; what it raises of our own counts as ``refused``. ``native`` says that a
    decoder in C may crash: that is what workers are for, and it is counted. ``loads`` are modules
    that are imported before all cases.
    """

    name: str
    prepare: Callable[[Path], None]
    case: Case
    native: bool = False
    loads: tuple[str, ...] = ()


@dataclass(frozen=True)
class Failure:
    """A case that ended as none may."""

    case: int
    what: str
    told: str


@dataclass
class Report:
    """What became of the cases of one target."""

    target: str
    seed: int
    cases: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)


def fuzz(
    target: Target,
    work: Path,
    *,
    seed: int,
    seconds: float,
    least: int = 40,
    only: int | None = None,
) -> Report:
    """Run cases of a target for so many seconds, but ``least`` of them; or ``only`` one.

    Below ``work`` is ``failed/CASE`` for each case that failed; beside it are the seeds, which
    targets share.
    """
    seeds = _seeds(target, work)
    report = Report(target.name, seed)
    status, told = bounded(lambda: _prepared(target, seeds), seeds.parent, seconds=300)
    if status:
        report.failures.append(Failure(-1, "seeds", told))
        return report
    end = time.monotonic() + seconds
    case, stop = (0, None) if only is None else (only, only + 1)
    for name in target.loads:  # once, and not in every child
        importlib.import_module(name)
    known: set[str] = set()
    while len(known) < _ENOUGH and (stop is None or case < stop):
        if stop is None and case >= least and time.monotonic() >= end:
            break
        last = stop or case + _AT_A_TIME
        limits = _Limits(case, last, 0 if stop else least, end)
        case = _one_child(target, work, seed, limits, report, known)
    return report


@dataclass(frozen=True)
class _Limits:
    first: int
    last: int
    least: int
    end: float


def _one_child(
    target: Target, work: Path, seed: int, limits: _Limits, report: Report, known: set[str]
) -> int:
    """Run cases until one ends the child, or they are enough; give the next one."""
    shared = mmap.mmap(-1, 16)
    results = work / "outcomes.txt"
    results.unlink(missing_ok=True)
    status, told = bounded(lambda: _cases(target, work, seed, limits, shared, results), work)
    done = int.from_bytes(shared[:8], "little")
    for line in results.read_text("utf-8").splitlines() if results.exists() else ():
        report.cases += 1
        kind, _, rest = line.partition("\t")
        if kind != "failed":
            report.outcomes[kind] += 1
            continue
        number, what = rest.split("\t")
        _note(report, work, known, Failure(int(number), what, (work / f"{number}.txt").read_text()))
    if not status:
        return done
    at = int.from_bytes(shared[8:], "little")
    report.cases += 1
    if status < 0 and target.native and -status != signal.SIGXCPU:
        report.outcomes["crashed"] += 1
        _keep(work, at, told)
    else:
        what = signal.Signals(-status).name if status < 0 else "too long, or out of memory"
        _note(report, work, known, Failure(at, what, told))
    return at + 1


def _note(report: Report, work: Path, known: set[str], failure: Failure) -> None:
    """Keep a failure if none of its kind is known: same error, same line of ours."""
    ours = [line.strip() for line in failure.told.splitlines() if "/pipeline/" in line]
    kind = f"{failure.what.partition(':')[0]} {ours[-1] if ours else ''}"
    if kind not in known:
        known.add(kind)
        report.failures.append(failure)
        _keep(work, failure.case, failure.told)


def _keep(work: Path, case: int, told: str) -> None:
    kept = work / "failed" / str(case)
    there = work / f"case-{case}"
    if there.exists():
        shutil.copytree(there, kept, dirs_exist_ok=True, symlinks=True)
        shutil.rmtree(there)
    kept.mkdir(parents=True, exist_ok=True)
    (kept / "told.txt").write_text(told)


def _seeds(target: Target, work: Path) -> Path:
    return work.parent / "seeds" / target.prepare.__name__.lstrip("_")


def _prepared(target: Target, seeds: Path) -> None:
    if not seeds.exists():
        seeds.mkdir()
        target.prepare(seeds)


def _cases(
    target: Target, work: Path, seed: int, limits: _Limits, shared: mmap.mmap, results: Path
) -> None:
    around = {each.name for each in work.iterdir()} | {results.name}
    with results.open("w", encoding="utf-8") as file:
        number = limits.first
        while number < limits.last and (
            number < limits.least or not limits.least or time.monotonic() < limits.end
        ):
            shared[8:] = number.to_bytes(8, "little")
            folder = work / f"case-{number}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            with _in_time():
                outcome = _outcome(target, work, folder, seed, number)
            astray = (
                {each.name for each in work.iterdir()} - around - {folder.name, f"{number}.txt"}
            )
            if astray:
                outcome = f"failed\t{number}\tfiles elsewhere: {sorted(astray)}"
                (work / f"{number}.txt").write_text(outcome)
            print(outcome, file=file, flush=True)
            if not outcome.startswith("failed"):
                shutil.rmtree(folder)
            else:
                around |= {folder.name, f"{number}.txt"}
            number += 1
            shared[:8] = number.to_bytes(8, "little")
            os.ftruncate(1, 0)


@contextmanager
def _in_time() -> Iterator[None]:
    """End this process, with a traceback, where what is done in it takes too long."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time()) + MOST_SECONDS, hard))
    faulthandler.dump_traceback_later(MOST_WAITING, exit=True, file=2)
    yield
    faulthandler.cancel_dump_traceback_later()
    resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))


def _outcome(target: Target, work: Path, folder: Path, seed: int, number: int) -> str:
    """Try one case; a line: what became of it, or that it failed, and how."""
    rng = random.Random(f"{target.name} {seed} {number}")
    try:
        try:
            return target.case(_seeds(target, work), folder, Mutations(rng, still=number == 0))
        except PipelineError as error:
            if number == 0:
                raise AssertionError("what is mutated has to be good") from error
            if not 0 < len(str(error)) <= MOST_SAID:
                raise AssertionError(f"an error of {len(str(error))} characters") from error
            return "refused"
    except BaseException as error:  # noqa: BLE001 - whatever is not ours is what is looked for
        (work / f"{number}.txt").write_text(traceback.format_exc(), errors="replace")
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return f"failed\t{number}\t{what.encode('utf-8', 'replace').decode()}"


def files_of(folder: Path) -> Iterator[Path]:
    """Give all files below a folder, in the same order everywhere."""
    yield from sorted(each for each in folder.rglob("*") if each.is_file())
