"""The viewer in a browser: a small web server on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import tornado.httpserver
import tornado.web
from tornado.netutil import bind_sockets

from pipeline.errors import ConfigError, SlideError, StoreError
from pipeline.view.answers import UnknownQuestionError, answer
from pipeline.view.catalogue import Catalogue
from pipeline.view.guard import HEADERS, TOKEN, host_names, refusal, token_fits
from pipeline.view.page import FILES, module, page_file

__all__ = ["Served", "application", "serve"]

_THREADS = 4
"""Tiles read at once: a browser asks for six, and decoding takes a core each."""

_FORBIDDEN, _NOT_FOUND, _UNREADABLE = 403, 404, 422


@dataclass(frozen=True)
class Served:
    """What the handlers share."""

    catalogue: Catalogue
    token: str
    names: frozenset[str]
    threads: ThreadPoolExecutor


class _Guarded(tornado.web.RequestHandler):
    """Whatever is answered: to whom, and with which headers."""

    def initialize(self, served: Served) -> None:
        """Take what the handlers share."""
        self.served = served

    def set_default_headers(self) -> None:
        """Say with every answer, refusals included, what a browser must not do with it."""
        self.clear_header("Server")
        for name, value in HEADERS.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        """Refuse what comes from elsewhere."""
        reason = refusal(self.request.headers, self.served.names)
        if reason is not None:
            self.refuse(_FORBIDDEN, reason)

    def refuse(self, status: int, reason: str) -> None:
        """Answer with a status and a line."""
        self.set_status(status)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(reason)

    def write_error(self, status_code: int, **_: object) -> None:
        """Say no more than the status: a traceback is for the terminal."""
        self.refuse(status_code, f"error {status_code}")


class _Page(_Guarded):
    """The page itself, which holds nothing of any slide."""

    def get(self, name: str) -> None:
        """Give one of its files."""
        file, kind = FILES.get(name, ("", "text/javascript"))
        self.set_header("Content-Type", f"{kind}; charset=utf-8")
        self.finish(page_file(file) if file else module())


class _Questions(_Guarded):
    """What only who has the token is told."""

    async def get(self, question: str) -> None:
        """Answer a question of the page."""
        if not token_fits(self.request.headers.get(TOKEN), self.served.token):
            self.refuse(_FORBIDDEN, "open the address that the command printed: it has a token")
            return
        loop = asyncio.get_running_loop()
        asked = loop.run_in_executor(self.served.threads, answer, self.served.catalogue, question)
        self.asked = asked
        try:
            found = await asked
        except UnknownQuestionError as error:
            self.refuse(_NOT_FOUND, str(error))
        except (SlideError, StoreError) as error:
            self.refuse(_UNREADABLE, str(error))
        except asyncio.CancelledError:
            if not asked.cancelled():  # not by `on_connection_close`: it is the server that ends
                raise
        else:
            self.set_header("Content-Type", found.kind)
            self.finish(found.content)  # not waited for: who asked may be gone by now

    def on_connection_close(self) -> None:
        """Leave out what nobody waits for any more, if it was not begun."""
        if hasattr(self, "asked"):
            self.asked.cancel()


def application(served: Served) -> tornado.web.Application:
    """Give the application; nothing is listened to yet."""
    shared = {"served": served}
    names = "|".join([*FILES, "viewer.js"])
    return tornado.web.Application(
        [(rf"/({names})", _Page, shared), (r"/ask/(.*)", _Questions, shared)],
        log_function=lambda _handler: None,
        default_handler_class=_Nothing,
        default_handler_args=shared,
    )


class _Nothing(_Guarded):
    """Whatever else is asked for."""

    def get(self) -> None:
        """Say that there is none."""
        self.refuse(_NOT_FOUND, "no such page")


def serve(
    catalogue: Catalogue, token: str, host: str, port: int, opened: Callable[[int], None]
) -> None:
    """Serve until Ctrl-C, or until the process is asked to end; ``opened`` is told the port.

    Raises `ConfigError` where it cannot be listened there.
    """
    asyncio.run(_serve(catalogue, token, _sockets(host, port), host, opened))


async def _serve(
    catalogue: Catalogue,
    token: str,
    sockets: list[socket.socket],
    host: str,
    opened: Callable[[int], None],
) -> None:
    threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="viewer")
    served = Served(catalogue, token, host_names(host), threads)
    server = tornado.httpserver.HTTPServer(application(served))
    server.add_sockets(sockets)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as stack:
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(each, ended.set)
            stack.callback(loop.remove_signal_handler, each)
        opened(sockets[0].getsockname()[1])
        await ended.wait()
    server.stop()
    await server.close_all_connections()
    threads.shutdown(cancel_futures=True)


def _sockets(host: str, port: int) -> list[socket.socket]:
    try:
        return bind_sockets(port, host)
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"--host {host} --port {port}: cannot be listened at: {error}; leave --port out for a "
            "free one"
        ) from error
