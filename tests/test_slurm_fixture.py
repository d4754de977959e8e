"""The Slurm of the tests is a real one: jobs end, are cancelled, time out and are killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests import slurm as slurms
from tests.slurm import Slurm, slurm_cluster, wait_until

HUNGRY = "import time; x = bytearray(300 << 20); print('had it', flush=True); time.sleep(100)"


def sleeping(slurm: Slurm) -> int:
    """Submit a job that sleeps, and wait until it does."""
    job = slurm.submit("--job-name=sleeper", "--output=/dev/null", "--wrap=sleep 100")
    wait_until(lambda: slurm.state(job) == "RUNNING")
    return job


def test_jobs_run_on_both_nodes(slurm: Slurm, tmp_path: Path) -> None:
    script = "#!/bin/bash\nhostname\necho $SLURMD_NODENAME\n"
    jobs = [
        slurm.submit(f"--nodelist={node}", f"--output={tmp_path}/%j.out", script=script)
        for node in slurms.NODES
    ]
    assert [slurm.ended(job) for job in jobs] == ["COMPLETED", "COMPLETED"]
    said = [(tmp_path / f"{job}.out").read_text().split() for job in jobs]
    host = subprocess.check_output(["hostname"], text=True).strip()
    assert said == [[host, node] for node in slurms.NODES]
    for job in jobs:
        wait_until(lambda job=job: f"JobId={job} " in slurm.finished)  # type: ignore[misc]
    assert slurm.jobs() == []


def test_a_job_is_cancelled(slurm: Slurm) -> None:
    job, other = sleeping(slurm), sleeping(slurm)
    assert slurm.jobs() == [
        slurms.Job(job, "RUNNING", "sleeper"),
        slurms.Job(other, "RUNNING", "sleeper"),
    ]
    slurm.cancel(job)
    assert slurm.ended(job) == "CANCELLED"
    assert slurm.state(other) == "RUNNING"


def test_a_walltime_ends(slurm: Slurm) -> None:
    job = sleeping(slurm)
    slurm.end_soon(job, 1)
    assert slurm.ended(job) == "TIMEOUT"


def test_who_uses_more_memory_than_asked_for_is_killed(slurm: Slurm, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = f'{sys.executable} -c "{HUNGRY}"'
    job = slurm.submit("--mem=100M", f"--output={out}", f"--wrap={command}")
    assert slurm.ended(job) == "FAILED"
    assert slurm.shown(job)["ExitCode"] == "0:9"
    assert "exceeded memory limit" in out.read_text()


def test_what_a_test_leaves_behind_is_gone_for_the_next(slurm: Slurm) -> None:
    sleeping(slurm)
    slurm.drain()
    assert slurm.jobs() == []


def daemons(folder: Path) -> Iterator[int]:
    """Give the processes that use a folder."""
    for process in psutil.process_iter(["cmdline", "environ", "status"]):
        of_folder = str(folder) in f"{process.info['cmdline']} {process.info['environ']}"
        if of_folder and process.info["status"] != psutil.STATUS_ZOMBIE:
            yield process.pid


@pytest.mark.usefixtures("slurm_session")  # or it cannot be started
def test_no_daemon_outlives_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), slurm_cluster(tmp_path) as own:  # noqa: PT012
        sleeping(own)
        assert len(list(daemons(tmp_path))) >= 4
        raise ZeroDivisionError
    assert list(daemons(tmp_path)) == []


@pytest.mark.usefixtures("slurm_session")
def test_no_daemon_outlives_the_tests_that_are_killed(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys, time; from tests.slurm import slurm_cluster\n"
        "with slurm_cluster(pathlib.Path(sys.argv[1])): print('up', flush=True); time.sleep(100)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as tests:
        assert tests.stdout is not None
        assert tests.stdout.readline() == "up\n"
        started = list(daemons(tmp_path))
        tests.kill()
    assert len(started) >= 4
    wait_until(lambda: not list(daemons(tmp_path)))


def test_a_slurm_that_is_not_there_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurms, "_PATH", "/nowhere")
    assert "no slurmctld, slurmd, sbatch, munged" in str(slurms.why_not())


def test_waiting_ends_with_what_was_seen_last() -> None:
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=r"jobs: still \[\] after 0\.2 s"):
        wait_until(list[int], 0.2, why="jobs")
    assert time.monotonic() - started < 30
    assert wait_until(os.getpid) == os.getpid()
