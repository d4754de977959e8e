"""How much memory a run will take, and how much there is."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path

import numpy as np
import psutil

from pipeline.errors import MemoryBudgetError
from pipeline.model import ModelRef

__all__ = ["available_bytes", "check_budget", "predicted_bytes", "worker_bytes"]

BASE_BYTES = 260 * 2**20
"""A worker before its first block: Python, numpy, dask, zarr, OpenSlide, ONNX Runtime."""

CACHE_BYTES = 40 * 2**20
"""OpenSlide's tile cache and zarr's buffers."""

_M_TRIM_THRESHOLD = -1  # malloc.h

LAYERS = 24
"""Float32 planes the size of the input that a model is taken to hold at once, its own
channels besides. A U-Net of 32 first channels holds about that; a free model far less."""

CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Where a container's limit is found: cgroup 2, cgroup 1."""


def predicted_bytes(model: ModelRef, block: int, dtype: str) -> int:
    """Predict the peak of a process that works on one block at a time."""
    return BASE_BYTES + CACHE_BYTES + _weights_bytes(model) + _task_bytes(model, block, dtype)


def worker_bytes(model: ModelRef, block: int, dtype: str, *, threads: int) -> int:
    """Predict the peak of a worker whose threads share one slide and one session."""
    one = predicted_bytes(model, block, dtype)
    return one + (threads - 1) * _task_bytes(model, block, dtype)


def available_bytes() -> int:
    """Give the memory this process may use: the machine's, or its cgroup's limit if less."""
    limits = [int(psutil.virtual_memory().total)]
    for file in CGROUP_LIMITS:
        text = file.read_text().strip() if file.is_file() else ""
        if text.isdigit():
            limits.append(int(text))
    return min(limits)


def return_freed_memory() -> None:
    """Have the C library give large freed buffers back to the system at once.

    glibc raises its threshold for that with every large buffer freed, and then keeps up to
    hundreds of megabytes of blocks that are long done. Dask sets the same for its workers,
    through the environment; this is for the process that is running already. Elsewhere than
    on glibc nothing is done.
    """
    with contextlib.suppress(OSError, AttributeError):  # no such library, no such function
        ctypes.CDLL("libc.so.6").mallopt(_M_TRIM_THRESHOLD, 64 * 2**10)


def check_budget(needed: int, limit: int, *, slide: str, block: int) -> None:
    """Raise `MemoryBudgetError` where a worker would need more than it has."""
    if needed > limit:
        raise MemoryBudgetError(
            f"{slide}: a worker is predicted to need {needed / 2**20:.0f} MiB and may use "
            f"{limit / 2**20:.0f} MiB; set output.block below {block}, "
            "cluster.threads_per_worker to 1, or fewer cluster.workers"
        )


def _weights_bytes(model: ModelRef) -> int:
    # The file and the runtime's own, pre-packed copy of the weights.
    return 2 * Path(model.onnx).stat().st_size


def _task_bytes(model: ModelRef, block: int, dtype: str) -> int:
    # A block that holds no whole number of patches is read up to their outer edge.
    outer = (-(-block // model.core) + (block % model.core > 0)) * model.core + 2 * model.halo
    scores = model.channels * (block // model.stride) ** 2
    pixels = outer**2
    batch = model.batch * model.patch**2 * 4
    reading = pixels * (4 + 4 + 3)  # OpenSlide's buffer, its RGBA copy, RGB
    predicting = pixels * 3 + scores * 4 + batch * (3 * 2 + LAYERS)
    # float32 scores, two float32 temporaries, the stored values and their encoded copy
    writing = pixels * 3 + scores * (4 * 3 + 2 * np.dtype(dtype).itemsize)
    return int(max(reading, predicting, writing))
