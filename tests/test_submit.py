"""The driver as a job of a real Slurm: it ends, is cancelled, queued again, shares out slides."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.batch.submitting import Driver, submit
from pipeline.books.runs import read_runs
from pipeline.config.runfile import load_config
from pipeline.errors import ClusterError, ConfigError
from tests.cohort import BLOCKS, Cohort, write_cohort
from tests.slurm import Slurm, wait_until

SIZE = ("cluster.driver.cores=1", "cluster.driver.memory=1 GiB", "cluster.driver.walltime='10:00'")
SLURM = ("cluster.cores=2", "cluster.memory=3 GiB", "cluster.processes=1", "cluster.jobs=2")
KINDS = {
    "threads": SIZE,
    "local": SIZE,
    "slurm": SLURM,
    "slurm-runner": SLURM,
    "address": ("cluster.address=tls://a:1",),
    "scheduler_file": ("cluster.scheduler_file=a.json",),
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return write_cohort(tmp_path_factory.mktemp("cohort"))


def command(name: str, cohort: Cohort, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a subcommand on the cohort's run file."""
    words = [sys.executable, "-m", "pipeline", name, str(cohort.run_file), *arguments]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def overridden(*overrides: str) -> list[str]:
    return [word for each in overrides for word in ("-o", each)]


def submitted(cohort: Cohort, out: Path, *arguments: str) -> int:
    """Submit a run in threads of its job, and give its number."""
    done = command("submit", cohort, *overridden(f"output.directory={out}", *SIZE), *arguments)
    assert done.returncode == 0, done.stderr
    job = int(re.findall(r"job (\d+) is submitted", done.stdout)[0])
    assert f"squeue -j {job} " in done.stdout
    assert f"scancel {job} " in done.stdout
    assert f"wsi-pipeline status {shlex.quote(str(out))} " in done.stdout
    return job


def log_of(out: Path, job: int | str) -> str:
    return (out / "logs" / f"driver-{job}.out").read_text()


def begun(cohort: Cohort, out: Path) -> None:
    """Wait until a run is in its middle."""
    wait_until(lambda: cohort.stored_blocks(out) > 5, every=0.02)
    assert cohort.stored_blocks(out) < 2 * BLOCKS - 40, "it is all but over"


@pytest.mark.parametrize("shards", [None, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_bash_and_sbatch_understand_the_script(
    slurm: Slurm, cohort: Cohort, tmp_path: Path, kind: str, shards: int | None
) -> None:
    out = tmp_path / "it's here"
    overrides = [f"cluster.kind={kind}", f'output.directory="{out}"', *KINDS[kind]]
    driver = Driver.of(load_config(cohort.run_file, overrides), shards)
    script = driver.script()
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    job = slurm.submit("--hold", script=script)
    shown = slurm.shown(job)
    tasks, memory = ("3", "1.50G") if kind == "slurm-runner" else ("1", None)
    assert shown["NumTasks"] == tasks
    assert shown.get("MinMemoryCPU") == memory
    assert shown["Requeue"] == "1"
    # Of an array that has not begun the task's number is none.
    number = str(job) if shards is None else f"{job}_{2**32 - 2}"
    assert f"StdOut={driver.log_file(number)}\n" in slurm.run("scontrol", "show", "job", str(job))


def test_what_the_job_gets_is_what_the_driver_asks_for(slurm: Slurm, cohort: Cohort) -> None:
    overrides = ["cluster.kind=local", "cluster.queue=nowhere", "cluster.account=project"]
    overrides += ["cluster.driver.queue=main", "cluster.driver.cores=3"]
    overrides += ["cluster.driver.memory=1.5 GiB", "cluster.driver.walltime='2:30:00'"]
    overrides += ["cluster.driver.job_extra_directives=['--comment=\"a b\"', '--nice=7']"]
    driver = Driver.of(load_config(cohort.run_file, overrides))
    shown = slurm.shown(slurm.submit("--hold", script=driver.script()))
    assert shown["JobName"] == "wsi-whole"
    assert (shown["Partition"], shown["Account"]) == ("main", "project")
    assert (shown["NumCPUs"], shown["MinMemoryNode"]) == ("3", "1.50G")
    assert (shown["TimeLimit"], shown["Nice"], shown["Comment"]) == ("02:30:00", "7", "a")


def test_who_only_drives_needs_little(slurm: Slurm, cohort: Cohort) -> None:
    driver = Driver.of(load_config(cohort.run_file, ["cluster.kind=slurm", *SLURM]))
    shown = slurm.shown(slurm.submit("--hold", script=driver.script()))
    assert (shown["NumCPUs"], shown["MinMemoryNode"]) == ("1", "4G")
    assert shown["TimeLimit"] == "1-00:00:00"


def test_a_submitted_run_is_done_on_a_compute_node(slurm: Slurm, cohort: Cohort) -> None:
    out = cohort.folder / "it's 100%j"  # where SLURM would put the job's number
    run_file = cohort.run_file.read_text()
    job = submitted(cohort, out)
    try:
        cohort.run_file.write_text("slides: gone\n")  # what is submitted stays as it was
        assert slurm.ended(job) == "COMPLETED"
    finally:
        cohort.run_file.write_text(run_file)
    assert "2 of 2 slides done" in log_of(out, job)
    cohort.assert_same(out)
    (last,) = read_runs(str(out / "run.json"))
    assert last["scheduler"]["threads"] == 1
    assert last["scheduler"]["memory_limit_bytes"] == 2**30


def test_a_run_that_is_cancelled_ends_cleanly_and_goes_on_when_submitted_again(
    slurm: Slurm, cohort: Cohort, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    job = submitted(cohort, out)
    begun(cohort, out)
    slurm.cancel(job)
    assert slurm.ended(job) == "CANCELLED"
    assert slurm.shown(job)["ExitCode"] == "143:0"  # the run's own: it was waited for
    assert "blocks that are running are finished" in log_of(out, job)
    assert "interrupted: what is stored stays" in log_of(out, job)
    (first,) = read_runs(str(out / "run.json"))
    assert first["exit"] == "interrupted"
    left = 2 * BLOCKS - cohort.stored_blocks(out)
    assert left
    again = submitted(cohort, out)
    assert slurm.ended(again) == "COMPLETED"
    counted = map(int, re.findall(r"\((\d+) computed now", log_of(out, again)))
    assert sum(counted) == left
    cohort.assert_same(out)
    assert slurm.jobs() == []


@pytest.mark.parametrize("why", ["queued again", "walltime"])
def test_a_run_that_is_queued_again_goes_on(
    slurm: Slurm, cohort: Cohort, tmp_path: Path, why: str
) -> None:
    out = tmp_path / "out"
    job = submitted(cohort, out)
    begun(cohort, out)
    if why == "walltime":  # what SLURM sends before it, and to whom
        slurm.run("scancel", "--batch", "--signal=USR1", str(job))
    else:
        slurm.run("scontrol", "requeue", str(job))
    wait_until(lambda: slurm.shown(job)["Restarts"] == "1")
    wait_until(lambda: slurm.state(job) == "PENDING")
    # It is kept back for two minutes; in the same second a node would not take it back.
    slurm.run("scontrol", "update", f"JobId={job}", "StartTime=now+2")
    assert slurm.ended(job) == "COMPLETED"
    said = log_of(out, job)
    assert ("the walltime is over: queued again, to go on" in said) == (why == "walltime")
    assert said.count("blocks that are running are finished") == 1
    assert "2 of 2 slides done" in said
    cohort.assert_same(out)


def test_an_array_of_two_shards_is_put_together(
    slurm: Slurm, cohort: Cohort, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    job = submitted(cohort, out, "--array", "2")
    wait_until(lambda: not slurm.jobs(), 120)
    for task in (1, 2):
        assert "1 of 1 slides done" in log_of(out, f"{job}_{task}")
    merged = subprocess.run(
        [sys.executable, "-m", "pipeline", "merge", str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert merged.returncode == 0, merged.stdout
    cohort.assert_same(out)


@pytest.mark.parametrize("kind", ["threads", "local"])
@pytest.mark.parametrize("missing", ["cores", "memory"])
def test_a_job_that_does_all_the_work_needs_to_be_told_how_large_it_is(
    cohort: Cohort, kind: str, missing: str
) -> None:
    given = [each for each in SIZE if missing not in each]
    config = load_config(cohort.run_file, [f"cluster.kind={kind}", *given])
    message = rf"cluster\.driver\.{missing}: is needed to submit a run of kind {kind}"
    with pytest.raises(ConfigError, match=message):
        Driver.of(config).script()


def test_results_in_a_bucket_need_a_folder_for_what_the_job_says(cohort: Cohort) -> None:
    overrides = ["output.directory=s3://bucket/results", *SIZE]
    with pytest.raises(ConfigError, match=r"s3://bucket/results: .* cluster\.log_directory"):
        Driver.of(load_config(cohort.run_file, overrides))
    config = load_config(cohort.run_file, [*overrides, "cluster.log_directory=/shared/logs"])
    assert "#SBATCH --output=/shared/logs/driver-%j.out\n" in Driver.of(config).script()


def test_a_dry_run_prints_the_script_and_writes_nothing(cohort: Cohort, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [*overridden(f"output.directory={out}", *SIZE), "--array", "4", "--dry-run"]
    done = command("submit", cohort, *arguments)
    assert done.returncode == 0
    assert "#SBATCH --array=1-4\n" in done.stdout
    assert '--shard "$SLURM_ARRAY_TASK_ID/4" &\n' in done.stdout
    assert not out.exists()


def test_what_slurm_refuses_is_one_line(slurm: Slurm, cohort: Cohort, tmp_path: Path) -> None:
    config = load_config(
        cohort.run_file, [f"output.directory={tmp_path}", "cluster.queue=nowhere", *SIZE]
    )
    with pytest.raises(ClusterError, match=r"sbatch: .*invalid partition") as refused:
        submit(Driver.of(config))
    assert "\n" not in str(refused.value)


def test_where_there_is_no_slurm_that_is_said(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    config = load_config(cohort.run_file, [f"output.directory={tmp_path}", *SIZE])
    with pytest.raises(ClusterError, match="sbatch: not found"):
        submit(Driver.of(config))


def test_the_number_of_shards_is_a_number_of_jobs(cohort: Cohort) -> None:
    with pytest.raises(ConfigError, match="--array 0: give the number of jobs"):
        Driver.of(load_config(cohort.run_file), 0)


def test_the_jobs_of_workers_are_shown_for_kind_slurm_only(cohort: Cohort) -> None:
    words = [sys.executable, "-m", "pipeline", "cluster", "job-script", str(cohort.run_file)]
    overrides = overridden("cluster.kind=slurm", "cluster.queue=long", *SLURM)
    script = subprocess.check_output([*words, *overrides], text=True)
    assert "#SBATCH -p long\n" in script
    refused = subprocess.run(words, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "cluster.kind: threads submits no jobs of workers" in refused.stderr
