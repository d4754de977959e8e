"""What the workers of a Dask cluster log, brought to the client by Dask's own events."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from distributed import Client, Worker, WorkerPlugin

from pipeline.logs.listening import Entry, entry, listening
from pipeline.process.underway import name_worker
from pipeline.process.worker import unforeseen

__all__ = ["workers_heard"]

_TOPIC = "wsi-pipeline-log"
_ALL = "all"
"""Where a scheduler tells of what it does, workers that leave it included."""

_MOST_BLOCKS = 20


@contextmanager
def workers_heard(client: Client, keep: Callable[[Entry], None]) -> Iterator[None]:
    """Give ``keep`` what is logged on the workers for a ``with`` block, and which are lost.

    Workers that come later speak, too. They go on speaking after it, to nobody: a run beside this
    one may listen, and a scheduler forgets what nobody hears. What a task has logged is here
    before its result is.
    """

    def tell(event: tuple[float, dict[str, Any]]) -> None:
        # The scheduler adds who it was.
        keep({**event[1]["said"], "address": event[1]["worker"]})

    def watch(event: tuple[float, Any]) -> None:
        lost = event[1] if isinstance(event[1], dict) else {}
        if lost.get("action") == "remove-worker" and not lost.get("expected", False):
            keep(_lost(lost))

    client.subscribe_topic(_TOPIC, tell)
    client.subscribe_topic(_ALL, watch)
    client.register_plugin(_Speaking(_TOPIC), name=_TOPIC)
    try:
        yield
    finally:
        if client.status == "running":
            client.unsubscribe_topic(_TOPIC)
            client.unsubscribe_topic(_ALL)


class _Speaking(WorkerPlugin):
    """Sends what its worker's process logs to a topic, from its start to its end."""

    def __init__(self, topic: str) -> None:
        self._topic, self._client = topic, _process()
        self._opened: contextlib.ExitStack | None = None

    def setup(self, worker: Worker) -> None:
        """See `distributed.WorkerPlugin`."""
        if _process() == self._client:  # the client hears it itself
            return
        name_worker(str(worker.name))

        def keep(made: Entry) -> None:
            worker.log_event(self._topic, {"said": made})

        self._opened = contextlib.ExitStack()
        self._opened.enter_context(listening(keep, unforeseen))

    def teardown(self, worker: Worker) -> None:  # noqa: ARG002 - Dask's signature
        """See `distributed.WorkerPlugin`."""
        if self._opened is not None:
            self._opened.close()


def _process() -> tuple[str, int]:
    return socket.gethostname(), os.getpid()


def _lost(event: dict[str, Any]) -> Entry:
    tasks = event.get("processing-tasks", ())
    blocks = sorted(list(key[-2:]) for key in tasks if isinstance(key, tuple))
    return entry(
        "WARNING",
        __name__,
        f"worker lost: {event['worker']}, with {len(tasks)} tasks that it had",
        address=event["worker"],
        tasks=len(tasks),
        blocks=blocks[:_MOST_BLOCKS],
    )
