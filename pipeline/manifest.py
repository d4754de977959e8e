"""Which slides a run has, what their results are called, and what is said of each.

A manifest is a CSV file whose first line names its columns: ``image_path`` is a slide, relative
to the file, or a URL; ``slide_id`` names its results and ``mpp`` is its um per level-0 pixel,
where they are given. Other columns are for other readers.
"""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import LocalPath, RunConfig
from pipeline.errors import ConfigError
from pipeline.found import is_dicom_folder, slides_at
from pipeline.results import safe_id
from pipeline.scale import wanted_mpp
from pipeline.urls import is_url, private, shown, stem

__all__ = ["Job", "jobs"]

MANIFEST_ENDING = ".csv"
"""What a manifest's name ends with."""


@dataclass(frozen=True, slots=True)
class Job:
    """One slide of a run, the id its results have, and its um per pixel if a manifest says."""

    slide_id: str
    path: str
    mpp: float | None = None


@dataclass(frozen=True, slots=True)
class _Named:
    """A slide as it is named: its id and scale where a manifest gives them."""

    path: str
    slide_id: str | None = None
    mpp: float | None = None
    line: int | None = None

    @property
    def stem(self) -> str:
        """Its id if no other slide has the same."""
        if self.slide_id:
            return self.slide_id
        # A folder of DICOM files may be named by a UID: its last number is no ending.
        whole = not is_url(self.path) and is_dicom_folder(Path(self.path))
        return safe_id(Path(self.path).name if whole else stem(self.path))


def jobs(config: RunConfig) -> tuple[Job, ...]:
    """Give the slides of a run with their ids, in order.

    Slides of one name in several folders get ids that differ by a digest of their path. A slide
    that a manifest and a pattern both name is what the manifest says. Raises `ConfigError` where
    a pattern finds nothing or a manifest is wrong.
    """
    given = [config.slides] if isinstance(config.slides, str) else config.slides
    slides: dict[str, _Named] = {}
    for named in (named for each in given for named in _expand(each)):
        if named.path not in slides or named.line is not None:
            slides[named.path] = named
    # File systems that ignore case would put two ids into one store.
    stems = Counter(named.stem.lower() for named in slides.values())
    return tuple(Job(_unique(named, stems), named.path, named.mpp) for named in slides.values())


def _unique(named: _Named, stems: Counter[str]) -> str:
    if named.slide_id is not None or stems[named.stem.lower()] == 1:
        return named.stem
    return f"{named.stem}-{hashlib.sha256(shown(named.path).encode()).hexdigest()[:8]}"


def _expand(given: str) -> list[_Named]:
    if given.lower().endswith(MANIFEST_ENDING) and not is_url(given):
        return list(_read_manifest(Path(given)))
    return [_Named(path) for path in slides_at(given)]


def _read_manifest(path: Path) -> Iterator[_Named]:
    """Give the slides of a manifest; `ConfigError` names the line that is wrong."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            columns = [column.strip() for column in rows.fieldnames or ()]
            if "image_path" not in columns:
                raise ConfigError(
                    f"{path}: line 1: no column image_path; it has: {', '.join(columns) or 'none'}"
                )
            rows.fieldnames = columns
            seen: dict[str, int] = {}
            for row in rows:
                named = _read_row(path, rows.line_num, row)
                for what in (named.path, named.slide_id and named.slide_id.lower()):
                    if what and seen.setdefault(what, rows.line_num) != rows.line_num:
                        raise ConfigError(
                            f"{path}: line {rows.line_num}: {what} is there already, in line "
                            f"{seen[what]}; name each slide and each slide_id once"
                        )
                yield named
            if not seen:
                raise ConfigError(f"{path}: names no slide; give one a line")
    except csv.Error as error:
        raise ConfigError(f"{path}: line {rows.line_num}: {error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text; save the manifest as CSV UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name a manifest (CSV)") from error


def _read_row(path: Path, line: int, row: Mapping[str, str | None]) -> _Named:
    where = f"{path}: line {line}"
    if None in row or None in row.values():
        raise ConfigError(f"{where}: not as many cells as there are columns; quote commas")
    cells = {column: (cell or "").strip() for column, cell in row.items()}
    image, slide_id, mpp = (cells.get(name, "") for name in ("image_path", "slide_id", "mpp"))
    if not image:
        raise ConfigError(f"{where}: no image_path; name the slide")
    if slide_id and slide_id != safe_id(slide_id):
        raise ConfigError(
            f"{where}: slide_id {slide_id!r} cannot name a folder; use {safe_id(slide_id)}"
        )
    resolved = str(LocalPath().resolve(image, path.parent))
    if is_url(resolved):
        resolved = private(resolved)
    return _Named(resolved, slide_id or None, _number(where, mpp) if mpp else None, line)


def _number(where: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise ConfigError(f"{where}: mpp: {text!r} is no number; give um per pixel") from error
    return wanted_mpp(value, f"{where}: mpp")[0]
