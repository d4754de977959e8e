"""What a job of workers is, and what is submitted for it, without any SLURM."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import dask
import psutil
import pytest

import pipeline
from pipeline.clusters import job_script
from pipeline.clusters.runner import tasks_on_this_node
from pipeline.clusters.shape import JobShape
from pipeline.clusters.slurm import _end
from pipeline.clusters.workforce import workforce_of
from pipeline.config.runfile import cluster_config
from pipeline.errors import ConfigError, MemoryBudgetError
from pipeline.plan.memory import Worker

GIB = 2**30


def shape(**settings: Any) -> JobShape:
    given = {"cores": 8, "memory": "32 GiB", **settings}
    return JobShape.of(cluster_config(kind="slurm", **given))


def test_a_worker_for_each_core_unless_a_model_is_to_have_more() -> None:
    own = shape()
    assert (own.processes, own.threads, own.session_threads) == (8, 1, 1)
    assert own.limit_bytes == 4 * GIB
    two = shape(processes=2)
    assert (two.processes, two.threads, two.session_threads) == (2, 1, 4)
    assert two.limit_bytes == 16 * GIB
    assert shape(processes=2, threads_per_worker=4).session_threads == 1


def test_a_worker_for_each_gpu_with_threads_that_read_meanwhile() -> None:
    gpus = shape(gpus=2)
    assert (gpus.processes, gpus.threads, gpus.session_threads) == (2, 4, 1)


def test_what_a_run_file_does_not_say_the_site_does() -> None:
    with dask.config.set(
        {"jobqueue.slurm.cores": 4, "jobqueue.slurm.memory": "8 GiB", "jobqueue.slurm.queue": "cpu"}
    ):
        settings = cluster_config(kind="slurm")
        site = JobShape.of(settings)
        assert (site.cores, site.memory_bytes) == (4, 8 * GIB)
        assert "#SBATCH -p cpu\n" in job_script(settings)
        assert "#SBATCH -p gpu\n" in job_script(cluster_config(kind="slurm", queue="gpu"))


def test_what_neither_says_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"cluster\.cores: a job needs it"):
        JobShape.of(cluster_config(kind="slurm"))
    with pytest.raises(ConfigError, match=r"cluster\.memory: a job needs it"):
        JobShape.of(cluster_config(kind="slurm", cores=1))
    with pytest.raises(ConfigError, match=r"cluster\.processes: 9 in a job of 8 cores"):
        shape(processes=9)


@pytest.mark.parametrize(
    ("walltime", "arguments"),
    [
        ("01:00:00", ["--lifetime", "3300s", "--lifetime-stagger", "240s"]),
        ("1-00:00:00", ["--lifetime", "86100s", "--lifetime-stagger", "240s"]),
        ("00:10:00", ["--lifetime", "480s"]),
    ],
)
def test_workers_drain_before_their_job_ends(walltime: str, arguments: list[str]) -> None:
    assert shape(walltime=walltime).lifetime == arguments


def test_a_job_s_script_says_all_that_was_asked_for(tmp_path: Path) -> None:
    script = job_script(
        cluster_config(
            kind="slurm",
            queue="long",
            account="path",
            cores=8,
            processes=2,
            memory="16 GiB",
            walltime="02:00:00",
            gpus=2,
            resources={"GPU": 1},
            job_extra_directives=["--constraint=rome"],
            job_script_prologue=["module load cuda"],
            local_directory="$TMPDIR",
            interface="lo",
        ),
        home=str(tmp_path / "my results"),
    )
    lines = script.splitlines()
    asked = {
        *("#SBATCH -p long", "#SBATCH -A path", "#SBATCH -n 1", "#SBATCH --cpus-per-task=8"),
        *("#SBATCH --mem=16G", "#SBATCH -t 02:00:00", "#SBATCH --constraint=rome"),
        *("#SBATCH --gres=gpu:2", "module load cuda", "export OMP_NUM_THREADS=1"),
        f"#SBATCH --output='{tmp_path}/my results/logs/wsi-pipeline-worker-%j.out'",
    }
    assert asked <= set(lines)
    assert not [line for line in lines if line.startswith(("#SBATCH -e", "#SBATCH -o "))]
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    words = shlex.split(lines[-1].replace("<", "").replace(">", ""))
    assert words[0] == sys.executable
    told = dict(pairwise(words))
    assert told["--nworkers"] == "2"
    assert told["--nthreads"] == "4"
    assert told["--memory-limit"] == "8.00GiB"
    assert told["--resources"] == "GPU=1"
    assert told["--preload"] == "pipeline.process.worker"
    assert told["--interface"] == "lo"
    assert told["--dashboard-address"] == "127.0.0.1:0"
    assert told["--tls-key"].endswith("/run/key.pem")
    assert "$TMPDIR" in lines[-1]


def test_temporary_files_of_a_job_are_its_own_unless_the_site_names_a_folder() -> None:
    """Dask's own folder for them is one for all users of a node."""
    settings = cluster_config(kind="slurm", cores=1, memory="4 GiB")
    beginning, _, command = job_script(settings).rpartition("\n")
    shown = f'{beginning}\nstat -c "%a %n" "$DASK_TEMPORARY_DIRECTORY"'
    done = subprocess.run(["bash"], input=shown, text=True, check=True, capture_output=True)
    mode, folder = done.stdout.split()
    assert (mode, Path(folder).name[:13]) == ("700", "wsi-pipeline-")
    assert not Path(folder).exists(), "it went with the job"
    assert "--local-directory" not in command
    with dask.config.set({"temporary-directory": "/scratch"}):
        assert "DASK_TEMPORARY_DIRECTORY" not in job_script(settings)


def test_a_directive_of_one_s_own_for_gpus_is_the_only_one() -> None:
    own = cluster_config(
        kind="slurm",
        cores=2,
        memory="4 GiB",
        gpus=1,
        job_extra_directives=["--gres=gpu:a100:1"],
    )
    assert [
        line for line in job_script(own).splitlines() if "gpu" in line and "SBATCH" in line
    ] == ["#SBATCH --gres=gpu:a100:1"]


def test_what_a_plan_is_told_of_jobs() -> None:
    settings = cluster_config(kind="slurm", cores=4, processes=2, memory="8 GiB", jobs=10)
    force = workforce_of(settings)
    assert force.worker == Worker(1, 4 * GIB)
    assert (force.processes, force.session_threads, force.blocks_at_once) == (20, 2, 20)
    most = cluster_config(kind="slurm", cores=4, memory="8 GiB", maximum_jobs=3)
    assert workforce_of(most).processes == 12


def test_a_job_too_small_for_a_worker_is_refused_before_it_is_submitted() -> None:
    with (
        pytest.raises(MemoryBudgetError, match=r"64 MiB a worker; it needs"),
        pipeline.cluster(kind="slurm", cores=1, memory="64 MiB"),
    ):
        pass


@pytest.mark.parametrize(
    ("state", "code", "cause", "blameless"),
    [
        ("TIMEOUT", "0:0", "walltime", True),
        ("CANCELLED", "0:15", "cancelled", True),
        ("PREEMPTED", "0:0", "preempted", True),
        ("NODE_FAIL", "1:0", "node lost", True),
        ("OUT_OF_MEMORY", "0:125", "out of memory", False),
        ("FAILED", "127:0", "failed", False),
        ("", "", "unknown", False),
    ],
)
def test_how_a_job_ended_is_told_apart(state: str, code: str, cause: str, blameless: bool) -> None:
    end = _end("7", state, code)
    assert (end.cause, end.blameless) == (cause, blameless)
    assert code in end.text or cause != "failed"


def test_a_node_s_share_of_a_job_s_tasks() -> None:
    def tasks(packed: str, node: int) -> int:
        return tasks_on_this_node({"SLURM_STEP_TASKS_PER_NODE": packed, "SLURM_NODEID": str(node)})

    assert [tasks("4(x2),3", node) for node in range(3)] == [4, 4, 3]
    assert tasks("12", 0) == 12
    assert tasks_on_this_node({}) == 1


def listening_at(pid: int) -> Iterator[str]:
    """Give the addresses at which a process and those it started listen."""
    with suppress(psutil.Error):  # one that ends meanwhile
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            for connection in each.net_connections():
                if connection.status == psutil.CONN_LISTEN:
                    yield connection.laddr.ip


RUN = """
slides: {slide}
model: builtin:nuclei
output: {{directory: {results}, block: 512}}
cluster: {{kind: slurm-runner, shared_temp_directory: {shared}, dashboard: none}}
"""


def test_the_first_task_of_a_job_drives_and_the_others_work(
    demo_slide: Path, tmp_path: Path
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(
        RUN.format(slide=demo_slide, results=tmp_path / "results", shared=tmp_path / "shared")
    )
    job = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_TASKS_PER_NODE": "2"}
    command = [sys.executable, "-m", "pipeline", "run", str(config)]
    tasks = [
        subprocess.Popen(
            command,
            env={**os.environ, **job, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    heard = set()
    while tasks[0].poll() is None:
        heard |= {host for task in tasks for host in listening_at(task.pid)}
        time.sleep(0.1)
    driver, worker = (task.communicate(timeout=240)[0] for task in tasks)
    assert [task.returncode for task in tasks] == [0, 0], driver + worker
    assert "1 of 1 slides done" in driver
    assert "Start worker at:      tls://" in worker
    assert not list((tmp_path / "shared").iterdir())
    assert heard
    assert not heard & {"0.0.0.0", "::"}  # noqa: S104

    own = tmp_path / "own"
    pipeline.run(config, [f"output.directory={own}", "cluster.kind=threads"])
    one, other = (
        pipeline.open_results(where)["demo"].levels[0].compute()
        for where in (str(tmp_path / "results"), str(own))
    )
    assert (one == other).all()


def test_outside_of_a_job_there_is_nothing_to_join() -> None:
    with (
        pytest.raises(ConfigError, match=r"slurm-runner is for the tasks of a job.*submit"),
        pipeline.cluster(kind="slurm-runner"),
    ):
        pass
