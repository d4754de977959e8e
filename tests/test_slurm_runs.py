"""Runs on a real Slurm whose jobs are cancelled, reach their walltime or run out of memory.

Each ends with the arrays of an undisturbed run in threads. They go on side by side: most of their
time they wait, for Slurm, for processes to start, and for the slides, which a slow server has. So
a run is in its middle for as long as it is to be disturbed, and quickly over afterwards.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipeline.books.runs import read_runs
from tests.cohort import Cohort, write_cohort
from tests.servers import Web, web_server
from tests.slurm import Slurm, wait_until

AT_ONCE = 4
PATIENCE_S = 240.0

ENVIRONMENT = {"DASK_WSI_PIPELINE__JOBS_WATCHED_EVERY": "1"}
"""Slurm is asked every second which jobs are there."""


@dataclass(frozen=True)
class Going:
    """A run that goes on, of slides behind a server that is as slow as it is told to be."""

    name: str
    slurm: Slurm
    cohort: Cohort
    out: Path
    web: Web
    begun: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def jobs(self) -> frozenset[int]:
        """Its jobs of workers that are running now."""
        return frozenset(
            job.id
            for job in self.slurm.jobs()
            if job.comment == self.name and job.state == "RUNNING"
        )

    @property
    def blocks(self) -> int:
        return self.cohort.stored_blocks(self.out)

    def overrides(self, *settings: str) -> list[str]:
        """Give what its run file has beside the cohort's."""
        slides = ", ".join(f"'{self.web.url}/{name}.svs'" for name in ("a", "b"))
        return [
            f"slides=[{slides}]",
            f"output.directory={self.out}",
            f"cluster.job_extra_directives=['--comment={self.name}']",
            f"cluster.shared_temp_directory={self.out.parent / 'private'}",
            "cluster.cores=1",
            "cluster.memory=1 GiB",
            *settings,
        ]

    def wait(self, look: Callable[[], Any], what: str) -> None:
        """Wait for something that is to happen while it goes on."""

        def look_while_going() -> Any:
            if self.begun and self.begun[-1].poll() is not None:
                pytest.fail(f"{self.name}: it has ended: {self.said}")
            return look()

        wait_until(look_while_going, PATIENCE_S, why=lambda: f"{self.name}: {what}: {self.said}")

    def begin(self, subcommand: str, *settings: str) -> None:
        """Start a command on the run file."""
        command = [sys.executable, "-m", "pipeline", subcommand, str(self.cohort.run_file)]
        for each in self.overrides(*settings):
            command += ["-o", each]
        with self.said_file.open("ab") as log:
            self.begun.append(subprocess.Popen(command, stdout=log, stderr=log))

    def submit(self, *settings: str) -> int:
        """Submit the run as a job, and give its number."""
        self.begin("submit", *settings)
        assert self.begun.pop().wait(PATIENCE_S) == 0, self.said
        return int(re.findall(r"job (\d+) is submitted", self.said)[-1])

    def wait_for_new(self, old: frozenset[int], count: int = 1) -> frozenset[int]:
        """Wait until jobs run that were not there before, and a block was stored since."""
        self.wait(lambda: len(self.jobs - old) >= count, f"others than {sorted(old)}")
        blocks = self.blocks
        self.wait(lambda: self.blocks > blocks, "another block")
        return self.jobs

    @property
    def said(self) -> str:
        return self.said_file.read_text()

    @property
    def said_file(self) -> Path:
        return self.out.parent / f"{self.name}.log"


@dataclass(frozen=True)
class Scenario:
    """Settings of a run, what is done to it from its beginning to its end, and what is seen."""

    settings: tuple[str, ...]
    run: Callable[[Going, tuple[str, ...]], None]
    ends: Mapping[str, int] = field(default_factory=dict)
    """Causes by which jobs have ended, in `run.json`, and how often at least."""


def disturbed(disturb: Callable[[Going], None]) -> Callable[[Going, tuple[str, ...]], None]:
    """Drive a run from here, disturb it, and then let it end."""

    def run(going: Going, settings: tuple[str, ...]) -> None:
        going.begin("run", "cluster.kind=slurm", *settings)
        (process,) = going.begun
        try:
            disturb(going)
            assert process.poll() is None, f"it ended too early: {going.said}"
            going.web.delay_s = 0.0
            assert process.wait(PATIENCE_S) == 0, going.said
        finally:
            process.kill()
            process.wait()

    return run


def cancel_one_then_all(going: Going) -> None:
    first = going.wait_for_new(frozenset())
    going.slurm.cancel(min(first))
    second = going.wait_for_new(first)
    going.slurm.cancel(*second)
    going.wait_for_new(first | second)


def walltime(going: Going) -> None:
    first = going.wait_for_new(frozenset(), 2)
    going.web.delay_s = 3.0
    job = min(first)
    going.slurm.end_soon(job, 1)
    going.wait(lambda: going.slurm.state(job) == "TIMEOUT", "a job's walltime")
    going.web.delay_s = 0.5
    going.wait_for_new(first)


def out_of_memory(going: Going) -> None:
    first = going.wait_for_new(frozenset(), 2)
    (going.out.parent / "hungry").touch()
    going.wait(lambda: first - going.jobs, "a job that is killed")
    (killed,) = first - going.jobs
    assert going.slurm.ended(killed) == "FAILED"
    going.wait_for_new(first)


def driver_cancelled(going: Going, settings: tuple[str, ...]) -> None:
    slurm = going.slurm
    job = going.submit("cluster.kind=slurm", *settings)
    going.wait_for_new(frozenset())
    slurm.cancel(job)
    assert slurm.ended(job) == "CANCELLED"
    going.wait(lambda: not going.jobs, "its workers end with it")
    going.web.delay_s = 0.0
    again = going.submit("cluster.kind=slurm", *settings)
    assert slurm.ended(again, PATIENCE_S) == "COMPLETED"


def one_allocation(going: Going, settings: tuple[str, ...]) -> None:
    slurm = going.slurm
    job = going.submit("cluster.kind=slurm-runner", *settings)
    going.wait(lambda: going.blocks, "a block")
    slurm.run("scancel", "--batch", "--signal=USR1", str(job))
    going.wait(lambda: slurm.shown(job)["Restarts"] == "1", "its walltime")
    going.wait(lambda: slurm.state(job) == "PENDING", "to be queued again")
    said = (going.out / "logs" / f"driver-{job}.out").read_text()
    assert said.count("not ended; what is stored stays") == 2, said  # neither slide has failed
    going.web.delay_s = 0.0
    slurm.run("scontrol", "update", f"JobId={job}", "StartTime=now+2")
    assert slurm.ended(job, PATIENCE_S) == "COMPLETED"


# In the first job alone, once it is told to, something takes more than the job may have.
_LINE = (
    "mkdir FOLDER/first && ( until [ -e FOLDER/hungry ]; do sleep 0.1; done; "
    f"{sys.executable} -c 'import time; x = b\"x\" * (1500 << 20); time.sleep(600)' ) &"
)
HUNGRY = f"cluster.job_script_prologue={json.dumps([_LINE])}"

FIXED, ADAPTIVE = ("cluster.jobs=2",), ("cluster.minimum_jobs=1", "cluster.maximum_jobs=2")
TWO = ("cluster.cores=2", "cluster.processes=2")
SCENARIOS = {
    "fixed-1": Scenario(FIXED, disturbed(cancel_one_then_all), {"cancelled": 3}),
    "fixed-2": Scenario((*FIXED, *TWO), disturbed(cancel_one_then_all), {"cancelled": 3}),
    "adaptive-1": Scenario(ADAPTIVE, disturbed(cancel_one_then_all), {"cancelled": 2}),
    "adaptive-2": Scenario((*ADAPTIVE, *TWO), disturbed(cancel_one_then_all), {"cancelled": 2}),
    "walltime": Scenario(FIXED, disturbed(walltime), {"walltime": 1}),
    "memory": Scenario((*FIXED, HUNGRY), disturbed(out_of_memory), {"failed": 1}),
    "driver": Scenario(FIXED, driver_cancelled),
    "runner": Scenario(FIXED, one_allocation),
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return write_cohort(tmp_path_factory.mktemp("cohort"), block=256)


@pytest.fixture(scope="module")
def runs(
    slurm_session: Slurm,
    cohort: Cohort,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[Mapping[str, Future[Going]]]:
    """Begin all runs that are asked for, a few at once."""
    specs = [getattr(item, "callspec", None) for item in request.session.items]
    names = {spec.params.get("name") for spec in specs if spec is not None}
    with ThreadPoolExecutor(AT_ONCE) as pool, pytest.MonkeyPatch.context() as patch:
        for key, value in {**slurm_session.environment, **ENVIRONMENT}.items():
            patch.setenv(key, value)

        def run(name: str) -> Going:
            scenario = SCENARIOS[name]
            folder = tmp_path_factory.mktemp(name)
            with web_server() as web:
                for slide in (cohort.folder / "slides").iterdir():
                    web.files[f"/{slide.name}"] = slide.read_bytes()
                web.delay_s = 0.5
                going = Going(name, slurm_session, cohort, folder / "my out", web)
                settings = [each.replace("FOLDER", str(folder)) for each in scenario.settings]
                scenario.run(going, tuple(settings))
                return going

        yield {name: pool.submit(run, name) for name in SCENARIOS if name in names}
    slurm_session.drain()


@pytest.mark.parametrize("name", SCENARIOS)
def test_whatever_becomes_of_its_jobs_a_run_ends_as_one_in_threads(
    runs: Mapping[str, Future[Going]], cohort: Cohort, name: str
) -> None:
    going = runs[name].result()
    cohort.assert_same(going.out)
    last = read_runs(str(going.out / "run.json"))[0]
    ended = last["scheduler"].get("jobs_ended", {})
    assert last["exit"] == "done"
    for cause, count in SCENARIOS[name].ends.items():
        assert ended.get(cause, 0) >= count, (ended, going.said)
    assert "Traceback" not in going.said
    assert not list((going.out.parent / "private").iterdir()), "certificates are left"


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("cluster.job_script_prologue=['exit 3']", "failed with exit code 3:0, and had brought no"),
        ("cluster.queue=nowhere", "sbatch refused a job: "),
    ],
    ids=["they fail", "they are refused"],
)
def test_jobs_that_bring_no_worker_end_a_run_with_where_to_look(
    slurm: Slurm, cohort: Cohort, tmp_path: Path, setting: str, said: str
) -> None:
    going = Going("none-comes", slurm, cohort, tmp_path / "out", Web())
    command = [sys.executable, "-m", "pipeline", "run", str(cohort.run_file)]
    for each in (*going.overrides("cluster.kind=slurm", setting)[1:], "cluster.jobs=2"):
        command += ["-o", each]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **slurm.environment, **ENVIRONMENT},
        timeout=PATIENCE_S,
    )
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: SLURM: ")
    assert said in last
    assert re.search(r"as [23] before it", last)
    assert str(tmp_path / "out" / "logs") in last
    assert "Traceback" not in done.stderr
    assert not slurm.jobs()
