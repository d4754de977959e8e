"""Objects that are stored only if nobody else has stored them meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.files.cloud.reasons import told
from pipeline.files.cloud.stores import check_writes, engine, opened
from pipeline.files.cloud.waiting import waited

__all__ = ["Tag", "put_if", "read_tagged"]

Tag = Mapping[str, str]
"""What a server calls one state of an object: its ``e_tag``, and its ``version`` if it has any."""


def read_tagged(url: str) -> tuple[bytes, Tag]:
    """Give a whole small object, and what the server calls this state of it."""
    store, key = opened(url)

    async def whole() -> tuple[bytes, Tag]:
        found = await engine().get_async(store, key)
        return bytes(await found.bytes_async()), _tag(found.meta)

    with told(url):
        return waited(whole())


def put_if(url: str, content: bytes, was: Tag | None) -> Tag:
    """Store an object where ``was`` is still its state, or where there is none, for None.

    Raises `FileExistsError` where it is another by now.
    """
    check_writes(url)
    store, key = opened(url)
    mode: Any = "create" if was is None else dict(was)

    async def put() -> Tag:
        return _tag(await engine().put_async(store, key, content, mode=mode))

    with told(url):
        return waited(put())


def _tag(said: Mapping[str, Any]) -> Tag:
    return {name: said[name] for name in ("e_tag", "version") if said.get(name)}
