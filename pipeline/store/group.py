"""One slide's group: begun, looked at, withdrawn, committed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec
from zarr.core.sync import sync

from pipeline.errors import StaleStoreError, StoreError
from pipeline.ngff import VERSION, Placement, image_metadata, label_metadata
from pipeline.store.array import StoredArray, keys
from pipeline.store.damage import tells_the_store
from pipeline.store.layout import LABEL_CHUNK, Layout

__all__ = [
    "Look",
    "begin",
    "commit",
    "look",
    "read_coverage",
    "read_placements",
    "read_tissue",
    "stored_outputs",
    "withdraw",
]

FORMAT = 1
"""Version of what is in the ``wsi_pipeline`` attribute."""

_ATTRIBUTE = "wsi_pipeline"
_PARTIAL = ".partial"
_COMPRESSOR = ZstdCodec(level=1)


@tells_the_store
def begin(
    path: str,
    layout: Layout,
    settings: Mapping[str, Any],
    provenance: Mapping[str, Any],
    tissue: NDArray[np.bool_],
) -> None:
    """Make the store, or find that it was begun with the same ``settings``.

    Raises `StaleStoreError` naming the first setting that differs, what it was and what it
    is; `StoreError` where ``path`` holds something else.
    """
    begun = look(path)
    if begun is not None and begun.settings is not None:
        _check_settings(path, begun.settings, settings)
        return
    # Arrays first, settings last: a store killed in between has no settings and is remade.
    group = zarr.open_group(path, mode="w", attributes={_ATTRIBUTE: {"format": FORMAT}})
    for grid, name in zip(layout.grids, map(str, range(len(layout.grids))), strict=True):
        group.create_array(
            name,
            shape=(len(layout.channels), *grid.shape),
            dtype=layout.dtype,
            chunks=(1, layout.chunk, layout.chunk),
            shards=(len(layout.channels), grid.cell, grid.cell),
            compressors=_COMPRESSOR,
            fill_value=layout.window[0],
            dimension_names=("c", "y", "x"),
        )
    group.create_array(
        "coverage", shape=layout.grid.counts, dtype="uint8", chunks=layout.grid.counts
    )
    _write_tissue(group, layout, tissue)
    group.attrs.update(
        {
            _ATTRIBUTE: {
                "format": FORMAT,
                "settings": dict(settings),
                "provenance": dict(provenance),
                "channels": list(layout.channels),
            }
        }
    )


@tells_the_store
def withdraw(path: str) -> None:
    """Take back a commit, because blocks are about to change: the store is unfinished again."""
    group = zarr.open_group(path, mode="r+")
    if "ome" in group.attrs:
        del group.attrs["ome"]


@tells_the_store
def commit(
    path: str, layout: Layout, coverage: NDArray[np.uint8], record: Mapping[str, Any]
) -> None:
    """Write the coverage, then the metadata that makes the group an OME-Zarr image.

    ``record`` joins the store's attributes: failures, seconds, memory.
    """
    group = zarr.open_group(path, mode="r+")
    zarr.open_array(path, path="coverage", mode="r+")[:] = coverage
    for key in keys(path, ""):
        if key.endswith(_PARTIAL):  # left by a writer that was killed
            sync(group.store.delete(key))
    own: Any = group.attrs[_ATTRIBUTE]
    group.attrs[_ATTRIBUTE] = {**own, **record}
    levels = Placement.pyramid(layout.mpp, layout.step, len(layout.grids))
    group.attrs["ome"] = image_metadata(Path(path).stem, levels, layout.channels, layout.window)


@dataclass(frozen=True)
class Look:
    """What can be seen of a store without reading an array."""

    settings: Mapping[str, Any] | None
    committed: bool
    attributes: Mapping[str, Any]


@tells_the_store
def look(path: str) -> Look | None:
    """Look at a store; None where there is nothing. `StoreError` where it is not one of ours."""
    folder = Path(path)
    if not folder.exists() or (folder.is_dir() and _only_leftovers(folder)):
        return None
    try:
        attributes = zarr.open_group(path, mode="r").attrs.asdict()
    except (FileNotFoundError, zarr.errors.ContainsArrayError) as error:
        raise StoreError(f"{path}: exists and is not a results store; move it away") from error
    own: Any = attributes.get(_ATTRIBUTE)
    if not isinstance(own, dict):
        raise StoreError(f"{path}: a zarr group of another program; move it away")
    if own.get("format") != FORMAT:
        raise StoreError(f"{path}: store format {own.get('format')}, this version knows {FORMAT}")
    return Look(own.get("settings"), "ome" in attributes, own)


@tells_the_store
def stored_outputs(path: str) -> tuple[StoredArray, ...]:
    """Give the tokens of a store's levels, finest first, from its own metadata."""
    group = zarr.open_group(path, mode="r")
    arrays = sorted(
        ((name, array) for name, array in group.arrays() if name.isdigit()),
        key=lambda found: int(found[0]),
    )
    return tuple(
        StoredArray(
            store=path,
            name=name,
            plane=(array.shape[1], array.shape[2]),
            channels=array.shape[0],
            kind=str(array.dtype),
            block=(array.shards or array.chunks)[1],
            chunk=array.chunks[1],
            background=float(array.fill_value),
        )
        for name, array in arrays
    )


@tells_the_store
def read_placements(path: str) -> tuple[Placement, ...]:
    """Give where each committed level lies, as the store's metadata say."""
    ome: Any = zarr.open_group(path, mode="r").attrs.get("ome")
    if ome is None:
        raise StoreError(f"{path}: is not finished; run again")
    return tuple(
        Placement.parse(dataset["coordinateTransformations"])
        for dataset in ome["multiscales"][0]["datasets"]
    )


@tells_the_store
def read_coverage(path: str) -> NDArray[np.uint8]:
    """Give the committed coverage ``(rows, columns)``."""
    return np.asarray(zarr.open_array(path, path="coverage", mode="r")[:], np.uint8)


@tells_the_store
def read_tissue(path: str) -> NDArray[np.bool_]:
    """Give the tissue mask ``(y, x)`` the store was begun with."""
    return np.asarray(zarr.open_array(path, path="labels/tissue/0", mode="r")[:], bool)


def _only_leftovers(folder: Path) -> bool:
    """Say whether a killed `begin` got no further than making the folder."""
    return all(entry.name.endswith(_PARTIAL) for entry in folder.iterdir())


def _check_settings(path: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    missing = "not set"
    for name in sorted({*was, *now}):
        before, after = was.get(name, missing), now.get(name, missing)
        if before != after:
            raise StaleStoreError(
                f"{path}: was begun with {name} = {before!r}, now {name} = {after!r}; "
                "use another output directory, remove the store, or set it back"
            )


def _write_tissue(group: zarr.Group, layout: Layout, mask: NDArray[np.bool_]) -> None:
    """Write the mask as a label image of as many levels as the image has, as OME-Zarr asks."""
    labels = group.create_group("labels")
    labels.attrs["ome"] = {"version": VERSION, "labels": ["tissue"]}
    tissue = labels.create_group("tissue")
    level = mask.astype(np.uint8)
    for i in range(len(layout.grids)):
        array = tissue.create_array(
            str(i),
            shape=level.shape,
            dtype="uint8",
            chunks=tuple(min(n, LABEL_CHUNK) for n in level.shape),
            compressors=_COMPRESSOR,
            dimension_names=("y", "x"),
        )
        array[:] = level
        # The largest of 2 x 2: an average of labels is not a label.
        even = np.pad(level, [(0, n % 2) for n in level.shape])
        level = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2).max(axis=(1, 3))
    levels = Placement.pyramid(layout.mpp, layout.label_step, len(layout.grids))
    tissue.attrs["ome"] = label_metadata("tissue", levels)
