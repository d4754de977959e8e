"""What a store holds, from its own metadata: arrays, where they lie, coverage and tissue."""

from __future__ import annotations

from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from pipeline.errors import StoreError
from pipeline.ngff import Placement
from pipeline.readers.zarr_stores import zarr_at
from pipeline.store.array import StoredArray
from pipeline.store.damage import tells_the_store

__all__ = [
    "placed_outputs",
    "read_coverage",
    "read_placements",
    "read_tissue",
    "stored_array",
    "stored_outputs",
]


@tells_the_store
def stored_outputs(path: str, folder: str = "") -> tuple[StoredArray, ...]:
    """Give the tokens of an output's levels, finest first, from the store's own metadata."""
    group = zarr.open_group(zarr_at(path), path=folder, mode="r")
    found: list[StoredArray] = []
    # By name and not by a listing: there are also tables, which are no part of zarr's hierarchy.
    while (name := str(len(found))) in group:
        found.append(_token(path, f"{folder}/{name}" if folder else name, group[name]))
    return tuple(found)


@tells_the_store
def stored_array(path: str, name: str) -> StoredArray:
    """Give the token of one level of an output, from its own metadata alone."""
    return _token(path, name, zarr.open_array(zarr_at(path), path=name, mode="r"))


def _token(path: str, name: str, array: Any) -> StoredArray:
    return StoredArray(
        store=path,
        name=name,
        plane=(array.shape[-2], array.shape[-1]),
        channels=1 if array.ndim == 2 else array.shape[0],
        kind=str(array.dtype),
        block=(array.shards or array.chunks)[-1],
        chunk=array.chunks[-1],
        background=float(array.fill_value),
        chunk_channels=1 if array.ndim == 2 else array.chunks[0],
        flat=array.ndim == 2,
    )


@tells_the_store
def read_placements(path: str) -> tuple[Placement, ...]:
    """Give where each committed level lies, as the store's metadata say.

    ``path`` may be that of a label in it, whose metadata are the same.
    """
    ome: Any = zarr.open_group(zarr_at(path), mode="r").attrs.get("ome")
    if ome is None:
        raise StoreError(f"{path}: is not finished; run again")
    return tuple(
        Placement.parse(dataset["coordinateTransformations"])
        for dataset in ome["multiscales"][0]["datasets"]
    )


@tells_the_store
def placed_outputs(path: str, folder: str = "") -> tuple[tuple[StoredArray, Placement], ...]:
    """Give the tokens of an output's committed levels, finest first, and where each lies."""
    placements = read_placements(f"{path}/{folder}" if folder else path)
    if not placements:
        raise ValueError(f"{folder or 'its image'} has no level")
    return tuple(zip(stored_outputs(path, folder), placements, strict=True))


@tells_the_store
def read_coverage(path: str) -> NDArray[np.uint8]:
    """Give the committed coverage ``(rows, columns)``."""
    return np.asarray(zarr.open_array(zarr_at(path), path="coverage", mode="r")[:], np.uint8)


@tells_the_store
def read_tissue(path: str) -> NDArray[np.bool_]:
    """Give the tissue mask ``(y, x)`` the store was begun with."""
    return np.asarray(zarr.open_array(zarr_at(path), path="labels/tissue/0", mode="r")[:], bool)
