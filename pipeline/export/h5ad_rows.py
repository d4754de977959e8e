"""Columns of AnnData on disk that grow part by part: arrays, texts, categories.

By https://anndata.readthedocs.io/en/stable/fileformat-prose.html: dataframe and categorical 0.2.0,
array and string-array 0.2.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from pipeline.export.hdf5 import h5py_module

__all__ = ["Categories", "Column", "Frame", "Texts"]

_CHUNK_BYTES = 2**18


class Column:
    """An array of a row per object, of ``width`` columns if it is a matrix."""

    def __init__(self, group: Any, name: str, dtype: DTypeLike, width: int | None = None) -> None:
        cells = () if width is None else (width,)
        size = np.dtype(dtype).itemsize * (width or 1)
        self._rows = group.create_dataset(
            name,
            shape=(0, *cells),
            maxshape=(None, *cells),
            dtype=dtype,
            chunks=(max(1, _CHUNK_BYTES // max(size, 1)), *cells) if width != 0 else None,
        )
        self._rows.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})

    def add(self, values: Any) -> None:
        """Write some more rows."""
        _append(self._rows, np.asarray(values))


class Texts:
    """A text per object."""

    def __init__(self, group: Any, name: str) -> None:
        kind = h5py_module("anndata").string_dtype("utf-8")
        self._rows = group.create_dataset(
            name, shape=(0,), maxshape=(None,), dtype=kind, chunks=(2**14,)
        )
        self._rows.attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})

    def add(self, values: Sequence[str]) -> None:
        """Write some more rows."""
        _append(self._rows, np.array(values, object))


class Categories:
    """One of a few texts per object, or none: a number each, and what the numbers mean."""

    def __init__(self, group: Any, name: str) -> None:
        self._group = group.create_group(name)
        self._group.attrs.update(
            {"encoding-type": "categorical", "encoding-version": "0.2.0", "ordered": False}
        )
        self._codes = Column(self._group, "codes", np.int16)
        self._numbers: dict[str, int] = {}

    def add(self, values: Sequence[str | None]) -> None:
        """Write some more rows."""
        numbers = self._numbers
        codes = [-1 if each is None else numbers.setdefault(each, len(numbers)) for each in values]
        self._codes.add(np.array(codes, np.int16))

    def close(self) -> None:
        """Write what the numbers mean, once all rows are there."""
        Texts(self._group, "categories").add(list(self._numbers))


class Frame:
    """The table ``obs``: the names of its rows; its columns are written into its ``group``."""

    def __init__(self, file: Any, columns: Sequence[str]) -> None:
        self.group = file.create_group("obs")
        order = np.array(list(columns), object)
        kind = h5py_module("anndata").string_dtype("utf-8")
        self.group.attrs.update(
            {"encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": "_index"}
        )
        self.group.attrs.create("column-order", order, dtype=kind)
        self.names = Texts(self.group, "_index")


def _append(rows: Any, values: Any) -> None:
    if len(values):
        start = len(rows)
        rows.resize(start + len(values), axis=0)
        rows[start:] = values
