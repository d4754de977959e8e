"""Workers as jobs of SLURM, by dask-jobqueue."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.clusters.keeping import JobKeeper
from pipeline.clusters.remote import reconnecting_untold
from pipeline.clusters.security import SCHEDULER_FILE, certified, security_in
from pipeline.clusters.shape import JobShape, site
from pipeline.clusters.share import WORKER_ARGUMENTS, environment, scratch_named
from pipeline.clusters.waiting import Waiting
from pipeline.errors import ClusterError, ConfigError
from pipeline.files.urls import is_url
from pipeline.plan.memory import check_least

if TYPE_CHECKING:
    from distributed import Client

    from pipeline.config import ClusterConfig

__all__ = ["job_script", "resource_arguments", "slurm_client"]

_NAME = "wsi-pipeline-worker"

_SCRATCH = (
    'export DASK_TEMPORARY_DIRECTORY="$(mktemp -d -t wsi-pipeline-XXXXXX)"',
    """trap 'rm -rf "$DASK_TEMPORARY_DIRECTORY"' EXIT""",
)
"""A folder of the job's own, where no other is named; see `pipeline.files.rights.scratch`."""


@contextmanager
def slurm_client(settings: ClusterConfig, home: str, waiting: Waiting) -> Iterator[Client]:
    """Give the client of workers in jobs of SLURM, once one of them is there.

    Jobs that end before they are told to are replaced, for as long as replacements bring workers.
    """
    from dask_jobqueue.slurm import SLURMCluster
    from distributed import Client

    shape = JobShape.of(settings)
    check_least(shape.limit_bytes)
    logs = log_of(settings, home)
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{logs}: cannot be written: {error.strerror}; name another folder in "
            "cluster.log_directory"
        ) from error
    with contextlib.ExitStack() as opened:
        folder = opened.enter_context(certified(settings.shared_temp_directory))
        try:
            started: Any = SLURMCluster(
                name=folder.name.replace("run-", "wsi-"),
                security=security_in(folder),
                scheduler_options=_scheduler(settings, folder),
                **_job(settings, shape, home),
            )
        except (RuntimeError, OSError, ValueError) as error:
            raise ClusterError(
                f"cluster: the scheduler does not start: {' '.join(str(error).split())}; "
                "check cluster.interface and cluster.dashboard"
            ) from error
        opened.enter_context(started)
        client = opened.enter_context(Client(started))
        opened.enter_context(reconnecting_untold())
        _submit(started, settings)
        keeper = JobKeeper(started, waiting.tell, str(logs))
        started.keeper = keeper  # for `pipeline.execute.manned.keeper_of`
        keeper.start()
        opened.callback(keeper.stop)
        waiting.for_a_worker(client, "SLURM")
        yield client


def job_script(settings: ClusterConfig, home: str) -> str:
    """Give what is submitted for one job; where the scheduler is stands in angle brackets."""
    from dask_jobqueue.slurm import SLURMJob

    shape = JobShape.of(settings)
    job = SLURMJob(
        "tls://<scheduler>",
        name="<name>",
        protocol="tls://",
        security=security_in(Path(settings.shared_temp_directory) / "<run>"),
        **_job(settings, shape, home),
    )
    text: str = job.job_script()
    return text


def resource_arguments(settings: ClusterConfig) -> list[str]:
    """Give a worker's arguments that declare its resources."""
    if not settings.resources:
        return []
    declared = " ".join(f"{name}={amount:g}" for name, amount in settings.resources.items())
    return ["--resources", shlex.quote(declared)]


def _submit(started: Any, settings: ClusterConfig) -> None:
    """Say how many jobs there are to be; the keeper submits what is missing."""
    if settings.maximum_jobs is not None:
        if settings.minimum_jobs > settings.maximum_jobs:
            raise ConfigError(
                f"cluster.minimum_jobs: {settings.minimum_jobs} is more than "
                f"cluster.maximum_jobs, {settings.maximum_jobs}"
            )
        started.adapt(minimum_jobs=settings.minimum_jobs, maximum_jobs=settings.maximum_jobs)
        return
    while len(started.worker_spec) < settings.jobs:
        started.worker_spec.update(started.new_worker_spec())


def _scheduler(settings: ClusterConfig, folder: Path) -> dict[str, Any]:
    """Give the scheduler's options: it listens on one address of this machine, not on all."""
    from distributed.utils import get_ip

    interface = settings.interface or site("interface")
    where = {"interface": interface} if interface else {"host": get_ip()}
    none = settings.dashboard == "none"
    return {
        **where,
        **(site("scheduler-options") or {}),
        "dashboard_address": "127.0.0.1:0" if none else settings.dashboard,
        "allowed_failures": 0,  # see `pipeline.execute.distributing.Distributed.run`
        "scheduler_file": str(folder / SCHEDULER_FILE),
    }


def _job(settings: ClusterConfig, shape: JobShape, home: str) -> dict[str, Any]:
    """Give what dask-jobqueue is told of a job."""
    # What SLURM puts a number for is a % and a letter; in a folder's name it is a %.
    logs = str(log_of(settings, home)).replace("%", "%%")
    extra = [
        f"--output={shlex.quote(f'{logs}/{_NAME}-%j.out')}",
        *(site("job-extra-directives") or []),
        *settings.job_extra_directives,
    ]
    if settings.gpus and not any("gres=gpu" in each or "--gpus" in each for each in extra):
        extra.append(f"--gres=gpu:{settings.gpus}")
    shared = environment(shape.session_threads)
    given = {
        "queue": settings.queue,
        "account": settings.account,
        "walltime": settings.walltime,
        "interface": settings.interface,
        "local_directory": settings.local_directory,
    }
    return {
        **{name: value for name, value in given.items() if value is not None},
        # dask-jobqueue gives a process its share of `cores` as threads; ours may be fewer.
        "cores": shape.processes * shape.threads,
        "job_cpu": shape.cores,
        "processes": shape.processes,
        "memory": f"{shape.memory_bytes} B",
        "job_name": _NAME,
        "job_extra_directives": extra,
        "job_script_prologue": [
            *(() if scratch_named() else _SCRATCH),
            *(f"export {name}={value}" for name, value in shared.items()),
            *(site("job-script-prologue") or []),
            *settings.job_script_prologue,
        ],
        # dask-jobqueue quotes no names of files, and would have two for each job: it has none.
        "log_directory": ".",
        "job_directives_skip": [
            *(site("job-directives-skip") or []),
            *("#SBATCH -e ", "#SBATCH -o "),
        ],
        "worker_extra_args": [
            *(site("worker-extra-args") or []),
            *WORKER_ARGUMENTS,
            *shape.lifetime,
            *resource_arguments(settings),
        ],
    }


def log_of(settings: ClusterConfig, home: str) -> Path:
    """Give the folder where jobs write what they say."""
    named = settings.log_directory or site("log-directory")
    return Path(named or ("logs" if is_url(home) else Path(home) / "logs")).absolute()
