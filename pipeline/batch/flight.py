"""Slides in flight: several at once, each in a thread of its own, so that workers never wait.

While one slide is opened, looked through for tissue or committed, the blocks of another are
computed. What is under way is bounded, and so is the client's memory, however many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

from pipeline.execute.schedulers import POLL_S
from pipeline.process.stopping import stop_asked

__all__ = ["in_flight", "slides_at_once"]

_MOST = 16
_THREADS_PER_SLIDE = 4

Given = TypeVar("Given")
Made = TypeVar("Made")


def slides_at_once(asked: int | str, blocks_at_once: int) -> int:
    """Give how many slides are to be under way: two, or more where there are many threads."""
    if asked != "auto":
        return int(asked)
    return min(max(2, blocks_at_once // _THREADS_PER_SLIDE), _MOST)


def in_flight(
    items: Iterable[Given],
    work: Callable[[Given], Made],
    at_once: int,
    enough: Callable[[], bool],
) -> Iterator[Made]:
    """Call ``work`` for each item, at most ``at_once`` of them at a time; give what they return.

    In the order in which they end. No other begins once there is ``enough``, or the process is
    asked to end (see `pipeline.process.stopping`). What ``work`` raises is raised here.
    """
    waiting = iter(items)
    if at_once == 1:  # in this thread, where a debugger is
        for item in waiting:
            yield work(item)
            if stop_asked() or enough():
                return
        return
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="slide")
    running: set[Future[Made]] = set()
    try:
        while True:
            if not (stop_asked() or enough()):
                free = at_once - len(running)
                running |= {pool.submit(work, item) for item in islice(waiting, free)}
            if not running:
                return
            ended, running = wait(running, POLL_S, FIRST_COMPLETED)
            for future in ended:
                yield future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
