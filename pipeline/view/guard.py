"""Who may ask the viewer's server: pure functions over what a request says of itself.

The page's address holds a token behind a ``#``, which no browser sends along; the page gives it in
a header of every question. So no other page can ask on the user's behalf, as with a cookie, and
the token is in no log and no referrer.
"""

from __future__ import annotations

import getpass
import ipaddress
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

__all__ = [
    "HEADERS",
    "TOKEN",
    "address",
    "host_names",
    "new_token",
    "notes",
    "refusal",
    "token_fits",
]

TOKEN = "X-Viewer-Token"  # noqa: S105 - the name of a header

HEADERS = {
    # Tiles are decoded from blobs; anything else comes from here, and nothing goes elsewhere.
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Nothing of a patient stays in the browser's cache on the disk.
    "Cache-Control": "no-store",
}
"""What every answer says."""


def new_token() -> str:
    """Give a token that nobody can guess."""
    return secrets.token_urlsafe(32)


def token_fits(given: str | None, token: str) -> bool:
    """Say whether a request has the token; how long that takes says nothing of it."""
    return secrets.compare_digest((given or "").encode(), token.encode())


def host_names(host: str) -> frozenset[str]:
    """Give the names a request may call this server by, if it listens at ``host``."""
    names = {"127.0.0.1", "localhost", "::1", host}
    if not on_loopback(host):
        names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
    return frozenset(names)


def refusal(headers: Mapping[str, str], names: frozenset[str]) -> str | None:
    """Say why a request is refused, whatever it asks; None where it is not.

    A page of elsewhere can have its own name resolve to this machine (DNS rebinding): the name
    it then calls us by is none of ``names``. The port may be another, that of an ssh tunnel.
    """
    host = headers.get("Host", "")
    name = _name(host)
    if name not in names and not (_is_address(name) and not _only_loopback(names)):
        return f"the name {name!r} is not this server's"
    origin = headers.get("Origin")
    if origin is not None and origin != f"http://{host}":
        return f"a page of {origin} may not ask here"
    if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        return "a page of elsewhere may not ask here"
    return None


def address(host: str, port: int, token: str) -> str:
    """Give what to open."""
    where = "127.0.0.1" if host in ("", "0.0.0.0", "::") else host  # noqa: S104 - it is not bound here
    bracketed = f"[{where}]" if ":" in where else where
    return f"http://{bracketed}:{port}/#t={token}"


def notes(
    host: str, port: int, token: str, environment: Mapping[str, str] = os.environ
) -> Iterator[str]:
    """Say how to reach the viewer from elsewhere, and who can already."""
    if not on_loopback(host):
        yield (
            f"--host {host}: whoever can reach this machine there and has the address can look at "
            "these slides, and what is sent is not encrypted; without --host only this machine can"
        )
    elif "SSH_CONNECTION" in environment:
        where = f"{getpass.getuser()}@{socket.gethostname()}"
        yield (
            f"to look at it from elsewhere: ssh -N -L {port}:127.0.0.1:{port} {where}, then open "
            f"{address('127.0.0.1', port, token)}"
        )


def on_loopback(host: str) -> bool:
    """Say whether what listens at a host can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name; without any it listens everywhere
        return host == "localhost"


def _name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # no name of a host at all
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _only_loopback(names: frozenset[str]) -> bool:
    return all(on_loopback(name) for name in names)
