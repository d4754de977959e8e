"""Two results directories held against each other: how they were made, and what they hold.

What differs is said one by one: settings, slides, states, coverage, values, tables. Versions and
machines are said too, but are no difference of results. Values are compared block by block on the
scheduler in force.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np

from pipeline.books.kept import kept_config
from pipeline.checks.differing import compare_arrays, compare_tables
from pipeline.errors import ConfigError, StoreError
from pipeline.execute.schedulers import scheduler_in_force
from pipeline.execute.work import Watch, tell_nobody
from pipeline.geometry import Grid
from pipeline.results import StoredSlide, open_results
from pipeline.store import Coverage, StoredTable, read_patches, stored_outputs
from pipeline.store.damage import reason

__all__ = ["Comparison", "Difference", "compare"]

_NOT_SET = "not set"

_OF_THIS_RUN = ("started", "sessions", "settings")
"""What is said of a store's making that says nothing of how it was made, or is said elsewhere."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that differs, in words and as plain values; of a slide, or of the whole run."""

    what: str
    text: str
    slide: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Say it in a line."""
        return f"{self.slide or 'run file'}: {self.what}: {self.text}"

    def as_json(self) -> dict[str, Any]:
        """Give it as plain values."""
        return {"slide": self.slide, "what": self.what, "text": self.text, **self.facts}


@dataclass(frozen=True)
class Comparison:
    """What differs, what was made otherwise, and how much was compared."""

    differences: tuple[Difference, ...]
    made: tuple[Difference, ...]
    slides: int
    blocks: int
    seconds: float


def compare(first: str, second: str, watch: Watch | None = None) -> Comparison:
    """Compare two results directories.

    ``watch`` is told blocks as they are compared. Raises `StoreError` where one is none.
    """
    started, one, other = time.monotonic(), open_results(first), open_results(second)
    differences = [*_run_files(first, second)]
    ids = ({*one, *one.unopened}, {*other, *other.unopened})
    for ours, theirs, where in ((*ids, "first"), (*ids[::-1], "second")):
        differences += (
            Difference("slide", f"only in the {where}", each, {"only": where})
            for each in sorted(ours - theirs)
        )
    made: list[Difference] = []
    count = _Count(watch or tell_nobody)
    for slide_id in sorted(ids[0] & ids[1]):
        try:
            ours_, theirs_ = one[slide_id], other[slide_id]
        except StoreError as error:
            differences.append(Difference("store", f"cannot be read: {reason(error)}", slide_id))
            continue
        differences += _slides(ours_, theirs_, count)
        made += _made(ours_, theirs_)
    seconds = time.monotonic() - started
    return Comparison(tuple(differences), tuple(made), len(ids[0] & ids[1]), count.blocks, seconds)


@dataclass
class _Count:
    """Blocks compared so far."""

    watch: Watch
    blocks: int = 0

    def add(self, total: int, more: int) -> None:
        self.blocks += more
        self.watch("blocks compared", min(self.blocks, total), total)


def _run_files(first: str, second: str) -> Iterator[Difference]:
    """Give the keys of the run files that differ; where the results go is none of them."""
    try:
        ours, theirs = (
            kept_config(each).model_dump(exclude={"output": {"directory"}})
            for each in (first, second)
        )
    except ConfigError as error:
        yield Difference("not known", str(error))
        return
    for key, was, is_ in _changed(ours, theirs):
        yield Difference(key, f"{was!r}, then {is_!r}", facts={"first": was, "second": is_})


def _changed(
    first: Mapping[str, Any], second: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Give dotted key and both values of what differs."""
    for key in sorted({*first, *second}):
        was, is_ = first.get(key, _NOT_SET), second.get(key, _NOT_SET)
        if isinstance(was, Mapping) and isinstance(is_, Mapping):
            yield from _changed(was, is_, f"{prefix}{key}.")
        elif was != is_:
            yield f"{prefix}{key}", was, is_


def _made(first: StoredSlide, second: StoredSlide) -> Iterator[Difference]:
    """Give what made the stores: versions, machines, readers."""
    ours, theirs = (
        {key: value for key, value in each.provenance.items() if key not in _OF_THIS_RUN}
        for each in (first, second)
    )
    for key, was, is_ in _changed(ours, theirs):
        text, facts = f"{was!r}, then {is_!r}", {"first": was, "second": is_}
        yield Difference(key, text, first.slide_id, facts)


def _slides(first: StoredSlide, second: StoredSlide, count: _Count) -> Iterator[Difference]:
    slide_id = first.slide_id
    for what, was, is_ in (
        ("state", first.state, second.state),
        ("outputs", dict(first.kinds), dict(second.kinds)),
    ):
        if was != is_:
            facts = {"first": was, "second": is_}
            yield Difference(what, f"{was}, then {is_}", slide_id, facts)
    for key, was, is_ in _changed(first.seen.settings or {}, second.seen.settings or {}):
        facts = {"first": was, "second": is_}
        yield Difference(key, f"{was!r}, then {is_!r}", slide_id, facts)
    checks: list[tuple[str, Any]] = [
        ("coverage", partial(_coverage, first, second)),
        ("tissue", partial(_tissue, first, second)),
        *((name, partial(_output, first, second, name, count)) for name in first.kinds),
    ]
    for what, check in checks:
        try:
            yield from check()
        except StoreError as error:
            yield Difference(what, f"cannot be read: {reason(error)}", slide_id)


def _coverage(first: StoredSlide, second: StoredSlide) -> Iterator[Difference]:
    if not (first.seen.committed and second.seen.committed):
        return
    ours, theirs = first.coverage, second.coverage
    if ours.shape != theirs.shape:
        text = f"{ours.shape} blocks, then {theirs.shape}"
        yield Difference("coverage", text, first.slide_id)
    elif (ours != theirs).any():
        where = np.argwhere(ours != theirs)
        block = (int(where[0][0]), int(where[0][1]))
        was, is_ = (Coverage(int(each[block])).name.lower() for each in (ours, theirs))
        text = f"{len(where):,} of {ours.size:,} blocks differ; the first, {block}, is {was}, then"
        facts = {"blocks": len(where), "of": ours.size, "block": list(block)}
        yield Difference("coverage", f"{text} {is_}", first.slide_id, facts)


def _tissue(first: StoredSlide, second: StoredSlide) -> Iterator[Difference]:
    ours, theirs = first.tissue, second.tissue
    if ours.shape != theirs.shape:
        text = f"{ours.shape} pixels, then {theirs.shape}"
        yield Difference("tissue", text, first.slide_id)
    elif (ours != theirs).any():
        pixels = int((ours != theirs).sum())
        text = f"{pixels:,} of {ours.size:,} pixels of the mask differ"
        yield Difference("tissue", text, first.slide_id, {"values": pixels, "of": ours.size})


def _output(
    first: StoredSlide, second: StoredSlide, name: str, count: _Count
) -> Iterator[Difference]:
    if first.kinds[name] != second.kinds.get(name):
        return  # said already
    if first.kinds[name] == "objects":
        yield from _table(first, second, name)
        return
    levels = [stored_outputs(each.path, each.folder_of(name)) for each in (first, second)]
    total = sum(array.grid.size for array in levels[0])
    if len(levels[0]) != len(levels[1]):
        yield Difference(name, f"{len(levels[0])} levels, then {len(levels[1])}", first.slide_id)
    for level, (ours, theirs) in enumerate(zip(*levels, strict=False)):
        what = f"{name}, level {level}"
        if (ours.shape, ours.kind) != (theirs.shape, theirs.kind):
            text = f"{ours.shape} {ours.kind}, then {theirs.shape} {theirs.kind}"
            yield Difference(what, text, first.slide_id)
            continue
        found = compare_arrays(
            ours, theirs, scheduler_in_force().compute, partial(count.add, total)
        )
        if found is not None:
            yield Difference(what, str(found), first.slide_id, asdict(found))
    if first.kinds[name] == "features":
        yield from _patches(first, second, name)


def _patches(first: StoredSlide, second: StoredSlide, name: str) -> Iterator[Difference]:
    if not (first.seen.committed and second.seen.committed):
        return
    ours, theirs = (
        {tuple(row) for row in read_patches(each.path, each.folder_of(name))[0].tolist()}
        for each in (first, second)
    )
    if ours != theirs:
        counts = {"only_first": len(ours - theirs), "only_second": len(theirs - ours)}
        text = "{only_first:,} patches only in the first, {only_second:,} only in the second"
        yield Difference(f"{name}, index", text.format(**counts), first.slide_id, counts)


def _table(first: StoredSlide, second: StoredSlide, name: str) -> Iterator[Difference]:
    tables = [StoredTable(each.path, name, Grid((0, 0), 1)) for each in (first, second)]
    grids = [each.coverage.shape if each.seen.committed else None for each in (first, second)]
    found = compare_tables(tables[0], tables[1], aligned=grids[0] == grids[1])
    if found:
        yield Difference(name, str(found), first.slide_id, asdict(found))
