"""Which patches have features, and where they lie: two small arrays beside the features."""

from __future__ import annotations

from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from pipeline.readers.zarr_stores import zarr_at
from pipeline.store.damage import tells_the_store
from pipeline.store.shards import ALL_CHUNKS, COMPRESSOR

__all__ = ["PATCH_ARRAYS", "PATCH_CHUNK", "PATCH_FILES", "read_patches", "write_patches"]

PATCH_CHUNK = 2**16
"""Rows of a chunk."""

PATCH_ARRAYS = ("index", "coordinates")
"""Arrays that are written."""

PATCH_FILES = len(PATCH_ARRAYS)


@tells_the_store
def write_patches(
    path: str, folder: str, index: NDArray[np.int32], coordinates: NDArray[np.float64]
) -> None:
    """Write, once all is known, ``index`` ``(n, 2)`` (row, column) and ``coordinates`` ``(n, 2)``.

    Coordinates are x and y of the patches' corners, in level-0 pixels.
    """
    group = zarr.open_group(zarr_at(path), path=folder, mode="r+")
    given: tuple[NDArray[Any], ...] = (index, coordinates)
    for name, values in zip(PATCH_ARRAYS, given, strict=True):
        array = group.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            chunks=(min(PATCH_CHUNK, max(len(values), 1)), 2),
            compressors=COMPRESSOR,
            config=ALL_CHUNKS,
            dimension_names=("patch", "row_column" if name == "index" else "x_y"),
            overwrite=True,
        )
        array[:] = values


@tells_the_store
def read_patches(path: str, folder: str) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Give what `write_patches` was given."""
    index, coordinates = (
        np.asarray(zarr.open_array(zarr_at(path), path=f"{folder}/{name}", mode="r")[:])
        for name in PATCH_ARRAYS
    )
    return index, coordinates
