"""Where requests are waited for: one loop in a thread of its own, for all threads of a process.

A thread that waits here can be interrupted at once, and a request that is still under way does
not keep the process from ending: obstore's own waiting allows neither.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Coroutine, Sequence
from functools import lru_cache
from typing import Any, TypeVar

__all__ = ["TOGETHER", "all_of", "waited"]

T = TypeVar("T")

TOGETHER = 16
"""Requests of one process that are under way at once."""


def waited(answer: Coroutine[Any, Any, T]) -> T:
    """Wait for an answer, and give it or raise what it raises."""
    coming = asyncio.run_coroutine_threadsafe(answer, _loop(os.getpid()))
    try:
        return coming.result()
    finally:
        coming.cancel()  # where the waiting was interrupted


async def all_of(answers: Sequence[Awaitable[T]]) -> list[T]:
    """Give all answers in order, `TOGETHER` at a time; the first failure stops the others."""
    turn = asyncio.Semaphore(TOGETHER)

    async def one(answer: Awaitable[T]) -> T:
        async with turn:
            return await answer

    tasks = [asyncio.ensure_future(one(answer)) for answer in answers]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


@lru_cache(maxsize=1)
def _loop(_process: int) -> asyncio.AbstractEventLoop:
    """Give this process's loop; a forked child makes its own."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="pipeline-requests", daemon=True).start()
    return loop
