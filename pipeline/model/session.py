"""Sessions, one per process and ONNX file: batches in, activated maps out."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ModelError
from pipeline.handles import Pool
from pipeline.model.activate import activated, as_map, first_not_finite
from pipeline.model.batching import Choice, fitting, measured
from pipeline.model.checking import check_card
from pipeline.model.refs import MapRef, SessionRef
from pipeline.model.runtime import (
    INPUT_TYPES,
    THREADS_VARIABLE,
    Graph,
    Node,
    available_providers,
    graph_of,
    open_graph,
    read_graph,
    run_graph,
    runtime_version,
    session_threads,
    trim,
)

__all__ = [
    "MOST_SESSIONS",
    "THREADS_VARIABLE",
    "Graph",
    "Node",
    "NotFinite",
    "Session",
    "available_providers",
    "check_card",
    "facts",
    "input_buffer",
    "read_graph",
    "run_batch",
    "runtime_version",
    "session_batch",
    "sessions",
]

MOST_SESSIONS = 8
"""Sessions a process keeps open. An ensemble of more would open one for every block."""


class NotFinite(ModelError):  # noqa: N818
    """NaN or infinity: in which patch of a batch, at which pixel of which output."""

    def __init__(self, patch: int, y: int, x: int, output: str) -> None:
        super().__init__(patch, y, x, output)
        self.patch, self.y, self.x, self.output = patch, y, x, output

    def __str__(self) -> str:
        where = f"patch {self.patch}, output pixel x {self.x}, y {self.y}"
        return f"output {self.output} is NaN or infinite in {where}"


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """An open ONNX file: how it is fed, and what runs it.

    ``seconds_per_patch`` is 0 where it was not measured: where the batch was given.
    """

    opened: Any
    input_name: str
    input_dtype: str
    batch: int
    provider: str
    threads: int
    seconds_per_patch: float


def session_batch(ref: SessionRef) -> int:
    """Give the number of patches per call of this process's session, which is opened for it."""
    with sessions.using(ref) as session:
        return session.batch


def input_buffer(ref: SessionRef) -> NDArray[np.float32]:
    """Give the array to fill with a batch: this thread's own, of the shape that is run.

    It is the same memory each time, whatever the model: what was in it is overwritten.
    """
    shape = ref.input_shape(session_batch(ref))
    size = prod(shape)
    held: NDArray[np.float32] | None = getattr(_own, "buffer", None)
    if held is None or held.size < size:
        _own.buffer = held = np.empty(size, np.float32)
    return held[:size].reshape(shape)


def run_batch(
    ref: SessionRef, maps: tuple[MapRef, ...], batch: NDArray[np.float32], count: int
) -> list[NDArray[np.float32]]:
    """Run a batch in this process's session: ``(count, c, y, x)`` float32 for each of ``maps``.

    ``batch`` is of the shape of `input_buffer`. Only the first ``count`` patches are looked at:
    what fills the batch up may well give NaN. Raises `ModelError` where the runtime fails,
    `NotFinite` where a value is not finite.
    """
    with sessions.using(ref) as session:
        # Not into arrays of our own: bound outputs measured no faster, and the runtime's are
        # given back to it before the next batch.
        given = run_graph(session.opened, ref.tensors, _feed(session, batch), ref.onnx)
    dense = [as_map(values[:count]) for values in given]
    asked = [each.tensor for each in maps]
    for tensor in set(asked):
        place = first_not_finite(dense[tensor])
        if place is not None:
            patch, _, y, x = place
            raise NotFinite(patch, y, x, ref.tensors[tensor])
    return [
        activated(dense[each.tensor], each.activation, in_place=asked.count(each.tensor) == 1)
        for each in maps
    ]


def facts(ref: SessionRef) -> dict[str, Any]:
    """Say how this process runs a model, as JSON: provider, threads, batch and, measured, speed."""
    with sessions.using(ref) as session:
        seconds = session.seconds_per_patch
        return {
            "provider": session.provider,
            "threads": session.threads,
            "batch": session.batch,
            "patches_per_s": round(1 / seconds, 3) if seconds else None,
            "onnxruntime": runtime_version(),
        }


def _feed(session: Session, batch: NDArray[np.float32]) -> dict[str, Any]:
    return {session.input_name: batch.astype(session.input_dtype, copy=False)}


def _open(ref: SessionRef) -> Session:
    opened = open_graph(ref.onnx, ref.provider, ref.gpu_bytes)
    (taken,) = graph_of(opened).inputs
    session = Session(
        opened=opened,
        input_name=taken.name,
        input_dtype=INPUT_TYPES[taken.type],
        batch=ref.batch,
        provider=ref.provider,
        threads=session_threads(),
        seconds_per_patch=0.0,
    )
    if isinstance(taken.shape[0], int):
        return replace(session, batch=taken.shape[0])
    if not ref.batch_auto or ref.batch == 1:
        return session
    choice = _measured(ref, session)
    return replace(session, batch=choice.batch, seconds_per_patch=choice.seconds_per_patch)


def _measured(ref: SessionRef, session: Session) -> Choice:
    """Give the fastest batch: measured by the process's first session of ``ref``, kept for others.

    On a GPU, the largest that fits.

    A session that failed is opened anew while its callers go on with the batch they were given.
    """
    if ref not in _chosen:

        def run(batch: int) -> None:
            run_graph(session.opened, ref.tensors, _empty(ref, session, batch), ref.onnx)

        _chosen[ref] = (measured if ref.provider == "cpu" else fitting)(run, ref.batch)
        if ref.provider == "cpu":
            # The largest batch that was tried has left its memory behind.
            trim(session.opened, _empty(ref, session, _chosen[ref].batch))
    return _chosen[ref]


def _empty(ref: SessionRef, session: Session, batch: int) -> dict[str, Any]:
    return _feed(session, np.zeros(ref.input_shape(batch), np.float32))


sessions: Pool[SessionRef, Session] = Pool(_open, size=MOST_SESSIONS)
"""This process's sessions."""

_chosen: dict[SessionRef, Choice] = {}
_own = threading.local()
