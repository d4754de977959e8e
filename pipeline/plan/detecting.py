"""A model as the judge of what is tissue: its scores, averaged to a mask where they are predicted.

Lazy: what `detect` gives is computed elsewhere, and of a slide only the mask leaves a block.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.geometry import Grid, Index, ceil_div
from pipeline.lazy import map_blocks
from pipeline.model import Model
from pipeline.model.refs import BACKGROUND
from pipeline.plan import predict
from pipeline.slide import Slide
from pipeline.slide.scale import SAME, wanted_mpp
from pipeline.tissue.masks import Raster

__all__ = ["PICTURE_PIXELS", "Detection", "detect"]

PICTURE_PIXELS = 2**24
"""Most pixels of the picture in which tissue is looked for: some 300 MB while it is."""


@dataclass(frozen=True)
class Detection:
    """What a model will call tissue: lazy ``(1, y, x)`` uint8, where that lies, what decides it."""

    tissue: da.Array
    raster: Raster
    settings: Mapping[str, Any]


def detect(slide: Slide, model: Model, step: tuple[float, float], threshold: float) -> Detection:
    """Find what ``model`` calls tissue, seen at its card's um per pixel, every ``step`` or so.

    ``step`` is in level-0 pixels, ``(y, x)``. Its scores are averaged over each pixel of the
    mask, which is a whole part of a block, so that blocks need not know each other. The channel
    is the first that is not called background and must be above ``threshold``. Where there is a
    background and several others, the best of those must be above it: by more than twice the
    threshold less 1, which for two probabilities is the same rule, and at 0.5 the largest wins.

    Raises `ConfigError` where the card says no scale or its first output is no scores,
    `SlideError` where the slide's scale is unknown.
    """
    if model.card.mpp is None:
        raise ConfigError(
            f"{model.path}: the card does not say for how many um per pixel the model was made; "
            "a tissue model needs mpp in its card"
        )
    output = model.card.outputs[0]
    if output.kind != "scores":
        raise ConfigError(
            f"{model.path}: its first output {output.name} is {output.kind}; a tissue model's is "
            "scores"
        )
    level = slide.at(wanted_mpp(model.card.mpp), tolerance=SAME)
    scores = predict(slide, model)
    own = (level.downsample[0] * output.stride, level.downsample[1] * output.stride)
    rows, columns = scores.chunks[1:]
    block = max(rows[0], columns[0])
    least = math.sqrt(math.prod(scores.shape[1:]) / PICTURE_PIXELS)
    factor = max(round(max(step) / max(own)), math.ceil(least), 1)
    if len(rows) > 1 or len(columns) > 1:
        factor = _nearest_part(block, factor, least)
    plane = (ceil_div(scores.shape[1], factor), ceil_div(scores.shape[2], factor))
    tissue = map_blocks(
        _above,
        scores,
        Grid(plane, ceil_div(block, factor)),
        axes="cyx",
        channels=1,
        dtype=np.uint8,
        factor=factor,
        names=model.channels,
        threshold=threshold,
    )
    raster = Raster(slide.shape, plane, (own[0] * factor, own[1] * factor), level.origin)
    said = {"threshold": threshold, "model": model.ref.digest, "card": _card_digest(model)}
    return Detection(tissue, raster, said)


def _nearest_part(block: int, wanted: int, least: float) -> int:
    """Give the divisor of a block's side that is nearest to ``wanted``, and not below ``least``.

    >>> _nearest_part(1920, 14, 1.0), _nearest_part(1920, 14, 15.1)
    (15, 16)
    """
    parts = [n for n in range(1, block + 1) if block % n == 0 and n >= least] or [block]
    return min(parts, key=lambda n: abs(math.log(n / wanted)))


def _above(
    scores: NDArray[np.float32],
    _index: Index,
    _value: None,
    *,
    factor: int,
    names: tuple[str, ...],
    threshold: float,
) -> NDArray[np.uint8]:
    """Say where scores ``(c, y, x)``, averaged over squares, are above a threshold: (1, y, x)."""
    background = [name.lower() == BACKGROUND for name in names]
    others = [i for i, each in enumerate(background) if not each] or [0]
    wanted = scores[others[0]]
    if any(background) and len(others) > 1:
        wanted = scores[others].max(axis=0) - scores[background.index(True)]
        threshold = 2 * threshold - 1
    starts = [np.arange(0, n, factor) for n in wanted.shape]
    sums = np.add.reduceat(np.add.reduceat(wanted, starts[0], axis=0), starts[1], axis=1)
    rows, columns = (np.diff([*start, n]) for start, n in zip(starts, wanted.shape, strict=True))
    above: NDArray[np.uint8] = (sums / (rows[:, None] * columns) > threshold).astype(np.uint8)
    return above[None]


def _card_digest(model: Model) -> str:
    """Give a digest of whatever of a card changes a score."""
    words = {"name", "version", "licence", "description", "onnx", "batch"}
    said = json.dumps(model.card.model_dump(mode="json", exclude=words), sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()
