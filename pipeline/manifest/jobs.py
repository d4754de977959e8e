"""Which slides a run has, what their results are called, and what is said of each."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from pipeline.files.ids import safe_id, with_digest
from pipeline.files.urls import is_url, shown, stem
from pipeline.manifest.found import is_dicom_folder, slides_at
from pipeline.manifest.listed import KNOWN, Listed, is_manifest, read_manifest

__all__ = ["Job", "jobs", "manifest_text", "missing"]

_MOST_LINES = 20
"""Problems that are told one by one."""


@dataclass(frozen=True, slots=True)
class Job:
    """One slide of a run and the id its results have.

    ``mpp`` is its um per level-0 pixel and ``mask`` a user's tissue mask (see
    `pipeline.tissue.masks.load_mask`), where a manifest says them. ``columns`` is what else the
    run's manifests say, by column, in order; every job of a run has all of them.
    """

    slide_id: str
    path: str
    mpp: float | None = None
    mask: str | None = None
    # A mapping has no hash, and the others tell jobs apart.
    columns: Mapping[str, str] = field(default_factory=dict, hash=False)


def jobs(config: RunConfig) -> tuple[Job, ...]:
    """Give the slides of a run with their ids, in order.

    Slides of one name in several folders get ids that differ by a digest of their path. A slide
    that a manifest and a pattern both name is what the manifest says. No slide is opened, and
    one that is not there is for `missing` to say.

    Raises `ConfigError` with a line for each problem where a pattern finds nothing or a manifest
    is wrong.
    """
    given = [config.slides] if isinstance(config.slides, str) else config.slides
    named: list[Listed] = []
    problems: list[str] = []
    for each in given:
        listed, wrong = _expand(each)
        named += listed
        problems += wrong
    problems += _twice(named)
    if problems:
        raise ConfigError(_told(problems))
    slides: dict[str, Listed] = {}
    for one in named:
        if one.path not in slides or one.where:
            slides[one.path] = one
    columns = dict.fromkeys(name for one in slides.values() for name in one.columns)
    return tuple(
        Job(
            slide_id, path, one.mpp, one.mask, {name: one.columns.get(name, "") for name in columns}
        )
        for slide_id, (path, one) in zip(_ids([*slides.values()]), slides.items(), strict=True)
    )


def missing(todo: Sequence[Job]) -> list[tuple[Job, str]]:
    """Give the slides that cannot be done as things are, and why: what they need is not there.

    Only what lies on a disk is looked for; a URL is asked for when its slide is opened.
    """
    return [(job, reason) for job in todo if (reason := "; ".join(_absent(job)))]


def manifest_text(todo: Sequence[Job]) -> str:
    """Give the CSV of a manifest that names these slides; nothing secret of a URL is in it.

    It reads back as the same jobs where their URLs have no secret.
    """
    columns = list(dict.fromkeys(name for job in todo for name in job.columns))
    lines = [_line([*KNOWN, *columns])]
    for job in todo:
        mpp = "" if job.mpp is None else repr(job.mpp)
        mask = "" if job.mask is None else shown(job.mask)
        others = [job.columns.get(name, "") for name in columns]
        lines.append(_line([job.slide_id, shown(job.path), mpp, mask, *others]))
    # A file name may be no text: bytes that are not UTF-8 are lone surrogates in Python.
    return "".join(lines).encode("utf-8", "backslashreplace").decode()


def _line(cells: Sequence[str]) -> str:
    row = io.StringIO(newline="")
    # A cell is quoted for the characters of its line's end alone, and read to end at either.
    csv.writer(row, lineterminator="\r\n").writerow(cells)
    return row.getvalue().removesuffix("\r\n") + "\n"


def _expand(given: str) -> tuple[list[Listed], list[str]]:
    """Give the slides that a part of ``slides`` names, and what is wrong with it."""
    if is_manifest(given):
        return read_manifest(given)
    try:
        return [Listed(path) for path in slides_at(given)], []
    except ConfigError as error:
        return [], [str(error)]


def _twice(named: Sequence[Listed]) -> Iterator[str]:
    """Say which rows of manifests name what another one has named."""
    seen: dict[str, str] = {}
    for one in named:
        for what in (one.path, one.slide_id):
            # File systems that ignore case would put two ids into one store; a path is absolute.
            key = what.lower() if what and what == one.slide_id else what
            if one.where and key and seen.setdefault(key, one.where) != one.where:
                file = one.where.rpartition(": ")[0]
                yield (
                    f"{one.where}: {what} is there already, in "
                    f"{seen[key].removeprefix(f'{file}: ')}; name each slide and each slide_id once"
                )
                break


def _told(problems: Sequence[str]) -> str:
    more = len(problems) - _MOST_LINES
    return "\n".join([*problems[:_MOST_LINES], *([f"and {more} more"] if more > 0 else [])])


def _ids(slides: Sequence[Listed]) -> list[str]:
    """Give every slide an id of its own, which does not depend on their order.

    An id that a manifest gives is kept; those that would share one yield.
    """
    stems = [_stem(one) for one in slides]
    known = Counter(shown(one.path) for one in slides)
    # What a URL hides may change from run to run, and counts only where nothing else differs.
    told_by = [one.path[:] if known[shown(one.path)] > 1 else shown(one.path) for one in slides]
    ids, rounds = stems, [0] * len(slides)
    while True:
        taken = Counter(each.lower() for each in ids)
        again = [n for n, each in enumerate(ids) if taken[each.lower()] > 1]
        again = [n for n in again if slides[n].slide_id is None]
        if not again:
            return ids
        ids = [*ids]
        for n in again:
            rounds[n] += 1
            ids[n] = with_digest(stems[n], told_by[n] + f" {rounds[n]}" * (rounds[n] > 1))


def _stem(one: Listed) -> str:
    """Give a slide's id if no other slide has the same."""
    if one.slide_id:
        return one.slide_id
    # A folder of DICOM files may be named by a UID: its last number is no ending.
    whole = not is_url(one.path) and is_dicom_folder(Path(one.path))
    return safe_id(Path(one.path).name if whole else stem(one.path))


def _absent(job: Job) -> Iterator[str]:
    for what, path in (("", job.path), ("tissue mask: ", job.mask)):
        if path is None or is_url(path):
            continue
        try:
            os.stat(path)  # noqa: PTH116 - Path.exists hides some reasons and raises others
        except FileNotFoundError:
            yield f"{path}: {what}no such file; check the path"
        except OSError as error:
            yield f"{path}: {what}{error.strerror}"
