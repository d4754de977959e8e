"""ONNX Runtime sessions, one per process and model: the only module that imports it."""

from __future__ import annotations

import importlib.metadata
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from pipeline.errors import MissingExtraError, ModelError
from pipeline.handles import Pool
from pipeline.model.card import BATCH_PIXELS, MAX_BATCH, Card, Footprint, ModelRef
from pipeline.process import resident_bytes

__all__ = ["batch_size", "check_card", "run_batch", "runtime_version", "sessions"]

THREADS_VARIABLE = "WSI_PIPELINE_SESSION_THREADS"
"""Threads of one session; blocks run in parallel, so one unless the cluster says more."""

_BUILDS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")


def runtime_version() -> str:
    """Give the ONNX Runtime's version; `MissingExtraError` where none is installed."""
    return str(_runtime().__version__)


def batch_size(onnx: Path, card: Card) -> int:
    """Give the number of patches per call: the graph's own if fixed, else the card's."""
    inputs = _open(str(onnx)).get_inputs()
    fixed = inputs[0].shape if inputs else None
    if fixed and isinstance(fixed[0], int):
        if card.batch not in ("auto", fixed[0]):
            raise ModelError(f"{onnx}: batch: the card says {card.batch}, the graph {fixed[0]}")
        return fixed[0]
    if card.batch != "auto":
        return int(card.batch)
    return max(1, min(BATCH_PIXELS // card.input.patch**2, MAX_BATCH))


def check_card(card: Path, ref: ModelRef) -> Footprint:
    """Run the model once on an empty batch and give what memory that took.

    Raises `ModelError` where card and graph disagree.
    """
    before = resident_bytes()
    session = _open(ref.onnx)
    opened = resident_bytes()
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1:
        found = ", ".join(node.name for node in inputs) or "none"
        raise ModelError(f"{card}: input: the card describes one, the graph has {found}")
    if inputs[0].type != "tensor(float)":
        raise ModelError(f"{card}: input: float32 is given, the graph takes {inputs[0].type}")
    names = [node.name for node in outputs]
    if ref.output not in names:
        raise ModelError(f"{card}: outputs.name: the card says {ref.output}, the graph has {names}")
    asked = _input_shape(ref)
    graph = inputs[0].shape
    if len(graph) != 4 or any(
        isinstance(n, int) and n != m for n, m in zip(graph, asked, strict=True)
    ):
        raise ModelError(
            f"{card}: input: the card's layout {ref.layout} and patch {ref.patch} give {asked}, "
            f"the graph takes {graph}"
        )
    batch = np.zeros(asked, np.float32)
    _check_output(card, ref, _run(session, ref, batch).shape)
    # The second run finds the session's arena in pieces, and may make it grow once more. What it
    # took it keeps, so that it can be seen afterwards.
    _run(session, ref, batch)
    ran = resident_bytes()
    return Footprint(max(opened - before, 0), max(ran - opened, 0))


def _check_output(card: Path, ref: ModelRef, given: tuple[int, ...]) -> None:
    sides = {ref.core // ref.stride}
    if ref.halo % ref.stride == 0:  # else the middle of the patch is not on the output's grid
        sides.add(ref.patch // ref.stride)
    if (
        len(given) != 4
        or given[:2] != (ref.batch, ref.channels)
        or given[2] != given[3]
        or given[2] not in sides
    ):
        raise ModelError(
            f"{card}: outputs: {ref.channels} channels, stride {ref.stride} and patch "
            f"{ref.patch} ask for {ref.output} of shape (batch, {ref.channels}, "
            f"{ref.patch // ref.stride}, {ref.patch // ref.stride}); the graph gives {given}"
        )


def run_batch(ref: ModelRef, batch: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Run one batch in this process's session: ``(count, c, y, x)`` float32, activation applied.

    Only the first ``count`` patches are looked at: what fills the batch up may well give NaN.
    Raises `ModelError` where the runtime fails or a value is not finite.
    """
    with sessions.using(ref) as session:
        values = _run(session, ref, batch)[:count]
    if not np.isfinite(values).all():
        patch = int(np.argwhere(~np.isfinite(values))[0, 0])
        raise ModelError(f"{ref.onnx}: output {ref.output} is NaN or infinite in patch {patch}")
    return _activate(values, ref.activation)


def _activate(values: NDArray[np.float32], activation: str) -> NDArray[np.float32]:
    """Apply an activation in place, where the values are ours to change: batches are large."""
    if activation == "none":
        return values
    values = np.require(values, requirements="W")
    if activation == "sigmoid":
        expit(values, out=values)
    else:
        values -= values.max(axis=1, keepdims=True)  # exp of what is at most 0 cannot overflow
        np.exp(values, out=values)
        values /= values.sum(axis=1, keepdims=True)
    return values


def _run(session: Any, ref: ModelRef, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    try:
        (values,) = session.run([ref.output], {session.get_inputs()[0].name: batch})
    except Exception as error:  # the runtime's exceptions share no parent of their own
        if type(error).__module__.split(".")[0] != "onnxruntime":
            raise
        said = " ".join(str(error).split())
        raise ModelError(
            f"{ref.onnx}: the model failed on a batch {batch.shape}: {said}"
        ) from error
    if not isinstance(values, np.ndarray):
        raise ModelError(
            f"{ref.onnx}: output {ref.output} is no tensor but {type(values).__name__}; export "
            "the model without its ZipMap"
        )
    dense = np.asarray(values, np.float32)
    # One score vector per patch is a 1 x 1 map of them.
    return dense[:, :, None, None] if dense.ndim == 2 else dense


def _input_shape(ref: ModelRef) -> tuple[int, int, int, int]:
    n, side = ref.batch, ref.patch
    return (n, 3, side, side) if ref.layout == "NCHW" else (n, side, side, 3)


def _open(onnx: str) -> Any:
    runtime = _runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = int(os.environ.get(THREADS_VARIABLE, "1"))
    options.inter_op_num_threads = 1
    # Shapes never change, and yet the pattern costs a second arena as large as the first.
    options.enable_mem_pattern = False
    # Idle workers must not burn the cores their neighbours need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # its errors are raised, and told once
    try:
        return runtime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as in `_run`
        if type(error).__module__.split(".")[0] != "onnxruntime":
            raise
        raise ModelError(f"{onnx}: not an ONNX model that can be run: {error}") from error


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(
            "no ONNX Runtime is installed; pip install 'wsi-pipeline[cpu]' "
            "(or [gpu], or [openvino]: one of the three)"
        ) from error
    found = [name for name in _BUILDS if _installed(name)]
    if len(found) > 1:
        warnings.warn(
            f"{' and '.join(found)} are installed side by side and overwrite each other; "
            "uninstall all of them, then install one extra of wsi-pipeline",
            stacklevel=2,
        )
    return onnxruntime


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


sessions: Pool[ModelRef, Any] = Pool(lambda ref: _open(ref.onnx), size=2)
"""This process's sessions."""
