"""What a run has left behind: a folder of stores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike

from pipeline.display.describe import SIDE, Picture, as_html, as_text
from pipeline.errors import DamagedStoreError, StoreError
from pipeline.files import places
from pipeline.files.urls import join, stem
from pipeline.results.glance import picture_or_why
from pipeline.results.stored import ENDING, StoredSlide, open_stored

__all__ = ["CONFIG", "ENDING", "Results", "StoredSlide", "open_results", "open_stored"]

CONFIG = "config.yaml"
"""The run file as it was understood: where it is, a run has begun."""

_MOST_ROWS, _MOST_PICTURES = 50, 12
"""What a notebook shows of a cohort: it stays quick, and one page."""


@dataclass(frozen=True)
class Results(Mapping[str, StoredSlide]):
    """A results directory: slide id -> stored slide.

    ``unopened`` are the stores that cannot be opened, which are no part of the mapping, and why.
    """

    directory: str
    slides: Mapping[str, StoredSlide]
    unopened: Mapping[str, StoreError] = field(default_factory=dict)

    def __getitem__(self, slide_id: str) -> StoredSlide:
        if slide_id in self.unopened:
            raise self.unopened[slide_id]
        return self.slides[slide_id]

    def __contains__(self, slide_id: object) -> bool:
        return slide_id in self.slides

    def __iter__(self) -> Iterator[str]:
        return iter(self.slides)

    def __len__(self) -> int:
        return len(self.slides)

    def table(self) -> list[tuple[str, ...]]:
        """Say per slide, under a head: id, state, blocks in each state, seconds."""
        head = ("slide", "state", "analysed", "background", "failed", "seconds")
        rows = [
            (
                *(slide.slide_id, slide.state),
                *(str(slide.blocks.get(what, "-")) for what in head[2:5]),
                str(slide.seen.attributes.get("seconds", "-")),
            )
            for slide in self.slides.values()
        ]
        for name, error in self.unopened.items():
            state = "damaged" if isinstance(error, DamagedStoreError) else "refused"
            rows.append((name, state, *"----"))
        return [head, *sorted(rows)]

    def path_of(self, slide_id: str) -> str:
        """Give where a slide's store is."""
        return join(self.directory, f"{slide_id}{ENDING}")

    def __repr__(self) -> str:
        states = {row[0]: row[1] for row in self.table()[1:]}
        return as_text(f"Results {self.directory}", states)

    def _repr_html_(self) -> str:
        head, *rows = self.table()
        shown, left = rows[:_MOST_ROWS], len(rows) - _MOST_ROWS
        table: list[list[str | Picture | None]] = [["", *head]]
        table += [
            [self._small(row[0]) if i < _MOST_PICTURES else None, *row]
            for i, row in enumerate(shown)
        ]
        facts = {"more": f"{left} slides; table() has all"} if left > 0 else {}
        return as_html(f"Results {self.directory}", facts, table)

    def _small(self, slide_id: str) -> Picture | None:
        slide = self.slides.get(slide_id)
        return None if slide is None else picture_or_why(slide, SIDE // 4)[0]


def open_results(directory: str | PathLike[str]) -> Results:
    """Open a results directory, finished or not; nothing but metadata is read.

    A store that is damaged, or not one of ours, is named in `Results.unopened` and the others are
    opened. Raises `StoreError` where the directory holds no results.
    """
    folder = places.absolute(directory)
    try:
        there = places.names(folder) if places.exists(folder) else None
    except OSError as error:
        raise StoreError(f"{folder}: cannot be read: {error.strerror}") from error
    if there is None:
        raise StoreError(f"{folder}: no such directory; run first, or check the path")
    found, unopened = {}, {}
    for name in there:
        if not name.endswith(ENDING):
            continue
        try:
            slide = open_stored(join(folder, name))
        except StoreError as error:
            unopened[stem(name)] = error
            continue
        if slide is not None:
            found[slide.slide_id] = slide
    if not found and not unopened and CONFIG not in there:
        raise StoreError(f"{folder}: holds no results (*{ENDING}); check the path")
    return Results(folder, found, unopened)
