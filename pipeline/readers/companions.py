"""Which files a remote slide consists of: one, or one and those it names or lies beside."""

from __future__ import annotations

import configparser
import re
from collections.abc import Callable
from pathlib import PurePosixPath

from pipeline.errors import SlideError, one_line
from pipeline.files import cloud
from pipeline.files.urls import beside, file_name, shown
from pipeline.readers.remote import RemoteBytes

__all__ = ["files_of"]

_MOST_INI_BYTES = 2**24


def files_of(url: str) -> tuple[str, dict[str, RemoteBytes]]:
    """Give the name of the file to open, and all files by their names beside it.

    A MIRAX or Hamamatsu VMS slide names its companions; a DICOM one is every file in its
    folder. Raises `SlideError` where one is not there.
    """
    main = file_name(url)
    ending = PurePosixPath(main).suffix.lower()
    names = [main]
    if ending in (".dcm", ".dicom"):
        names += _beside_all(beside(url, ""))
    if ending in _NAMING:
        names += _NAMING[ending](url, main)
    return main, {name: RemoteBytes(beside(url, name)) for name in dict.fromkeys(names)}


def _beside_all(folder: str) -> list[str]:
    try:
        return [name for name in cloud.names(folder) if not name.endswith("/")]
    except OSError as error:
        raise SlideError(f"{shown(folder)}: {error.strerror}") from error


def _mirax(url: str, main: str) -> list[str]:
    folder = PurePosixPath(main).stem
    ini = f"{folder}/Slidedat.ini"
    found = _read_ini(beside(url, ini))
    names = [found.get("hierarchical", {}).get("indexfile") or "Index.dat"]
    names += [
        value or "" for key, value in found.get("datafile", {}).items() if _DATA_FILE.match(key)
    ]
    return [ini, *(f"{folder}/{_inside(url, name)}" for name in names)]


def _vms(url: str, _main: str) -> list[str]:
    values = [value or "" for section in _read_ini(url).values() for value in section.values()]
    endings = (".jpg", ".jpeg", ".opt", ".ngr")
    return [_inside(url, value) for value in values if value.lower().endswith(endings)]


_DATA_FILE = re.compile(r"file_\d+$")

_NAMING: dict[str, Callable[[str, str], list[str]]] = {
    ".mrxs": _mirax,
    ".vms": _vms,
    ".vmu": _vms,
}
"""Ending -> what gives the names of a slide's companions."""


def _read_ini(url: str) -> dict[str, dict[str, str | None]]:
    """Give section -> key -> value, sections and keys in lower case."""
    file = RemoteBytes(url)
    parsed = configparser.RawConfigParser(strict=False, allow_no_value=True)
    try:
        text = file.read(0, min(file.size, _MOST_INI_BYTES)).decode("utf-8-sig", "replace")
        parsed.read_string(text)
    except configparser.Error as error:
        line = one_line(error)
        raise SlideError(
            f"{file.name}: does not name the slide's files: {line}; copy the slide again"
        ) from error
    return {section.lower(): dict(parsed.items(section)) for section in parsed.sections()}


def _inside(url: str, name: str) -> str:
    """Give a name that a slide's own file gives, where it stays beside it."""
    path = PurePosixPath(name.strip().replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise SlideError(f"{shown(url)}: names a file outside its folder, {name!r}; do not open it")
    return str(path)
