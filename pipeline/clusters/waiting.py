"""Waiting for the first worker of a cluster: not for ever, and not in silence."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import ClusterError
from pipeline.execute.manned import Hope
from pipeline.execute.schedulers import POLL_S
from pipeline.process.stopping import stop_asked

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Waiting"]

_TELL_AFTER_S, _TELL_EVERY_S = 5.0, 60.0


@dataclass(frozen=True, slots=True)
class Waiting:
    """How a first worker is waited for, and who is told.

    ``patience_s`` without a worker, queued or running, and at most ``most_s``.
    """

    patience_s: float
    most_s: float
    tell: Callable[[str], None]

    def for_a_worker(self, client: Client, name: str) -> None:
        """Wait until a worker is there, or the process is asked to end.

        Something is asked of it, for clusters that start workers only where there is work. Raises
        `ClusterError` where none comes; jobs that are queued are told of.
        """
        hope, began = Hope(client, self.patience_s), time.monotonic()
        told = began - _TELL_EVERY_S + _TELL_AFTER_S
        asked = client.submit(_nothing, pure=False)
        try:
            # Whether it is done says less: it may be with a worker that hangs, beside others.
            while not client.scheduler_info(n_workers=-1).get("workers") and not stop_asked():
                if left := hope.given_up():
                    raise ClusterError(f"{name}: {left}")
                if time.monotonic() - began > self.most_s:
                    raise ClusterError(
                        f"{name}: no worker has come in {self.most_s:g} s{hope.pending()}; look at "
                        "the queue and at the workers' logs, or wait longer"
                    )
                if time.monotonic() - told >= _TELL_EVERY_S:
                    told = time.monotonic()
                    self.tell(f"waiting for the first worker of {name}{hope.pending()}")
                time.sleep(POLL_S)
        finally:
            asked.release()


def _nothing() -> None:
    """Be a task."""
