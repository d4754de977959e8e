"""What a run over one small slide takes beside reading, predicting and writing.

As a program, ``python -m tests.benchmarks.small FOLDER MODEL`` does the run file in the folder and
says as JSON what that took, and what the same took with nothing around it:

- *the run*: from the run file to the closed books, as `pipeline.run` does it, in threads, tissue
  found by Otsu: config, books, log, opening the slide and the model, measuring the model's batch,
  finding the tissue, begin, blocks, pyramid, commit. It is done in a process that has done one for
  another slide and another model, so that all is imported.
- *bare*: its blocks read; the bare session on as many batches, all of them the same ready one; its
  shards, of all levels, encoded and stored with ready values. One after another, each in as many
  threads.

*The command* is ``wsi-pipeline run`` on another such file, from nothing: Python and imports, too.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from pipeline.process import cores
from tests.benchmarks.contenders import Setting, write_sample
from tests.benchmarks.models import model_card
from tests.benchmarks.predictions import bare_session, plan_of
from tests.benchmarks.rows import Row, Wanted

if TYPE_CHECKING:
    from pipeline.plan import Plan

__all__ = ["SMALL", "Took", "small_rows", "time_run"]

SMALL = "small slide"
SIZE = (2_000, 3_000)
MOST_BESIDE_S = 1.0

_MODELS = {"1x1": "1 x 1 convolution", "u-net": "small U-Net"}


@dataclass(frozen=True)
class Took:
    """Seconds of a run, of the command, and of the parts of it that are the work."""

    run_s: float
    command_s: float
    read_s: float
    predict_s: float
    write_s: float

    @property
    def bare_s(self) -> float:
        """The work and nothing else."""
        return self.read_s + self.predict_s + self.write_s


def small_rows(folder: Path, *, rounds: int) -> Iterator[Row]:
    """Time every model, once in each round; give two rows of medians for each."""
    took: dict[str, list[Took]] = {name: [] for name in _MODELS}
    for _ in range(rounds):
        for name, runs in took.items():
            runs.append(time_run(folder, name))
    for name, runs in took.items():
        of = ", ".join(
            f"{what} {median(seconds):.2f} s"
            for what, seconds in (
                ("read", [run.read_s for run in runs]),
                ("predict", [run.predict_s for run in runs]),
                ("write", [run.write_s for run in runs]),
            )
        )
        beside = median(run.run_s - run.bare_s for run in runs)
        command = median(run.command_s - run.bare_s for run in runs)
        job, slide = f"{SMALL}, {_MODELS[name]}", f"{SIZE[0]:,} x {SIZE[1]:,} px"
        wanted = Wanted(f"<= {MOST_BESIDE_S:g} s", beside <= MOST_BESIDE_S)
        yield Row(job, slide, said=f"{beside:.2f} s beside {of}", wanted=(wanted,))
        yield Row(
            f"{job}: the command",
            slide,
            said=f"{command:.2f} s beside that, Python and imports too",
        )


def time_run(folder: Path, model: str, size: tuple[int, int] = SIZE) -> Took:
    """Time a run once, in a process of its own, and the command after it."""
    from pipeline.demo import write_demo

    place = folder / SMALL.replace(" ", "-")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        write_demo(place / "slide.svs", *size)
        command = [sys.executable, "-m", "tests.benchmarks.small", str(place), model]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        run_file = _run_file(place, "slide.svs", model, "command")
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "pipeline", "run", str(run_file)],
            stdout=subprocess.DEVNULL,
            check=True,
        )
        return Took(command_s=time.perf_counter() - started, **json.loads(done.stdout))
    finally:
        shutil.rmtree(place)


def _run_file(place: Path, slide: str, model: str, results: str) -> Path:
    path = place / f"{results}.yaml"
    path.write_text(
        f"slides: {slide}\nmodel: {model_card(model, place)}\noutput: {{directory: {results}}}\n"
        f"cluster: {{kind: threads, workers: {cores()}}}\n",
        encoding="utf-8",
    )
    return path


def _main() -> None:
    import pipeline.batch

    place, model = Path(sys.argv[1]), sys.argv[2]
    free = place / "warm"
    free.mkdir()
    write_sample(str(free))
    # Another model: the session of the one that is timed is not open yet.
    _complete(pipeline.batch.run(str(_run_file(free, "sample.svs", "means", "results"))))
    run_file = _run_file(place, "slide.svs", model, "results")
    run_s = _seconds(lambda: _complete(pipeline.batch.run(str(run_file))))
    print(json.dumps({"run_s": run_s, **_bare(place, model)}))


def _bare(place: Path, model: str) -> dict[str, float]:
    from pipeline.store import begin

    at = Setting(str(place / "slide.svs"), cores(), str(place))
    plan = plan_of(at, model, "bare.zarr", tissue="otsu")
    begin(plan.path, plan.layout, plan.settings, {}, plan.tissue.mask)
    took = {}
    with ThreadPoolExecutor(at.cores) as pool:
        boxes = [plan.grid.box(index) for index in plan.todo]
        took["read_s"] = _seconds(lambda: list(pool.map(plan.level.read, boxes)))
        with bare_session(model, tissue="otsu")(at) as predict:
            took["predict_s"] = _seconds(predict)
        ready = list(_ready(plan))
        took["write_s"] = _seconds(lambda: list(pool.map(_stored, ready)))
    return took


def _ready(plan: Plan) -> Iterator[tuple[Any, Any, Any]]:
    """Give each block that is stored, of all levels: the array, its place, values for it."""
    import numpy as np

    from pipeline.plan.pyramid import parents

    for levels in plan.arrays:
        blocks = set(plan.todo)
        for array in levels:
            for index in blocks:
                box = array.grid.box(index)
                green = plan.level.read(box)[None, :, :, 1]
                values = np.broadcast_to(green, (array.channels, *box.shape))
                yield array, box, np.ascontiguousarray(values)
            blocks = parents(blocks)


def _stored(given: tuple[Any, Any, Any]) -> None:
    array, box, values = given
    array.write(box, values)


def _complete(summary: Any) -> None:
    if not summary.complete:
        raise AssertionError(next(each.reason for each in summary.outcomes if each.reason))


def _seconds(do: Callable[[], object]) -> float:
    started = time.perf_counter()
    do()
    return time.perf_counter() - started


if __name__ == "__main__":
    _main()
