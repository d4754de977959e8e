"""What the viewer's tests share: a slide with results, a server in a thread, a real browser."""

from __future__ import annotations

import asyncio
import http.client
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import tornado.httpserver
from tornado.netutil import bind_sockets

import pipeline
from pipeline.view.catalogue import Catalogue
from pipeline.view.guard import TOKEN, host_names, new_token
from pipeline.view.server import Served, application

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Route

__all__ = ["Serving", "browser", "offline", "run_nuclei", "serving"]

NEEDED = "WSI_PIPELINE_NEED_CHROMIUM"
"""Set where a missing browser is a failure."""

_CHROMIUM = Path("/usr/bin/chromium")
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def run_nuclei(slide: Path, folder: Path) -> Path:
    """Find the nuclei of a slide, their scores and their outlines; give the results."""
    builtin = Path(pipeline.__file__).parent / "model" / "builtin" / "nuclei-objects.yaml"
    run_file = folder / "run.yaml"
    run_file.write_text(
        f"slides: {slide}\n"
        f"model: {builtin}\n"
        f"output: {{block: 512, directory: {folder / 'results'}}}\n"
        "cluster: {kind: threads, workers: 2, dashboard: none}\n"
    )
    assert pipeline.run(run_file).complete
    return folder / "results"


@dataclass(frozen=True)
class Serving:
    """A viewer's server on a free port of this machine."""

    port: int
    token: str

    @property
    def url(self) -> str:
        """What a browser opens."""
        return f"http://127.0.0.1:{self.port}/#t={self.token}"

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
        """Ask as it stands, without a client that would tidy the path up; the token is given."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.putrequest("GET", path, skip_host="Host" in (headers or {}))
            for name, value in {TOKEN: self.token, **(headers or {})}.items():
                connection.putheader(name, value)
            connection.endheaders()
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()


@contextmanager
def serving(catalogue: Catalogue, host: str = "127.0.0.1") -> Iterator[Serving]:
    """Serve a catalogue from a thread for the time of a ``with`` block."""
    sockets, token = bind_sockets(0, "127.0.0.1"), new_token()
    begun = threading.Event()
    ends: list[Callable[[], object]] = []

    async def serve(pool: ThreadPoolExecutor) -> None:
        ended, loop = asyncio.Event(), asyncio.get_running_loop()
        served = Served(catalogue, token, host_names(host), pool)
        server = tornado.httpserver.HTTPServer(application(served))
        server.add_sockets(sockets)
        ends.append(lambda: loop.call_soon_threadsafe(ended.set))
        begun.set()
        await ended.wait()
        server.stop()
        await server.close_all_connections()

    # All of it in a thread of its own: Playwright has a loop running in this one.
    with ThreadPoolExecutor(2) as pool:
        thread = threading.Thread(target=lambda: asyncio.run(serve(pool)))
        thread.start()
        assert begun.wait(20)
        try:
            yield Serving(sockets[0].getsockname()[1], token)
        finally:
            ends[0]()
            thread.join(20)


@contextmanager
def browser() -> Iterator[Browser]:
    """Start Debian's Chromium, headless; skip where there is none."""
    if not _CHROMIUM.exists():
        if os.environ.get(NEEDED):
            pytest.fail(f"{NEEDED} is set, and there is no {_CHROMIUM}")
        pytest.skip(f"no {_CHROMIUM}; apt-get install chromium fonts-dejavu-core")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=_CHROMIUM, args=_FLAGS)
        yield started
        started.close()


@dataclass
class Offline:
    """A browser's window that reaches one origin only; what went wrong there."""

    context: BrowserContext
    outside: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@contextmanager
def offline(
    started: Browser, origin: str, width: int = 1000, height: int = 700
) -> Iterator[Offline]:
    """Open a window; a request to elsewhere, and an error on the console, fail the test."""
    context = started.new_context(viewport={"width": width, "height": height})
    window = Offline(context)

    def routed(route: Route) -> None:
        if route.request.url.startswith((origin, "blob:", "data:")):
            route.continue_()
        else:
            window.outside.append(route.request.url)
            route.abort()

    context.route("**/*", routed)
    context.on(
        "console",
        lambda message: window.errors.append(message.text) if message.type == "error" else None,
    )
    context.on("weberror", lambda error: window.errors.append(str(error.error)))
    try:
        yield window
        assert window.outside == []
        assert window.errors == []
    finally:
        context.close()
