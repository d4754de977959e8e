"""ONNX Runtime, which is imported here alone: a graph opened on the provider asked for, and run."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, MissingExtraError, ModelError, one_line
from pipeline.model.builds import runtime_builds
from pipeline.model.pointwise import is_pointwise

__all__ = [
    "INPUT_TYPES",
    "PROVIDERS",
    "THREADS_VARIABLE",
    "Graph",
    "Node",
    "available_providers",
    "graph_of",
    "open_graph",
    "read_graph",
    "run_graph",
    "runtime_version",
    "session_threads",
    "trim",
]

THREADS_VARIABLE = "WSI_PIPELINE_SESSION_THREADS"
"""Threads of one session; blocks run in parallel, so one unless the cluster says more."""

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
}
"""What people call an execution provider -> what ONNX Runtime does."""

INPUT_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16"}
"""Types of an input that can be given -> numpy's names of them."""

_INSTALLED_BY = {
    "cuda": "uninstall onnxruntime, then pip install 'wsi-pipeline[gpu]'",
    "tensorrt": "uninstall onnxruntime, then pip install 'wsi-pipeline[gpu]', and TensorRT",
    "migraphx": "install onnxruntime-migraphx in the place of onnxruntime",
    "openvino": "uninstall onnxruntime, then pip install 'wsi-pipeline[openvino]'",
    "coreml": "it is in onnxruntime for macOS",
    "directml": "install onnxruntime-directml in the place of onnxruntime, on Windows",
}
"""Provider -> how to get an ONNX Runtime that has it."""

_RUN_BY = {
    "cuda": "look at nvidia-smi; pip install 'onnxruntime-gpu[cuda,cudnn]' brings CUDA and cuDNN",
    "tensorrt": "look at nvidia-smi; install TensorRT and have it in LD_LIBRARY_PATH",
}
"""Provider -> what it needs besides."""


@dataclass(frozen=True, slots=True)
class Node:
    """An input or output of a graph; a size that is not fixed is a name, or None."""

    name: str
    type: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """What an ONNX file takes and gives."""

    inputs: tuple[Node, ...]
    outputs: tuple[Node, ...]


def runtime_version() -> str:
    """Give the ONNX Runtime's version; `MissingExtraError` where none is installed."""
    return str(_runtime().__version__)


def available_providers() -> tuple[str, ...]:
    """Name those of `PROVIDERS` that the ONNX Runtime is built for; they may lack a device."""
    have = _runtime().get_available_providers()
    return tuple(short for short, name in PROVIDERS.items() if name in have)


def read_graph(onnx: str) -> Graph:
    """Give what an ONNX file takes and gives; `ModelError` where it cannot be run."""
    options = _options()
    # Nothing is run: only what optimising does not change is looked at.
    options.graph_optimization_level = _runtime().GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return graph_of(_open(onnx, ["CPUExecutionProvider"], options))
    except UnicodeDecodeError as error:
        raise ModelError(
            f"{onnx}: not an ONNX model that can be run: a name in it is no text ({error})"
        ) from error


def graph_of(opened: Any) -> Graph:
    """Give what an open graph takes and gives."""
    return Graph(*(_nodes(each) for each in (opened.get_inputs(), opened.get_outputs())))


def open_graph(onnx: str, provider: str = "cpu", gpu_bytes: int = 0) -> Any:
    """Open an ONNX file on a provider of `PROVIDERS`; ``gpu_bytes`` bounds what it takes of a GPU.

    Raises `ModelError` where the file cannot be run, and where the provider is not there.
    """
    name = PROVIDERS[provider]
    if name not in _runtime().get_available_providers():
        raise ModelError(_missing(provider, "this ONNX Runtime is built without it", _INSTALLED_BY))
    if provider in ("cuda", "tensorrt"):
        _load_cuda()
    chain, options = _chain(provider, gpu_bytes), _options()
    try:
        opened = _open(onnx, chain, options)
        if provider == "cpu" and is_pointwise(Path(onnx)):
            level = _runtime().GraphOptimizationLevel.ORT_ENABLE_EXTENDED
            options.graph_optimization_level = level
            opened = _open(onnx, chain, options)
    except ModelError:
        raise
    except (RuntimeError, ValueError) as error:  # of its Python side: no library, an option
        raise ModelError(_missing(provider, one_line(error), _RUN_BY)) from error
    # Where its libraries or its device are missing, the runtime goes on without it, and says so
    # nowhere else than here.
    if opened.get_providers()[0] != name:
        why = "its libraries, driver or device are not found"
        raise ModelError(_missing(provider, why, _RUN_BY))
    return opened


def run_graph(opened: Any, tensors: tuple[str, ...], feed: dict[str, Any], onnx: str) -> list[Any]:
    """Run an open graph and give its ``tensors``; `ModelError` where the runtime fails."""
    try:
        given = opened.run(list(tensors), feed)
    except Exception as error:  # the runtime's exceptions share no parent of their own
        if type(error).__module__.split(".")[0] != "onnxruntime":
            raise
        shapes = ", ".join(str(each.shape) for each in feed.values())
        said = one_line(error)
        raise ModelError(f"{onnx}: the model failed on a batch {shapes}: {said}") from error
    for tensor, values in zip(tensors, given, strict=True):
        if not hasattr(values, "ndim"):
            raise ModelError(
                f"{onnx}: output {tensor} is no tensor but {type(values).__name__}; export "
                "the model without its ZipMap"
            )
    return list(given)


def trim(opened: Any, feed: dict[str, Any]) -> None:
    """Run an open graph once more, and give back the memory that it does not need for that."""
    options = _runtime().RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    opened.run(None, feed, options)


def session_threads() -> int:
    """Give the threads of one session: this worker's share of cores, which its cluster says."""
    return max(_whole(THREADS_VARIABLE, 1), 1)


def _whole(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not text.isdecimal():
        raise ConfigError(f"{variable}: {text!r} is no whole number; unset it or give one")
    return int(text)


def _missing(provider: str, why: str, remedies: dict[str, str]) -> str:
    built = ", ".join(available_providers())
    return (
        f"provider: {provider} was asked for and cannot be had: {why}; this ONNX Runtime is "
        f"built for {built}; {remedies.get(provider, 'choose another')}"
    )


def _load_cuda() -> None:
    """Load CUDA and cuDNN where pip installed them, which the system's loader does not look at."""
    preload = getattr(_runtime(), "preload_dlls", None)  # since 1.21
    if preload is not None:
        # What it does not find it prints; a command's output is not the place.
        with contextlib.redirect_stdout(sys.stderr):
            preload()


def _chain(provider: str, gpu_bytes: int) -> list[Any]:
    """Give the providers to ask for, in order; what the first cannot do the next one does."""
    cpu = PROVIDERS["cpu"]
    if provider == "cpu":
        return [cpu]
    # Of no device: a worker sees one alone, see `pipeline.process.take_gpu`, and ONNX Runtime 1.31
    # warns where the first one is named.
    cuda = {
        # The default doubles the arena each time: half of a shared GPU for nothing.
        "arena_extend_strategy": "kSameAsRequested",
        # The default times every algorithm and takes the winner: another one from run to run,
        # and with it other last digits.
        "cudnn_conv_algo_search": "HEURISTIC",
        **({"gpu_mem_limit": str(gpu_bytes)} if gpu_bytes else {}),
    }
    options: dict[str, dict[str, str]] = {
        "cuda": cuda,
        "tensorrt": {},
        "migraphx": {},
        "directml": {},
        "openvino": {"device_type": "CPU", "num_of_threads": str(session_threads())},
        "coreml": {},
    }
    own = [(PROVIDERS[provider], options[provider])]
    return [*own, *([(PROVIDERS["cuda"], cuda)] if provider == "tensorrt" else []), cpu]


def _options() -> Any:
    options = _runtime().SessionOptions()
    options.intra_op_num_threads = session_threads()
    options.inter_op_num_threads = 1
    # Shapes never change, and yet the pattern costs a second arena as large as the first.
    options.enable_mem_pattern = False
    # Kernels that add up in whatever order their threads end (on GPUs) are left out.
    options.use_deterministic_compute = True
    # Idle workers must not burn the cores their neighbours need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # its errors are raised, and told once
    return options


def _open(onnx: str, providers: list[Any], options: Any) -> Any:
    try:
        # Without `enable_fallback` a provider that fails is an error, instead of a line in the
        # terminal and the CPU.
        return _runtime().InferenceSession(
            onnx, options, providers=providers, enable_fallback=False
        )
    except Exception as error:  # as in `run_graph`
        if type(error).__module__.split(".")[0] != "onnxruntime":
            raise
        said = one_line(error)
        raise ModelError(f"{onnx}: not an ONNX model that can be run: {said}") from error


def _nodes(given: Any) -> tuple[Node, ...]:
    return tuple(Node(each.name, each.type, tuple(each.shape)) for each in given)


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(
            "no ONNX Runtime is installed; pip install 'wsi-pipeline[cpu]' "
            "(or [gpu], or [openvino]: one of the three)"
        ) from error
    _warn_of_others()
    return onnxruntime


@cache
def _warn_of_others() -> None:
    """Warn, once, of builds that share their files: whichever was installed last is used."""
    found = runtime_builds()
    if len(found) > 1:
        warnings.warn(
            f"{' and '.join(found)} are installed side by side and overwrite each other; "
            "uninstall all of them, then install one extra of wsi-pipeline",
            stacklevel=3,
        )
