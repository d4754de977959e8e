"""How much memory a run will take, predicted from what is known before it starts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.errors import MemoryBudgetError
from pipeline.geometry import Shape, ceil_div
from pipeline.model import MapRef, Model, ModelRef, OutputRef, SessionRef
from pipeline.slide.level import READING_BYTES_OTHER, LevelLike

__all__ = [
    "BASE_BYTES",
    "LATER_BYTES",
    "Worker",
    "check_budget",
    "check_least",
    "predicted_bytes",
    "reader_bytes",
    "worker_bytes",
]

BASE_BYTES = 160 * 2**20
"""A worker beside its blocks: Python, dask, numpy, zarr, ONNX Runtime, the readers, and what
finding tissue loads.

Measured on Linux (x86-64, Python 3.11, dask 2026.8): 75 MiB when it is started, 119 once it has
opened a session, 135 once it has looked for tissue, and 25 more that its first blocks load and
leave.
"""

LATER_BYTES = 50 * 2**20
"""What a process that has loaded a model still loads with its first slide and its first blocks."""

_OBJECTS_BYTES = 60 * 2**20
"""pyarrow, shapely, scipy and scikit-image, where objects are found."""

_READER_BYTES = {"openslide": 32 * 2**20, "dicom": 48 * 2**20}
"""What a reader keeps: decoded tiles, and pydicom's data sets."""


_PROVIDER_BYTES = {"cuda": 950 * 2**20, "tensorrt": 950 * 2**20}
"""What CUDA, cuDNN and cuBLAS take of a process's own memory, beside the GPU's.

Measured on an H100 (CUDA 13, ONNX Runtime 1.31): 650 to 950 MiB, with a ResNet-18 and a U-Net.
"""

_ENDLESS = (2**30, 2**30)

_ENCODING = 3
"""A block as it is stored, its chunks encoded, and these as one shard."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that computes blocks: one in each of its threads.

    ``limit_bytes`` is the memory it may use, None where that is not known; ``base_bytes`` what
    it has in use before its first block.
    """

    threads: int = 1
    limit_bytes: int | None = None
    base_bytes: int = BASE_BYTES


def predicted_bytes(model: Model, block: int, dtype: str, level: LevelLike | None = None) -> int:
    """Predict the peak of a process that works on one block at a time."""
    return worker_bytes(model, block, dtype, Worker(), level)


def worker_bytes(
    model: Model, block: int, dtype: str, worker: Worker, level: LevelLike | None = None
) -> int:
    """Predict the peak of a worker whose threads share one slide and one session.

    ``level`` is what is read; a stored level where None is given. All threads are taken to be
    at their peaks together: of many blocks, some time they are.
    """
    per_thread = model.footprint.running_bytes + _task_bytes(model.ref, block, dtype, level)
    shared = model.footprint.session_bytes + reader_bytes(level)
    shared += max(_PROVIDER_BYTES.get(member.provider, 0) for member in model.ref.members)
    if any(output.objects is not None for output in model.ref.outputs):
        shared += _OBJECTS_BYTES
    return worker.base_bytes + shared + worker.threads * per_thread


def reader_bytes(level: LevelLike | None) -> int:
    """Give what the reader of a level keeps in memory between blocks."""
    return 0 if level is None else _READER_BYTES.get(level.slide.reader, 0)


def check_least(limit: int) -> None:
    """Raise `MemoryBudgetError` where a worker could not even start in ``limit`` bytes."""
    least = BASE_BYTES
    if limit < least:
        raise MemoryBudgetError(
            f"cluster.memory_limit: {limit / 2**20:.0f} MiB a worker; it needs "
            f"{least / 2**20:.0f} MiB before its first block; give more, or fewer cluster.workers"
        )


def check_budget(needed: int, limit: int | None, *, slide: str, block: int) -> None:
    """Raise `MemoryBudgetError` where a worker would need more than it is known to have."""
    if limit is not None and needed > limit:
        raise MemoryBudgetError(
            f"{slide}: a worker is predicted to need {needed / 2**20:.0f} MiB and may use "
            f"{limit / 2**20:.0f} MiB; raise cluster.memory_limit, set output.block below {block} "
            "or cluster.threads_per_worker to 1, or take fewer cluster.workers"
        )


@dataclass(frozen=True, slots=True)
class _Block:
    """A block of ``side`` pixels, in a ``plane`` that may be smaller."""

    side: int
    plane: Shape

    def pixels(self, reach: int = 0, stride: int = 1) -> int:
        """Give the pixels of a map of it, with ``reach`` around."""
        rows, columns = (min(self.side + 2 * reach, n) // stride for n in self.plane)
        return rows * columns

    def read(self, model: ModelRef) -> Shape:
        """Give rows and columns of what is read for it: all that its patches see."""
        around, step = self.side + 2 * (model.reach + model.used), model.step
        # One that holds no whole number of patches is read up to their outer edge.
        patches = ceil_div(around, step) + (around % step > 0)
        rows, columns = (
            min(patches, ceil_div(n, step)) * step + 2 * model.halo for n in self.plane
        )
        return rows, columns


def _task_bytes(model: ModelRef, side: int, dtype: str, level: LevelLike | None) -> int:
    """Give the buffers of one block, its pixels read with all that its patches see."""
    block = _Block(side, _ENDLESS if level is None else level.plane)
    shape = block.read(model)
    pixels = shape[0] * shape[1]
    reading = pixels * READING_BYTES_OTHER if level is None else level.reading_bytes(shape)
    maps = sum(_map_bytes(model, each, block) for each in model.maps)
    # The pixels stay until the block is written: dask holds them for the whole of a task.
    predicting = pixels * 3 + maps + max(_batch_bytes(model, each) for each in model.members)
    making = max(_finishing(model, each, block, dtype) for each in model.outputs)
    stored = sum(_stored_bytes(model, each, block, dtype) for each in model.outputs)
    finishing = pixels * 3 + maps + max(making, _ENCODING * stored)
    halving = max(_halving(model, each, block, dtype) for each in model.outputs)
    return int(max(reading, predicting, finishing, halving))


def _map_bytes(model: ModelRef, map_: MapRef, block: _Block) -> int:
    # An average also keeps the sum of its weights.
    channels = map_.channels + (model.method != "crop")
    return block.pixels(map_.reach, map_.stride) * 4 * channels


def _batch_bytes(model: ModelRef, member: SessionRef) -> int:
    """Give what a batch takes beside what `Footprint.running_bytes` has: itself and what it gives.

    What it gives is activated into another array, and looked through for what is not finite.
    """
    values = sum(
        member.batch * each.channels * (member.patch // each.stride) ** 2 for each in model.maps
    )
    again = values * (4 + 1)
    if model.tta != "none" or len(model.members) > 1:  # turned, and shared among the members
        again += member.batch * member.patch**2 * 4 * member.channels + values * 4
    # The bytes of one patch, together and then colour by colour.
    return again + member.patch**2 * 3 * 2


def _values(model: ModelRef, output: OutputRef, block: _Block) -> int:
    map_ = model.maps[output.map]
    return map_.channels * block.pixels(stride=map_.stride)


def _stored_bytes(model: ModelRef, output: OutputRef, block: _Block, dtype: str) -> int:
    """Give what a block of an output takes as it is stored, before it is encoded."""
    if output.kind == "objects":
        return 0
    if output.kind == "labels":
        return _values(model, output, block) // model.maps[output.map].channels
    kind = output.dtype if output.kind == "features" else dtype
    return _values(model, output, block) * np.dtype(kind).itemsize


def _finishing(model: ModelRef, output: OutputRef, block: _Block, dtype: str) -> int:
    """Give what is needed for a moment to make an output of its map."""
    map_ = model.maps[output.map]
    if output.kind == "objects":
        # Its values with what is not known as -inf, and what the search takes: 17 bytes a pixel,
        # and 72 for each in an object (measured), of which H&E at 0.5 um has one in ten.
        finding = 25 if output.objects and output.objects.method == "watershed" else 15
        return block.pixels(map_.reach, map_.stride) * (4 * map_.channels + finding)
    if output.kind == "labels":  # numpy's argmax, or the numbers as an index
        return _values(model, output, block) // map_.channels * 9
    # Where some are not known: which, and the values without them; then as they are stored.
    stored = _stored_bytes(model, output, block, dtype)
    unknown = _values(model, output, block) // map_.channels
    return _values(model, output, block) * 4 + max(unknown, stored)


def _halving(model: ModelRef, output: OutputRef, block: _Block, dtype: str) -> int:
    """Give what a block of a coarser level takes: four blocks, decoded and put together."""
    if output.kind != "scores":
        return _stored_bytes(model, output, block, dtype) * 9
    stored = np.dtype(dtype).itemsize
    return _values(model, output, block) * (2 * 4 * stored + max(stored, 2) + stored)
