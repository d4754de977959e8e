"""Whether it is worth waiting for workers that are not there, and why some are gone."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from distributed import Client

__all__ = ["NO_WORKERS", "NO_WORKERS_S", "Death", "Hope", "Keeper", "keeper_of"]

NO_WORKERS = "wsi-pipeline.no-workers-timeout"
"""Where dask's config says for how many seconds a run goes on without a worker."""

NO_WORKERS_S = 600.0
"""What it is where dask's config does not say."""


class Death(Protocol):
    """How a worker's job ended."""

    @property
    def text(self) -> str:
        """What to say of it."""
        ...

    @property
    def blameless(self) -> bool:
        """Whether it was no fault of what the worker was doing."""
        ...


class Keeper(Protocol):
    """What keeps a cluster's jobs going; it is the ``keeper`` of the cluster object."""

    @property
    def hopeless(self) -> str:
        """Why no worker will come any more; empty while one may."""
        ...

    @property
    def queued(self) -> bool:
        """Whether jobs wait for their turn."""
        ...

    @property
    def pending(self) -> str:
        """Which jobs are not running yet, and why, for people; empty where none is."""
        ...

    @property
    def ended(self) -> Mapping[str, int]:
        """How many jobs ended of which cause."""
        ...

    def death_of(self, address: str) -> Death | None:
        """Say how the job of a worker ended; None where it goes on, or is not known."""
        ...


def keeper_of(client: Client) -> Keeper | None:
    """Give what keeps the jobs of a client's cluster; None where there are none."""
    keeper: Keeper | None = getattr(client.cluster, "keeper", None)
    return keeper


class Hope:
    """Watches over a cluster without workers, for whoever waits for one."""

    def __init__(
        self, client: Client, patience_s: float, resources: Mapping[str, float] | None = None
    ) -> None:
        self._client, self._patience_s, self._resources = client, patience_s, resources or {}
        self._since = time.monotonic()

    def given_up(self) -> str:
        """Say why waiting is in vain; empty while it may not be."""
        keeper = keeper_of(self._client)
        if self._manned() or (keeper and keeper.queued):
            self._since = time.monotonic()
            return ""
        if keeper and keeper.hopeless:
            return keeper.hopeless
        if time.monotonic() - self._since <= self._patience_s:
            return ""
        having = f" with {self._resources}" if self._resources else ""
        return (
            f"no worker{having} has been there for {self._patience_s:.0f} s{self.pending()}; "
            "look at the workers' log for why, then run again to continue, or raise "
            "cluster.no_workers_timeout"
        )

    def _manned(self) -> bool:
        info = self._client.scheduler_info(n_workers=-1) if self._resources else None
        workers = (info or self._client.scheduler_info()).get("workers", {})
        return any(
            all(worker["resources"].get(name, 0) >= n for name, n in self._resources.items())
            for worker in workers.values()
        )

    def pending(self) -> str:
        """Say in brackets which jobs are not running yet, and why."""
        keeper = keeper_of(self._client)
        return f" ({keeper.pending})" if keeper and keeper.pending else ""
