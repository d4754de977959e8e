"""Waiting for the first worker of a cluster: not for ever, and not in silence."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.config.values import duration_seconds
from pipeline.errors import ClusterError
from pipeline.manned import Hope
from pipeline.schedulers import POLL_S
from pipeline.stopping import stop_asked

if TYPE_CHECKING:
    from distributed import Client

    from pipeline.config import ClusterConfig

__all__ = ["wait_for_a_worker"]

_TELL_EVERY_S = 60.0


def wait_for_a_worker(
    client: Client, settings: ClusterConfig, name: str, tell: Callable[[str], None]
) -> None:
    """Wait until a worker is there, or the process is asked to end.

    Something is asked of it, for clusters that start workers only where there is work. Raises
    `ClusterError` where none comes in ``no_workers_timeout``; jobs that are queued are waited for
    as long as it takes, and told of.
    """
    hope = Hope(client, duration_seconds(settings.no_workers_timeout))
    asked = client.submit(_nothing, pure=False)
    told = time.monotonic() - _TELL_EVERY_S + 5
    try:
        while not asked.done() and not stop_asked():
            if left := hope.given_up():
                raise ClusterError(f"{name}: {left}")
            if time.monotonic() - told >= _TELL_EVERY_S:
                told = time.monotonic()
                tell(f"waiting for the first worker of {name}{hope.pending()}")
            time.sleep(POLL_S)
    finally:
        asked.release()
    while not stop_asked() and not client.scheduler_info(n_workers=-1).get("workers"):
        time.sleep(POLL_S)


def _nothing() -> None:
    """Be a task."""
