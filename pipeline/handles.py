"""Open things, found by their ref, a bounded number per process.

A ref travels through the graph; the slide, session or array it names is opened where it is
used and stays open for the next block. `Pool` knows nothing of what it keeps.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

__all__ = ["Pool"]

R = TypeVar("R", bound=Hashable)
H = TypeVar("H")


@dataclass(eq=False)
class _Entry(Generic[H]):
    opening: threading.Lock = field(default_factory=threading.Lock)
    handles: list[H] = field(default_factory=list)  # empty until opened
    users: int = 0
    evicted: bool = False


class Pool(Generic[R, H]):
    """Keep up to ``size`` handles open in this process, least recently used out first.

    ``open_`` turns a ref into a handle; it runs once per ref however many threads ask.
    ``close`` runs once nobody uses an evicted handle any more. A handle during whose use
    anything was raised is evicted: OpenSlide's errors latch, so the next user needs a new one.
    A forked child starts with an empty pool and leaves its parent's handles alone.

    >>> pool = Pool(str.upper, size=1)
    >>> with pool.using("a") as handle:
    ...     handle
    'A'
    >>> list(pool)
    ['a']
    """

    def __init__(
        self, open_: Callable[[R], H], *, size: int, close: Callable[[H], None] | None = None
    ) -> None:
        self._open = open_
        self._close = close
        self._size = size
        self._lock = threading.Lock()
        self._entries: OrderedDict[R, _Entry[H]] = OrderedDict()
        _pools.add(self)

    def __iter__(self) -> Iterator[R]:
        with self._lock:
            return iter(list(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    @contextmanager
    def using(self, ref: R) -> Iterator[H]:
        """Give the handle of ``ref``, opened if need be, for the time of a ``with`` block."""
        entry = self._enter(ref)
        try:
            # Two threads may ask for the same ref at once: the second waits here for the
            # first to open it, while other refs are served.
            with entry.opening:
                if not entry.handles:
                    entry.handles.append(self._open(ref))
            yield entry.handles[0]
        except BaseException:
            self._evict(ref, entry)
            raise
        finally:
            self._leave(entry)

    def clear(self) -> None:
        """Evict everything; handles in use are closed when their users leave."""
        with self._lock:
            entries = list(self._entries.items())
        for ref, entry in entries:
            self._evict(ref, entry)
            self._close_if_unused(entry)

    def forget(self) -> None:
        """Drop every handle without closing it, as a forked child must."""
        self._lock = threading.Lock()
        self._entries = OrderedDict()

    def _enter(self, ref: R) -> _Entry[H]:
        with self._lock:
            entry = self._entries.setdefault(ref, _Entry())
            entry.users += 1
            self._entries.move_to_end(ref)
            surplus = list(self._entries.items())[: max(len(self._entries) - self._size, 0)]
            for old_ref, old in surplus:
                old.evicted = True
                del self._entries[old_ref]
        for _, old in surplus:
            self._close_if_unused(old)
        return entry

    def _leave(self, entry: _Entry[H]) -> None:
        with self._lock:
            entry.users -= 1
        self._close_if_unused(entry)

    def _evict(self, ref: R, entry: _Entry[H]) -> None:
        with self._lock:
            entry.evicted = True
            if self._entries.get(ref) is entry:
                del self._entries[ref]

    def _close_if_unused(self, entry: _Entry[H]) -> None:
        with self._lock:
            if entry.users or not entry.evicted:
                return
            handles, entry.handles = entry.handles, []
        if self._close is not None:
            for handle in handles:
                self._close(handle)


def _forget_all() -> None:
    for pool in _pools:
        pool.forget()


_pools: weakref.WeakSet[Pool[Any, Any]] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
