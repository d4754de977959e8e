"""Object stores and web servers, through obstore: the only package that imports it.

It retries, waits and gives up by `pipeline.files.cloud.stores.LIMITS`. What fails comes out as the
`OSError` that a disk would raise; its ``strerror`` says what and what to do, and names neither
the URL, which may hold a signature, nor a key. Credentials come from the environment and stay
here.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.files.cloud.conditional import Tag, put_if, read_tagged
from pipeline.files.cloud.reasons import told, too_large
from pipeline.files.cloud.stores import check_writes, engine, opened, root
from pipeline.files.cloud.waiting import all_of, waited
from pipeline.files.urls import split

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = [
    "Tag",
    "Version",
    "below",
    "fetch",
    "fetch_many",
    "names",
    "put_if",
    "read",
    "read_tagged",
    "remove",
    "root",
    "send",
    "told",
    "too_large",
    "write",
]


_AT_ONCE = 4
"""Parts of a large file under way at a time, 5 MB each."""


@dataclass(frozen=True, slots=True)
class Version:
    """Which bytes an object holds: how many, and what the server calls this state of them.

    ``modified`` is in microseconds since 1970; 0 and ``""`` where the server does not say.
    """

    size: int
    tag: str
    modified: int

    def replaced_by(self, other: Version) -> bool:
        """Say whether ``other`` is another content under the same name.

        Servers behind one address may give one file several tags, and several times: both
        must differ.
        """
        if self.size != other.size:
            return True
        return self.tag != other.tag and (self.modified != other.modified or not self.modified)


def fetch(url: str, start: int, stop: int) -> tuple[bytes, Version]:
    """Give bytes ``start`` to ``stop`` of an object, fewer where it ends before, in one request."""
    return fetch_many(url, [(start, stop)])[0]


def fetch_many(url: str, pieces: Sequence[tuple[int, int]]) -> list[tuple[bytes, Version]]:
    """Give what `fetch` gives for each piece, one request each, side by side."""
    store, key = opened(url)
    with told(url):
        return waited(all_of([_piece(store, key, *piece) for piece in pieces]))


async def _piece(store: ObjectStore, key: str, start: int, stop: int) -> tuple[bytes, Version]:
    found = await engine().get_async(store, key, options={"range": (start, stop)})
    content = bytes(await found.bytes_async())
    meta, (first, last) = found.meta, found.range
    if len(content) != last - first or first != start:
        raise OSError(
            errno.EIO, f"the server sent {len(content)} bytes for {stop - start}; try again"
        )
    modified = int(meta["last_modified"].timestamp() * 1e6)
    return content, Version(meta["size"], meta["e_tag"] or "", modified)


def read(url: str, most: int | None = None) -> bytes:
    """Give a whole small object; `OSError` where it has more than ``most`` bytes."""
    store, key = opened(url)

    async def whole() -> bytes:
        found = await engine().get_async(store, key)
        if most is not None and found.meta["size"] > most:
            raise too_large(most)
        return bytes(await found.bytes_async())

    with told(url):
        return waited(whole())


def write(url: str, content: bytes) -> None:
    """Store an object; it is there whole or not at all."""
    check_writes(url)
    store, key = opened(url)

    async def put() -> None:
        await engine().put_async(store, key, content)

    with told(url):
        waited(put())


def send(url: str, file: Path) -> None:
    """Store what is in a local file, of any size; it is there whole or not at all."""
    check_writes(url)
    store, key = opened(url)

    async def put() -> None:
        await engine().put_async(store, key, file, max_concurrency=_AT_ONCE)

    with told(url):
        waited(put())


def remove(url: str) -> None:
    """Remove an object; one that is not there is removed already."""
    store, key = opened(url)

    async def deleted() -> None:
        await engine().delete_async(store, key)

    with contextlib.suppress(FileNotFoundError), told(url):
        waited(deleted())


def names(url: str) -> list[str]:
    """Give the names of what lies directly in a folder, sorted; those of folders end in ``/``."""
    _check_lists(url)

    async def listed() -> Any:
        return await engine().list_with_delimiter_async(root(url))

    with told(url):
        found = waited(listed())
    objects = [each["path"].rpartition("/")[2] for each in found["objects"]]
    folders = [path.rstrip("/").rpartition("/")[2] + "/" for path in found["common_prefixes"]]
    return sorted([*objects, *folders])


def below(url: str) -> Iterator[tuple[str, int]]:
    """Give the objects in a folder and in the folders in it: name from there, and bytes."""
    _check_lists(url)

    async def more() -> Any:
        try:
            return await anext(batches)
        except StopAsyncIteration:
            return ()

    with told(url):
        batches = aiter(engine().list(root(url), chunk_size=1000))
        while batch := waited(more()):
            yield from ((each["path"], each["size"]) for each in batch)


def _check_lists(url: str) -> None:
    if split(url)[0].startswith("http"):
        what = "a web server does not list its files; use s3:// or gs://, or name the file"
        raise OSError(errno.EOPNOTSUPP, what)
