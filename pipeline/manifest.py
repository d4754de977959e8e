"""Which slides a run has, and what their results are called."""

from __future__ import annotations

import glob
import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from pipeline.results import safe_id

__all__ = ["Job", "jobs"]

SLIDE_ENDINGS = (
    *(".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn"),
    *(".vms", ".vmu", ".bif", ".svslide"),
)
"""What counts as a slide where a folder is given; a pattern may name anything."""


@dataclass(frozen=True, slots=True)
class Job:
    """One slide of a run and the id its results have."""

    slide_id: str
    path: str


def jobs(config: RunConfig) -> tuple[Job, ...]:
    """Give the slides of a run with their ids, in order.

    Slides of one name in several folders get ids that differ by a digest of their path.
    Raises `ConfigError` where a pattern finds nothing.
    """
    given = [config.slides] if isinstance(config.slides, str) else config.slides
    paths = list(dict.fromkeys(path for each in given for path in _expand(each)))
    # File systems that ignore case would put two ids into one store.
    stems = Counter(safe_id(Path(path).stem).lower() for path in paths)
    return tuple(Job(_unique(path, stems), path) for path in paths)


def _unique(path: str, stems: Counter[str]) -> str:
    stem = safe_id(Path(path).stem)
    if stems[stem.lower()] == 1:
        return stem
    return f"{stem}-{hashlib.sha256(path.encode()).hexdigest()[:8]}"


def _expand(given: str) -> list[str]:
    path = Path(given)
    if path.is_dir():
        # Names with a dot first are no slides: macOS leaves ._a.svs beside a.svs.
        found = sorted(
            str(p)
            for p in path.iterdir()
            if p.suffix.lower() in SLIDE_ENDINGS and not p.name.startswith(".")
        )
        if not found:
            raise ConfigError(
                f"slides: {given}: no slide in this folder; endings looked for: "
                f"{' '.join(SLIDE_ENDINGS)}; name others by a pattern"
            )
        return found
    # A name may hold brackets that are no pattern.
    if path.exists() or not glob.has_magic(given):
        return [given]
    found = sorted(glob.glob(given, recursive=True))  # noqa: PTH207 - the pattern is absolute
    if not found:
        raise ConfigError(f"slides: {given}: no file matches; check the pattern")
    return found
