"""One slide's group: begun, looked at, withdrawn, committed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.sync import sync

from pipeline import places
from pipeline.errors import StaleStoreError, StoreError
from pipeline.ngff import ATTRIBUTE, VERSION, Placement, image_metadata, label_metadata
from pipeline.readers.zarr_stores import zarr_at
from pipeline.store.array import StoredArray, keys
from pipeline.store.damage import tells_the_store
from pipeline.store.layout import LABEL_CHUNK, Layout
from pipeline.store.shards import COMPRESSOR
from pipeline.urls import is_url, stem

__all__ = [
    "FORMAT",
    "Look",
    "begin",
    "begun",
    "commit",
    "look",
    "read_coverage",
    "read_placements",
    "read_tissue",
    "stored_outputs",
    "sweep",
    "withdraw",
]

FORMAT = 1
"""Version of what is in the ``wsi_pipeline`` attribute."""

_PARTIAL = ".partial"


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
    if begun(path, settings):
        return
    # Arrays first, settings last: a store killed in between has no settings and is remade.
    group = zarr.open_group(zarr_at(path), mode="w", attributes={ATTRIBUTE: {"format": FORMAT}})
    for grid, name in zip(layout.grids, map(str, range(len(layout.grids))), strict=True):
        group.create_array(
            name,
            shape=(len(layout.channels), *grid.shape),
            dtype=layout.dtype,
            chunks=(1, layout.chunk, layout.chunk),
            shards=(len(layout.channels), grid.cell, grid.cell),
            compressors=COMPRESSOR,
            fill_value=layout.window[0],
            dimension_names=("c", "y", "x"),
        )
    group.create_array(
        "coverage", shape=layout.grid.counts, dtype="uint8", chunks=layout.grid.counts
    )
    _write_tissue(group, layout, tissue)
    group.attrs.update(
        {
            ATTRIBUTE: {
                "format": FORMAT,
                "settings": dict(settings),
                "provenance": dict(provenance),
                "channels": list(layout.channels),
            }
        }
    )


def begun(path: str, settings: Mapping[str, Any], kind: str | None = None) -> bool:
    """Say whether a store was begun; with the same ``settings``, or it is an error."""
    seen = look(path)
    if seen is None or seen.settings is None:
        return False
    if seen.kind != kind:
        holds = "the pixels of a slide" if seen.kind else "the results of a model"
        raise StoreError(f"{path}: holds {holds}; name another place, or move it away")
    _check_settings(path, seen.settings, settings)
    return True


@tells_the_store
def withdraw(path: str) -> None:
    """Take back a commit, because blocks are about to change: the store is unfinished again."""
    group = zarr.open_group(zarr_at(path), mode="r+")
    if "ome" in group.attrs:
        del group.attrs["ome"]


@tells_the_store
def commit(
    path: str, layout: Layout, coverage: NDArray[np.uint8], record: Mapping[str, Any]
) -> None:
    """Write the coverage, then the metadata that makes the group an OME-Zarr image.

    ``record`` joins the store's attributes: failures, seconds, memory.
    """
    group = zarr.open_group(zarr_at(path), mode="r+")
    zarr.open_array(zarr_at(path), path="coverage", mode="r+")[:] = coverage
    sweep(path)
    own: Any = group.attrs[ATTRIBUTE]
    group.attrs[ATTRIBUTE] = {**own, **record}
    levels = Placement.pyramid(layout.mpp, layout.step, len(layout.grids), layout.origin)
    group.attrs["ome"] = image_metadata(stem(path), levels, layout.channels, layout.window)


def sweep(path: str) -> None:
    """Remove what writers that were killed have left."""
    if is_url(path):  # where an object is whole or not there
        return
    store = zarr.open_group(path, mode="r+").store
    for key in keys(path, ""):
        if key.endswith(_PARTIAL):
            sync(store.delete(key))


@dataclass(frozen=True)
class Look:
    """What can be seen of a store without reading an array."""

    settings: Mapping[str, Any] | None
    committed: bool
    attributes: Mapping[str, Any]

    @property
    def kind(self) -> str | None:
        """What a store holds if not the results of a model."""
        kind: str | None = self.attributes.get("kind")
        return kind


@tells_the_store
def look(path: str) -> Look | None:
    """Look at a store; None where there is nothing. `StoreError` where it is not one of ours."""
    if not places.exists(path) or (not is_url(path) and _only_leftovers(Path(path))):
        return None
    try:
        attributes = zarr.open_group(zarr_at(path), mode="r").attrs.asdict()
    except (FileNotFoundError, zarr.errors.ContainsArrayError) as error:
        raise StoreError(f"{path}: exists and is not a results store; move it away") from error
    own: Any = attributes.get(ATTRIBUTE)
    if not isinstance(own, dict):
        raise StoreError(f"{path}: a zarr group of another program; move it away")
    if own.get("format") != FORMAT:
        raise StoreError(f"{path}: store format {own.get('format')}, this version knows {FORMAT}")
    return Look(own.get("settings"), "ome" in attributes, own)


@tells_the_store
def stored_outputs(path: str) -> tuple[StoredArray, ...]:
    """Give the tokens of a store's levels, finest first, from its own metadata."""
    group = zarr.open_group(zarr_at(path), mode="r")
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
            chunk_channels=array.chunks[0],
        )
        for name, array in arrays
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
def read_coverage(path: str) -> NDArray[np.uint8]:
    """Give the committed coverage ``(rows, columns)``."""
    return np.asarray(zarr.open_array(zarr_at(path), path="coverage", mode="r")[:], np.uint8)


@tells_the_store
def read_tissue(path: str) -> NDArray[np.bool_]:
    """Give the tissue mask ``(y, x)`` the store was begun with."""
    return np.asarray(zarr.open_array(zarr_at(path), path="labels/tissue/0", mode="r")[:], bool)


def _only_leftovers(folder: Path) -> bool:
    """Say whether a killed `begin` got no further than making the folder."""
    return folder.is_dir() and all(entry.name.endswith(_PARTIAL) for entry in folder.iterdir())


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
            compressors=COMPRESSOR,
            dimension_names=("y", "x"),
        )
        array[:] = level
        # The largest of 2 x 2: an average of labels is not a label.
        even = np.pad(level, [(0, n % 2) for n in level.shape])
        level = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2).max(axis=(1, 3))
    levels = Placement.pyramid(
        layout.mpp, layout.label_step, len(layout.grids), layout.label_origin
    )
    tissue.attrs["ome"] = label_metadata("tissue", levels)
