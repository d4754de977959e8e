"""Runs of drawn cases: begun, interrupted, killed, and held against what they have to store.

``python -m tests.whole FOLDER...`` kills the run of the ``case.json`` in each in the middle of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dask
import numpy as np
import zarr

from pipeline.execute import run
from pipeline.model import load_model
from pipeline.plan import Options, Plan, Tissue, plan_slide
from pipeline.process.stopping import Stopped, ask_to_stop, draining
from pipeline.results import open_results
from tests.toys import write_tiff, write_toy_model
from tests.truth import MASK_STEP, MPP, Case, expected, slide_of

__all__ = ["check", "interrupt", "kill", "plan_of", "stop_with", "write"]


class Enough(Exception):  # noqa: N818 - nothing is wrong
    """Raised in the middle of a run."""


def write(case: Case, folder: Path) -> None:
    """Write the slide and the model of a case."""
    levels = 2 if case.level == 1 else 1
    write_tiff(folder / "slide.tiff", case.rgb, mpp=MPP, tile=case.tile, levels=levels)
    crop = case.method == "crop"
    output: dict[str, Any] = {
        "stride": case.stride,
        "range": [case.low, case.low + 255 / case.steps],
    }
    write_toy_model(
        folder / "model",
        case.kind,
        input={"patch": case.step + 2 * case.halo},
        outputs=output,
        batch=case.batch,
        stitch={"method": case.method, "halo": case.halo if crop else None}
        | ({} if crop else {"overlap": 2 * case.halo}),
    )


def plan_of(case: Case, folder: Path) -> Plan:
    """Plan the run of a case whose slide and model are written."""
    mask = Tissue(case.tissue, (MASK_STEP, MASK_STEP), {"method": "test"})
    options = Options(
        level=case.level,
        mpp=case.mpp,
        block=case.block,
        chunk=case.block // case.stride // case.chunks,
        dtype=case.dtype,
        min_fraction=case.min_fraction,
    )
    model = load_model(folder / "model" / "card.yaml")
    return plan_slide(slide_of(case, folder), model, mask, options, path=str(folder / "out.zarr"))


def interrupt(case: Case, folder: Path, how: Callable[[], object]) -> int:
    """Begin a run and do something in the middle of it; give the blocks that were finished."""
    plan, told = plan_of(case, folder), []

    def tell(stage: str, _finished: int, _total: int) -> None:
        told.append(stage)
        if len(told) == max(round(case.part * len(plan.todo)), 1):
            how()

    with draining(lambda _: None), contextlib.suppress(Stopped, Enough):
        run(plan, watch=tell)
    return told.count("blocks")


def stop_with(end: str) -> Callable[[], object]:
    """Give what ends a run as a case says."""

    def fail() -> None:
        raise Enough

    return {"error": fail, "stop": ask_to_stop}[end]


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def check(case: Case, folder: Path) -> None:
    """Hold what is stored against what is expected, every level of it, and the coverage."""
    levels, coverage = expected(case, folder)
    for number, truth in enumerate(levels):
        stored: Any = zarr.open_array(str(folder / "out.zarr" / str(number)), mode="r")
        np.testing.assert_array_equal(stored[:], truth, f"level {number}", strict=True)
    assert not (folder / "out.zarr" / str(len(levels))).exists()
    seen = open_results(folder)["out"]
    assert seen.state == "done"
    np.testing.assert_array_equal(seen.coverage, coverage)


def kill(folders: Sequence[str]) -> int:
    """Begin the run of the case in each folder and kill it in the middle; give how many were.

    Each in a copy of this process, in which no thread has begun.
    """
    killed = 0
    for folder in map(Path, folders):
        case = Case(**json.loads((folder / "case.json").read_text()))
        child = os.fork()
        if child == 0:
            with dask.config.set(scheduler=case.scheduler, num_workers=2):
                interrupt(case, folder, _die)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            killed += 1
        elif status:
            raise RuntimeError(f"{case}: ended with {status} before it was killed")
    return killed


if __name__ == "__main__":
    print(kill(sys.argv[1:]))
