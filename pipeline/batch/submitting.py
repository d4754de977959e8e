"""The driver as a job of SLURM: the script that runs `wsi-pipeline run` on a compute node.

It ends cleanly before its walltime does, is queued again and goes on: what is stored stays.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from dask.utils import parse_bytes

from pipeline.clusters.shape import JobShape
from pipeline.config.runfile import dump_config
from pipeline.errors import ClusterError, ConfigError
from pipeline.files import places
from pipeline.files.rights import write_private
from pipeline.files.urls import is_url
from pipeline.logs.report import FOLDER

if TYPE_CHECKING:
    from pipeline.config import RunConfig

__all__ = ["Driver", "submit"]

_ENDING_S = 120
"""Seconds before its walltime at which a run is asked to end. SLURM may ask a minute earlier."""

_MOST_REQUEUES = 20
"""Times a job is queued again. One that never gets anywhere must end."""

_DRIVER_BYTES = 4 * 2**30
_WORKING = ("local", "threads")
"""Kinds of cluster of which the driver's job is all there is."""

_FIRST_TASK = (
    '$(scontrol listpids "$SLURM_JOB_ID.0" "$SLURMD_NODENAME" | awk \'$5 == 0 { print $1 }\')'
)
"""The task of srun that drives, on the node of the script; the others end after it.

Asked to end, srun itself would kill all of them."""

_SCRIPT = """\
#!/bin/bash
{directives}

# Written by wsi-pipeline submit. {run_file}
# is the run as it was then. Submitted again it goes on: what is stored stays.
{prologue}
{command} &
run=$!
ask_to_end() {{ kill -TERM {asked}; }}

# Before the walltime is over SLURM sends USR1, to this shell alone. When the job is cancelled it
# sends TERM to all processes, the run's too: a second one would have it drop what it is at.
soon=no
trap 'heard=yes soon=yes; ask_to_end' USR1
trap 'heard=yes' TERM
heard=yes
while [ "$heard" = yes ]; do # what is heard ends the wait, not the run
    heard=no
    wait "$run"
    code=$?
done

if [ "$soon" = yes ] && [ "$code" -gt 128 ]; then
    if [ "${{SLURM_RESTART_COUNT:-0}}" -ge {most} ]; then
        echo "the walltime is over for the last of {most} times: submit this script again to go on"
    elif scontrol requeue "$SLURM_JOB_ID"; then
        echo "the walltime is over: queued again, to go on"
    else
        echo "the walltime is over, and SLURM does not queue again: submit this script to go on"
    fi
fi
exit "$code"
"""


@dataclass(frozen=True)
class Driver:
    """A job that is to run what a run file says, as one of ``shards`` jobs where that is a number.

    ``folder`` is where its files go, on a disk that compute nodes see; ``name`` is that of the
    files, which only differ in their endings.
    """

    config: RunConfig
    folder: Path
    name: str
    shards: int | None = None

    @classmethod
    def of(cls, config: RunConfig, shards: int | None = None) -> Driver:
        """Give the job of a run, named by the time.

        Raises `ConfigError` where a job's files have no place on a disk.
        """
        if shards is not None and shards < 1:
            raise ConfigError(f"--array {shards}: give the number of jobs, 1 or more")
        directory = places.absolute(config.output.directory)
        folder = config.cluster.log_directory if is_url(directory) else f"{directory}/{FOLDER}"
        if folder is None:
            raise ConfigError(
                f"output.directory: {directory}: a job writes what it says to a disk; "
                "name a folder that compute nodes see in cluster.log_directory"
            )
        return cls(config, Path(folder), f"driver-{datetime.now(UTC):%Y%m%dT%H%M%S.%f}Z", shards)

    @property
    def run_file(self) -> Path:
        """The run as it was when it was submitted: later changes are for the next one."""
        return self.folder / f"{self.name}.yaml"

    @property
    def script_file(self) -> Path:
        """What is submitted."""
        return self.folder / f"{self.name}.sh"

    def log_file(self, job: str) -> Path:
        """Give what a job, or SLURM's words for any, writes to."""
        return self.folder / f"driver-{job}.out"

    def script(self) -> str:
        """Give the script for sbatch; `ConfigError` where it is not known what the job needs."""
        cluster = self.config.cluster
        runner = cluster.kind == "slurm-runner"
        return _SCRIPT.format(
            directives="\n".join(f"#SBATCH {line}" for line in self._directives()),
            run_file=self.run_file,
            prologue="\n".join(cluster.job_script_prologue),
            command=self._command(runner=runner),
            asked=_FIRST_TASK if runner else '"$run"',
            most=_MOST_REQUEUES,
        )

    def _command(self, *, runner: bool) -> str:
        words = ["srun"] if runner else []
        words += [sys.executable, "-m", "pipeline", "run", str(self.run_file)]
        shard = "" if self.shards is None else f' --shard "$SLURM_ARRAY_TASK_ID/{self.shards}"'
        return shlex.join(words) + shard

    def _directives(self) -> Iterator[str]:
        cluster, driver = self.config.cluster, self.config.cluster.driver
        results = places.absolute(self.config.output.directory).rpartition("/")[2]
        yield f"--job-name=wsi-{re.sub(r'[^A-Za-z0-9._-]', '_', results)}"
        # What SLURM puts a number for is a % and a letter; in the folder's name it is a %.
        folder = Path(str(self.folder).replace("%", "%%"))
        out = replace(self, folder=folder).log_file("%j" if self.shards is None else "%A_%a")
        yield f"--output={_quoted(str(out))}"
        yield "--open-mode=append"
        yield "--requeue"
        yield f"--signal=B:USR1@{_ENDING_S}"
        if self.shards is not None:
            yield f"--array=1-{self.shards}"
        for name, value in (
            ("partition", driver.queue or cluster.queue),
            ("account", driver.account or cluster.account),
        ):
            if value is not None:
                yield f"--{name}={_quoted(value)}"
        yield from self._size()
        yield from driver.job_extra_directives

    def _size(self) -> Iterator[str]:
        cluster, driver = self.config.cluster, self.config.cluster.driver
        if cluster.kind == "slurm-runner":
            yield from _of_tasks(JobShape.of(cluster), cluster.gpus, driver.walltime)
            yield from cluster.job_extra_directives
            return
        for name, value in (("cores", driver.cores), ("memory", driver.memory)):
            if value is None and cluster.kind in _WORKING:
                raise ConfigError(
                    f"cluster.driver.{name}: is needed to submit a run of kind {cluster.kind}, "
                    "whose job does all the work"
                )
        memory = _DRIVER_BYTES if driver.memory is None else int(parse_bytes(driver.memory))
        yield "--ntasks=1"
        yield f"--cpus-per-task={driver.cores or 1}"
        yield f"--mem={_mib(memory)}"
        yield f"--time={driver.walltime}"


def submit(driver: Driver) -> str:
    """Write a job's files, have sbatch take it, and give its number.

    Raises `ConfigError` where they cannot be written, `ClusterError` where SLURM is not there or
    refuses.
    """
    script = driver.script()
    try:
        driver.folder.mkdir(parents=True, exist_ok=True)
        # URLs of slides are whole in it, with their signatures.
        write_private(driver.run_file, dump_config(driver.config).encode())
        places.write_whole(str(driver.script_file), script.encode())
    except OSError as error:
        raise ConfigError(f"{driver.folder}: cannot be written: {error.strerror}") from error
    command = ["sbatch", "--parsable", str(driver.script_file)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise ClusterError("sbatch: not found; submit where SLURM's commands are") from error
    except subprocess.CalledProcessError as error:
        raise ClusterError(f"sbatch: {' '.join(error.stderr.split())}") from error
    return done.stdout.strip().partition(";")[0]  # a name of the cluster may follow


def _of_tasks(shape: JobShape, gpus: int, walltime: str) -> Iterator[str]:
    """Give what a job needs of which one task drives and the others are workers."""
    yield f"--ntasks={shape.workers + 1}"
    yield f"--cpus-per-task={shape.cores // shape.processes}"
    yield f"--mem-per-cpu={_mib(ceil(shape.memory_bytes / shape.cores))}"
    yield f"--time={shape.walltime or walltime}"
    if gpus:
        yield f"--gpus={shape.jobs * gpus}"


def _mib(size: int) -> str:
    return f"{ceil(size / 2**20)}M"


def _quoted(text: str) -> str:
    """Give a value as sbatch reads it from a script, which knows quotes and not much else."""
    return shlex.quote(text)
