"""The ways of reading a slide, one file each, behind the `Reader` protocol.

A new format is a file here that offers ``open_reader(path)`` and one line in `READERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from pipeline.errors import SlideError
from pipeline.readers.base import LevelInfo, Metadata, Mpp, Reader

__all__ = ["READERS", "LevelInfo", "Metadata", "Mpp", "Reader", "open_reader"]

READERS = {
    "openslide": "pipeline.readers.openslide",
    "tiff": "pipeline.readers.tiff",
    "zarr": "pipeline.readers.ome_zarr",
    "dicom": "pipeline.readers.dicom",
}
"""Name -> module with ``open_reader(path) -> Reader``; imported when first asked for."""


def open_reader(path: str, reader: str) -> Reader:
    """Open the slide at ``path`` with the reader of that name.

    Raises `SlideError` where the file is not there, is not a slide or is broken.
    """
    if reader not in READERS:
        raise SlideError(f"{path}: unknown reader {reader!r}; known: {', '.join(READERS)}")
    open_: Callable[[str], Reader] = import_module(READERS[reader]).open_reader
    return open_(path)
