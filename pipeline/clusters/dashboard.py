"""Where a cluster's dashboard can be looked at, and who else could."""

from __future__ import annotations

import getpass
import ipaddress
import os
import socket
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import dask

if TYPE_CHECKING:
    from pipeline.config import ClusterConfig

__all__ = ["dashboard_notes", "keep_to_own_pages", "links"]

_LINK = "distributed.dashboard.link"
_DASKS_OWN = "{scheme}://{host}:{port}/status"

_ORIGINS = "distributed.scheduler.dashboard.bokeh-application.allow_websocket_origin"
_THIS_MACHINE = ("127.0.0.1", "localhost")

_OWN = ("local", "slurm", "slurm-runner")


def dashboard_notes(
    settings: ClusterConfig, link: str | None, environment: Mapping[str, str] = os.environ
) -> Iterator[str]:
    """Say how to reach the dashboard of a cluster of ours from elsewhere, and who can already.

    Where this machine was reached by ssh, or drives jobs, a browser is likely elsewhere.
    """
    if link is None or settings.kind not in _OWN or settings.dashboard == "none":
        return
    port = urlsplit(link).port
    if not _on_loopback(settings.dashboard):
        yield (
            f"cluster.dashboard: {settings.dashboard}: whoever can reach this machine there can "
            "look at this run, its paths and its logs; 127.0.0.1 keeps it to this machine"
        )
    elif settings.kind != "local" or "SSH_CONNECTION" in environment:
        where = f"{getpass.getuser()}@{socket.gethostname()}"
        yield (
            f"to see the dashboard elsewhere: ssh -N -L {port}:127.0.0.1:{port} {where}, then open "
            f"http://127.0.0.1:{port}/status"
        )


def links(settings: ClusterConfig) -> dict[str, str]:
    """Give what dask's config says of links to the dashboard, so that they lead to it.

    Dask makes them of the scheduler's address, at which a dashboard on loopback is not. What
    the user's own config says of it, behind a hub say, is left.
    """
    if dask.config.get(_LINK, _DASKS_OWN) != _DASKS_OWN:
        return {}
    if settings.kind not in ("slurm", "slurm-runner") or not _on_loopback(settings.dashboard):
        return {}
    return {_LINK: "{scheme}://127.0.0.1:{port}/status"}


def keep_to_own_pages(settings: ClusterConfig, scheduler: Any) -> None:
    """Have a dashboard on loopback answer pages of its own alone.

    Dask lets any page that the user's browser has open connect. An ssh tunnel ends at a name of
    this machine, too, at any port; a proxy does not, so that where the user's own config says how
    the dashboard is reached, or which pages may connect, that is left. There a port must be
    named, which is not known before the dashboard listens; so this is done afterwards.
    """
    untouched = dask.config.get(_LINK, _DASKS_OWN) == _DASKS_OWN and (
        list(dask.config.get(_ORIGINS, ["*"])) == ["*"]
    )
    if untouched and _on_loopback(settings.dashboard):
        for pages in scheduler.http_application.applications:
            if hasattr(pages, "websocket_origins"):  # those of Bokeh
                pages.websocket_origins.clear()
                pages.websocket_origins.update(_THIS_MACHINE)


def _on_loopback(where: str) -> bool:
    host = where.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name; without any it listens everywhere
        return host == "localhost"
