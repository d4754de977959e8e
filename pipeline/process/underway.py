"""What a thread is at: which slide, which block of it, which stage.

Lines of the log say it, errors carry it to the client, and `pipeline.process.metrics` counts it.
All of it is known where a block's function runs; nothing is looked up, and a block costs
microseconds.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import Any, Self

from pipeline.errors import PipelineError
from pipeline.geometry import Index
from pipeline.process import metrics

__all__ = ["Work", "computing", "name_worker", "of_slide", "whereabouts"]

COUNTED = "blocks"
"""The work whose blocks `pipeline.process.metrics` counts: a pyramid's are made of those."""

Whereabouts = dict[str, Any]

_STORE = ".zarr"


@dataclass(frozen=True, slots=True)
class Work:
    """What a slide's blocks are computed for: ``blocks`` of the model, the ``pyramid`` of them.

    It travels with every block of a graph, as the name that log lines know it by.
    """

    slide: str
    of: str = COUNTED

    @classmethod
    def on(cls, store: str, of: str = COUNTED) -> Self:
        """Give the work on a slide's store, which is called by the slide's id.

        >>> Work.on("s3://bucket/results/patient-1.zarr").slide
        'patient-1'
        """
        return cls(store.rstrip("/").rpartition("/")[2].removesuffix(_STORE), of)


class _Process:
    """The name of the worker this process is; empty in the client."""

    worker = ""


def name_worker(name: str) -> None:
    """Say which worker this process is."""
    _Process.worker = name


def whereabouts() -> Whereabouts:
    """Give what this thread is at, as fields of a log line; of what is not known there is none.

    ``slide``, ``work``, ``block`` ``[row, column]``, ``stage``, ``worker``.
    """
    at = _AT.get()
    found = at.fields() if isinstance(at, _Stage) else {"slide": at} if at else {}
    if _Process.worker:
        found["worker"] = _Process.worker
    return found


@contextmanager
def of_slide(slide: str) -> Iterator[None]:
    """Have this thread's log lines say for a ``with`` block which slide they are about."""
    token = _AT.set(slide)
    try:
        yield
    finally:
        _AT.reset(token)


def computing(
    work: Work | None, index: Index, stage: str, pixels: int = 0
) -> AbstractContextManager[None]:
    """Note for a ``with`` block that one stage of a block is computed; time and count it.

    ``pixels`` are those that are done when the block ends, with its last stage. An error of this
    package that leaves it learns the stage and the worker. Work without a name is not noted.
    """
    return _UNNAMED if work is None else _Stage(work, index, stage, pixels)


class _Stage(AbstractContextManager[None]):
    __slots__ = ("_began", "_index", "_pixels", "_stage", "_token", "_work")

    _token: Token[str | _Stage]

    def __init__(self, work: Work, index: Index, stage: str, pixels: int) -> None:
        self._work, self._index, self._stage, self._pixels = work, index, stage, pixels

    def __enter__(self) -> None:
        self._token = _AT.set(self)
        self._began = time.perf_counter()

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        seconds = time.perf_counter() - self._began
        _AT.reset(self._token)
        if isinstance(error, PipelineError):
            error.stage, error.worker = self._stage, _Process.worker
        if self._work.of == COUNTED:
            done = metrics.Done(seconds, self._pixels, error is not None)
            metrics.count(self._work.slide, self._stage, done)

    def fields(self) -> Whereabouts:
        work = self._work
        return {"slide": work.slide, "work": work.of, "block": self._index, "stage": self._stage}


_AT: ContextVar[str | _Stage] = ContextVar("pipeline_at", default="")
_UNNAMED = contextlib.nullcontext()
