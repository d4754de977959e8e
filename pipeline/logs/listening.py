"""What a process logs and warns of, as entries of a log: flat dictionaries of plain values."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TextIO

from pipeline.process.underway import whereabouts

__all__ = ["Entry", "entry", "listening"]

Entry = dict[str, Any]

_OURS = "pipeline"
_MOST_CHARACTERS = 4000
_MOST_ITEMS = 100
_ORDINARY = frozenset({*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName"})


def entry(level: str, logger: str, message: str, **fields: Any) -> Entry:
    """Give an entry of now, about what this thread is at; ``fields`` say more, or better."""
    return _entry(datetime.now(UTC), (level, logger, message), fields)


@contextmanager
def listening(
    keep: Callable[[Entry], None], wanted: Callable[[logging.LogRecord], bool] | None = None
) -> Iterator[None]:
    """Give ``keep`` what is logged and warned of in this process during a ``with`` block.

    Of this package's loggers from INFO on, of others from WARNING on, and of these what is
    ``wanted``. What is shown elsewhere, on a terminal too, is shown as before; what this package's
    modules log is for ``keep`` alone. It is called in the thread that speaks, must not raise, and
    is not told what it says itself.
    """
    heard = _Handler(keep, wanted or (lambda _record: True))
    ours = logging.getLogger(_OURS)
    with contextlib.ExitStack() as opened:
        for logger in _ends_of_the_line():
            logger.addHandler(heard)
            opened.callback(logger.removeHandler, heard)
        if ours.getEffectiveLevel() > logging.INFO:
            opened.callback(ours.setLevel, ours.level)
            ours.setLevel(logging.INFO)
        opened.enter_context(_warnings_told(heard.tell))
        yield


def _ends_of_the_line() -> list[logging.Logger]:
    """Give the loggers that hand nothing on: every record comes past one of them, and only one."""
    named = list(logging.Logger.manager.loggerDict.values())
    last = [each for each in named if isinstance(each, logging.Logger) and not each.propagate]
    return [logging.getLogger(), *last]


class _Handler(logging.Handler):
    """Makes entries of records; silent where there would have been silence without it."""

    def __init__(
        self, keep: Callable[[Entry], None], wanted: Callable[[logging.LogRecord], bool]
    ) -> None:
        super().__init__()
        self._keep, self._wanted = keep, wanted
        self._telling = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        ours = record.name.partition(".")[0] == _OURS
        least = logging.INFO if ours else logging.WARNING
        if record.levelno >= least and self._wanted(record):
            self.tell(_entry_of(record))
        last = logging.lastResort
        # Python's handler of last resort speaks only where there is no other: there is one now.
        if last is not None and record.levelno >= last.level and self._alone(record):
            last.handle(record)

    def tell(self, made: Entry) -> None:
        """Hand an entry on, unless handing on one is what made it."""
        if getattr(self._telling, "now", False):
            return
        self._telling.now = True
        try:
            self._keep(made)
        finally:
            self._telling.now = False

    def _alone(self, record: logging.LogRecord) -> bool:
        """Say whether it is for people, and no other handler shows it to them."""
        if record.name.startswith(f"{_OURS}."):
            return False
        at: logging.Logger | None = logging.getLogger(record.name)
        while at is not None:
            if any(each is not self for each in at.handlers):
                return False
            at = at.parent if at.propagate else None
        return True


@contextmanager
def _warnings_told(tell: Callable[[Entry], None]) -> Iterator[None]:
    """Tell of Python's warnings, too, which are shown as before."""
    before = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        before(message, category, filename, lineno, file, line)
        if file is None:
            place = {"category": category.__name__, "file": filename, "line": lineno}
            tell(entry("WARNING", "py.warnings", str(message), **place))

    warnings.showwarning = show
    try:
        yield
    finally:
        if warnings.showwarning is show:
            warnings.showwarning = before


def _entry_of(record: logging.LogRecord) -> Entry:
    fields = {key: value for key, value in record.__dict__.items() if key not in _ORDINARY}
    if record.exc_info:
        told = logging.Formatter().formatException(record.exc_info)
        fields["traceback"] = told[-_MOST_CHARACTERS:]
    said = (record.levelname, record.name, record.getMessage())
    return _entry(datetime.fromtimestamp(record.created, UTC), said, fields)


def _entry(time: datetime, said: tuple[str, str, str], fields: dict[str, Any]) -> Entry:
    level, logger, message = said
    given = {key: value for key, value in fields.items() if value is not None and value != ""}
    return {
        "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": level,
        "logger": logger,
        "message": _plain(message),
        **{key: _plain(value) for key, value in {**whereabouts(), **given}.items()},
        "pid": os.getpid(),
    }


def _plain(value: Any) -> Any:
    """Give what JSON and msgpack can say, of bounded length."""
    if isinstance(value, str):
        left_out = len(value) - _MOST_CHARACTERS
        return value if left_out <= 0 else f"{value[:_MOST_CHARACTERS]} ... {left_out} more"
    if isinstance(value, bool | int) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value[:_MOST_ITEMS]]
    return _plain(str(value))
