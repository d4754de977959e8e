"""What will be done for one slide: a frozen value. Making it opens no output and reads no pixel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from pipeline.coloured import NO_PROFILE, coloured
from pipeline.errors import ConfigError
from pipeline.geometry import Box, Grid, Index, ceil_div
from pipeline.lazy import map_blocks, read_blocks, write_blocks
from pipeline.level import BLOCK, LevelLike
from pipeline.memory import worker_bytes
from pipeline.model import Model, ModelRef, predict_block, quantise
from pipeline.pyramid import halved, parents
from pipeline.restained import Stain, normalised
from pipeline.seen import Tissue, seen, wanted_patches
from pipeline.slide import Slide
from pipeline.store import Layout, StoredArray, outputs

__all__ = ["Options", "Plan", "Tissue", "plan_slide", "predict"]

_CHUNK = 512


@dataclass(frozen=True)
class Options:
    """How a slide is analysed; None is decided here.

    ``level`` is the stored level that is read, or ``mpp`` the um per pixel the model sees; the
    model's own where neither is given. ``block`` is the side of a block in those pixels,
    ``chunk`` the side of a shard's inner chunk in output pixels, ``min_fraction`` the part of
    a patch that must be tissue. ``icc`` is ``apply`` where colours go by the slide's profile,
    ``stain`` how the slide is stained and is to look.
    """

    level: int | None = None
    mpp: float | None = None
    block: int | None = None
    chunk: int | None = None
    dtype: str = "uint8"
    min_fraction: float = 0.0
    icc: str = "ignore"
    stain: Stain | None = None


@dataclass(frozen=True)
class Plan:
    """Everything that will be done for one slide.

    ``level`` is what the model sees, stored or resampled. ``grid`` is its plane cut into blocks,
    ``patches`` the same plane cut into what is kept of each patch and ``wanted`` ``(rows,
    columns)`` bool which of those are predicted. ``remarks`` say what to mind about the level.
    """

    slide: Slide
    level: LevelLike
    model: Model
    tissue: Tissue
    path: str
    grid: Grid
    patches: Grid
    wanted: NDArray[np.bool_]
    layout: Layout
    remarks: tuple[str, ...] = ()

    @cached_property
    def todo(self) -> tuple[Index, ...]:
        """The blocks with at least one wanted patch."""
        return tuple(index for index in self.grid if self._wanted_in(index).any())

    @property
    def outputs(self) -> tuple[StoredArray, ...]:
        """The stored levels of the output, finest first."""
        return outputs(self.path, self.layout)

    @cached_property
    def blocks(self) -> da.Array:
        """The whole run of this slide: read, predict, quantise, write, lazily."""
        ref = self.model.ref
        pixels = read_blocks(self.level, self.grid, ref.frame, dict(self._needed()))
        scores = _scores(pixels, ref, self.grid, dict(self._bits()))
        stored = map_blocks(
            quantise,
            scores,
            self.layout.grid,
            axes="cyx",
            channels=ref.channels,
            dtype=self.layout.dtype,
            stored_as=self.layout.dtype,
            value_range=ref.value_range,
        )
        return write_blocks(stored, self.outputs[0], self.layout.grid)

    def pyramid(self, level: int) -> da.Array:
        """Level ``level`` of the output made from the stored one below it, lazily."""
        fine, coarse = self.outputs[level - 1 : level + 1]
        return halved(fine, coarse)

    @property
    def settings(self) -> dict[str, Any]:
        """Whatever changes a stored value, as JSON: a store belongs to exactly one of these."""
        ref, layout = self.model.ref, self.layout
        return {
            "slide.identity": self.slide.metadata.identity,
            "slide.reader": self.slide.ref.reader,
            "slide.mpp": list(layout.mpp),
            **self.level.settings,
            **self._cropped(),
            "model.digest": ref.digest,
            "model.patch": ref.patch,
            "model.halo": ref.halo,
            "model.stride": ref.stride,
            "model.input": [ref.layout, ref.order, ref.scale, list(ref.mean), list(ref.std)],
            "model.output": [ref.output, ref.activation, list(layout.channels)],
            "model.range": list(ref.value_range),
            "output.dtype": layout.dtype,
            "output.block": self.grid.cell,
            "output.chunk": layout.chunk,
            **{f"tissue.{key}": value for key, value in self.tissue.settings.items()},
        }

    @property
    def memory_bytes(self) -> int:
        """Predicted peak of one process that works on one block at a time."""
        return self.worker_bytes(threads=1)

    def worker_bytes(self, *, threads: int) -> int:
        """Predicted peak of a worker with so many threads, each at a block of its own."""
        return worker_bytes(
            self.model, self.grid.cell, self.layout.dtype, threads=threads, level=self.level
        )

    @property
    def output_bytes(self) -> int:
        """Bytes of the output before compression, pyramid included."""
        cell = self.layout.grid.cell**2 * len(self.layout.channels)
        return int(len(self.todo) * cell * np.dtype(self.layout.dtype).itemsize * 4 / 3)

    @property
    def output_files(self) -> int:
        """Objects the store will have: shards of every level, coverage, labels, metadata."""
        shards, blocks = 0, set(self.todo)
        for _ in self.layout.grids:
            shards += len(blocks)
            blocks = parents(blocks)
        return shards + self.layout.fixed_files

    @property
    def patch_count(self) -> int:
        """Patches that will be predicted; one shared by two blocks counts once."""
        return int(self.wanted.sum())

    def _cropped(self) -> dict[str, Any]:
        crop = self.slide.crop
        return {} if crop is None else {"slide.crop": [crop.y, crop.x, *crop.shape]}

    def _wanted_in(self, index: Index) -> NDArray[np.bool_]:
        cells = self.grid.box(index).divided(self.patches.cell)
        return self.wanted[cells.y : cells.y_stop, cells.x : cells.x_stop]

    def _bits(self) -> Iterator[tuple[Index, bytes]]:
        """Give which patches of a block are wanted, where not all are."""
        for index in self.todo:
            wanted = self._wanted_in(index)
            if not wanted.all():
                yield index, np.packbits(wanted).tobytes()

    def _needed(self) -> Iterator[tuple[Index, Box]]:
        """Give what has to be read of a block, where not all of it has."""
        ref = self.model.ref
        for index in self.todo:
            wanted = self._wanted_in(index)
            if wanted.all():
                continue
            cells = self.grid.box(index).divided(self.patches.cell)
            rows, columns = np.flatnonzero(wanted.any(1)), np.flatnonzero(wanted.any(0))
            first = self.patches.whole((cells.y + int(rows[0]), cells.x + int(columns[0])))
            last = self.patches.whole((cells.y + int(rows[-1]), cells.x + int(columns[-1])))
            yield index, first.union(last).expanded(ref.halo)


def plan_slide(slide: Slide, model: Model, tissue: Tissue, options: Options, *, path: str) -> Plan:
    """Plan one slide: which blocks and patches, in what layout, into which store.

    Raises `SlideError` where the slide's scale is unknown or the level is not there,
    `ConfigError` where block or chunk do not fit the model's stride, or where neither the
    options nor the model say at which scale it is read.
    """
    l0_mpp = slide.believed_mpp
    level = seen(slide, model, level=options.level, mpp=options.mpp)
    remarks: tuple[str, ...] = ()
    if options.icc == "apply":
        level, stored = coloured(level), level
        remarks = (NO_PROFILE,) if level is stored else ()
    if options.stain is not None:
        level = normalised(level, options.stain)
        remarks += options.stain.remarks
    ref = model.ref
    block = _checked_block(options.block, ref)
    o_plane = (ceil_div(level.plane[0], ref.stride), ceil_div(level.plane[1], ref.stride))
    o_block = block // ref.stride
    chunk = options.chunk or max(n for n in range(1, _CHUNK + 1) if o_block % n == 0)
    if o_block % chunk:
        raise ConfigError(
            f"output.chunk: {chunk} does not divide a block of {o_block} output pixels; use auto"
        )
    grid, patches = Grid(level.plane, block), Grid(level.plane, ref.core)
    layout = Layout(
        grid=Grid(o_plane, o_block),
        chunk=chunk,
        dtype=options.dtype,
        channels=model.channels,
        mpp=l0_mpp,
        step=(level.downsample[0] * ref.stride, level.downsample[1] * ref.stride),
        label_step=tissue.step,
        label_shape=(tissue.mask.shape[0], tissue.mask.shape[1]),
        origin=level.origin,
        label_origin=tissue.origin,
        window=(0.0, 255.0) if options.dtype == "uint8" else ref.value_range,
    )
    settings = {**tissue.settings, "min_fraction": options.min_fraction}
    tissue = replace(tissue, settings=settings)
    wanted = wanted_patches(patches, level, slide.shape, tissue, options.min_fraction)
    return Plan(slide, level, model, tissue, path, grid, patches, wanted, layout, remarks)


def predict(
    slide: Slide,
    model: Model,
    *,
    mpp: float | None = None,
    level: int | None = None,
    block: int | None = None,
    stain: Stain | None = None,
) -> da.Array:
    """Give a model's scores of a whole slide: lazy ``(c, y, x)`` float32, before quantisation.

    The model sees ``mpp`` um per pixel, or the stored ``level``, or else what its card says.
    Slicing and computing a part reads and predicts the blocks of that part only. ``block`` is
    the side of a block in the pixels it sees, ``stain`` what `fit_stain` found of the slide, for
    a model that is to see it normalised. `ConfigError` where it is no multiple of the
    model's stride, or where nothing says the scale; `SlideError` where the slide's is unknown.
    """
    source, ref = seen(slide, model, level=level, mpp=mpp), model.ref
    source = normalised(source, stain) if stain is not None else source
    grid = Grid(source.plane, _checked_block(block, ref))
    return _scores(read_blocks(source, grid, ref.frame), ref, grid, {})


def fitting_block(model: ModelRef) -> int:
    """Give the side near 2048 that holds whole patches, so that no patch is predicted twice.

    A patch larger than that is a block of its own.
    """
    return max(round(BLOCK / model.core), 1) * model.core


def _checked_block(block: int | None, ref: ModelRef) -> int:
    if block is None:
        return fitting_block(ref)
    if block < 1 or block % ref.stride:
        raise ConfigError(
            f"output.block: {block} is not a multiple of the model's stride {ref.stride}; "
            f"use {max(round(block / ref.stride), 1) * ref.stride}"
        )
    return block


def _scores(pixels: da.Array, ref: ModelRef, grid: Grid, bits: Mapping[Index, bytes]) -> da.Array:
    o_plane = (ceil_div(grid.shape[0], ref.stride), ceil_div(grid.shape[1], ref.stride))
    return map_blocks(
        predict_block,
        pixels,
        Grid(o_plane, grid.cell // ref.stride),
        axes="yxs",
        channels=ref.channels,
        dtype=np.float32,
        per_block=bits,
        model=ref,
        level_grid=grid,
    )
