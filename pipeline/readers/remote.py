"""The bytes of a file behind a URL: exactly what is needed, in few requests.

Two kinds of reading. A format's tags are many small reads, mostly forward: they come from
pages that this process keeps (`PAGES_BYTES` at most), read some way ahead. A block's tiles are
known at once: `read_many` asks for those spans alone, side by side, and keeps nothing.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence

from pipeline.errors import SlideError
from pipeline.files import cloud
from pipeline.files.cloud import Version
from pipeline.files.urls import private, shown
from pipeline.readers.ranges import Range, check_range

__all__ = ["GAP", "PAGES_BYTES", "PIECE", "RemoteBytes", "spans", "version_of"]

PAGE = 16 * 2**10
START = 4 * PAGE
"""What is fetched when a file is opened: its header, and tags if they are there."""

AHEAD = 12 * PAGE
"""What a small read fetches. At 15 ms a request and 12 MB/s, that costs as much as asking."""

PAGES_BYTES = 32 * 2**20
"""Pages one process keeps, of all its files."""

GAP = 64 * 2**10
"""Spans no farther apart are read as one: cheaper than another request."""

PIECE = 8 * 2**20
"""Bytes of one request, at most: what fails is asked for again, and is not much."""

FRESH_S = 60.0
"""How long what a file is counts as known; opened again within it, nothing is asked."""


class _Pages:
    """What this process has read of files' pages, least recently used out first."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes // PAGE
        self._lock = threading.Lock()
        self._pages: OrderedDict[tuple[str, Version, int], bytes] = OrderedDict()
        self._known: OrderedDict[str, tuple[Version, float]] = OrderedDict()

    def get(self, url: str, version: Version, number: int) -> bytes | None:
        with self._lock:
            key = (url, version, number)
            if key in self._pages:
                self._pages.move_to_end(key)
            return self._pages.get(key)

    def put(self, url: str, version: Version, offset: int, content: bytes) -> None:
        with self._lock:
            for start in range(0, len(content), PAGE):
                page = content[start : start + PAGE]
                self._pages[url, version, (offset + start) // PAGE] = page
            while len(self._pages) > self._most:
                self._pages.popitem(last=False)

    def know(self, url: str, version: Version) -> None:
        with self._lock:
            self._known[url] = (version, time.monotonic())
            self._known.move_to_end(url)
            while len(self._known) > self._most:
                self._known.popitem(last=False)

    def known(self, url: str) -> Version | None:
        with self._lock:
            version, since = self._known.get(url, (None, 0.0))
        return version if time.monotonic() - since < FRESH_S else None

    def forget(self, url: str) -> None:
        with self._lock:
            self._known.pop(url, None)


_pages = _Pages(PAGES_BYTES)


def version_of(url: str) -> Version:
    """Ask which content a URL has now. Raises `SlideError` where it cannot be read.

    One request, which brings the file's first pages too: what is opened next needs them.
    """
    try:
        content, version = cloud.fetch(url, 0, START)
    except OSError as error:
        raise SlideError(f"{shown(url)}: {error.strerror}") from error
    _pages.put(url, version, 0, content)
    _pages.know(url, version)
    return version


class RemoteBytes:
    """A file behind a URL; ``requests`` and ``moved`` bytes are counted as it is read."""

    def __init__(self, url: str) -> None:
        self.name = shown(url)
        self.requests = self.moved = 0
        self._url = private(url)
        self._counting = threading.Lock()
        self._reading = threading.Lock()
        self.version = _pages.known(url) or version_of(url)
        self.size = self.version.size

    def read(self, offset: int, length: int) -> bytes:
        """Give exactly ``length`` bytes from ``offset`` on; see `pipeline.readers.ranges.Bytes`."""
        check_range(self.name, self.size, offset, length)
        if length > AHEAD - PAGE:  # farther than pages are read ahead
            return self.read_many([(offset, length)])[0]
        if not length:
            return b""
        with self._reading:  # two threads that miss the same pages ask once
            first, last = offset // PAGE, (offset + length - 1) // PAGE
            pages = [self._page(number) for number in range(first, last + 1)]
        inside = offset - first * PAGE
        return b"".join(pages)[inside : inside + length]

    def read_many(self, ranges: Sequence[Range]) -> list[bytes]:
        """Give the bytes of each ``(offset, length)``; see `pipeline.readers.ranges.Bytes`."""
        for offset, length in ranges:
            check_range(self.name, self.size, offset, length)
        if sum(length for _, length in ranges) <= AHEAD:
            kept = [self._kept(offset, length) for offset, length in ranges]
            if None not in kept:
                return [content for content in kept if content is not None]
        wanted = spans(ranges, GAP, PIECE)
        pieces = [
            (start, min(start + PIECE, stop))
            for first, stop in wanted
            for start in range(first, stop, PIECE)
        ]
        fetched = self._fetch(pieces)
        by_start = dict(zip((start for start, _ in pieces), fetched, strict=True))
        held = [
            b"".join(by_start[start] for start in range(first, stop, PIECE))
            for first, stop in wanted
        ]
        starts = [first for first, _ in wanted]
        cut = []
        for offset, length in ranges:
            span = bisect_right(starts, offset) - 1
            begin = offset - starts[span] if length else 0
            cut.append(held[span][begin : begin + length] if length else b"")
        return cut

    def close(self) -> None:
        """Release nothing: connections are kept for the next file there."""

    def _kept(self, offset: int, length: int) -> bytes | None:
        """Give bytes all of whose pages are kept, else None."""
        first, last = offset // PAGE, (offset + length - 1) // PAGE
        pages = [_pages.get(self._url, self.version, number) for number in range(first, last + 1)]
        if None in pages:
            return None
        inside = offset - first * PAGE
        return b"".join(page for page in pages if page)[inside : inside + length]

    def _page(self, number: int) -> bytes:
        page = _pages.get(self._url, self.version, number)
        if page is not None:
            return page
        start = number * PAGE
        stop = start + PAGE
        # As far ahead as nothing is there yet.
        while stop < min(start + AHEAD, self.size) and not self._has(stop // PAGE):
            stop += PAGE
        (content,) = self._fetch([(start, min(stop, self.size))])
        _pages.put(self._url, self.version, start, content)
        return content[:PAGE]

    def _has(self, number: int) -> bool:
        return _pages.get(self._url, self.version, number) is not None

    def _fetch(self, pieces: Sequence[tuple[int, int]]) -> list[bytes]:
        """Give the bytes from ``start`` to ``stop`` of each piece, one request each."""
        if not pieces:
            return []
        try:
            answers = cloud.fetch_many(self._url, pieces)
        except OSError as error:
            first, last = pieces[0][0], pieces[-1][1]
            raise SlideError(f"{self.name}: bytes {first} to {last}: {error.strerror}") from error
        with self._counting:
            self.requests += len(answers)
            self.moved += sum(len(content) for content, _ in answers)
        for (start, stop), (content, version) in zip(pieces, answers, strict=True):
            self._check(start, stop, content, version)
        return [content for content, _ in answers]

    def _check(self, start: int, stop: int, content: bytes, version: Version) -> None:
        if self.version.replaced_by(version):
            _pages.forget(self._url)
            raise SlideError(
                f"{self.name}: was replaced while it was read ({self.size} bytes, now "
                f"{version.size}); open it again"
            )
        if len(content) != stop - start:
            raise SlideError(
                f"{self.name}: truncated: the server sent {len(content)} bytes for {start} to "
                f"{stop}; copy the file again from where it comes from"
            )


def spans(ranges: Sequence[Range], gap: int, most: int) -> list[tuple[int, int]]:
    """Give ``(start, stop)`` of what to read for ranges: neighbours joined, nothing twice.

    Ranges up to ``gap`` bytes apart are joined, while the whole is at most ``most`` long.

    >>> spans([(500, 10), (0, 10), (12, 8), (5, 10)], gap=4, most=100)
    [(0, 20), (500, 510)]
    """
    found: list[tuple[int, int]] = []
    for offset, length in sorted(each for each in ranges if each[1]):
        stop = offset + length
        if found:
            begun, ended = found[-1]
            overlap, near = offset < ended, offset - ended <= gap
            if overlap or (near and max(stop, ended) - begun <= most):
                found[-1] = (begun, max(stop, ended))
                continue
        found.append((offset, stop))
    return found
