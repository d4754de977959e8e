"""Where blocks are computed: `cluster` starts it and makes it dask's scheduler in force.

One module for each kind; what listens on more than loopback asks for certificates of this run.
"""

from __future__ import annotations

import contextlib
import html
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.clusters.dashboard import keep_to_own_pages, links
from pipeline.clusters.local import LocalWorkers, local_client, threads
from pipeline.clusters.remote import client_at, client_of_file
from pipeline.clusters.share import little_kept, own_scratch, set_of_distributed
from pipeline.clusters.waiting import Waiting
from pipeline.config.runfile import cluster_config
from pipeline.config.values import duration_seconds
from pipeline.display.notebook import Shown, in_notebook
from pipeline.execute.manned import NO_WORKERS

if TYPE_CHECKING:
    from distributed import Client

    from pipeline.config import ClusterConfig

__all__ = ["LocalWorkers", "cluster", "cluster_of", "job_script", "join_as_worker", "reported"]

_log = logging.getLogger(__name__)

_ICON = re.compile(r"<link rel=\"shortcut icon\"[^>]*>")


@contextmanager
def cluster(kind: str = "local", **settings: Any) -> Iterator[Client | None]:
    """Start what blocks are computed on and make it dask's scheduler for a ``with`` block.

    ``kind`` is ``threads`` (no cluster, None is given), ``local`` (a `LocalCluster` on
    127.0.0.1), ``slurm`` (workers in jobs), ``slurm-runner`` (the tasks of one job), ``address``
    or ``scheduler_file`` (a scheduler that runs already). ``settings`` are those of a run file's
    block ``cluster``: ``workers``, ``memory_limit``, ``queue``, ``walltime`` ... In a notebook the
    link to the dashboard is shown; where that is behind a proxy, Dask's
    ``distributed.dashboard.link`` says how it is reached.

    Raises `ConfigError` for another kind or setting, `ClusterError` where a scheduler does not
    answer or no worker comes.
    """
    config = cluster_config(kind=kind, **settings)
    with cluster_of(config) as client:
        if client is not None and config.dashboard != "none" and in_notebook():
            _show_link(client.dashboard_link)
        yield client


def _show_link(link: str) -> None:
    address = html.escape(link, quote=True)
    Shown(f"dashboard: <a href='{address}' target='_blank'>{address}</a>", f"dashboard: {link}")


@contextmanager
def cluster_of(
    settings: ClusterConfig,
    *,
    home: str = ".",
    tell: Callable[[str], None] = _log.info,
    needed_bytes: int = 0,
    gpu: bool = False,
    most_s: float = inf,
) -> Iterator[Client | None]:
    """Start what a run file says, as `cluster` does.

    ``home`` is the results directory, where jobs write their logs; ``tell`` is told what people
    should know. ``needed_bytes`` is the least a worker needs, ``gpu`` whether each needs a GPU,
    where it is left to us how many there are; ``most_s`` is how long to wait for the first worker,
    even where jobs are queued.
    """
    with contextlib.ExitStack() as opened:
        patience_s = duration_seconds(settings.no_workers_timeout)
        if settings.kind != "threads":
            told = {NO_WORKERS: patience_s, **links(settings), **own_scratch(), **little_kept()}
            opened.enter_context(set_of_distributed(told))
        waiting = Waiting(patience_s, most_s, tell)
        client: Client | None
        if settings.kind == "threads":
            client = opened.enter_context(threads(settings))
        elif settings.kind == "local":
            workers = LocalWorkers.of(settings, needed_bytes, gpu=gpu)
            client = opened.enter_context(local_client(workers, settings))
        elif settings.kind == "slurm":
            from pipeline.clusters.jobs import slurm_client

            client = opened.enter_context(slurm_client(settings, home, waiting))
        elif settings.kind == "slurm-runner":
            from pipeline.clusters.runner import runner_client

            client = opened.enter_context(runner_client(settings, waiting))
        elif settings.kind == "address":
            client = opened.enter_context(client_at(settings, waiting))
        else:
            client = opened.enter_context(client_of_file(settings, waiting))
        if client is not None and client.cluster is not None:
            keep_to_own_pages(settings, client.cluster.scheduler)
        yield client


@contextmanager
def reported(settings: ClusterConfig, client: Client | None) -> Iterator[None]:
    """Write Dask's report of a ``with`` block, where it is asked for: a page that works offline."""
    if settings.performance_report is None or client is None:
        yield
        return
    from distributed import performance_report

    file = Path(settings.performance_report)
    file.parent.mkdir(parents=True, exist_ok=True)
    with performance_report(str(file), mode="inline"):
        yield
    # All of it is in the page but its icon, which a browser would fetch from elsewhere.
    file.write_text(_ICON.sub("", file.read_text("utf-8")), "utf-8")


def job_script(settings: ClusterConfig, *, home: str = ".") -> str:
    """Give what would be submitted for one job of workers, for ``kind: slurm``.

    Raises `ConfigError` where it is not known what a job is, `MissingExtraError` without
    dask-jobqueue.
    """
    from pipeline.clusters import jobs

    return jobs.job_script(settings, home)


def join_as_worker(settings: ClusterConfig) -> None:
    """Become a worker, for good, where this is a task of a job that another one drives."""
    if settings.kind == "slurm-runner":
        from pipeline.clusters import runner

        runner.join_as_worker(settings)
