"""A log's lines in files of bounded size, on a disk or in a bucket.

``run.jsonl``, then ``run-0002.jsonl`` and so on. Of many parts the first is kept, where it
began, and the last ones. A log that cannot be written is told of once; the run goes on.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.files import places
from pipeline.files.urls import is_url, join

__all__ = ["LogFile", "Sizes"]


@dataclass(frozen=True)
class Sizes:
    """The most bytes of one part, and the most parts."""

    part_bytes: int
    parts: int


ON_DISK = Sizes(part_bytes=64 * 2**20, parts=3)
IN_A_BUCKET = Sizes(part_bytes=4 * 2**20, parts=48)
"""An object is written whole each time: parts are small."""

_SECONDS_BETWEEN_WRITES = 15.0

_log = logging.getLogger("pipeline")


class _Engine(Protocol):
    """Takes bytes for the end of a file; what fails is an `OSError`."""

    def size(self, path: str) -> int: ...
    def append(self, path: str, line: bytes) -> None: ...
    def close(self) -> None: ...


class LogFile:
    """The parts of one log in a folder; any thread may write, and nothing is raised."""

    def __init__(self, folder: str, name: str, sizes: Sizes | None = None) -> None:
        self._folder, self._name = folder, name
        self._sizes = sizes or (IN_A_BUCKET if is_url(folder) else ON_DISK)
        self._lock = threading.Lock()
        self._engine: _Engine = _Bucket(self._failed) if is_url(folder) else _Disk()
        self._part = self._size = self._lost = 0
        self._told = False

    def write(self, entry: dict[str, Any]) -> None:
        """Write one line; one that cannot be is counted, and the next that can says how many."""
        try:
            with self._lock:
                self._lost += 1
                if self._lost > 1:
                    missing = f"{self._lost - 1} lines are missing here"
                    self._append(_line({**entry, "level": "WARNING", "message": missing}))
                self._append(_line(entry))
                self._lost = 0
        except OSError as error:
            self._failed(error)

    def close(self) -> None:
        """Write what is still held."""
        try:
            self._engine.close()
        except OSError as error:
            self._failed(error)

    def _append(self, line: bytes) -> None:
        if not self._part:
            self._part, self._size = self._newest()
        if self._size and self._size + len(line) > self._sizes.part_bytes:
            self._part, self._size = self._part + 1, 0
            self._make_room()
        self._engine.append(self._path(self._part), line)
        self._size += len(line)

    def _newest(self) -> tuple[int, int]:
        """Give the number and the size of the part that another run left, or of the first one."""
        newest = max(self._parts(), default=1)
        return newest, self._engine.size(self._path(newest))

    def _make_room(self) -> None:
        there = sorted(self._parts())
        for number in there[1 : len(there) - self._sizes.parts + 2]:
            places.remove(self._path(number))

    def _parts(self) -> list[int]:
        pattern = re.compile(re.escape(self._name) + r"(?:-(\d{4,}))?\.jsonl")
        found = [pattern.fullmatch(name) for name in places.names(self._folder)]
        return [int(each[1] or 1) for each in found if each]

    def _path(self, part: int) -> str:
        suffix = f"-{part:04d}" if part > 1 else ""
        return join(self._folder, f"{self._name}{suffix}.jsonl")

    def _failed(self, error: OSError) -> None:
        """Tell of it, once. Not under the lock: whoever hears it may be writing here, too."""
        with self._lock:
            told, self._told = self._told, True
        if not told:
            _log.warning(
                "the log in %s cannot be written: %s; the run goes on",
                self._folder,
                error.strerror or error,
            )


class _Disk:
    """Files that grow by a line at a time, each handed to the system at once."""

    def __init__(self) -> None:
        self._path, self._file = "", -1

    def size(self, path: str) -> int:
        try:
            return Path(path).stat().st_size
        except FileNotFoundError:
            return 0

    def append(self, path: str, line: bytes) -> None:
        if path != self._path:
            self.close()
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            # Its name is known beforehand: what others have linked there is not written to.
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
            self._file = os.open(path, flags, 0o666)
            self._path = path
        end = os.lseek(self._file, 0, os.SEEK_END)
        # A run that was killed, or a full disk, may have left part of a line.
        torn = end > 0 and os.pread(self._file, 1, end - 1) != b"\n"
        left = memoryview(b"\n" + line if torn else line)
        while left:
            left = left[os.write(self._file, left) :]

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._path, self._file = "", -1


class _Bucket:
    """Objects that are written anew every few seconds, by a thread: nobody waits for a bucket."""

    def __init__(self, failed: Callable[[OSError], None]) -> None:
        self._failed = failed
        self._lock = threading.Lock()
        self._held: dict[str, bytearray] = {}
        self._changed: set[str] = set()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def size(self, path: str) -> int:
        try:
            self._held[path] = bytearray(places.read(path))
        except FileNotFoundError:
            return 0
        return len(self._held[path])

    def append(self, path: str, line: bytes) -> None:
        with self._lock:
            if path not in self._held and len(self._held) > 1:
                raise OSError(None, "the bucket takes nothing more")
            self._held.setdefault(path, bytearray()).extend(line)
            self._changed.add(path)
            if self._thread is None:
                self._thread = threading.Thread(target=self._go_on, name="log", daemon=True)
                self._thread.start()

    def close(self) -> None:
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
        self._write_out()

    def _go_on(self) -> None:
        while not self._closed.wait(_SECONDS_BETWEEN_WRITES):
            try:
                self._write_out()
            except OSError as error:
                self._failed(error)

    def _write_out(self) -> None:
        with self._lock:
            changed = sorted(self._changed)
        for path in changed:
            with self._lock:
                content = bytes(self._held[path])
                self._changed.discard(path)
            try:
                places.write_whole(path, content)
            except OSError:
                with self._lock:
                    self._changed.add(path)
                raise
            self._forget_all_but_newest()

    def _forget_all_but_newest(self) -> None:
        with self._lock:
            for path in list(self._held)[:-1]:
                if path not in self._changed:
                    del self._held[path]


def _line(entry: dict[str, Any]) -> bytes:
    with suppress(UnicodeEncodeError):
        return json.dumps(entry, ensure_ascii=False).encode() + b"\n"
    return json.dumps(entry).encode() + b"\n"  # a file name that is no text, as Python holds it
