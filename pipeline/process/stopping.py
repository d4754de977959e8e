"""Ending early: on Ctrl-C or SIGTERM the blocks that are running end, and no other begins.

A signal belongs to the process, and so does what is known of it here. Whoever hands out work
asks `stop_asked` before each piece, and raises `Stopped` when what was running has ended.
"""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Interrupted", "Stopped", "ask_to_stop", "check_stopped", "draining", "stop_asked"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_ENDING = "ending: blocks that are running are finished; once more ends at once"


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """What was asked for is not done, because the run is to end."""


class Interrupted(KeyboardInterrupt):
    """A run that was asked to end and has; ``signal`` is what asked."""

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal


def stop_asked() -> int | None:
    """Give the signal that asked this process to end; None where none did."""
    return _state.asked


def ask_to_stop() -> None:
    """Ask this process to end, as a signal would: for a reason of its own."""
    _state.asked = _state.asked or signal.SIGTERM


def check_stopped() -> None:
    """Raise `Stopped` where the process was asked to end."""
    if _state.asked is not None:
        raise Stopped


@contextmanager
def draining(tell: Callable[[str], None]) -> Iterator[None]:
    """Take Ctrl-C and SIGTERM, for a ``with`` block, for a wish to end soon.

    The first is noted for `stop_asked` and said by ``tell``; a second raises `KeyboardInterrupt`
    at once. In other threads than the main one, which alone hears signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def heard(number: int, _: FrameType | None) -> None:
        if _state.asked is not None:
            raise KeyboardInterrupt
        _state.asked = number
        # Not from here: whoever is interrupted may hold a lock that telling needs.
        _thread.start_new_thread(tell, (_ENDING,))

    before = {each: signal.signal(each, heard) for each in _SIGNALS}
    _state.asked = None
    try:
        yield
        _state.asked = None
    finally:
        # After a second signal slides may still be in flight: for them it stays asked.
        for each, handler in before.items():
            signal.signal(each, handler)


class _State:
    asked: int | None = None


_state = _State()
