"""What crosses the network to open a slide over HTTP and read one region: bytes and requests."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["MOST_BYTES", "MOST_REQUESTS", "Moved", "available", "read_region"]

MOST_BYTES = 10**6
MOST_REQUESTS = 10
REGION = 1024


@dataclass
class Moved:
    """What a server was asked for, and what it sent."""

    requests: int = 0
    sent: int = 0


def available() -> bool:
    """Say whether slides can be read from URLs here."""
    return all(find_spec(name) is not None for name in ("pipeline.readers.remote", "obstore"))


def read_region(path: Path) -> Moved:
    """Open a slide over HTTP, read the region in its middle, and say what that moved.

    Raises `AssertionError` where the pixels are others than from the disk.
    """
    import numpy as np

    import pipeline

    with _serving(path) as (url, moved):
        slide = pipeline.open_slide(url)
        region = slide.levels[0][_middle(slide.shape)].compute(scheduler="synchronous")
    local = pipeline.open_slide(path, reader="tiff")
    expected = local.levels[0][_middle(local.shape)].compute(scheduler="synchronous")
    if not np.array_equal(region, expected):
        raise AssertionError(f"{path}: other pixels over HTTP than from the disk")
    return moved


def _middle(shape: tuple[int, int]) -> tuple[slice, slice]:
    starts = [max(n - REGION, 0) // 2 for n in shape]
    return (slice(starts[0], starts[0] + REGION), slice(starts[1], starts[1] + REGION))


@contextlib.contextmanager
def _serving(path: Path) -> Iterator[tuple[str, Moved]]:
    with _Server(("127.0.0.1", 0), path) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/{path.name}", server.moved
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], path: Path) -> None:
        self.content, self.moved, self.counting = path.read_bytes(), Moved(), threading.Lock()
        super().__init__(address, _Answer)


class _Answer(BaseHTTPRequestHandler):
    """Answers with the file, or a range of it, whatever the path."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(send=False)

    def do_GET(self) -> None:
        self._answer(send=True)

    def _answer(self, *, send: bool) -> None:
        content = self.server.content
        start, stop = _range(self.headers.get("Range", ""), len(content))
        part = content[start:stop]
        with self.server.counting:
            self.server.moved.requests += 1
            self.server.moved.sent += len(part) * send
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{len(content)}"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        if send:
            self.wfile.write(part)


def _range(asked: str, size: int) -> tuple[int, int]:
    """Give where a range begins and ends.

    >>> _range("bytes=10-19", 100), _range("bytes=-10", 100), _range("", 100)
    ((10, 20), (90, 100), (0, 100))
    """
    first, _, last = asked.removeprefix("bytes=").partition("-")
    if not first:
        return (size - int(last), size) if last else (0, size)
    return int(first), min(int(last) + 1, size) if last else size
