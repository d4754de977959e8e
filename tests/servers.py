"""Real servers for the tests, on 127.0.0.1: a web server that can misbehave, and S3 servers.

Each is a context manager; the fixtures in `tests.conftest` start them when first asked for.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

PATIENCE_S = 60
ACCESS, SECRET = "test-access-key", "test-secret-key"


def free_port() -> int:
    """Give a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@dataclass
class Web:
    """A web server of the files in memory, and what was asked of it.

    ``moved`` says where else a name is to be asked for, as Hugging Face does for large files.

    ``trouble`` is what it does wrong: ``""``; ``drop`` cuts the connection instead of an
    answer; ``cut`` sends half of what it announced; ``whole`` answers 200 to a range; ``hang``
    never answers; ``lie`` says the file is twice as long; ``shift`` sends another range;
    a number is the status of every answer. It does so ``times`` times, then right; from request
    ``trouble_after`` on it hangs. ``delay_s`` is how long it takes to think.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    trouble: str = ""
    times: int = 10**9
    trouble_after: int | None = None
    delay_s: float = 0.0
    requests: list[str] = field(default_factory=list)
    sent: int = 0
    released: threading.Event = field(default_factory=threading.Event)

    def forget(self) -> None:
        """Count from nothing."""
        self.requests.clear()
        self.sent = 0

    def trouble_now(self) -> str:
        """Give what to do wrong in this answer."""
        if self.trouble_after is not None and len(self.requests) > self.trouble_after:
            return "hang"
        if not self.trouble or self.times <= 0:
            return ""
        self.times -= 1
        return self.trouble


@contextlib.contextmanager
def web_server() -> Iterator[Web]:
    """Serve `Web.files` until the block ends."""
    with _WebServer(("127.0.0.1", 0), _Answer) as server:
        server.web.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server.web
        finally:
            server.web.released.set()
            server.shutdown()
            thread.join()


class _WebServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *given: Any) -> None:
        self.web = Web()
        super().__init__(*given)

    def handle_error(self, *_: object) -> None:
        """Clients hang up: that is no error here."""


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _WebServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        web, wanted = self.server.web, self.headers.get("Range", "")
        web.requests.append(f"{self.path} {wanted}".strip())
        trouble = web.trouble_now()
        if web.delay_s:
            web.released.wait(web.delay_s)
        if trouble == "hang":
            web.released.wait(PATIENCE_S)
        if trouble in ("drop", "hang"):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        name = unquote(urlsplit(self.path).path)
        status = int(trouble) if trouble.isdigit() else 200 if name in web.files else 404
        if name in web.moved:
            self._send(302, b"", {"Location": web.moved[name]})
        elif status == 200:
            self._send_file(name, wanted, trouble)
        else:
            self._send(status, b"<html>trouble</html>", {})

    def _send_file(self, name: str, wanted: str, trouble: str) -> None:
        content = self.server.web.files[name]
        tag = self.server.web.tags.get(name, f'"{len(content)}"')
        changed = formatdate(zlib.crc32(tag.encode()) % 10**9, usegmt=True)
        headers = {"ETag": tag, "Last-Modified": changed}
        start, stop = _range(wanted, len(content))
        if not wanted or trouble == "whole":
            self._send(200, content, headers)
        elif start >= len(content):
            self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        else:
            total = len(content) * 2 if trouble == "lie" else len(content)
            moved = 1 if trouble == "shift" else 0
            headers["Content-Range"] = f"bytes {start + moved}-{stop - 1 + moved}/{total}"
            sent = (stop - start) // 2 if trouble == "cut" else stop - start
            self._send(206, content[start:stop], headers, sent)

    def _send(
        self, status: int, content: bytes, headers: dict[str, str], sent: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if sent is not None and sent < len(content):
            content = content[:sent]
            self.close_connection = True
        self.server.web.sent += len(content)  # before whoever asked has it
        self.wfile.write(content)


def _range(header: str, size: int) -> tuple[int, int]:
    """Read ``bytes=2-5``, ``bytes=2-`` and ``bytes=-5``."""
    first, _, last = header.removeprefix("bytes=").partition("-")
    if not first:
        return (max(size - int(last), 0) if last else 0, size)
    return (int(first), min(int(last) + 1, size) if last else size)


@dataclass(frozen=True)
class S3:
    """A running S3 server and the environment that finds it."""

    endpoint: str

    @property
    def environment(self) -> dict[str, str]:
        """What `pipeline.files.cloud` is told by."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }


@contextlib.contextmanager
def seaweed(folder: Path) -> Iterator[S3]:
    """Run SeaweedFS, a real object store with real disks under it, in ``folder``."""
    weed = _command("weed")
    ports = {name: free_port() for name in ("master", "volume", "filer", "s3")}
    grpc = {f"{name}.grpc": free_port() for name in ports}
    keys = folder / "s3.json"
    keys.write_text(
        f'{{"identities": [{{"name": "test", "credentials": [{{"accessKey": "{ACCESS}", '
        f'"secretKey": "{SECRET}"}}], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}}]}}'
    )
    options = [f"-{name}.port={port}" for name, port in ports.items()]
    options += [f"-{name.replace('.grpc', '.port.grpc')}={port}" for name, port in grpc.items()]
    command = [
        *(weed, "server", "-s3", "-filer", f"-dir={folder}", "-ip=127.0.0.1"),
        *(
            "-ip.bind=127.0.0.1",
            f"-s3.config={keys}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.autoCreateBucket",
        ),
        *("-volume.max=0", "-master.volumeSizeLimitMB=64", "-master.telemetry=false", *options),
    ]
    with _running(command, folder / "weed.log") as alive:
        server = S3(f"http://127.0.0.1:{ports['s3']}")
        _wait_for(server, alive, folder / "weed.log")
        yield server


@contextlib.contextmanager
def moto(folder: Path) -> Iterator[S3]:
    """Run moto's S3 server, which keeps objects in memory."""
    port = free_port()
    command = [_command("moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    with _running(command, folder / "moto.log") as alive:
        server = S3(f"http://127.0.0.1:{port}")
        _wait_for(server, alive, folder / "moto.log")
        yield server


def _command(name: str) -> str:
    found = shutil.which(
        name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    )
    if found is None:
        pytest.skip(f"{name} is not installed; pip install 'wsi-pipeline[test]'")
    return found


@contextlib.contextmanager
def _running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
    if shutil.which("setpriv"):  # where even a pytest that is killed takes its servers with it
        command = ["setpriv", "--pdeathsig", "KILL", *command]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env=environment, start_new_session=True
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # weed takes ten seconds to end kindly
            process.wait(PATIENCE_S)


def _wait_for(server: S3, process: subprocess.Popen[bytes], log: Path) -> None:
    """Make the bucket ``test`` and store something: a server that can is ready."""
    import obstore
    from obstore.store import S3Store

    patient_until = time.monotonic() + PATIENCE_S
    store = S3Store(
        "test",
        endpoint=server.endpoint,
        access_key_id=ACCESS,
        secret_access_key=SECRET,
        region="us-east-1",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    while True:
        try:
            _make_bucket(server.endpoint)
            obstore.put(store, "ready", b"ready")
        except (OSError, http.client.HTTPException, obstore.exceptions.BaseError):
            if process.poll() is not None or time.monotonic() > patient_until:
                pytest.fail(f"{process.args!r} did not start: {log.read_text()[-2000:]}")
            time.sleep(0.1)
        else:
            return


def _make_bucket(endpoint: str) -> None:
    """Ask for the bucket, unsigned; who refuses that makes it with the first object."""
    connection = http.client.HTTPConnection(endpoint.removeprefix("http://"), timeout=5)
    with contextlib.closing(connection):
        connection.request("PUT", "/test")
        connection.getresponse().read()
