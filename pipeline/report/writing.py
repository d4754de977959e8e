"""The files of a report: one for a few slides, an index and a page for each of many.

A report is its own memory: parts of it are between marks that hold a digest of what they were made
of, and one whose digest is still the same is taken over as it is.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import quote

import dask

from pipeline.errors import StoreError
from pipeline.files import places
from pipeline.files.ids import safe_id, with_digest
from pipeline.files.urls import file_name, join
from pipeline.report.gathered import Entry, Gathered, gather
from pipeline.report.pages import Parts, drawn_by, index_page, row_of, section_html, slide_page
from pipeline.report.sections import section_of, stored_now
from pipeline.report.totals import Summary, summary_of, totals_of

__all__ = ["ON_ONE_PAGE", "REPORT", "Written", "write_report"]

REPORT = "report.html"

ON_ONE_PAGE = 20
"""Slides that are shown on the report's own page; where there are more, each has a page."""

_UNSAYABLE = "backslashreplace"
"""How bytes of a file's name that are no text are shown: Python has them as lone surrogates."""

_PART = re.compile(r"<!--(row|slide) ([0-9a-f]{32})-->(.*?)<!--/\1-->", re.DOTALL)
_NUMBERS = re.compile(r'data-numbers="([^"]*)"')

Tell = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Written:
    """What was written: the report, how many slides it has, how many were drawn anew."""

    path: str
    slides: int
    drawn: int
    pages: str = ""


def write_report(directory: str, output: str | None = None, tell: Tell | None = None) -> Written:
    """Write the report of a results directory, also while a run goes on there.

    It goes to ``output``, ``report.html`` in the directory by default; where there are more than
    `ON_ONE_PAGE` slides their pages go into a folder beside it that is called like it. ``tell``
    is told how many slides are done. Raises `StoreError` where there are no results, or the
    report cannot be written.
    """
    gathered = gather(places.absolute(directory))
    path = join(gathered.folder, REPORT) if output is None else places.absolute(output)
    try:
        # In this process, whatever is going on: a run that ends may have no workers any more.
        with dask.config.set(scheduler="synchronous"):
            return _Writer(path, gathered).write(tell)
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written: {error.strerror}; name another place"
        ) from error


@dataclass
class _Kept:
    """What an earlier report holds, by digest."""

    rows: dict[str, str] = field(default_factory=dict)
    slides: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, path: str) -> _Kept:
        """Read it; nothing where there is none."""
        try:
            text = places.read(path).decode()
        except (FileNotFoundError, UnicodeDecodeError):
            return cls()
        kept = cls()
        for part in _PART.finditer(text):
            (kept.rows if part[1] == "row" else kept.slides)[part[2]] = part[3]
        return kept

    def summary(self, key: str) -> Summary | None:
        """Give the numbers of a kept row, None where there is none."""
        found = _NUMBERS.search(self.rows.get(key, ""))
        try:
            return None if found is None else Summary.of(html.unescape(found[1]))
        except (ValueError, TypeError):
            return None


class _Writer:
    """One report that is being written."""

    def __init__(self, path: str, gathered: Gathered) -> None:
        self._path, self._gathered = path, gathered
        self._paged = len(gathered.entries) > ON_ONE_PAGE
        self._kept = _Kept.of(path)
        self._name = file_name(path)
        self._folder_name = self._name.rpartition(".")[0] or f"{self._name}-slides"
        self._folder = f"{path[: len(path) - len(self._name)]}{self._folder_name}"
        self._there = set(places.names(self._folder)) if self._paged else set()
        self._drawn = 0

    def write(self, tell: Tell | None) -> Written:
        """Draw what has changed, and write all of it."""
        rows: list[str] = []
        slides: list[str] = []
        summaries: list[Summary] = []
        for number, entry in enumerate(self._gathered.entries):
            key = _key(entry, paged=self._paged)
            row, body, summary = self._taken_over(key, entry) or self._made(entry)
            summaries.append(summary)
            rows.append(f"<!--row {key}-->{row}<!--/row-->")
            if not self._paged:
                slides.append(f"<!--slide {key}-->{body}<!--/slide-->")
            if tell is not None:
                tell("report", number + 1, len(self._gathered.entries))
        totals = totals_of(self._gathered.entries, summaries)
        content = "".join(index_page(self._gathered, totals, Parts(rows, slides)))
        places.write_whole(self._path, content.encode(errors=_UNSAYABLE))
        pages = self._folder if self._paged else ""
        return Written(self._path, len(rows), self._drawn, pages)

    def _taken_over(self, key: str, entry: Entry) -> tuple[str, str, Summary] | None:
        """Give what is kept of a slide, None where it is to be made anew."""
        summary = self._kept.summary(key)
        if summary is None or not (summary.pictured or entry.stored is None):
            return None  # its file may be there again
        body = self._kept.slides.get(key, "")
        if _page(entry) not in self._there if self._paged else not body:
            return None
        return self._kept.rows[key], body, summary

    def _made(self, entry: Entry) -> tuple[str, str, Summary]:
        self._drawn += 1
        section = section_of(entry)
        summary = summary_of(section)
        body = section_html(section, level=1 if self._paged else 3)
        link = f"#slide-{quote(entry.slide_id)}"
        if self._paged:
            link = f"{quote(self._folder_name)}/{_page(entry)}"
            page = slide_page(entry, body, f"../{quote(self._name)}")
            places.write_whole(f"{self._folder}/{_page(entry)}", page.encode(errors=_UNSAYABLE))
        return row_of(entry, summary, link), body, summary


def _page(entry: Entry) -> str:
    """Give the name of a slide's page, which cannot lie outside of its folder."""
    name = safe_id(entry.slide_id)
    return f"{name if name == entry.slide_id else with_digest(name, entry.slide_id)}.html"


def _key(entry: Entry, *, paged: bool) -> str:
    """Give a digest of all that a slide's part is made of, without reading an array."""
    stored = entry.stored
    seen: object = None
    if stored is not None:
        unfinished = stored.seen.settings is not None and not stored.seen.committed
        seen = [
            stored.seen.committed,
            stored.seen.attributes,
            sorted(stored_now(stored)) if unfinished else [],
        ]
    said = [drawn_by(), paged, entry.row.line(), entry.path, entry.problem, seen]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]
