"""Which DICOM files are one slide: those of one series, told from their headers alone.

A DICOM slide is a folder of files, one or more for each level, label and overview. Any of them
stands for the slide; what is read is the series.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import SlideError

__all__ = [
    "ENDING",
    "RESAMPLED",
    "any_file",
    "files_of",
    "finest_is_missing",
    "is_dicom",
    "one_per_slide",
    "series",
]

ENDING = ".dcm"

RESAMPLED = "RESAMPLED"
"""What the fourth value of a coarser level's ImageType says, and level 0's does not."""

_PREAMBLE, _MARK = 128, b"DICM"
_HEADER_BYTES = 2**18
_UID = rb"([0-9.]{1,64})\0?"
_LENGTH = rb"(?:UI[\s\S]\0|[\s\S]\0\0\0)"  # with the value's type, or, in implicit files, without
# Only the file's own series follows its study at once: references to others do not.
_STUDY_AND_SERIES = re.compile(
    rb"\x20\0\x0d\0" + _LENGTH + _UID + rb"\x20\0\x0e\0" + _LENGTH + _UID
)


def is_dicom(path: str) -> bool:
    """Say whether a file begins as DICOM does, or a folder holds such files."""
    if Path(path).is_dir():
        return any(map(is_dicom, _files(path)))
    return _start(path, _PREAMBLE + 4)[_PREAMBLE:] == _MARK


def series(path: str) -> str | None:
    """Give the UID of the series that a DICOM file belongs to; None where it names none."""
    start = _start(path, _HEADER_BYTES)
    found = _STUDY_AND_SERIES.search(start) if start[_PREAMBLE:].startswith(_MARK) else None
    return found[2].decode("ascii") if found else None


def any_file(folder: str) -> str:
    """Give a file of the DICOM slide in a folder: always the same.

    Raises `SlideError` where there is none or there are files of several slides.
    """
    files = _files(folder)
    if not files:
        raise SlideError(
            f"{folder}: is a directory without DICOM files ({ENDING}); "
            "name the slide's own file inside it"
        )
    first: dict[str, str] = {}
    for file in files:
        first.setdefault(series(file) or file, file)
    if len(first) > 1:
        names = ", ".join(Path(file).name for file in list(first.values())[:4])
        raise SlideError(
            f"{folder}: holds DICOM files of {len(first)} slides; name one file of the one you "
            f"mean, such as {names}"
        )
    return files[0]


def files_of(path: str) -> list[str]:
    """Give every file of the slide that a DICOM file, or the folder of one, stands for."""
    file = any_file(path) if Path(path).is_dir() else path
    uid, ending = series(file), Path(file).suffix.lower()
    beside = sorted(str(p) for p in Path(file).parent.iterdir() if p.suffix.lower() == ending)
    return [each for each in beside if each == file or (uid and series(each) == uid)]


def one_per_slide(paths: Iterable[str]) -> list[str]:
    """Give paths with the DICOM files among them replaced by the slides they are of, in order.

    A slide that has a folder of its own is its folder; one of several in a folder is the first
    of its files.
    """
    folders: dict[Path, dict[str, str]] = {}
    slides = []
    for path in paths:
        folder = Path(path).parent
        if Path(path).suffix.lower() == ENDING and folder not in folders:
            folders[folder] = _slides_in(folder)
        slides.append(folders.get(folder, {}).get(path, path))
    return list(dict.fromkeys(slides))


def finest_is_missing(path: str) -> str:
    """Say that the finest level of a series is not its level 0."""
    return (
        f"{path}: the finest level there is was resampled from a finer one, whose file is not "
        "there or cannot be read; copy all files of the series into its folder"
    )


def _slides_in(folder: Path) -> dict[str, str]:
    """Give the slide that each DICOM file of a folder is of."""
    uids = {file: series(file) or file for file in _files(str(folder))}
    first = {uid: file for file, uid in reversed(uids.items())}
    if len(first) == 1:
        return dict.fromkeys(uids, str(folder))
    return {file: first[uid] for file, uid in uids.items()}


def _files(folder: str) -> list[str]:
    # Names with a dot first are no slides: macOS leaves ._a.dcm beside a.dcm.
    return sorted(
        str(p)
        for p in Path(folder).iterdir()
        if p.suffix.lower() == ENDING and not p.name.startswith(".")
    )


def _start(path: str, size: int) -> bytes:
    """Give the first bytes of a file; none where it cannot be read, which opening it will say."""
    with contextlib.suppress(OSError), Path(path).open("rb") as file:
        return file.read(size)
    return b""
