"""What a worker process of a local cluster loads when it starts."""

from __future__ import annotations

import signal

__all__ = ["dask_setup"]


def dask_setup(_worker: object) -> None:
    """Leave Ctrl-C to the client: a terminal sends it to the workers too.

    The client ends them when it is done with them; two reactions would print a traceback
    from each.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
