"""What a run has left behind: its stores, opened for looking."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from pipeline import places
from pipeline.describe import as_html, as_text
from pipeline.errors import StoreError
from pipeline.lazy import sliceable
from pipeline.ngff import Placement
from pipeline.store import (
    Look,
    StoredArray,
    look,
    read_coverage,
    read_placements,
    read_tissue,
    stored_outputs,
)
from pipeline.urls import join, stem

__all__ = ["ENDING", "Results", "StoredSlide", "open_results", "open_stored", "safe_id"]

ENDING = ".zarr"


@dataclass(frozen=True)
class StoredSlide:
    """One slide's results.

    ``state`` is ``done``, ``partial`` (committed, with failed blocks) or ``unfinished``.
    """

    slide_id: str
    path: str
    seen: Look

    @property
    def state(self) -> str:
        """Whether every block is there."""
        if not self.seen.committed:
            return "unfinished"
        return "partial" if self.failures else "done"

    @property
    def channels(self) -> tuple[str, ...]:
        """Name of each channel."""
        return tuple(self.seen.attributes["channels"])

    @property
    def score_range(self) -> tuple[float, float]:
        """The least and the greatest score that can be stored, as the model's card says."""
        low, high = self.provenance["settings"]["model.range"]
        return (low, high)

    def as_scores(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Give stored values as the scores they stand for; float types are scores already."""
        scores = values.astype(np.float32)
        if np.issubdtype(values.dtype, np.integer):
            low, high = self.score_range
            scores *= (high - low) / 255
            scores += low
        return scores

    @property
    def outputs(self) -> tuple[StoredArray, ...]:
        """The tokens of the stored levels, finest first."""
        return stored_outputs(self.path)

    @property
    def levels(self) -> tuple[da.Array, ...]:
        """The stored levels as lazy ``(c, y, x)`` arrays, finest first."""
        return tuple(sliceable(token, token.chunks) for token in self.outputs)

    @property
    def placements(self) -> tuple[Placement, ...]:
        """Micrometres per pixel and position of every level, as stored."""
        return read_placements(self.path)

    @property
    def level0_mpp(self) -> tuple[float, float]:
        """Micrometres per level-0 pixel of the slide, ``(y, x)``."""
        y, x = self.provenance["settings"]["slide.mpp"]
        return (y, x)

    @property
    def coverage(self) -> NDArray[np.uint8]:
        """Per block ``(rows, columns)``: see `pipeline.store.Coverage`."""
        return read_coverage(self.path)

    @property
    def tissue(self) -> NDArray[np.bool_]:
        """The tissue mask ``(y, x)`` over the whole slide."""
        return read_tissue(self.path)

    @property
    def tissue_placement(self) -> Placement:
        """Micrometres per pixel and position of the tissue mask, as stored."""
        return read_placements(f"{self.path}/labels/tissue")[0]

    @property
    def blocks(self) -> Mapping[str, int]:
        """Blocks in each state; empty until the store is committed."""
        blocks: Mapping[str, int] = self.seen.attributes.get("blocks", {})
        return blocks

    @property
    def failures(self) -> list[dict[str, Any]]:
        """The failed blocks with their reasons."""
        failures: list[dict[str, Any]] = self.seen.attributes.get("failures", [])
        return failures

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Versions, digests and settings the store was made with."""
        return {
            **self.seen.attributes.get("provenance", {}),
            "settings": self.seen.settings,
        }


@dataclass(frozen=True)
class Results(Mapping[str, StoredSlide]):
    """A results directory: slide id -> stored slide."""

    directory: str
    slides: Mapping[str, StoredSlide]

    def __getitem__(self, slide_id: str) -> StoredSlide:
        return self.slides[slide_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self.slides)

    def __len__(self) -> int:
        return len(self.slides)

    def table(self) -> list[tuple[str, ...]]:
        """Say per slide, under a head: id, state, blocks in each state, seconds."""
        head = ("slide", "state", "analysed", "background", "failed", "seconds")
        rows = [
            (
                slide.slide_id,
                slide.state,
                *(
                    str(slide.blocks.get(what, "-"))
                    for what in ("analysed", "background", "failed")
                ),
                str(slide.seen.attributes.get("seconds", "-")),
            )
            for slide in self.slides.values()
        ]
        return [head, *rows]

    def __repr__(self) -> str:
        facts = {slide.slide_id: slide.state for slide in self.slides.values()}
        return as_text(f"Results {self.directory}", facts)

    def _repr_html_(self) -> str:
        return as_html(f"Results {self.directory}", {}, self.table())


def open_results(directory: str | PathLike[str]) -> Results:
    """Open a results directory, finished or not; nothing but metadata is read.

    Raises `StoreError` where it is not one.
    """
    folder = places.absolute(directory)
    try:
        there = places.names(folder) if places.exists(folder) else None
    except OSError as error:
        raise StoreError(f"{folder}: cannot be read: {error.strerror}") from error
    if there is None:
        raise StoreError(f"{folder}: no such directory; run first, or check the path")
    stored = [open_stored(join(folder, name)) for name in there if name.endswith(ENDING)]
    found = {slide.slide_id: slide for slide in stored if slide is not None}
    if not found:
        raise StoreError(f"{folder}: holds no results (*{ENDING}); check the path")
    return Results(folder, found)


def open_stored(path: str) -> StoredSlide | None:
    """Open one slide's store; None where there is none. `StoreError` where it is not ours."""
    seen = look(path)
    if seen is None or seen.kind is not None:  # nothing is yet, or a slide's own pixels
        return None
    return StoredSlide(stem(path), path, seen)


def safe_id(name: str) -> str:
    """Give a name that is a safe file name anywhere and cannot leave its folder.

    >>> safe_id("test3-DAPI-2-(387)"), safe_id("../..")
    ('test3-DAPI-2-_387', 'slide')
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._") or "slide"
