"""The slides there are to look at: one, or those of a results directory, looked at again."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pipeline.books.names import STATUS
from pipeline.books.rows import read_rows
from pipeline.errors import ConfigError, StoreError
from pipeline.files import places
from pipeline.files.ids import safe_id
from pipeline.files.urls import is_url, join, stem
from pipeline.results import CONFIG, ENDING, open_results, open_stored
from pipeline.results.stored import StoredSlide
from pipeline.slide import Slide, open_slide
from pipeline.view.growing import Kept
from pipeline.view.shown import ShownSlide, show, slide_or_why

__all__ = ["Catalogue", "Cohort", "OneSlide", "catalogue_of"]

_LOOK_S = 2.0
"""Seconds for which what was seen of a store is taken to be so."""

_MOST_OPEN = 32


class Catalogue(Protocol):
    """What can be looked at, by id."""

    def listed(self) -> list[dict[str, Any]]:
        """Give id, state and a note of each slide."""
        ...

    def find(self, slide_id: str) -> ShownSlide | None:
        """Give a slide as it is now; None where there is none of this id."""
        ...


@dataclass
class _Looks:
    """What was seen lately of each slide, looked at again after a while."""

    kept: Kept = field(default_factory=Kept)
    _locks: dict[str, threading.Lock] = field(default_factory=dict)
    _seen: dict[str, tuple[float, ShownSlide]] = field(default_factory=dict)

    def at(
        self, slide_id: str, look: Callable[[ShownSlide | None], ShownSlide | None]
    ) -> ShownSlide | None:
        """Give a slide as it is, or was a moment ago; ``look`` is given what was seen last."""
        # A lock for each: one that is slow to open must not keep others from being looked at.
        with self._locks.setdefault(slide_id, threading.Lock()):
            when, seen = self._seen.get(slide_id, (0.0, None))
            if seen is not None and time.monotonic() - when < _LOOK_S:
                return seen
            self._seen.pop(slide_id, None)
            now = look(seen)
            if now is None:
                self._locks.pop(slide_id, None)
                return None
            self._seen[slide_id] = (time.monotonic(), now)
            for old in list(self._seen)[:-_MOST_OPEN]:
                self._seen.pop(old, None)
            return now


@dataclass(frozen=True)
class OneSlide:
    """One slide, and the store of its results if there is one."""

    slide: Slide | None
    store: str | None = None
    note: str = ""
    _looks: _Looks = field(default_factory=_Looks)

    @property
    def slide_id(self) -> str:
        """What it is called."""
        if self.store is not None:
            return safe_id(stem(self.store))
        assert self.slide is not None  # noqa: S101 - one of the two is there
        return safe_id(self.slide.name)

    def listed(self) -> list[dict[str, Any]]:
        """Give the one."""
        found = self.find(self.slide_id)
        assert found is not None  # noqa: S101 - by its own id
        return [{"id": self.slide_id, "state": found.state, "note": "", "shown": True}]

    def find(self, slide_id: str) -> ShownSlide | None:
        """Give the one as it is now."""
        return self._looks.at(slide_id, self._look) if slide_id == self.slide_id else None

    def _look(self, seen: ShownSlide | None) -> ShownSlide:
        stored = None if self.store is None else open_stored(self.store)
        if seen is not None and _same(seen.stored, stored):
            return seen
        return show(self.slide_id, self.slide, stored, self._looks.kept, self.note)


@dataclass(frozen=True)
class Cohort:
    """The slides of a results directory, which may still be growing."""

    directory: str
    _looks: _Looks = field(default_factory=_Looks)

    def listed(self) -> list[dict[str, Any]]:
        """Give those with a store, and those of which a run said why they have none."""
        opened = open_results(self.directory)
        told = {row.slide_id: row for row in read_rows(join(self.directory, STATUS))}
        found = []
        for name in sorted({*opened.slides, *opened.unopened, *told}):
            row = told.get(name)
            if name in opened.unopened:
                state, note = "damaged", str(opened.unopened[name])
            elif name not in opened.slides:
                state, note = (row.state, row.reason) if row else ("pending", "")
            elif _leads_out(self.directory, opened.path_of(name)):
                state, note = "refused", "a link that leads out of the results is not followed"
            else:
                running = row is not None and row.state == "running"
                state = "running" if running else opened.slides[name].state
                note = row.reason if row else ""
            begun = name in opened.slides and opened.slides[name].seen.settings is not None
            shown = begun and state != "refused"
            found.append({"id": name, "state": state, "note": note, "shown": shown})
        return found

    def find(self, slide_id: str) -> ShownSlide | None:
        """Give a slide as it is now; None where there is none of this id."""
        return self._looks.at(slide_id, lambda seen: self._look(slide_id, seen))

    def _look(self, slide_id: str, seen: ShownSlide | None) -> ShownSlide | None:
        # The id is held against what is there before it becomes part of a path.
        name = f"{slide_id}{ENDING}"
        if name not in places.names(self.directory):
            return None
        path = join(self.directory, name)
        stored = None if _leads_out(self.directory, path) else open_stored(path)
        if stored is None or stored.seen.settings is None:  # it is being made this moment
            return None
        if seen is not None and _same(seen.stored, stored):
            return seen
        slide, note = (seen.slide, "") if seen and seen.slide else slide_or_why(stored)
        return show(stored.slide_id, slide, stored, self._looks.kept, note)


def catalogue_of(path: str | os.PathLike[str]) -> Catalogue:
    """Give what there is at a path: a results directory, one store of it, or a slide.

    Raises `ConfigError` where it is none of these, `SlideError` where a slide cannot be opened.
    """
    where = places.absolute(path)
    if not is_url(where) and not Path(where).exists():
        raise ConfigError(f"{path}: no such file or directory; give a slide or a results directory")
    if where.endswith(ENDING) and _is_results(where):
        stored = open_stored(where)
        if stored is not None and stored.seen.settings is None:
            raise StoreError(f"{path}: is being made this moment; look again")
        if stored is not None:
            slide, note = slide_or_why(stored)
            return OneSlide(slide, where, note)
    if not is_url(where) and Path(where).is_dir():
        there = places.names(where)
        if CONFIG in there or any(_is_results(join(where, n)) for n in there if ENDING in n):
            return Cohort(where)
    elif is_url(where) and places.exists(join(where, CONFIG)):
        return Cohort(where)
    return OneSlide(open_slide(path))


def _is_results(path: str) -> bool:
    try:
        return open_stored(path) is not None
    except StoreError:  # of another program: perhaps a slide
        return False


def _same(before: StoredSlide | None, now: StoredSlide | None) -> bool:
    """Say whether nothing can have changed: a store that was, and is, committed the same."""
    if before is None or now is None:
        return before is now
    return before.seen.committed and now.seen.committed and before.seen == now.seen


def _leads_out(directory: str, path: str) -> bool:
    if is_url(directory):
        return False
    return not Path(path).resolve().is_relative_to(Path(directory).resolve())
