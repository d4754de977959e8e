"""Whatever the slide, the model, the blocks and the interruptions: what is stored is the whole's.

`WSI_PIPELINE_WHOLE_EXAMPLES` is how many runs are drawn; without it always the same few.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import dask
import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

import pipeline
from pipeline.execute import run
from pipeline.store import look
from tests.truth import Case
from tests.whole import check, interrupt, plan_of, stop_with, write

EXAMPLES = os.environ.get("WSI_PIPELINE_WHOLE_EXAMPLES")

DRAWN = settings(
    max_examples=int(EXAMPLES or 30),
    derandomize=EXAMPLES is None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
KILLED = settings(
    DRAWN,
    max_examples=int(EXAMPLES) // 10 + 1 if EXAMPLES else 2,
    phases=[Phase.generate],  # each costs the start of a process
)

SCHEDULERS = ("synchronous", "threads", "threads", "synchronous", "threads", "dask.distributed")


@pytest.fixture(scope="module", autouse=True)
def _two_processes() -> Iterator[None]:
    with pipeline.cluster("local", workers=2, threads_per_worker=1, dashboard="none"):
        yield


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a run: long slides have coarser levels, wide and high ones have blocks in between."""
    kind, method = draw(
        st.sampled_from(
            [
                *(("neighbours", method) for method in ("crop", "crop", "mean", "gaussian")),
                *(("strided", "crop"), ("strided", "mean"), ("per_patch", "crop")),
            ]
        )
    )
    stride, step, halo = _patch(draw, kind, method)
    most = max(n // stride for n in (96, 240))
    side = draw(st.integers(max(64 // stride, 1), most))
    short = draw(st.integers(60, 300) | st.integers(1, 60))
    long = draw(st.integers(300, 1300) | st.integers(1, 300))
    upright = draw(st.booleans())
    level, mpp = draw(st.sampled_from([(0, None), (0, None), (1, None), (None, 0.8), (None, 1.0)]))
    least = 2 if level == 1 else 1
    height, width = (max(n, least) for n in ((long, short) if upright else (short, long)))
    dtype = draw(st.sampled_from(["uint8", "float16", "float32"]))
    exact = method != "gaussian" or dtype != "uint8"
    return Case(
        height=height,
        width=width,
        tile=16 * draw(st.integers(1, 16)),
        reader=draw(st.sampled_from(["auto", "auto", "openslide"])),
        kind=kind,
        method=method,
        step=step,
        halo=halo,
        batch=draw(st.integers(1, 5)),
        block=side * stride,
        chunks=draw(st.sampled_from([n for n in (1, 2, 3, 5) if side % n == 0])),
        dtype=dtype if exact else "float32",
        low=draw(st.sampled_from([0.0, -0.5])),
        scheduler=draw(st.sampled_from(SCHEDULERS)),
        level=level,
        mpp=mpp,
        mask=draw(st.none() | st.integers(0, 1000)),
        min_fraction=draw(st.sampled_from([0.0, 0.5])),
        end=draw(st.sampled_from(["none", "error", "stop", "stop"])),
        part=draw(st.floats(0, 1.2)),
    )


def _patch(draw: st.DrawFn, kind: str, method: str) -> tuple[int, int, int]:
    """Draw stride, step and halo that fit each other."""
    if kind == "per_patch":  # the mean of a patch is exact where its side is a power of two
        patch = draw(st.sampled_from([16, 32]))
        step = draw(st.sampled_from([patch // 4, patch // 2, patch]))
        return step, step, (patch - step) // 2
    stride = 4 if kind == "strided" else 1
    least = 0 if (kind, method) == ("strided", "crop") else 1
    step = stride * draw(st.integers(16 // stride, 60 // stride))
    return stride, step, stride * draw(st.integers(least, 9 // stride))


def finish(case: Case, folder: Path, finished: int = 0) -> None:
    """Do what is left, blocks that were finished not again, and hold all of it against numpy."""
    plan = plan_of(case, folder)
    assert run(plan).computed <= len(plan.todo) - finished
    check(case, folder)


@DRAWN
@given(cases())
def test_what_is_stored_is_what_the_whole_image_gives(case: Case) -> None:
    note(repr(case))
    with (
        tempfile.TemporaryDirectory() as name,
        dask.config.set(scheduler=case.scheduler, num_workers=2),
    ):
        folder = Path(name)
        write(case, folder)
        finished = 0
        if case.end != "none":
            finished = interrupt(case, folder, stop_with(case.end))
        finish(case, folder, finished)


@KILLED
@given(st.lists(cases(), min_size=3, max_size=3))
def test_killed_runs_go_on_to_what_the_whole_image_gives(drawn: list[Case]) -> None:
    with tempfile.TemporaryDirectory() as name, dask.config.set(scheduler="threads", num_workers=2):
        killed: dict[Path, Case] = {}
        for number, case in enumerate(drawn):
            folder = Path(name, str(number))
            folder.mkdir()
            killed[folder] = replace(
                case,
                scheduler="threads",
                height=max(case.height, 200),
                width=max(case.width, 200),
                mask=None,
                part=min(case.part, 0.9),
            )
            note(repr(killed[folder]))
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
        for folder, case in killed.items():
            seen = look(str(folder / "out.zarr"))
            assert seen is not None
            assert not seen.committed
            finish(case, folder)
