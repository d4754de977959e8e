"""What a block costs the client beside its work: blocks of no work on a local cluster.

As a program, ``python -m tests.benchmarks.overhead BLOCKS FOLDER`` runs once, through all that a
run goes through, and says as JSON what that took of this process: the client, and the scheduler in
it. Workers are processes of their own and are not counted, nor is starting them.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box, Grid, Index
from tests.benchmarks.contenders import Setting, write_sample
from tests.benchmarks.predictions import plan_of
from tests.benchmarks.rows import Row, Wanted

if TYPE_CHECKING:
    import dask.array as da

    from pipeline.lazy import Source, Target
    from pipeline.plan import Plan

__all__ = ["OVERHEAD", "idle_blocks", "measure_overhead", "overhead_rows"]

OVERHEAD = "overhead"

_BLOCKS, _QUICK = (2_000, 20_000, 100_000), (2_000, 20_000)
AT, MOST_MS, MOST_GROWTH = 20_000, 3.0, 1.1
"""At so many blocks, so many ms per block at most, and at more of them so many times as much."""

_CELL = 2048
_WORKERS = 2
_KIBIBYTE = 1024


@dataclass(frozen=True, slots=True)
class Idle:
    """A source of any size that reads nothing, as long in a graph as the one it stands for."""

    like: Source
    shape: tuple[int, ...]
    axes: str = "yxs"

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    def read(self, box: Box) -> NDArray[np.uint8]:  # noqa: ARG002
        return np.empty((0, 0, 3), np.uint8)


@dataclass(frozen=True, slots=True)
class Nowhere:
    """A target that keeps nothing, as long in a graph as the one it stands for."""

    like: Target

    def write(self, box: Box, values: Any) -> None:
        pass


def pass_block(block: Any, index: Index, value: Any, **tokens: Any) -> Any:
    """Stand for the model, and for what is made of its maps."""
    return block


@dataclass(frozen=True)
class Took:
    """What one run took of the client: CPU in ms per block, and its memory at the end and most."""

    blocks: int
    cpu_ms: float
    wall_ms: float
    peak_bytes: int


def overhead_rows(folder: Path, *, quick: bool, rounds: int) -> Iterator[Row]:
    """Measure each number of blocks once in every round, and give a row of medians for each."""
    counts = _QUICK if quick else _BLOCKS
    took: dict[int, list[Took]] = {count: [] for count in counts}
    for _ in range(rounds):
        for count in counts:
            took[count].append(measure_overhead(count, folder))
    for count, runs in took.items():
        each, growth = median(run.cpu_ms for run in runs), ""
        wanted = (Wanted(f"<= {MOST_MS:g} ms", each <= MOST_MS),) if count == AT else ()
        if count > AT:
            ratio = median(a.cpu_ms / b.cpu_ms for a, b in zip(runs, took[AT], strict=True))
            growth = f", {ratio:.2f} x of {AT:,}"
            wanted = (Wanted(f"<= {MOST_GROWTH} x", ratio <= MOST_GROWTH),)
        yield Row(
            f"{OVERHEAD}: {count:,} blocks",
            "none",
            said=f"{each:.2f} ms CPU each{growth}",
            wanted=wanted,
            peak_mib=median(run.peak_bytes for run in runs) / 2**20,
            cpu_s=each * count / 1e3,
        )


def measure_overhead(count: int, folder: Path) -> Took:
    """Run so many blocks once, in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.overhead", str(count), str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return Took(**json.loads(done.stdout))


def idle_blocks(plan: Plan, count: int) -> tuple[da.Array, Grid]:
    """Give so many blocks as `pipeline.plan.Plan.blocks` phrases them, with nothing to do."""
    from pipeline.lazy import map_blocks, read_blocks, write_blocks
    from pipeline.plan.finish import Placing, Together
    from pipeline.process.underway import Work

    columns = next(n for n in range(int(count**0.5), 0, -1) if count % n == 0)
    grid = Grid((count // columns * _CELL, columns * _CELL), _CELL)
    ref, work = plan.model.ref, Work.on(plan.path)
    bits = {index: bytes(16) for index in grid}
    pixels = read_blocks(Idle(plan.level, (*grid.shape, 3)), grid, ref.frame, {}, work)
    maps = map_blocks(
        pass_block,
        pixels,
        grid,
        axes="yxs",
        channels=1,
        dtype=np.float32,
        per_block=bits,
        work=work,
        model=ref,
        level_grid=grid,
    )
    stored = map_blocks(
        pass_block,
        maps,
        grid,
        axes="cyx",
        channels=1,
        dtype=np.uint8,
        per_block=bits,
        work=work,
        model=ref,
        level_grid=grid,
        stored_as=plan.dtype,
        placing=Placing(plan.level.downsample, plan.level.origin, plan.layout.mpp),
    )
    strides = tuple(ref.maps[output.map].stride for output in ref.outputs)
    return write_blocks(stored, Nowhere(Together(plan.targets, strides)), grid, work), grid


def _main() -> None:
    import pipeline
    from pipeline.execute.schedulers import scheduler_in_force
    from pipeline.execute.work import compute_blocks

    count = int(sys.argv[1])
    with tempfile.TemporaryDirectory(dir=sys.argv[2]) as free:
        plan = plan_of(Setting(write_sample(free), 1, free), "means", "none.zarr")
        with pipeline.cluster("local", workers=_WORKERS, dashboard="none"):
            scheduler = scheduler_in_force()
            warm, some = idle_blocks(plan, 64)
            _computed(compute_blocks(scheduler, warm, list(some), _tell_nobody))
            began, started = time.process_time(), time.perf_counter()
            blocks, grid = idle_blocks(plan, count)
            _computed(compute_blocks(scheduler, blocks, list(grid), _tell_nobody))
            cpu_s, wall_s = time.process_time() - began, time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIBIBYTE
    print(json.dumps(asdict(Took(count, cpu_s / count * 1e3, wall_s / count * 1e3, peak))))


def _computed(failures: dict[Index, Exception]) -> None:
    for error in failures.values():
        raise error


def _tell_nobody(_finished: int, _total: int) -> None:
    pass


if __name__ == "__main__":
    _main()
