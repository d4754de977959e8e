"""The command: its options, the slides it makes, and what it shows."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.process import cores
from tests.benchmarks import __doc__ as about
from tests.benchmarks import remote
from tests.benchmarks.cohorts import COHORTS, cohort_row
from tests.benchmarks.jobs import JOBS, Job
from tests.benchmarks.large import LARGE, large_rows
from tests.benchmarks.models import SHARED, shared_model
from tests.benchmarks.overhead import OVERHEAD, overhead_rows
from tests.benchmarks.rows import Row, remote_row, rows_of, run_rounds, table
from tests.benchmarks.small import SMALL, small_rows

_SIZE, _QUICK = (20_000, 16_000), (5_000, 4_000)
_REMOTE = "remote region"
_VERSIONS = (
    *("wsi-pipeline", "dask", "imagecodecs", "ngff-zarr", "numpy", "onnxruntime"),
    *("openslide-bin", "zarr"),
)


def main(arguments: list[str] | None = None) -> int:
    """Run the jobs and show one table."""
    asked = _parse(arguments)
    folder = Path(asked.folder).resolve()  # cards name their models
    folder.mkdir(parents=True, exist_ok=True)
    names = asked.only or [*JOBS, SMALL, _REMOTE, *COHORTS, OVERHEAD]
    names += [LARGE] if asked.large and LARGE not in names else []
    rows: list[Row] = []
    runs: dict[str, Any] = {}
    for name in names:
        started = time.monotonic()
        made = list(_rows(name, asked, folder, runs))
        rows += made
        for row in made:  # a run may be cut short
            _say("  " + ", ".join(cell for cell in row.cells if cell != "-"))
        _say(f"  in {time.monotonic() - started:.0f} s")
        if asked.json:
            _save(asked, rows, runs)
    print(table(rows))
    return 0


def _save(asked: argparse.Namespace, rows: list[Row], runs: dict[str, Any]) -> None:
    about_it = {"machine": _machine(asked), "rows": [asdict(row) for row in rows], "runs": runs}
    Path(asked.json).write_text(json.dumps(about_it, indent=2), encoding="utf-8")


def _rows(
    name: str, asked: argparse.Namespace, folder: Path, runs: dict[str, Any]
) -> Iterable[Row]:
    """Do one job and give its rows; what was measured is put into ``runs``."""
    if name not in JOBS:
        return _others(name, asked, folder)
    job = JOBS[name]
    if job.model is not None and shared_model(job.model) is None:
        _say(f"{name}: left out: no {job.model} in the models of the folder {SHARED} names")
        return ()
    slide = _slide(asked, job, folder)
    _say(f"{name}: {slide.name}")
    found = run_rounds(job, slide, rounds=asked.repeats, cores=asked.cores, folder=folder)
    runs[name] = {each: [asdict(run) for run in of] for each, of in found.items()}
    return rows_of(job, slide, found)


def _others(name: str, asked: argparse.Namespace, folder: Path) -> Iterable[Row]:
    """Give the rows of what is not a job done side by side."""
    if name == _REMOTE:
        return _remote(asked, folder)
    _say(name)
    rounds = 1 if asked.quick else asked.repeats
    if name == OVERHEAD:
        return overhead_rows(folder, quick=asked.quick, rounds=rounds)
    if name == SMALL:
        return small_rows(folder, rounds=rounds)
    if name == LARGE:
        return large_rows(folder, rounds=asked.repeats, cores=asked.cores)
    return [cohort_row(name, folder, quick=asked.quick)]


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m tests.benchmarks",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = [*JOBS, SMALL, _REMOTE, *COHORTS, OVERHEAD, LARGE]
    parser.add_argument(
        "--quick", action="store_true", help="small slides, fewer rounds: in less than ten minutes"
    )
    parser.add_argument(
        "--large",
        action="store_true",
        help="also a slide of 100,000 x 80,000 pixels, which is written first: minutes, 1 GB",
    )
    parser.add_argument("--only", action="append", choices=known, help="a job; may be repeated")
    parser.add_argument("--repeats", type=_positive, help="rounds (5; 2 where it is quick)")
    parser.add_argument(
        "--slide", type=Path, help="a TIFF of JPEG tiles of yours, where its scale does not matter"
    )
    parser.add_argument("--json", type=Path, help="also write every figure of every run here")
    parser.add_argument(
        "--folder",
        default=Path(tempfile.gettempdir(), "wsi-pipeline-benchmarks"),
        help="where slides are kept and results written (%(default)s)",
    )
    parser.add_argument(
        "--cores",
        type=_positive,
        default=cores(),
        help="threads or processes of each (%(default)s)",
    )
    parser.add_argument("--width", type=_positive, help=argparse.SUPPRESS)
    parser.add_argument("--height", type=_positive, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    width, height = _QUICK if asked.quick else _SIZE
    asked.repeats = asked.repeats or (2 if asked.quick else 5)
    asked.width, asked.height = asked.width or width, asked.height or height
    return asked


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def _slide(asked: argparse.Namespace, job: Job | None, folder: Path) -> Path:
    """Give the slide of a job, written first if it is not there, and in the page cache."""
    from pipeline.demo import write_demo

    mpp = 0.5 if job is None else job.mpp
    width, height = asked.width, asked.height
    most = None if job is None else (asked.quick and job.quick) or job.most
    if most is not None:
        width, height = min(width, most[0]), min(height, most[1])
    path = Path(folder, f"demo-{width}x{height}-{mpp:g}um.svs")
    if asked.slide is not None and (job is None or job.any_slide):
        path = asked.slide
    elif not path.exists():
        _say(f"writing {path}")
        write_demo(path, width, height, mpp=mpp)
    with path.open("rb") as file:
        while file.read(2**24):
            pass
    return path


def _remote(asked: argparse.Namespace, folder: Path) -> Iterator[Row]:
    if not remote.available():
        _say(f"{_REMOTE}: left out: slides cannot be read from URLs here; install obstore")
        return
    yield remote_row(_slide(asked, None, folder))


def _machine(asked: argparse.Namespace) -> dict[str, Any]:
    return {
        "cores": asked.cores,
        "rounds": asked.repeats,
        "processor": _processor(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _VERSIONS},
    }


def _processor() -> str:
    told = Path("/proc/cpuinfo")
    lines = told.read_text(encoding="utf-8").splitlines() if told.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
