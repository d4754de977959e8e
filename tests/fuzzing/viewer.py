"""What is sent to the viewer's server, and names of slides that are URLs."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import Any

from pipeline.books.names import LEASE
from pipeline.files import urls
from pipeline.manifest.found import slides_at
from pipeline.manifest.listed import is_manifest
from pipeline.readers.multiscales import is_ome_zarr
from tests.fuzzing.harness import MOST_SECONDS, Target
from tests.fuzzing.mutating import Mutations
from tests.fuzzing.results import LOADS, SECRET, write_results

__all__ = ["TARGETS"]

_PATHS = (
    *("/", "/viewer.js", "/ask/slides", "/ask/slide/drawn", "/ask/state/drawn", "/ask/maps"),
    *("/ask/thumbnail/drawn", "/ask/tile/drawn/slide/0/0/0", "/ask/tile/drawn/scores-0-0/0/0/0"),
    *("/ask/objects/drawn/objects-4/0/0", "/ask/../../secret", "/ask/slide/..%2f..%2fsecret"),
    *("/ask/tile/drawn/tissue/99/9999999/0?x=1&y=%00", "/secret", "//secret", "/%2e%2e/secret"),
)

_served: dict[str, Any] = {}


def _serving(seeds: Path) -> Any:
    """Give a server in a thread of this child, started once."""
    from pipeline.view.catalogue import catalogue_of
    from tests.viewing import serving

    if not _served:
        stack = contextlib.ExitStack()
        _served["stack"] = stack  # ends with the process
        _served["server"] = stack.enter_context(serving(catalogue_of(seeds / "results")))
    return _served["server"]


def _request(seeds: Path, folder: Path, mutations: Mutations) -> str:
    server = _serving(seeds)
    path = mutations.choose(_PATHS)
    token = server.token if mutations.still or mutations.rng.random() < 0.9 else "x"
    if mutations.rng.random() < 0.6:
        path = mutations.text(path)
    lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{server.port}", f"X-Viewer-Token: {token}"]
    lines += ["Connection: close", "", ""]
    said = "\r\n".join(lines).encode("utf-8", "surrogatepass")
    if mutations.rng.random() < 0.9:
        answered = _sent(server.port, said, MOST_SECONDS / 2)
    else:  # it may now be one that never ends, which is waited for
        try:
            answered = _sent(server.port, mutations.binary(said), 0.2)
        except TimeoutError:
            return "hung up"
    assert SECRET not in answered
    assert b"Traceback" not in answered
    status = answered.split(b" ", 2)[1] if answered.startswith(b"HTTP/1.1 ") else b"none"
    assert status != b"500", (said, answered)
    return {b"200": "read", b"none": "hung up"}.get(status, "refused")


def _sent(port: int, said: bytes, timeout: float) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        answered = b""
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(said)
            while part := connection.recv(2**16):
                answered += part
    return answered


_URLS = (
    *(
        "https://me:secret@host:8443/a%20b.svs?signature=x#y",
        "s3://bucket/2026/a #1.svs",
        "http://[a",
    ),
    *("gs://bucket/folder/", "http://[::1]:80/a.zarr", "HTTP://host/a.csv?x=1", "https://host"),
)


def _url(seeds: Path, folder: Path, mutations: Mutations) -> str:
    """Do all with a URL that asks no server."""
    url = mutations.text(mutations.choose(_URLS))
    for act in (urls.is_url, urls.shown, urls.file_name, urls.stem, is_manifest):
        act(url)
    if not urls.is_url(url):
        return "a path"
    is_ome_zarr(url)
    kept = f"{urls.private(url)}"
    assert "@" not in urls.split(kept)[1]
    for made in (urls.join(url, LEASE), urls.beside(url, "b")):
        assert urls.split(made)[:2] == urls.split(url)[:2]
    if url.lower().startswith("http"):
        slides_at(url)
    return "read"


def _nothing(seeds: Path) -> None:
    """Leave the seeds empty: these are in this file."""


TARGETS = (
    Target("request", write_results, _request, loads=LOADS),
    Target("url", _nothing, _url),
)
