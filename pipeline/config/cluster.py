"""The block ``cluster`` of a run file: where the work is done.

What belongs to SLURM is called as in dask-jobqueue, and stays there unused where ``kind`` is
another: a run moves between a laptop and a cluster by its kind alone. What is not given is what
the site's or the user's ``jobqueue.yaml`` says.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.values import (
    Auto,
    Block,
    Count,
    Duration,
    LocalPath,
    Memory,
    Size,
    Text,
    Walltime,
    needed_for,
    only_for,
)

__all__ = ["ClusterConfig", "DriverConfig"]


class DriverConfig(Block):
    """The job that `wsi-pipeline submit` makes of a run."""

    queue: Text | None = Field(None, description="Its partition; `cluster.queue` by default.")
    account: Text | None = Field(None, description="Its account; `cluster.account` by default.")
    cores: Count | None = Field(
        None, description="Its cores: 1 where it only drives; local and threads need a number."
    )
    memory: Size | None = Field(
        None, description="Its memory: 4 GiB where it only drives; local and threads need it given."
    )
    walltime: Walltime = Field("1-00:00:00", description="How long it may take; then it goes on.")
    job_extra_directives: list[Text] = Field(
        [], description="More #SBATCH lines of it, such as `--qos=long`."
    )


class ClusterConfig(Block):
    """Where the work is done."""

    kind: Literal["threads", "local", "slurm", "slurm-runner", "address", "scheduler_file"] = Field(
        "local",
        description="threads: this process; local: worker processes; slurm: jobs of workers; "
        "slurm-runner: the tasks of one job; address, scheduler_file: a scheduler that runs.",
    )
    workers: Auto | Count = Field("auto", description="Number of workers, for local and threads.")
    threads_per_worker: Auto | Count = Field("auto", description="Threads in each worker.")
    memory_limit: Memory = Field(
        "auto", description="Memory of each local worker, such as `4 GiB`; a bare number is bytes."
    )
    address: Annotated[Text | None, needed_for("kind", "address"), only_for("kind", "address")] = (
        Field(None, description="The scheduler, such as `tls://host:8786`, for `kind: address`.")
    )
    scheduler_file: Annotated[
        Text | None,
        LocalPath(),
        needed_for("kind", "scheduler_file"),
        only_for("kind", "scheduler_file"),
    ] = Field(None, description="What a scheduler wrote to say where it is.")
    jobs: Count = Field(1, description="Jobs of workers, for `kind: slurm`.")
    minimum_jobs: Annotated[int, Field(ge=0)] = Field(
        0, description="Least jobs, where `maximum_jobs` lets their number follow the work."
    )
    maximum_jobs: Count | None = Field(
        None, description="Most jobs; with it their number follows the work, and `jobs` is unused."
    )
    queue: Text | None = Field(None, description="Partition of the jobs.")
    account: Text | None = Field(None, description="Account of the jobs.")
    cores: Count | None = Field(None, description="Cores of a job.")
    processes: Auto | Count = Field(
        "auto", description="Workers in a job: one for each core, or for each GPU."
    )
    memory: Size | None = Field(None, description="Memory of a job, shared by its workers.")
    walltime: Walltime | None = Field(
        None, description="Time limit of a job, such as `'04:00:00'`; its workers drain before."
    )
    gpus: Annotated[int, Field(ge=0)] = Field(
        0, description="GPUs of a job; each worker process has one of them."
    )
    interface: Text | None = Field(
        None, description="Network interface between the nodes, such as `ib0`."
    )
    job_extra_directives: list[Text] = Field(
        [], description="More #SBATCH lines of a job, such as `--constraint=rome`."
    )
    job_script_prologue: list[Text] = Field(
        [], description="What a job's script does first, such as `module load cuda`."
    )
    local_directory: Text | None = Field(
        None, description="Scratch of the workers on their node, such as `$TMPDIR`."
    )
    log_directory: Annotated[Text | None, LocalPath()] = Field(
        None, description="Where jobs write what they say; `logs` in the results by default."
    )
    shared_temp_directory: Annotated[Text, LocalPath()] = Field(
        "~/.wsi-pipeline",
        description="Where certificates of a run are: a disk that every node sees, yours alone.",
    )
    resources: dict[str, float] = Field(
        {}, description="What each worker declares and each block asks for, such as `{GPU: 1}`."
    )
    no_workers_timeout: Duration = Field(
        "10 minutes", description="How long a run goes on without any worker, queued or running."
    )
    slides_at_once: Auto | Count = Field(
        "auto", description="Slides under way at once, so that workers never wait for the next."
    )
    live_tasks: Count = Field(
        5000, description="Most blocks of all these slides on the scheduler at a time."
    )
    worker_deaths: Count = Field(
        3,
        description="Workers that may die at a block before it is failed; two at least.",
    )
    dashboard: Text = Field(
        "127.0.0.1:8787", description="Where Dask's dashboard listens; none switches it off."
    )
    performance_report: Annotated[Text | None, LocalPath()] = Field(
        None, description="File for Dask's report of the run, a page that needs no network."
    )
    driver: DriverConfig = Field(DriverConfig(), description="The job of `wsi-pipeline submit`.")
