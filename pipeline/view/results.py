"""The layers of one slide's results, of a store that is finished or still being written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DamagedStoreError, MissingExtraError
from pipeline.files.urls import join
from pipeline.geometry import Box, Grid, Index
from pipeline.ngff import PALETTE
from pipeline.results.stored import StoredSlide
from pipeline.store import (
    Coverage,
    StoredArray,
    StoredTable,
    done,
    halve,
    placed_outputs,
    read_placements,
    stored_outputs,
    table_done,
    thin,
)
from pipeline.store.labels import open_label, read_meanings
from pipeline.store.tables import REGIONS, check_engines
from pipeline.view.growing import Blocks, Kept
from pipeline.view.layers import ClassLayer, Layer, Meanings, ValueLayer
from pipeline.view.objects import ObjectLayer
from pipeline.view.planes import Plane, placed

__all__ = ["COVERAGE", "StoredLayers"]

COVERAGE: Meanings = {
    int(Coverage.ANALYSED): ("analysed", PALETTE[1]),
    int(Coverage.BACKGROUND): ("background", PALETTE[7]),
    int(Coverage.FAILED): ("failed", PALETTE[5]),
    int(Coverage.PENDING) + 4: ("pending", PALETTE[3]),
}
"""0 is nothing on the page, so that what is pending is shown as 4."""

_PENDING = int(Coverage.PENDING) + 4


@dataclass(frozen=True)
class StoredLayers:
    """What a store gives to look at now.

    ``origin`` is where the corner of what the model saw lies, in level-0 pixels: only the slide
    knows it while the store is unfinished.
    """

    stored: StoredSlide
    origin: tuple[float, float]
    kept: Kept

    @property
    def epoch(self) -> str:
        """What tells this store from another in the same place."""
        return f"{self.stored.path} {self.stored.provenance.get('started', '')}"

    @cached_property
    def stamp(self) -> str:
        """What changes when there is something new to see."""
        blocks = sum(map(len, self._there.values()))
        seconds = self.stored.seen.attributes.get("seconds", "")
        return f"{self.stored.state} {blocks} {seconds} {self.stored.provenance.get('started', '')}"

    def all(self) -> tuple[Layer, ...]:
        """Give the layers, those that lie beneath others first."""
        return (
            *(layer for name in ("tissue", "quality") for layer in self._masks(name)),
            *(layer for name in self._of("scores") for layer in self._scores(name)),
            *(self._labels(name) for name in self._of("labels")),
            *self._objects(),
            self._coverage(),
        )

    @property
    def notes(self) -> Iterator[str]:
        """Say what is not shown, and why."""
        try:
            check_engines()
        except MissingExtraError as error:
            if self._tables:
                yield str(error)
        yield from self.stored.provenance.get("notes", [])

    @property
    def coverage(self) -> NDArray[np.uint8]:
        """Give what became of each block; of an unfinished store the blocks all outputs have."""
        if self.stored.seen.committed:
            return self.stored.coverage
        coverage = np.zeros_like(self.stored.coverage)
        common = set.intersection(*map(set, self._there.values())) if self._there else set()
        for index in common:
            coverage[index] = Coverage.ANALYSED
        return coverage

    @cached_property
    def _mpp(self) -> tuple[float, float]:
        return self.stored.level0_mpp

    @property
    def _step(self) -> tuple[float, float]:
        """Level-0 pixels per pixel of what the model saw."""
        y, x = self.stored.provenance["slide"]["seen_mpp"]
        return (y / self._mpp[0], x / self._mpp[1])

    @property
    def _block(self) -> int:
        block: int = self.stored.provenance["settings"]["output.block"]
        return block

    @property
    def _blocks(self) -> Plane:
        """Where the blocks lie: a plane with a pixel for each."""
        rows, columns = self.stored.coverage.shape
        return Plane(
            (rows, columns),
            (self._step[0] * self._block, self._step[1] * self._block),
            self.origin,
        )

    @property
    def _tables(self) -> list[str]:
        return [name for name in self._of("objects") if not name.endswith(REGIONS)]

    def _of(self, kind: str) -> list[str]:
        return [name for name, each in self.stored.kinds.items() if each == kind]

    @cached_property
    def _outputs(self) -> dict[str, tuple[StoredArray, ...]]:
        return {
            name: stored_outputs(self.stored.path, self.stored.folder_of(name))
            for name, kind in self.stored.kinds.items()
            if kind in ("scores", "labels", "features")
        }

    @cached_property
    def _there(self) -> dict[str, set[Index]]:
        """Give the blocks there are of each output: looked at once for each look at the store."""
        arrays = {name: done(levels[0]) for name, levels in self._outputs.items()}
        return arrays | {name: table_done(self._table(name)) for name in self._tables}

    def _table(self, name: str) -> StoredTable:
        return StoredTable(self.stored.path, name, Grid((0, 0), 1))

    def _planes(self, name: str) -> tuple[Plane, ...]:
        if self.stored.seen.committed:
            levels = placed_outputs(self.stored.path, self.stored.folder_of(name))
            return tuple(placed(each.plane, place, self._mpp) for each, place in levels)
        finest = self._outputs[name][0]
        stride = self._block / finest.block
        step = (self._step[0] * stride, self._step[1] * stride)
        return self._growing(name, 0).planes(Plane(finest.plane, step, self.origin))

    def _growing(self, name: str, channel: int) -> Blocks:
        finest = self._outputs[name][0]
        reduce = thin if finest.flat else halve
        return Blocks(
            (self.epoch, name, channel),
            finest.grid,
            self._there[name],
            lambda index: finest.read(finest.grid.box(index))[channel],
            lambda values: reduce(values[None], (0, 0), None)[0],
            self.kept,
        )

    def _read(self, name: str, channel: int, plane: int, box: Box) -> NDArray[Any]:
        levels = self._outputs[name]
        if self.stored.seen.committed:
            values: NDArray[Any] = levels[plane].read(box)[channel]
            return values
        return self._growing(name, channel).box(plane, box, levels[0].dtype)

    def _scores(self, name: str) -> Iterator[ValueLayer]:
        low, high = self.stored.provenance["settings"][f"model.range.{name}"]
        number, planes = list(self.stored.kinds).index(name), self._planes(name)
        channels, stored = self.stored.channels_of(name), self._outputs[name][0].channels
        if len(channels) != stored:
            raise DamagedStoreError(
                f"{self.stored.path}: damaged: {name} has {stored} channels, and its metadata name "
                f"{len(channels)}; remove the store, and run again"
            )
        for channel, said in enumerate(channels):

            def read(plane: int, box: Box, channel: int = channel) -> NDArray[np.uint8]:
                return _as_bytes(self._read(name, channel, plane, box), low, high)

            title = said if said == name else f"{name}: {said}"
            yield ValueLayer(f"scores-{number}-{channel}", title, planes, (low, high), read)

    def _labels(self, name: str) -> ClassLayer:
        meanings = read_meanings(join(self.stored.path, *self.stored.folder_of(name).split("/")))
        if not meanings:  # its metadata come with the end of the run
            classes = self.stored.classes(name).items()
            meanings = {
                value: (said, PALETTE[i % len(PALETTE)])
                for i, (value, said) in enumerate(classes, start=1)
            }
        key = f"labels-{list(self.stored.kinds).index(name)}"
        return ClassLayer(
            key,
            name,
            self._planes(name),
            meanings,
            lambda plane, box: self._read(name, 0, plane, box).astype(np.uint8),
        )

    def _masks(self, name: str) -> Iterator[ClassLayer]:
        """Give the tissue, or what spoils it, where the store has it."""
        path = join(self.stored.path, "labels", name)
        meanings = read_meanings(path)
        if not meanings:
            return
        placements = read_placements(path)
        labels = [open_label(path, place.scale) for place in placements]
        planes = tuple(
            placed(label.shape, place, self._mpp)
            for label, place in zip(labels, placements, strict=True)
        )

        def read(plane: int, box: Box) -> NDArray[np.uint8]:
            rows, columns = np.arange(box.y, box.y_stop), np.arange(box.x, box.x_stop)
            return labels[plane].read(rows, columns).astype(np.uint8)

        yield ClassLayer(name, name, planes, meanings, read)

    def _objects(self) -> Iterator[ObjectLayer]:
        try:
            check_engines()
        except MissingExtraError:  # `notes` says so
            return
        settings = self.stored.provenance["settings"]
        for name in self._tables:
            yield ObjectLayer(
                f"objects-{list(self.stored.kinds).index(name)}",
                name,
                self._table(name),
                self._blocks,
                self._there[name],
                self._mpp,
                tuple(settings[f"model.output.{name}"][-1]),
                self.epoch,
                self.kept,
            )

    def _coverage(self) -> ClassLayer:
        coverage = self.coverage
        shown = np.where(coverage == Coverage.PENDING, _PENDING, coverage).astype(np.uint8)
        reasons = {
            "x".join(map(str, failure["block"])): failure["reason"]
            for failure in self.stored.failures
        }
        return ClassLayer(
            "coverage",
            "coverage",
            (self._blocks,),
            COVERAGE,
            lambda _plane, box: shown[box.within(Box(0, 0, *shown.shape))],
            {"reasons": reasons},
        )


def _as_bytes(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Give stored scores as 0 to 255; those of float types are scores, and NaN is 0."""
    if values.dtype == np.uint8:
        return values.view(np.uint8)
    parts = (values.astype(np.float32) - low) / (high - low)
    stored: NDArray[np.uint8] = np.rint(np.clip(np.nan_to_num(parts), 0, 1) * 255).astype(np.uint8)
    return stored
