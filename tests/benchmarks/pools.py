"""OpenSlide in a pool of processes, each with a handle of its own that is opened once."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier
from typing import TYPE_CHECKING, Any

from tests.benchmarks.contenders import Setting

if TYPE_CHECKING:
    import numpy as np
    import openslide
    from numpy.typing import NDArray

__all__ = ["Here", "Place", "open_session", "places_of", "pool_of", "read_place", "scaled"]

Place = tuple[int, int, int, int]  # left, top, width, height


class Here:
    """What a process of the pool keeps: arrays by their path, and a session if it has a model."""

    slide: openslide.OpenSlide
    session: Any
    arrays: Mapping[str, Any]


def places_of(size: tuple[int, int], side: int) -> list[Place]:
    """Cut a plane of that width and height into squares, those at its border less.

    >>> places_of((5, 3), 3)
    [(0, 0, 3, 3), (3, 0, 2, 3)]
    """
    width, height = size
    return [
        (x, y, min(side, width - x), min(side, height - y))
        for y in range(0, height, side)
        for x in range(0, width, side)
    ]


@contextmanager
def pool_of(
    at: Setting, task: Callable[..., Any], arrays: tuple[str, ...] = (), model: str = ""
) -> Iterator[ProcessPoolExecutor]:
    """Give a pool whose every process is there, with its slide, arrays and session open.

    It also has ``task``, which it will be given to do: what that imports is imported.
    """
    context = multiprocessing.get_context("spawn")
    all_here = context.Barrier(at.cores)
    given = (at.slide, task, arrays, model, all_here)
    with ProcessPoolExecutor(at.cores, context, _open, given) as pool:
        # None is done before all have started: so each of these starts one.
        for started in [pool.submit(int) for _ in range(at.cores)]:
            started.result()
        yield pool


def read_place(slide: openslide.OpenSlide, place: Place) -> NDArray[np.uint8]:
    """Read a place of level 0, ``(y, x, 3)``."""
    import numpy as np

    x, y, width, height = place
    return np.asarray(slide.read_region((x, y), 0, (width, height)).convert("RGB"))


def open_session(model: str) -> Any:
    """Open a session of one thread: there are as many of them as cores."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def scaled(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Give ``(y, x, 3)`` pixels as a model wants them: ``(1, 3, y, x)`` from 0 to 1, in a row."""
    import numpy as np

    height, width, channels = pixels.shape
    batch = np.empty((1, channels, height, width), np.float32)
    np.multiply(pixels.transpose(2, 0, 1), np.float32(1 / 255), out=batch[0])
    return batch


def _open(
    path: str,
    _task: Callable[..., Any],
    arrays: tuple[str, ...],
    model: str,
    all_here: Barrier,
) -> None:
    import openslide

    Here.slide = openslide.OpenSlide(path)
    read_place(Here.slide, (0, 0, 1, 1))
    if arrays:
        import zarr

        Here.arrays = {each: zarr.open_array(each, mode="r+") for each in arrays}
    if model:
        Here.session = open_session(model)
    all_here.wait()
