"""Which reader is the right one for a slide, decided once, when it is opened, and said why.

OpenSlide is the reader of record. The direct reader takes its place only where it gives the
same pixels on this very file, on samples of every level; and where OpenSlide has nothing to
say: files it refuses, and URLs, which it does not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import SlideError
from pipeline.files.urls import is_url, shown
from pipeline.geometry import Box
from pipeline.readers import LevelInfo, Metadata, open_reader

if TYPE_CHECKING:
    from pipeline.readers.openslide import OpenSlideReader
    from pipeline.readers.tiff import TiffReader

__all__ = ["AUTO", "Choice", "choose"]

AUTO = "auto"

SAMPLE = 256
"""Side of a sample; most lie across a corner where four tiles meet."""

_EQUAL = "it gives OpenSlide's pixels{} on samples of every level"

_PLACES = 5
_HARMLESS = 1e-3
"""Part of a pixel by which a region may begin beside one without OpenSlide resampling it:
measured, 0.001 changes no value by more than 1, 0.02 some by 6."""


@dataclass(frozen=True)
class Choice:
    """A slide's reader, why it is that one, and what the file says of itself."""

    reader: str
    reason: str
    metadata: Metadata


def choose(path: str, reader: str = AUTO) -> Choice:
    """Choose the reader for the slide at ``path``; another than ``auto`` is taken as asked for.

    Raises `SlideError` where no reader can open it, saying why the likeliest cannot.
    """
    if reader != AUTO:
        return Choice(reader, "asked for", _metadata(path, reader))
    named = _by_kind(path)
    if named is not None:
        return Choice(*named, _metadata(path, named[0]))
    if is_url(path):
        return _for_url(path)
    from pipeline.readers.openslide import open_reader as open_record

    try:
        record = open_record(path)
    except SlideError as error:
        return _without_openslide(path, error)
    with closing(record):
        exact, reason = _compared(path, record)
        return Choice("tiff" if exact else "openslide", reason, record.metadata)


def _by_kind(path: str) -> tuple[str, str] | None:
    """Give the reader of a kind of slide that only one reads, and why; else None."""
    from pipeline.readers.multiscales import is_ome_zarr

    return ("zarr", "an OME-Zarr") if is_ome_zarr(path) else None


def _for_url(path: str) -> Choice:
    from pipeline.readers.openslide import open_reader as open_record

    try:
        metadata = _metadata(path, "tiff")
    except SlideError as error:
        why = _reason(shown(path), error)
        with closing(open_record(path)) as record:
            return Choice("openslide", f"{why}; {record.copied}", record.metadata)
    return Choice(
        "tiff", "over the network, tile by tile; OpenSlide, which reads files, has no say", metadata
    )


def _without_openslide(path: str, refused: SlideError) -> Choice:
    """Choose for a file that OpenSlide refuses; raise its reason where nobody else reads it."""
    from pipeline.readers.dicom import is_dicom

    other = "dicom" if is_dicom(path) else "tiff"
    try:
        metadata = _metadata(path, other) if other == "dicom" else _whole_tiff(path)
    except SlideError as error:
        if other == "tiff" and not _is_tiff(path):
            raise refused from None
        raise error from refused
    return Choice(other, "OpenSlide does not read this file", metadata)


def _whole_tiff(path: str) -> Metadata:
    from pipeline.readers.tiff import open_reader as open_tiff

    with closing(open_tiff(path)) as direct:
        direct.check_whole()
        return direct.metadata


def _is_tiff(path: str) -> bool:
    if not Path(path).is_file():
        return False
    with Path(path).open("rb") as file:
        return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _metadata(path: str, reader: str) -> Metadata:
    with closing(open_reader(path, reader)) as opened:
        return opened.metadata


def _compared(path: str, record: OpenSlideReader) -> tuple[bool, str]:
    """Say whether the direct reader reads this slide as OpenSlide does, and why or why not."""
    from pipeline.readers.tiff import open_reader as open_tiff

    if not _is_tiff(path):
        return False, "no TIFF, which alone the direct reader reads"
    try:
        direct = open_tiff(path)
    except SlideError as error:
        return False, _reason(path, error)
    with closing(direct):
        try:
            ours, theirs = direct.metadata.levels, record.metadata.levels
            if [each.shape for each in ours] != [each.shape for each in theirs]:
                return False, (
                    f"the direct reader finds {len(ours)} levels, and not of the sizes of "
                    f"OpenSlide's {len(theirs)}"
                )
            difference = next(_differences(direct, record), None)
        except SlideError as error:
            return False, f"a sample cannot be read: {_reason(path, error)}"
        if difference:
            return False, f"the direct reader differs from OpenSlide by {difference}"
        return True, _EQUAL.format(f" to {direct.rounding} of 255" if direct.rounding else "")


def _differences(direct: TiffReader, record: OpenSlideReader) -> Iterator[str]:
    """Say of each sample that differs by more than rounding where it is, and by how much."""
    for number, level in enumerate(direct.metadata.levels):
        allowed = direct.rounding + (not record.downsamples[number].is_integer())
        for box in [*_samples(level, record.downsamples[number]), *direct.missing(number)]:
            given, expected = direct.read(number, box), record.region(number, box)
            most = int(np.abs(given.astype(np.int16) - expected).max(initial=0))
            if most > allowed:
                yield f"{most} at level {number}, row {box.y}, column {box.x}"


def _samples(level: LevelInfo, downsample: float) -> Iterator[Box]:
    """Give boxes all over a level, the same for equal levels."""
    rows, columns = (
        _starts(n, tile, downsample) for n, tile in zip(level.shape, level.tile, strict=True)
    )
    count = max(len(rows), len(columns))
    for i in range(count):
        for y, x in {(i, i), (i, i + count // 2)}:  # the diagonal, and off it
            box = Box(rows[y % len(rows)], columns[x % len(columns)], SAMPLE, SAMPLE)
            yield box.clipped(level.shape)


def _starts(n: int, tile: int, downsample: float) -> list[int]:
    """Give where samples begin along an axis of ``n`` pixels, first and last among them.

    Each lies across a border of tiles. Where OpenSlide's downsample is no whole number only
    places are taken that it does not resample: those whose level-0 position is nearly whole.

    >>> _starts(2000, 256, 1.0)
    [0, 384, 896, 1408, 1744]
    >>> _starts(2221, 256, 2.0005055500659967)
    [0, 3, 1977, 1979, 1982]
    """
    if downsample.is_integer():
        borders = np.arange(max(n // tile, 1)) * tile + tile - SAMPLE // 2
        places = np.unique([0, *borders.clip(0, max(n - SAMPLE, 0)), max(n - SAMPLE, 0)])
    else:
        every = np.arange(n)
        off = np.abs(np.round(every * downsample) / downsample - every)
        places = every[off <= _HARMLESS]
    chosen = np.linspace(0, len(places) - 1, min(len(places), _PLACES)).round().astype(int)
    return [int(place) for place in places[chosen]]


def _reason(path: str, error: SlideError) -> str:
    """Give what an error says without the path it begins with and what to do about it."""
    return str(error).removeprefix(f"{path}: ").partition(";")[0]
