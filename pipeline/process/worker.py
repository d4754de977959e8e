"""What a worker process of a cluster of ours loads when it starts."""

from __future__ import annotations

import logging
import re
import signal
from typing import Any

from pipeline import errors
from pipeline.process import take_gpu

__all__ = ["dask_setup", "unforeseen"]


def dask_setup(worker: Any) -> None:
    """Leave to the client what the client does: end on Ctrl-C, and tell what failed.

    A terminal sends Ctrl-C to the workers too; two reactions would print a traceback from each.
    (Where the system can, they are started deaf to it; see `pipeline.clusters`.) And take a GPU
    of its own, by its number among the workers of its machine, which ends its name.

    In the nanny of a worker, have it listen where that does, and not on every address there is.
    """
    of_worker = getattr(worker, "worker_kwargs", None)
    if of_worker is not None:
        if not (of_worker.get("host") or of_worker.get("interface")):
            of_worker["host"] = worker.ip
        return
    number = re.search(r"\d+$", str(worker.name))
    take_gpu(int(number[0]) if number else 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("distributed.worker", "distributed.worker.state_machine"):
        logging.getLogger(name).addFilter(unforeseen)


def unforeseen(record: logging.LogRecord) -> bool:
    """Say whether a worker's log has something that the client does not tell, or better.

    A block that fails as foreseen is counted, named and tried again by the client; its traceback
    in the terminal would say the same less clearly, twice. And a heartbeat that meets the
    scheduler's end is no news: the scheduler lives in the client, which is closing its cluster.
    Nor is a task that ends after the client has cancelled it.
    """
    message = str(record.msg)
    if message.startswith("Compute Failed"):
        shown = [arg.partition("(")[0] for arg in record.args or () if isinstance(arg, str)]
        return not _FORESEEN.intersection(shown)
    return not message.startswith(_NO_NEWS)


_NO_NEWS = (
    "Failed to communicate with scheduler during heartbeat",
    "Async instruction for <Task cancelled",
)
_FORESEEN = frozenset(name for name in errors.__all__ if name.endswith("Error"))
