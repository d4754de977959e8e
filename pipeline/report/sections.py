"""What a report says of one slide: numbers, pictures, and what made them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import MissingExtraError, SlideError, StoreError
from pipeline.geometry import Grid
from pipeline.report.gathered import Entry
from pipeline.report.numbers import (
    Areas,
    Histogram,
    Labelled,
    Objects,
    areas,
    extent_um,
    histograms,
    kept_block_um,
    labelled,
    objects,
)
from pipeline.results.analysed import analysed_slide
from pipeline.store import Coverage, done, stored_outputs, table_done
from pipeline.store.tables import REGIONS, StoredTable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.report.illustrated import Figure
    from pipeline.results import StoredSlide

__all__ = ["Section", "Stage", "section_of"]

_NO_PICTURE = 200  # grey level
_THUMBNAIL = 1000  # pixels: a report's pictures are no larger
MOST_FAILURES = 100
"""Failed blocks of a slide that are listed; its store has all."""


@dataclass(frozen=True)
class Stage:
    """What workers spent on one stage of a slide's blocks, together."""

    name: str
    seconds: float
    share: float


@dataclass
class Section:
    """All that is said of a slide. What is not known is None or empty."""

    entry: Entry
    areas: Areas | None = None
    blocks: Mapping[str, int] = field(default_factory=dict)
    histograms: Sequence[Histogram] = ()
    labels: Sequence[Labelled] = ()
    objects: Sequence[Objects] = ()
    features: Sequence[tuple[str, int, int]] = ()
    figures: Sequence[Figure] = ()
    thumb: str = ""
    notes: list[str] = field(default_factory=list)
    pictured: bool = False

    @property
    def attributes(self) -> Mapping[str, Any]:
        """What the store says of itself."""
        stored = self.entry.stored
        return {} if stored is None else stored.seen.attributes

    @property
    def stages(self) -> list[Stage]:
        """The time split, in the order of the work."""
        seconds: Mapping[str, float] = self.attributes.get("stage_seconds", {})
        total = sum(seconds.values())
        order = ("read", "predict", "finish", "write")
        names = [*(name for name in order if name in seconds), *sorted({*seconds} - {*order})]
        return [Stage(name, seconds[name], seconds[name] / total) for name in names if total]

    @property
    def memory_mib(self) -> tuple[float, float] | None:
        """Predicted and measured memory of the largest worker; None where not measured."""
        memory: Mapping[str, int] = self.attributes.get("memory", {})
        predicted, peak = memory.get("predicted_bytes", 0), memory.get("peak_bytes", 0)
        if predicted and peak:
            return (predicted / 2**20, peak / 2**20)
        row = self.entry.row
        return (row.predicted_mib, row.peak_mib) if row.predicted_mib and row.peak_mib else None

    @property
    def failures(self) -> Sequence[Mapping[str, Any]]:
        """The failed blocks with their reasons."""
        return () if self.entry.stored is None else self.entry.stored.failures

    @property
    def settings(self) -> Iterator[tuple[str, str]]:
        """What the store was made with, as text."""
        stored = self.entry.stored
        found = {} if stored is None else stored.provenance
        for key, value in (found.get("settings") or {}).items():
            yield key, _said(value)

    @property
    def made(self) -> Iterator[tuple[str, str]]:
        """Who made the store: slide, model, versions, as text."""
        stored = self.entry.stored
        found = {} if stored is None else stored.provenance
        for key, value in found.items():
            if key in ("settings", "notes"):
                continue
            for name, each in value.items() if isinstance(value, dict) else [("", value)]:
                yield f"{key} {name}".strip(), _said(each)


def _said(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def section_of(entry: Entry) -> Section:
    """Read and draw all that is said of a slide.

    What is missing of it is said in its notes: the slide's file, a damaged part of its store.
    """
    section = Section(entry)
    stored = entry.stored
    if stored is None or stored.seen.settings is None or "slide" not in stored.provenance:
        return section
    section.notes += stored.provenance.get("notes", ())
    thumbnail = _thumbnail(stored, section)
    try:
        coverage = _coverage(stored)
        section.blocks = {state.name.lower(): int((coverage == state).sum()) for state in Coverage}
        section.areas = areas(stored, coverage, kept_block_um(stored))
        try:
            _count(section, stored, coverage)
        except StoreError as error:
            section.notes.append(f"not all could be counted: {error}")
        from pipeline.report.illustrated import figures, small

        section.figures = figures(section, thumbnail, coverage)
        section.thumb = small(thumbnail)
    except StoreError as error:
        section.notes.append(f"not all could be shown: {error}")
    return section


def _count(section: Section, stored: StoredSlide, coverage: NDArray[np.uint8]) -> None:
    if not stored.seen.committed:
        return
    kinds = stored.kinds
    if stored.channels:
        section.histograms = histograms(stored, coverage)
    section.labels = [
        labelled(stored, coverage, name) for name, kind in kinds.items() if kind == "labels"
    ]
    features = (
        (name, stored.features(name)[0]) for name, kind in kinds.items() if kind == "features"
    )
    section.features = [(name, *array.shape) for name, array in features]
    try:
        section.objects = [
            objects(stored, name) for name, kind in kinds.items() if kind == "objects"
        ]
    except MissingExtraError as error:
        section.notes.append(f"objects are not shown: {error}")


def _thumbnail(stored: StoredSlide, section: Section) -> NDArray[np.uint8]:
    """Give the slide's picture; where there is none plain grey, as no glass is, and a note."""
    try:
        picture = analysed_slide(stored, section.entry.path or None).thumbnail(_THUMBNAIL)
    except (StoreError, SlideError, MissingExtraError) as error:
        section.notes.append(f"the slide is not shown: {error}")
    else:
        section.pictured = True
        return picture
    height, width = extent_um(stored)
    scale = _THUMBNAIL / max(height, width)
    shape = (max(round(height * scale), 1), max(round(width * scale), 1), 3)
    return np.full(shape, _NO_PICTURE, np.uint8)


def _coverage(stored: StoredSlide) -> NDArray[np.uint8]:
    """Give the coverage; of a store that is not finished, the blocks that are stored by now."""
    coverage = stored.coverage
    if stored.seen.committed:
        return coverage
    coverage = np.full_like(coverage, Coverage.PENDING)
    for index in stored_now(stored):
        coverage[index] = Coverage.ANALYSED
    return coverage


def stored_now(stored: StoredSlide) -> set[tuple[int, int]]:
    """Give the blocks of a store that is not finished of which every output is there."""
    attributes = stored.seen.attributes
    arrays = (stored_outputs(stored.path, each["folder"])[0] for each in attributes["outputs"])
    # Regions are made at the end, of whole rows.
    names = [name for name in attributes["tables"] if not name.endswith(REGIONS)]
    tables = (StoredTable(stored.path, name, Grid((0, 0), 1)) for name in names)
    found = [*map(done, arrays), *map(table_done, tables)]
    return set.intersection(*found) if found else set()
