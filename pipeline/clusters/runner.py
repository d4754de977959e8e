"""One job of SLURM whose first task drives and whose others work, for sites without jobs of jobs.

Every task of ``srun wsi-pipeline run`` comes here; only the first one goes on.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.clusters.jobs import resource_arguments
from pipeline.clusters.local import scheduler_options
from pipeline.clusters.remote import reconnecting_untold
from pipeline.clusters.security import (
    CERTIFICATE,
    KEY,
    SCHEDULER_FILE,
    certified,
    private_folder,
    security_in,
)
from pipeline.clusters.share import TEMPORARY, WORKER_ARGUMENTS, environment, own_scratch
from pipeline.clusters.waiting import Waiting
from pipeline.config.values import duration_seconds
from pipeline.errors import ClusterError, ConfigError
from pipeline.execute.schedulers import POLL_S
from pipeline.plan.memory import check_least
from pipeline.process import available_bytes, cores

if TYPE_CHECKING:
    from distributed import Client

    from pipeline.config import ClusterConfig

__all__ = ["join_as_worker", "runner_client", "tasks_on_this_node"]

_PACKED = re.compile(r"(\d+)(?:\(x(\d+)\))?")


def join_as_worker(settings: ClusterConfig) -> None:
    """Become a worker, for good, where this is not the first task of its job; else do nothing."""
    if settings.kind != "slurm-runner" or _rank() == 0:
        return
    folder = private_folder(settings.shared_temp_directory) / _name()
    file = folder / SCHEDULER_FILE
    patience_s = duration_seconds(settings.no_workers_timeout)
    deadline = time.monotonic() + patience_s
    while not file.is_file():
        if time.monotonic() > deadline:
            raise ClusterError(
                f"{file}: the job's first task has written no such file in {patience_s:.0f} s; is "
                "cluster.shared_temp_directory on a disk that all nodes share?"
            )
        time.sleep(POLL_S)
    arguments = _worker(settings, folder)
    os.environ.update(environment(_session_threads(settings)))
    os.execv(sys.executable, [sys.executable, "-m", "distributed.cli.dask_worker", *arguments])  # noqa: S606


@contextmanager
def runner_client(settings: ClusterConfig, waiting: Waiting) -> Iterator[Client]:
    """Give the client of the other tasks of this job, once one of them is there."""
    from distributed import Client, LocalCluster
    from distributed.utils import get_ip, get_ip_interface

    _rank()
    # A job that was requeued has its number still, and may have left these.
    shutil.rmtree(private_folder(settings.shared_temp_directory) / _name(), ignore_errors=True)
    with contextlib.ExitStack() as opened:
        folder = opened.enter_context(certified(settings.shared_temp_directory, _name()))
        options = scheduler_options(settings)
        options["scheduler_kwargs"] |= {"scheduler_file": str(folder / SCHEDULER_FILE)}
        host = get_ip_interface(settings.interface) if settings.interface else get_ip()
        started = LocalCluster(
            n_workers=0,
            host=host,
            protocol="tls://",
            security=security_in(folder),
            **options,
        )
        opened.enter_context(started)
        client = opened.enter_context(Client(started))
        opened.enter_context(reconnecting_untold())
        waiting.for_a_worker(client, "this job")
        yield client
        # Before the scheduler goes: whoever loses it ends with an error.
        client.retire_workers(close_workers=True)


def tasks_on_this_node(given: Mapping[str, str]) -> int:
    """Give how many tasks of the step share this node, by SLURM's variables.

    >>> tasks_on_this_node({"SLURM_STEP_TASKS_PER_NODE": "4(x2),3", "SLURM_NODEID": "2"})
    3
    """
    counts: list[int] = []
    for count, times in _PACKED.findall(given.get("SLURM_STEP_TASKS_PER_NODE", "")):
        counts += [int(count)] * int(times or 1)
    node = int(given.get("SLURM_NODEID", "0"))
    return counts[node] if node < len(counts) else 1


def _rank() -> int:
    rank = os.environ.get("SLURM_PROCID")
    if rank is None:
        raise ConfigError(
            "cluster.kind: slurm-runner is for the tasks of a job: srun wsi-pipeline run ..., "
            "which wsi-pipeline submit does"
        )
    return int(rank)


def _name() -> str:
    job, step = (os.environ.get(f"SLURM_{part}", "0") for part in ("JOB_ID", "STEP_ID"))
    return f"job-{job}-{step}"


def _threads(settings: ClusterConfig) -> int:
    return 1 if settings.threads_per_worker == "auto" else settings.threads_per_worker


def _session_threads(settings: ClusterConfig) -> int:
    return max(cores() // _threads(settings), 1)


def _worker(settings: ClusterConfig, folder: Path) -> list[str]:
    limit = available_bytes() // tasks_on_this_node(os.environ)
    folder_of_own = settings.local_directory or own_scratch().get(TEMPORARY)
    check_least(limit)
    return [
        *("--scheduler-file", str(folder / SCHEDULER_FILE)),
        *("--protocol", "tls://", "--tls-ca-file", str(folder / CERTIFICATE)),
        *("--tls-cert", str(folder / CERTIFICATE), "--tls-key", str(folder / KEY)),
        *("--nthreads", str(_threads(settings))),
        *("--memory-limit", str(limit)),
        # Its last number is which GPU of the node it takes.
        *("--name", f"task-{_rank()}-{os.environ.get('SLURM_LOCALID', '0')}"),
        *WORKER_ARGUMENTS,
        *("--death-timeout", "60"),
        *(() if folder_of_own is None else ("--local-directory", folder_of_own)),
        *resource_arguments(settings),
    ]
