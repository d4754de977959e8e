"""A model tried on a few patches: what it gives for each channel, how fast, and what to mind."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box, Grid
from pipeline.model.checked import Model
from pipeline.model.patches import predict_block
from pipeline.model.refs import CLASSES, ModelRef, OutputRef
from pipeline.model.session import facts, session_batch

__all__ = ["ChannelValues", "Trial", "noise", "sample_box", "try_model"]

_LISTED = 16
"""Channels of an output that are listed one by one; of more, their common values."""

_LONG_S = 3.0
"""A first run as long as this is not repeated to be timed without warming up."""

_ENOUGH_S, _MOST_RUNS = 0.5, 20
"""How long, and how often at most, a shorter one is repeated: a single one is mostly noise."""

_FLOAT16_MAX = 65504.0


@dataclass(frozen=True, slots=True)
class ChannelValues:
    """What a channel of an output was seen to be."""

    output: str
    channel: str
    low: float
    mean: float
    high: float


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of a few patches: ``pixels`` of them were kept, in ``seconds``."""

    patches: int
    pixels: int
    seconds: float
    runs: tuple[str, ...]
    values: tuple[ChannelValues, ...]
    warnings: tuple[str, ...]

    @property
    def speed(self) -> str:
        """Say how fast it was, preparing patches and stitching included."""
        megapixels = self.pixels / self.seconds / 1e6
        return f"{self.patches / self.seconds:.3g} patches/s, {megapixels:.3g} Mpx/s"


def sample_box(model: Model) -> Box:
    """Give what has to be read to try a model: a square of whole patches, at least a batch.

    Its own pixel ``(0, 0)`` is the corner of what is predicted; `Box.y` and `Box.x` are before it.
    """
    side = _side(model.ref)
    return model.ref.frame.around(Box(0, 0, side, side))


def noise(box: Box) -> NDArray[np.uint8]:
    """Give pixels for a box that are nothing: the same random ones each time."""
    return np.random.default_rng(0).integers(0, 256, (*box.shape, 3), dtype=np.uint8)


def try_model(model: Model, rgb: NDArray[np.uint8]) -> Trial:
    """Run a model on ``rgb`` ``(y, x, 3)``, which covers `sample_box`.

    Raises `ModelError` where it fails or gives NaN.
    """
    ref, side = model.ref, _side(model.ref)
    grid = Grid((side, side), side)
    maps, seconds = _timed(ref, rgb, grid)
    if seconds < _LONG_S:  # the first run has also warmed up
        again = max(min(int(_ENOUGH_S / seconds), _MOST_RUNS), 1)
        seconds = sum(_timed(ref, rgb, grid)[1] for _ in range(again)) / again
    values = tuple(each for output in ref.outputs for each in _values(output, maps[output.map]))
    return Trial(
        patches=len(
            list(Grid((side, side), ref.step).touching(ref.predicted_for(grid.box((0, 0)))))
        ),
        pixels=side**2,
        seconds=seconds,
        runs=tuple(_run_said(ref)),
        values=values,
        warnings=tuple(_warnings(model, values)),
    )


def _side(ref: ModelRef) -> int:
    most = max(session_batch(member) for member in ref.members)
    return ref.step * math.ceil(math.sqrt(most))


def _timed(
    ref: ModelRef, rgb: NDArray[np.uint8], grid: Grid
) -> tuple[tuple[NDArray[np.float32], ...], float]:
    began = time.perf_counter()
    maps = predict_block(rgb, (0, 0), None, model=ref, level_grid=grid)
    return maps, time.perf_counter() - began


def _values(output: OutputRef, values: NDArray[np.float32]) -> Iterator[ChannelValues]:
    named: list[tuple[str, NDArray[np.float32]]] = (
        list(zip(output.channels, values, strict=True))
        if len(values) == len(output.channels) <= _LISTED
        else [(f"all {len(output.channels)}", values)]
    )
    for channel, plane in named:
        low, mean, high = float(plane.min()), float(plane.mean()), float(plane.max())
        yield ChannelValues(output.name, channel, low, mean, high)


def _run_said(ref: ModelRef) -> Iterator[str]:
    for member in ref.members:
        said = facts(member)
        measured = said["patches_per_s"]
        speed = f", the fastest: {measured:g} patches/s by itself" if measured else ""
        yield (
            f"{said['provider']}, ONNX Runtime {said['onnxruntime']}, threads {said['threads']}, "
            f"batch {said['batch']}{speed}"
        )


def _warnings(model: Model, values: tuple[ChannelValues, ...]) -> Iterator[str]:
    if model.card.mpp is None:
        yield "the card has no mpp: a run needs resolution.mpp"
    outputs = {output.name: output for output in model.ref.outputs}
    for each in values:
        output, where = outputs[each.output], f"output {each.output}, channel {each.channel}"
        low, high = output.value_range
        # A stored byte spans 1/255 of the range: half of it is rounded away.
        slack = (high - low) / 510
        if output.kind == "scores" and (each.low < low - slack or each.high > high + slack):
            yield (
                f"{where}: {each.low:.4g} to {each.high:.4g} are outside the card's range "
                f"{low:g} to {high:g}; set activation or range, or store as float32"
            )
        if output.dtype == "float16" and max(-each.low, each.high) > _FLOAT16_MAX:
            yield f"{where}: up to {max(-each.low, each.high):.4g} does not fit float16; set dtype"
        if model.ref.maps[output.map].activation == CLASSES and (
            each.low < 0 or each.high >= len(output.channels)
        ):
            yield (
                f"{where}: classes {each.low:g} to {each.high:g}, and the card names "
                f"{len(output.channels)}"
            )
