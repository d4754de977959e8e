"""The slides that a manifest lists, row by row, and all that is wrong with it.

A manifest is CSV, its first line naming the columns, or Parquet; on a disk or behind a URL.
``image_path`` is a slide and ``mask_path`` its tissue, each relative to the manifest, or a URL;
``slide_id`` names its results, ``mpp`` is its um per level-0 pixel. Other columns are carried
along as text.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config import LocalPath
from pipeline.errors import ConfigError, MissingExtraError, one_line
from pipeline.files import places
from pipeline.files.ids import safe_id
from pipeline.files.urls import beside, is_url, private, shown, split
from pipeline.slide.scale import wanted_mpp

__all__ = ["KNOWN", "Listed", "is_manifest", "read_manifest"]

KNOWN = ("slide_id", "image_path", "mpp", "mask_path")
"""The columns that a run understands."""

_CSV, _PARQUET = ".csv", ".parquet"

_MOST_BYTES, _MOST_ROWS = 2**28, 2**21
"""Of a manifest: two million slides in CSV; a few bytes of Parquet may claim any number."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A slide as it is named: what a manifest says of it, ``where`` in it that is.

    ``columns`` are the others of its manifest.
    """

    path: str
    where: str = ""
    slide_id: str | None = None
    mpp: float | None = None
    mask: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)


def is_manifest(given: str) -> bool:
    """Say whether a path or URL is called as manifests are.

    >>> is_manifest("slides.CSV"), is_manifest("https://host/a.parquet?x=1"), is_manifest("a.svs")
    (True, True, False)
    """
    return _ending(given) in (_CSV, _PARQUET)


def read_manifest(origin: str) -> tuple[list[Listed], list[str]]:
    """Give the slides of a manifest, and a line of text for everything that is wrong with it.

    Where something is, the slides are no more than what may be there twice.

    Raises `MissingExtraError` for Parquet without pyarrow, for a URL without obstore.
    """
    listed: list[Listed] = []
    problems: list[str] = []
    try:
        rows = _rows(origin)
        place, columns = next(rows, ("line 1", []))
        problems += [f"{shown(origin)}: {place}: {each}" for each in _wrong_columns(columns)]
        if "image_path" not in columns:
            return [], problems
        for place, cells in rows:
            where = f"{shown(origin)}: {place}"
            if len(cells) != len(columns):
                wrong = ["not as many cells as there are columns; quote commas"]
            else:
                row = dict(zip(columns, cells, strict=True))
                wrong = _wrong_cells(row, origin)
                # A row that is wrong may name what another one does, which is to be said as well.
                listed.append(_listed({**row, "mpp": ""} if wrong else row, where, origin))
            problems += [f"{where}: {each}" for each in wrong]
    except OSError as error:
        problems.append(f"{shown(origin)}: {error.strerror}; name a manifest (CSV or Parquet)")
    except ConfigError as error:
        problems.append(f"{shown(origin)}: {error}")
    if not listed and not problems:
        problems.append(f"{shown(origin)}: names no slide; give one a line")
    return listed, problems


def _ending(given: str) -> str:
    return Path(split(given)[2] if is_url(given) else given).suffix.lower()


# -- what is wrong ------------------------------------------------------------------------


def _wrong_columns(columns: Sequence[str]) -> list[str]:
    if "image_path" not in columns:
        there = ", ".join(column for column in columns if column) or "none"
        return [f"no column image_path; it has: {there}"]
    twice = [name for name in dict.fromkeys(columns) if name and columns.count(name) > 1]
    meant = {
        column: known
        for column in columns
        for known in KNOWN
        if column != known and column.lower().replace(" ", "_").replace("-", "_") == known
    }
    return [
        *(f"column {name} is there twice; leave one" for name in twice),
        *(f"column {column} would not be used; call it {known}" for column, known in meant.items()),
    ]


def _wrong_cells(row: Mapping[str, str], origin: str) -> list[str]:
    wrong = [] if row["image_path"] else ["no image_path; name the slide"]
    for name in ("image_path", "mask_path"):
        cell = row.get(name, "")
        if "\0" in cell:
            wrong.append(f"{name}: {cell!r} is no path; save the manifest again as CSV UTF-8")
        elif is_url(origin) and not is_url(cell) and ".." in cell.split("/"):
            wrong.append(f"{name}: {cell} leaves the manifest's folder; give its URL")
    slide_id, mpp = row.get("slide_id", ""), row.get("mpp", "")
    if slide_id and slide_id != safe_id(slide_id):
        wrong.append(f"slide_id {slide_id!r} cannot name a folder; use {safe_id(slide_id)}")
    return [*wrong, *_wrong_mpp(mpp)] if mpp else wrong


def _wrong_mpp(text: str) -> Iterator[str]:
    try:
        wanted_mpp(float(text))
    except ConfigError as error:
        yield str(error)
    except ValueError:
        yield f"mpp: {text!r} is no number; give um per pixel"


def _listed(row: Mapping[str, str], where: str, origin: str) -> Listed:
    """Give what a row says."""
    mpp, mask = row.get("mpp"), row.get("mask_path")
    return Listed(
        _resolved(row["image_path"], origin),
        where,
        row.get("slide_id") or None,
        float(mpp) if mpp else None,
        _resolved(mask, origin) if mask else None,
        # They go into files that others read: a signed URL loses its signature here.
        {name: shown(cell) for name, cell in row.items() if name and name not in KNOWN},
    )


def _resolved(name: str, origin: str) -> str:
    if not name or is_url(name):
        return private(name)
    if is_url(origin) and not name.startswith(("/", "~")):
        return private(beside(origin, name))
    return str(LocalPath().resolve(name, Path() if is_url(origin) else Path(origin).parent))


# -- rows ---------------------------------------------------------------------------------


def _rows(origin: str) -> Iterator[tuple[str, list[str]]]:
    """Give where each row is and its cells as text, first of all the names of the columns.

    Raises `OSError` where there is no such file, `ConfigError` where it is damaged. Rows without
    anything in them, which spreadsheets leave at the end, are left out.
    """
    content = places.read(origin, _MOST_BYTES)
    rows = _parquet_rows(content) if _ending(origin) == _PARQUET else _csv_rows(content)
    for place, cells in rows:
        stripped = [cell.strip() for cell in cells]
        if any(stripped):
            yield place, stripped


def _csv_rows(content: bytes) -> Iterator[tuple[str, list[str]]]:
    try:
        text = io.StringIO(content.decode("utf-8-sig"), newline="")
    except UnicodeDecodeError as error:
        raise ConfigError("not UTF-8 text; save the manifest as CSV UTF-8") from error
    rows = csv.reader(text, strict=True)
    line = 1
    try:
        for cells in rows:
            yield f"line {line}", cells
            line = rows.line_num + 1  # quoted cells may hold line breaks
    except csv.Error as error:
        raise ConfigError(
            f"line {line}: {error}; quote cells that hold commas or quotes"
        ) from error


def _parquet_rows(content: bytes) -> Iterator[tuple[str, list[str]]]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError(
            "a manifest in Parquet needs pyarrow, which is not installed; "
            "pip install 'wsi-pipeline[objects]', or save it as CSV"
        ) from error
    try:
        opened = parquet.ParquetFile(pa.BufferReader(content))
        if opened.metadata.num_rows > _MOST_ROWS:
            raise ConfigError(
                f"{opened.metadata.num_rows:,} rows, at most {_MOST_ROWS:,} are read; share the "
                "slides out to several manifests"
            )
        table = opened.read()
        names = [str(name).strip() for name in table.column_names]
        columns = [_as_text(pa, column) for column in table.columns]
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        told = one_line(error)
        raise ConfigError(f"not a table of text and numbers in Parquet ({told:.200})") from error
    yield "columns", names
    for number, cells in enumerate(zip(*columns, strict=True), start=1):
        yield f"row {number}", list(cells)


def _as_text(pa: Any, column: Any) -> list[str]:
    """Give a column as text, in as many digits as tell its numbers; nothing where none is."""
    texts = column.cast(pa.string()).to_pylist()
    missing = (None, "nan") if pa.types.is_floating(column.type) else (None,)
    return ["" if text in missing else text for text in texts]
