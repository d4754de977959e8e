"""A model over a whole level, lazily: what `pipeline.plan` stores, and what a notebook looks at."""

from __future__ import annotations

from collections.abc import Mapping

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.geometry import Grid, Index
from pipeline.lazy import map_blocks, read_blocks
from pipeline.model import Model, ModelRef, OutputRef, map_boxes, predict_block
from pipeline.plan.blocks import checked_block
from pipeline.plan.finish import as_labels
from pipeline.plan.seen import seen
from pipeline.process.underway import Work
from pipeline.slide import Slide
from pipeline.slide.restained import Stain, normalised

__all__ = ["predict", "predicted_maps"]


def predict(
    slide: Slide,
    model: Model,
    *,
    output: str | None = None,
    mpp: float | None = None,
    level: int | None = None,
    block: int | None = None,
    stain: Stain | None = None,
) -> da.Array:
    """Give one output of a model for a whole slide: lazy ``(c, y, x)``, before it is stored.

    Scores and features are float32, labels uint8 with one channel; of objects it is the map in
    which they are found. ``output`` is its name, the first one by default. The model sees
    ``mpp`` um per pixel, or the stored ``level``, or else what its card says. Slicing and
    computing a part reads and predicts the blocks of that part only. ``block`` is the side of a
    block in the pixels it sees, ``stain`` what `fit_stain` found of the slide, for a model that
    is to see it normalised.

    Raises `ConfigError` where there is no such output, where ``block`` is no multiple of the
    model's stride, or where nothing says the scale; `SlideError` where the slide's is unknown.
    """
    source, ref = seen(slide, model, level=level, mpp=mpp), model.ref
    chosen = _output(model, output)
    source = source if stain is None else normalised(source, stain)
    grid = Grid(source.plane, checked_block(block, ref))
    maps = predicted_maps(read_blocks(source, grid, ref.frame), ref, grid, {})
    map_ = ref.maps[chosen.map]
    labels = chosen.kind == "labels"
    return map_blocks(
        look_at,
        maps,
        Grid(Grid(grid.shape, map_.stride).counts, grid.cell // map_.stride),
        axes="cyx",
        channels=1 if labels else map_.channels,
        dtype=np.uint8 if labels else np.float32,
        model=ref,
        chosen=chosen,
        level_grid=grid,
    )


def look_at(
    maps: tuple[NDArray[np.float32], ...],
    index: Index,
    _value: None,
    *,
    model: ModelRef,
    chosen: OutputRef,
    level_grid: Grid,
) -> NDArray[np.float32] | NDArray[np.uint8]:
    """Give a block of one output, out of all maps of the block."""
    l_box = level_grid.box(index)
    o_outer = map_boxes(model, l_box, level_grid.shape)[chosen.map]
    o_box = l_box.divided(model.maps[chosen.map].stride)
    values = maps[chosen.map][(slice(None), *o_box.within(o_outer))]
    return as_labels(values, chosen) if chosen.kind == "labels" else values


def predicted_maps(
    pixels: da.Array,
    ref: ModelRef,
    grid: Grid,
    wanted: Mapping[Index, bytes],
    work: Work | None = None,
) -> da.Array:
    """Give the maps of every block, lazily; its chunks are tuples of arrays, not arrays.

    ``work`` is what the log knows the blocks by.
    """
    return map_blocks(
        predict_block,
        pixels,
        grid,
        axes="yxs",
        channels=1,
        dtype=np.float32,
        per_block=wanted,
        work=work,
        model=ref,
        level_grid=grid,
    )


def _output(model: Model, name: str | None) -> OutputRef:
    try:
        return model.output(name)
    except KeyError:
        names = ", ".join(output.name for output in model.ref.outputs)
        raise ConfigError(f"{model.path}: no output {name}; there is {names}") from None
