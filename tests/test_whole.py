"""Whatever the slide, the model, the blocks and the interruptions: what is stored is the whole's.

`WSI_PIPELINE_WHOLE_EXAMPLES` is how many runs are drawn, by their numbers: always the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from random import Random

import dask
import pytest

import pipeline
from pipeline.execute import run
from pipeline.store import look
from tests.truth import Case
from tests.whole import check, interrupt, plan_of, stop_with, write

EXAMPLES = int(os.environ.get("WSI_PIPELINE_WHOLE_EXAMPLES", "30"))

SCHEDULERS = ("synchronous", "threads", "threads", "synchronous", "threads", "dask.distributed")


@pytest.fixture(scope="module", autouse=True)
def _two_processes() -> Iterator[None]:
    with pipeline.cluster("local", workers=2, threads_per_worker=1, dashboard="none"):
        yield


def drawn(name: str) -> Case:
    """Draw a run: long slides have coarser levels, wide and high ones have blocks in between.

    From a generator of its own, so that runs are as different as they can be: what hypothesis
    draws next is mostly like what it drew before, and small.
    """
    rng = Random(name)
    kind, method = rng.choice(
        [
            *(("neighbours", method) for method in ("crop", "crop", "mean", "gaussian")),
            *(("strided", "crop"), ("strided", "mean"), ("per_patch", "crop")),
        ]
    )
    stride, step, halo = _patch(rng, kind, method)
    side = rng.randint(max(64 // stride, 1), rng.choice([96, 96, 240]) // stride)
    short = rng.choice([rng.randint(60, 300), rng.randint(60, 300), rng.randint(1, 60)])
    long = rng.choice([rng.randint(600, 1300), rng.randint(600, 1300), rng.randint(1, 600)])
    level, mpp = rng.choice([(0, None), (0, None), (1, None), (None, 0.8), (None, 1.0)])
    least = 2 if level == 1 else 1
    height, width = (max(n, least) for n in rng.sample([long, short], 2))
    dtype = rng.choice(["uint8", "float16", "float32"])
    exact = method != "gaussian" or dtype != "uint8"
    return Case(
        height=height,
        width=width,
        tile=16 * rng.randint(1, 16),
        reader=rng.choice(["auto", "auto", "openslide"]),
        kind=kind,
        method=method,
        step=step,
        halo=halo,
        batch=rng.randint(1, 5),
        block=side * stride,
        chunks=rng.choice([n for n in (1, 2, 3, 5) if side % n == 0]),
        dtype=dtype if exact else "float32",
        low=rng.choice([0.0, -0.5]),
        scheduler=rng.choice(SCHEDULERS),
        level=level,
        mpp=mpp,
        mask=rng.choice([None, rng.randint(0, 1000)]),
        min_fraction=rng.choice([0.0, 0.5]),
        end=rng.choice(["none", "error", "stop", "stop"]),
        part=rng.uniform(0, 1.2),
    )


def _patch(rng: Random, kind: str, method: str) -> tuple[int, int, int]:
    """Draw stride, step and halo that fit each other."""
    if kind == "per_patch":  # the mean of a patch is exact where its side is a power of two
        patch = rng.choice([16, 32])
        step = rng.choice([patch // 4, patch // 2, patch])
        return step, step, (patch - step) // 2
    stride = 4 if kind == "strided" else 1
    least = 0 if (kind, method) == ("strided", "crop") else 1
    step = stride * rng.randint(16 // stride, 60 // stride)
    return stride, step, stride * rng.randint(least, 9 // stride)


def finish(case: Case, folder: Path, finished: int = 0) -> None:
    """Do what is left, blocks that were finished not again, and hold all of it against numpy."""
    plan = plan_of(case, folder)
    assert run(plan).computed <= len(plan.todo) - finished
    check(case, folder)


@pytest.mark.parametrize("number", range(EXAMPLES))
def test_what_is_stored_is_what_the_whole_image_gives(number: int, tmp_path: Path) -> None:
    case = drawn(f"whole {number}")
    print(case)
    with dask.config.set(scheduler=case.scheduler, num_workers=2):
        write(case, tmp_path)
        finished = 0
        if case.end != "none":
            finished = interrupt(case, tmp_path, stop_with(case.end))
        finish(case, tmp_path, finished)


def test_the_runs_that_are_drawn_differ() -> None:
    """Most of them have what the others are to be right about: levels, blocks, interruptions."""
    cases = [drawn(f"whole {number}") for number in range(30)]
    assert sum(max(case.height, case.width) > 2 * case.block for case in cases) > 15
    assert sum(max(case.height, case.width) > 600 for case in cases) > 15
    for name in ("kind", "method", "dtype", "scheduler", "level", "mpp", "end", "reader"):
        assert len({getattr(case, name) for case in cases}) > 1, name


@pytest.mark.parametrize("number", range(EXAMPLES // 10))
def test_killed_runs_go_on_to_what_the_whole_image_gives(number: int, tmp_path: Path) -> None:
    killed: dict[Path, Case] = {}
    for each in range(3):
        folder = tmp_path / str(each)
        folder.mkdir()
        case = drawn(f"killed {number} {each}")
        killed[folder] = replace(
            case,
            scheduler="threads",
            height=max(case.height, 200),
            width=max(case.width, 200),
            mask=None,
            part=min(case.part, 0.9),
        )
        print(killed[folder])
        write(killed[folder], folder)
        (folder / "case.json").write_text(json.dumps(asdict(killed[folder])))
    done = subprocess.run(
        [sys.executable, "-m", "tests.whole", *map(str, killed)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, f"{len(killed)}\n"), done.stderr
    with dask.config.set(scheduler="threads", num_workers=2):
        for folder, case in killed.items():
            seen = look(str(folder / "out.zarr"))
            assert seen is not None
            assert not seen.committed
            finish(case, folder)
