"""The directories of a TIFF or BigTIFF, read once, with every claim checked against the file.

TIFF 6.0 (Adobe, 1992), section 2, and the BigTIFF design (https://www.awaresystems.be/imaging/
tiff/bigtiff.html). Only tags that say where and how pixels are stored are decoded; arrays of
tile offsets stay in the file until they are asked for (`Directory.array`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SlideError
from pipeline.readers.ranges import Bytes

__all__ = ["DAMAGED", "Directory", "Tag", "read_directories"]

MOST_DIRECTORIES = 1024
"""More than any slide has: a pyramid of each of a few hundred channels."""

MOST_TAGS = 1024
MOST_VALUE_BYTES = 2**28
"""No tag needs more: the offsets of 32 million tiles."""

DAMAGED = "the file is damaged; copy it again from where it comes from"

# Type -> (bytes, numpy kind without byte order); rationals are two numbers.
_TYPES = {
    1: "u1",
    2: "S1",
    3: "u2",
    4: "u4",
    5: "u4,u4",
    6: "i1",
    7: "u1",
    8: "i2",
    9: "i4",
    10: "i4,i4",
    11: "f4",
    12: "f8",
    13: "u4",
    16: "u8",
    17: "i8",
    18: "u8",
}


@dataclass(frozen=True, slots=True)
class Tag:
    """Where a tag's values are: ``count`` of a TIFF ``kind`` at ``offset`` of the file."""

    kind: int
    count: int
    offset: int


@dataclass(frozen=True, slots=True)
class _Form:
    """What tells classic TIFF from BigTIFF."""

    order: str
    count_bytes: int
    entry_bytes: int
    offset_bytes: int


class Directory:
    """One image file directory (IFD); values are read when they are asked for."""

    def __init__(self, file: Bytes, order: str, tags: dict[int, Tag]) -> None:
        self._file = file
        self._order = order
        self._tags = tags

    def __contains__(self, code: int) -> bool:
        return code in self._tags

    def array(self, code: int) -> NDArray[Any]:
        """Give a tag's values as a one-dimensional array; empty where it has none.

        Raises `SlideError` where they are not in the file.
        """
        tag = self._tags.get(code)
        if tag is None or not tag.count:
            return np.empty(0, np.uint8)
        kind = np.dtype(
            [(f"f{i}", self._order + k) for i, k in enumerate(_TYPES[tag.kind].split(","))]
        )
        size = tag.count * kind.itemsize
        if size > MOST_VALUE_BYTES or tag.offset + size > self._file.size:
            raise SlideError(
                f"{self._file.name}: TIFF tag {code} claims {tag.count} values at byte "
                f"{tag.offset} of {self._file.size}; {DAMAGED}"
            )
        values = np.frombuffer(self._file.read(tag.offset, size), kind)
        return values if len(_TYPES[tag.kind]) > 2 else values["f0"]

    def integers(self, code: int, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Give a tag's values as integers; `SlideError` where they are no integers."""
        values = self.array(code)
        if not values.size:
            return default
        if values.dtype.kind not in "ui":
            raise SlideError(f"{self._file.name}: TIFF tag {code} is no integer; {DAMAGED}")
        return tuple(values.tolist())

    def integer(self, code: int, default: int) -> int:
        """Give a tag's first value as an integer."""
        return self.integers(code, (default,))[0]

    def number(self, code: int) -> float | None:
        """Give a tag's first value as a number, a rational divided; None where there is none."""
        values = self.array(code)
        if not values.size or values.dtype.kind == "S":
            return None
        first = values[0]
        if values.dtype.names is None:
            return float(first)
        return float(first[0]) / float(first[1]) if first[1] else None

    def text(self, code: int) -> str:
        """Give a tag's text, up to its end mark; empty where there is none."""
        values = self.array(code)
        if values.dtype.names is not None or values.dtype.itemsize != 1:
            return ""
        return values.tobytes().partition(b"\0")[0].decode("utf-8", "replace")

    def raw(self, code: int) -> bytes:
        """Give a tag's bytes as they are."""
        return self.array(code).tobytes()


def read_directories(file: Bytes) -> list[Directory]:
    """Give a file's directories in the order of their chain.

    Raises `SlideError` where it is no TIFF, or one that contradicts itself.
    """
    form, first = _header(file)
    return list(_chain(file, form, first))


def sub_directories(file: Bytes, parent: Directory) -> list[Directory]:
    """Give the directories that a directory names as parts of its own (SubIFDs)."""
    form, _ = _header(file)
    offsets = parent.integers(SUB_IFDS)
    if len(offsets) > MOST_DIRECTORIES:
        raise SlideError(f"{file.name}: {len(offsets)} TIFF SubIFDs; {DAMAGED}")
    return [_directory(file, form, offset)[0] for offset in offsets]


SUB_IFDS = 330


def _header(file: Bytes) -> tuple[_Form, int]:
    start = file.read(0, min(16, file.size))
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    version = _number(start, 2, 2, order) if order and len(start) >= 8 else 0
    if order and version == 42:
        return _Form(order, 2, 12, 4), _number(start, 4, 4, order)
    if order and version == 43 and len(start) == 16:
        return _Form(order, 8, 20, 8), _number(start, 8, 8, order)
    raise SlideError(f"{file.name}: not a TIFF; check that it is a slide, and whole")


def _chain(file: Bytes, form: _Form, offset: int) -> Iterator[Directory]:
    seen: set[int] = set()
    while offset:
        if offset in seen or len(seen) == MOST_DIRECTORIES:
            raise SlideError(
                f"{file.name}: its TIFF directories form a circle, or are more than "
                f"{MOST_DIRECTORIES}; {DAMAGED}"
            )
        seen.add(offset)
        directory, offset = _directory(file, form, offset)
        yield directory


def _directory(file: Bytes, form: _Form, offset: int) -> tuple[Directory, int]:
    count = _number(_part(file, offset, form.count_bytes), 0, form.count_bytes, form.order)
    if count > MOST_TAGS:
        raise SlideError(f"{file.name}: a TIFF directory of {count} tags at {offset}; {DAMAGED}")
    start = offset + form.count_bytes
    entries = _part(file, start, count * form.entry_bytes + form.offset_bytes)
    tags: dict[int, Tag] = {}
    for i in range(count):
        at = i * form.entry_bytes
        code, tag = _tag(entries, at, start, form)
        if tag is not None:
            tags.setdefault(code, tag)
    following = _number(entries, count * form.entry_bytes, form.offset_bytes, form.order)
    return Directory(file, form.order, tags), following


def _tag(entries: bytes, at: int, start: int, form: _Form) -> tuple[int, Tag | None]:
    order, wide = form.order, form.offset_bytes
    code, kind = _number(entries, at, 2, order), _number(entries, at + 2, 2, order)
    count = _number(entries, at + 4, wide, order)
    if kind not in _TYPES:
        return code, None  # TIFF 6.0: readers skip fields of a type they do not know
    size = count * sum(int(part[1]) for part in _TYPES[kind].split(","))
    # Values that fit are in the entry itself.
    inside = start + at + 4 + wide
    offset = inside if size <= wide else _number(entries, at + 4 + wide, wide, order)
    return code, Tag(kind, count, offset)


def _part(file: Bytes, offset: int, length: int) -> bytes:
    if offset + length > file.size:
        raise SlideError(
            f"{file.name}: a TIFF directory at byte {offset} of {file.size}; {DAMAGED}"
        )
    return file.read(offset, length)


def _number(data: bytes, at: int, size: int, order: str) -> int:
    return int.from_bytes(data[at : at + size], "little" if order == "<" else "big")
