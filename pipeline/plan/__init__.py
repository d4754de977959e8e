"""What will be done for one slide: a frozen value. Making it opens no output and reads no pixel."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from pipeline.display.describe import as_html, as_text
from pipeline.geometry import Grid, Index, ceil_div
from pipeline.lazy import map_blocks, read_blocks, write_blocks
from pipeline.model import Model
from pipeline.plan import planned
from pipeline.plan.arrange import arrays, tables
from pipeline.plan.blocks import decided_block
from pipeline.plan.finish import Placing, Together, finish_block
from pipeline.plan.memory import Worker, worker_bytes
from pipeline.plan.options import Options
from pipeline.plan.predicting import predict, predicted_maps
from pipeline.plan.pyramid import parents
from pipeline.plan.regions import Regions
from pipeline.plan.seen import Tissue, seen, wanted_patches
from pipeline.plan.selection import Selection
from pipeline.process.underway import Work
from pipeline.slide import Slide
from pipeline.slide.coloured import NO_PROFILE, coloured
from pipeline.slide.level import LevelLike
from pipeline.slide.restained import normalised
from pipeline.store import (
    PATCH_CHUNK,
    PATCH_FILES,
    ArrayLayout,
    Layout,
    StoredArray,
    StoredTable,
    outputs,
)
from pipeline.store.labels import label_files
from pipeline.store.tables import REGIONS, check_engines

__all__ = ["Options", "Plan", "Tissue", "plan_slide", "predict"]


@dataclass(frozen=True, repr=False)
class Plan:
    """Everything that will be done for one slide.

    ``level`` is what the model sees, stored or resampled, ``selection`` which of its blocks and
    patches are predicted. ``dtype`` is that of scores. ``remarks`` say what to mind about the
    level and its blocks. ``worker`` is what it was planned for, if that was known.
    """

    slide: Slide
    level: LevelLike
    model: Model
    tissue: Tissue
    path: str
    selection: Selection
    layout: Layout
    dtype: str = "uint8"
    remarks: tuple[str, ...] = ()
    worker: Worker | None = None

    @property
    def grid(self) -> Grid:
        """The plane of what the model sees, in blocks."""
        return self.selection.grid

    @property
    def wanted(self) -> NDArray[np.bool_]:
        """Which patches are predicted, ``(rows, columns)``."""
        return self.selection.wanted

    @property
    def todo(self) -> tuple[Index, ...]:
        """The blocks with at least one wanted patch."""
        return self.selection.todo

    @property
    def arrays(self) -> tuple[tuple[StoredArray, ...], ...]:
        """The stored levels of every output that is an array, finest first."""
        return tuple(outputs(self.path, array) for array in self.layout.arrays)

    @property
    def targets(self) -> tuple[StoredArray | StoredTable, ...]:
        """What each output of the model is written to, block by block."""
        stored = {array.name: levels[0] for array, levels in self._stored_arrays}
        return tuple(
            stored[output.name]
            if output.is_array
            else StoredTable(self.path, output.name, self._plane_of(output.map))
            for output in self.model.ref.outputs
        )

    @property
    def regions(self) -> tuple[Regions, ...]:
        """The connected regions that are made of labels once these are stored."""
        labels = {array.name: levels[0] for array, levels in self._stored_arrays}
        return tuple(
            Regions(
                labels=labels[output.name],
                table=StoredTable(self.path, output.name + REGIONS, labels[output.name].grid),
                classes=tuple(
                    (value, name)
                    for value, name in zip(output.values, output.channels, strict=True)
                    if value
                ),
                step=self._step_of(output.map),
                origin=self.layout.origin,
                mpp=self.layout.mpp,
                min_area_um2=output.regions_min_area_um2,
            )
            for output in self.model.ref.outputs
            if output.regions_min_area_um2 is not None
        )

    @cached_property
    def blocks(self) -> da.Array:
        """The whole run of this slide: read, predict, finish, write, lazily."""
        ref, bits, work = self.model.ref, dict(self.selection.bits()), Work.on(self.path)
        needed = dict(self.selection.needed())
        pixels = read_blocks(self.level, self.grid, ref.frame, needed, work)
        stored = map_blocks(
            finish_block,
            predicted_maps(pixels, ref, self.grid, bits, work),
            self.grid,
            axes="cyx",
            channels=1,
            dtype=np.uint8,
            per_block=bits,
            work=work,
            model=ref,
            level_grid=self.grid,
            stored_as=self.dtype,
            placing=Placing(self.level.downsample, self.level.origin, self.layout.mpp),
        )
        strides = tuple(ref.maps[output.map].stride for output in ref.outputs)
        targets = Together(self.targets, strides)
        return write_blocks(stored, targets, self.grid, work, verb="read-predict-write")

    @property
    def settings(self) -> dict[str, Any]:
        """Whatever changes a stored value, as JSON: a store belongs to exactly one of these."""
        return {
            "slide.identity": self.slide.metadata.identity,
            "slide.reader": self.slide.ref.reader,
            "slide.mpp": list(self.layout.mpp),
            **self.level.settings,
            **self._cropped(),
            **self.model.ref.settings,
            "output.dtype": self.dtype,
            "output.block": self.grid.cell,
            **{f"output.chunk.{each.name}": each.chunk for each in self.layout.arrays},
            **{f"tissue.{key}": value for key, value in self.tissue.settings.items()},
        }

    @property
    def memory_bytes(self) -> int:
        """Predicted peak of the worker it was planned for; with one thread where none was."""
        return self.worker_bytes(self.worker or Worker())

    def worker_bytes(self, worker: Worker) -> int:
        """Predicted peak of a worker, each of its threads at a block of its own."""
        return worker_bytes(self.model, self.grid.cell, self.dtype, worker, self.level)

    @property
    def output_bytes(self) -> int:
        """Bytes of the arrays before compression, pyramids included; tables are not known yet."""
        return sum(len(self.todo) * array.block_bytes for array in self.layout.arrays)

    @property
    def output_files(self) -> int:
        """Objects the store will have: blocks of every output and level, labels, metadata."""
        blocks = sum(self._shards(array) for array in self.layout.arrays)
        patches = sum(
            PATCH_FILES * (1 + ceil_div(len(self.patches_of(array, ())[0]), PATCH_CHUNK))
            for array in self.layout.arrays
            if array.kind == "features"
        )
        objects = sum(output.objects is not None for output in self.model.ref.outputs)
        parts = objects * len(self.todo)
        parts += sum(each.labels.grid.counts[0] for each in self.regions)
        flags = 0 if self.tissue.quality is None else label_files(self.layout)
        return blocks + parts + patches + flags + self.layout.fixed_files

    @property
    def patch_count(self) -> int:
        """Patches that will be predicted; one shared by two blocks counts once."""
        return int(self.wanted.sum())

    def patches_of(
        self, array: ArrayLayout, failed: Collection[Index]
    ) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Give the patches that have features: row and column ``(n, 2)``, and where they lie.

        The latter are x and y of their corners in level-0 pixels ``(n, 2)``. ``failed`` blocks
        have none.
        """
        stride = self.model.ref.maps[self.model.output(array.name).map].stride
        index = self.selection.pixels(stride, failed)
        corners = index * np.array(array.step) + np.array(self.layout.origin)
        return index, np.ascontiguousarray(corners[:, ::-1], np.float64)

    def __repr__(self) -> str:
        return as_text(f"Plan of {self.slide.name}", planned.facts_of(self))

    def _repr_html_(self) -> str:
        picture, why = planned.picture_of(self)
        return as_html(f"Plan of {self.slide.name}", planned.facts_of(self) | why, picture=picture)

    def _cropped(self) -> dict[str, Any]:
        crop = self.slide.crop
        return {} if crop is None else {"slide.crop": [crop.y, crop.x, *crop.shape]}

    @property
    def _stored_arrays(self) -> Iterator[tuple[ArrayLayout, tuple[StoredArray, ...]]]:
        return zip(self.layout.arrays, self.arrays, strict=True)

    def _step_of(self, number: int) -> tuple[float, float]:
        """Give the level-0 pixels per pixel of one of the model's maps."""
        stride = self.model.ref.maps[number].stride
        return (self.level.downsample[0] * stride, self.level.downsample[1] * stride)

    def _plane_of(self, number: int) -> Grid:
        """Give the plane of one of the model's maps, in blocks."""
        stride = self.model.ref.maps[number].stride
        return Grid(Grid(self.grid.shape, stride).counts, self.grid.cell // stride)

    def _shards(self, array: ArrayLayout) -> int:
        shards, blocks = 0, set(self.todo)
        for _ in range(array.levels):
            shards += len(blocks)
            blocks = parents(blocks)
        return shards


def plan_slide(slide: Slide, model: Model, tissue: Tissue, options: Options, *, path: str) -> Plan:
    """Plan one slide: which blocks and patches, in what layout, into which store.

    Raises `SlideError` where the slide's scale is unknown or the level is not there,
    `ConfigError` where block or chunk do not fit the model's stride, or where neither the
    options nor the model say at which scale it is read; `MissingExtraError` where tables of
    objects are wanted and cannot be written.
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
    if tables(model.ref):
        check_engines()
    mpp = (l0_mpp[0] * level.downsample[0], l0_mpp[1] * level.downsample[1])
    model = replace(model, ref=model.ref.at(mpp))
    ref = model.ref
    patches = Grid(level.plane, ref.step)
    wanted = wanted_patches(patches, level, slide.shape, tissue, options.min_fraction)
    block, said = decided_block(model, level, wanted, options)
    remarks += (said,) if said else ()
    grid = Grid(level.plane, block)
    layout = Layout(
        grid=grid,
        mpp=l0_mpp,
        arrays=arrays(ref, grid, level.downsample, dtype=options.dtype, chunk=options.chunk),
        tables=tables(ref),
        label_step=tissue.step,
        label_shape=(tissue.mask.shape[0], tissue.mask.shape[1]),
        origin=level.origin,
        label_origin=tissue.origin,
    )
    settings = {**tissue.settings, "min_fraction": options.min_fraction}
    tissue = replace(tissue, settings=settings)
    selection = Selection(ref, grid, wanted)
    return Plan(
        *(slide, level, model, tissue, path, selection, layout, options.dtype, remarks),
        worker=options.worker,
    )
