"""Schedulers that run already: by their address, or by the file that says where they are."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.clusters.security import secured, security_in
from pipeline.clusters.waiting import Waiting
from pipeline.errors import ClusterError, ConfigError

if TYPE_CHECKING:
    from distributed import Client
    from distributed.security import Security

    from pipeline.config import ClusterConfig

__all__ = ["client_at", "client_of_file", "reconnecting_untold"]


@contextmanager
def client_at(settings: ClusterConfig, waiting: Waiting) -> Iterator[Client]:
    """Give the client of a scheduler at an address, once it has a worker.

    TLS is as Dask's own configuration says (``distributed.comm.tls``).
    """
    from distributed.security import Security

    address = settings.address
    if address is None:
        raise ConfigError("cluster.address: is needed for kind address, e.g. tcp://10.0.0.1:8786")
    if exposed := _exposed(address):
        waiting.tell(exposed)
    _refuse_without_certificates(address, Security(), address)
    try:
        client = _connected(address, Security())
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"{address}: no Dask scheduler answers there: {error}; check cluster.address"
        ) from error
    with reconnecting_untold(), client:
        waiting.for_a_worker(client, address)
        yield client


@contextmanager
def client_of_file(settings: ClusterConfig, waiting: Waiting) -> Iterator[Client]:
    """Give the client of a scheduler that wrote a file; certificates beside that are used."""
    from distributed.security import Security

    file = Path(str(settings.scheduler_file))
    if not file.is_file():
        raise ClusterError(
            f"{file}: no such file; start the scheduler first, or check cluster.scheduler_file"
        )
    security = security_in(file.parent) if secured(file.parent) else Security()
    try:
        address = str(json.loads(file.read_text())["address"])
        _refuse_without_certificates(address, security, f"{file}: {address}")
        client = _connected(address, security)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ClusterError(
            f"{file}: no Dask scheduler answers where it says: {error}; is it still running?"
        ) from error
    with reconnecting_untold(), client:
        waiting.for_a_worker(client, str(file))
        yield client


def _connected(address: str, security: Security) -> Client:
    """Give a client, dask's default, of a scheduler that answers.

    One that could not connect would stay the default all the same, and whoever computes next in
    this process would wait for it for ever: so another one, which is not, is tried first.
    """
    from distributed import Client

    with Client(address, security=security, set_as_default=False):
        pass
    return Client(address, security=security)


def _refuse_without_certificates(address: str, security: Security, said: str) -> None:
    """Raise `ClusterError` where an address asks for certificates and there are none.

    A ``Client`` made all the same raises, and what is left of it can block the start of the next.
    """
    if address.startswith("tls://") and not security.get_connection_args("client")["ssl_context"]:
        raise ClusterError(
            f"{said}: needs certificates, and Dask's configuration names none; set "
            "distributed.comm.tls.ca-file, .client.cert and .client.key to its scheduler's"
        )


def _exposed(address: str) -> str:
    """Say who else can reach a scheduler that asks for no certificates; nothing on loopback."""
    scheme, _, rest = address.rpartition("://")
    host = rest.rpartition(":")[0].strip("[]")
    if scheme == "tls" or not host or host == "localhost":
        return ""
    try:
        inside = ipaddress.ip_address(host).is_loopback
    except ValueError:
        inside = False
    if inside:
        return ""
    return (
        f"{address}: without TLS, whoever can reach this port can run programs as the user of its "
        "workers; use tls:// where others can"
    )


@contextmanager
def reconnecting_untold() -> Iterator[None]:
    """Leave out, for a ``with`` block, that the client's attempts to reconnect were given up.

    distributed logs its own cancellation as an error, with its traceback; that the scheduler is
    gone is said by whoever waits for it.
    """
    log = logging.getLogger("distributed.client")
    log.addFilter(_not_given_up)
    try:
        yield
    finally:
        log.removeFilter(_not_given_up)


def _not_given_up(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))
