"""The slides that a file, a folder, a pattern or a URL stands for."""

from __future__ import annotations

import contextlib
import glob
import re
from pathlib import Path, PurePosixPath

from pipeline.errors import ConfigError
from pipeline.files import cloud
from pipeline.files.urls import is_url, join, private, shown, split
from pipeline.readers.multiscales import holds_results, is_ome_zarr
from pipeline.readers.series import is_dicom, one_per_slide

__all__ = ["SLIDE_ENDINGS", "is_dicom_folder", "slides_at"]

SLIDE_ENDINGS = (
    *(".svs", ".tif", ".tiff", ".btf", ".qptiff", ".ndpi", ".mrxs", ".scn"),
    *(".vms", ".vmu", ".bif", ".svslide", ".dcm"),
)
"""What counts as a slide where a folder is given; a pattern may name anything."""


def slides_at(given: str) -> list[str]:
    """Give the slides that a path or URL names, as a file, a folder or a pattern.

    Raises `ConfigError` where there is none.
    """
    if is_url(given):
        return _at_url(given)
    try:
        return _on_disk(given)
    except OSError as error:
        raise ConfigError(f"slides: {given}: {error.strerror}") from error


def _on_disk(given: str) -> list[str]:
    path = Path(given)
    if path.is_dir() and not is_ome_zarr(given):
        found = sorted(str(p) for p in path.iterdir() if _may_be_slide(p))
        if not found:
            raise _none_in(given)
        return one_per_slide(found)
    # A name may hold brackets that are no pattern.
    if path.exists() or not glob.has_magic(given):
        return [given]
    found = sorted(glob.glob(given, recursive=True))  # noqa: PTH207 - the pattern is absolute
    if not found:
        raise ConfigError(f"slides: {given}: no file matches; check the pattern")
    return one_per_slide(found)


def _may_be_slide(path: Path) -> bool:
    """Say whether what is in a folder of slides is one; results may lie beside them."""
    if path.name.startswith("."):  # macOS leaves ._a.svs beside a.svs
        return False
    if is_dicom_folder(path):
        return True
    if path.suffix.lower() == ".zarr":
        return is_ome_zarr(str(path)) and not holds_results(str(path))
    return path.suffix.lower() in SLIDE_ENDINGS


def is_dicom_folder(path: Path) -> bool:
    """Say whether a folder is one DICOM slide."""
    with contextlib.suppress(OSError):  # a folder that may not be entered: opening it will say
        return path.is_dir() and not is_ome_zarr(str(path)) and is_dicom(str(path))
    return False


def _at_url(given: str) -> list[str]:
    """Give the slide at a URL, those in a folder of a bucket, or those that match a ``*``."""
    scheme, _, key = split(given)
    listed = not scheme.startswith("http")
    wild = listed and "*" in key
    named = PurePosixPath(key).suffix and not given.endswith("/")
    if not wild and (named or not listed or is_ome_zarr(given)):
        return [private(given)]
    folder = given.partition("*")[0].rpartition("/")[0] if wild else given.rstrip("/")
    try:
        found = _below(folder, given) if wild else _in_folder(folder)
    except OSError as error:
        raise ConfigError(f"slides: {shown(given)}: {error.strerror}") from error
    if not found:
        if wild:
            raise ConfigError(f"slides: {given}: no object matches; check the pattern")
        raise _none_in(shown(given))
    return [join(folder, name) for name in sorted(found)]


def _in_folder(folder: str) -> list[str]:
    return [
        name.rstrip("/")
        for name in cloud.names(folder)
        if not name.startswith(".")
        and (
            PurePosixPath(name).suffix.lower() in SLIDE_ENDINGS
            or (name.endswith(".zarr/") and not holds_results(join(folder, name.rstrip("/"))))
        )
    ]


def _below(folder: str, pattern: str) -> list[str]:
    """Give what matches: ``*`` is any part of a name, ``**/`` any folders."""
    parts = re.split(r"(\*\*/|\*)", pattern.removeprefix(f"{folder}/"))
    wild = {"**/": "(?:.*/)?", "*": "[^/]*"}
    matching = re.compile("".join(wild.get(part) or re.escape(part) for part in parts))
    return [name for name, _ in cloud.below(folder) if matching.fullmatch(name)]


def _none_in(folder: str) -> ConfigError:
    return ConfigError(
        f"slides: {folder}: no slide in this folder; endings looked for: "
        f"{' '.join(SLIDE_ENDINGS)} .zarr; name others by a pattern"
    )
