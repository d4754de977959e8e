"""One slide's group: begun, looked at, withdrawn, committed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.sync import sync

from pipeline.errors import StaleStoreError, StoreError
from pipeline.files import places
from pipeline.files.urls import is_url, stem
from pipeline.ngff import (
    ATTRIBUTE,
    FIRST,
    PALETTE,
    VERSION,
    Placement,
    image_metadata,
    label_metadata,
)
from pipeline.readers.zarr_stores import zarr_at
from pipeline.store.array import keys
from pipeline.store.attributes import check_attributes
from pipeline.store.damage import tells_the_store
from pipeline.store.labels import write_label
from pipeline.store.layout import ArrayLayout, Layout
from pipeline.store.shards import ALL_CHUNKS, COMPRESSOR

__all__ = [
    "FORMAT",
    "METADATA",
    "Look",
    "begin",
    "begun",
    "commit",
    "look",
    "sweep",
    "withdraw",
]

FORMAT = 2
"""Version of what is in the ``wsi_pipeline`` attribute."""

METADATA = "zarr.json"
"""What the file is called that makes a folder a group or an array."""

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
    seen = begun(path, settings)
    if seen is not None:
        if not seen.committed:  # something of it may have been dropped because it was damaged
            _furnish(path, layout, tissue, _nodes(path))
        return
    # Arrays first, settings last: a store killed in between has no settings and is remade.
    group = zarr.open_group(zarr_at(path), mode="w", attributes={ATTRIBUTE: {"format": FORMAT}})
    _furnish(path, layout, tissue, frozenset())
    group.attrs.update(
        {
            ATTRIBUTE: {
                "format": FORMAT,
                "settings": dict(settings),
                "provenance": dict(provenance),
                "outputs": [_described(array) for array in layout.arrays],
                "tables": list(layout.tables),
            }
        }
    )


def _nodes(path: str) -> frozenset[str]:
    """Give the paths of the groups and arrays whose metadata are there."""
    return frozenset(
        name.removesuffix(METADATA).rstrip("/")
        for name, _ in places.below(path)
        if name.rpartition("/")[2] == METADATA
    )


def _furnish(path: str, layout: Layout, tissue: NDArray[np.bool_], there: Collection[str]) -> None:
    """Make the arrays and groups of a store that are not ``there``; blocks that are, stay."""
    group = zarr.open_group(zarr_at(path), mode="r+")
    for array in layout.arrays:
        _create(group, array, there)
    if "coverage" not in there:
        group.create_array(
            "coverage",
            shape=layout.grid.counts,
            dtype="uint8",
            chunks=layout.grid.counts,
            compressors=COMPRESSOR,
            config=ALL_CHUNKS,
        )
    for folder in layout.folders:  # or zarr would warn of folders of tables that are no groups
        if folder not in there:
            group.require_group(folder)
    if "labels" not in there:
        kept = [name for name in ("tissue", "quality") if f"labels/{name}" in there]
        group.require_group("labels").attrs["ome"] = {"version": VERSION, "labels": kept}
    write_label(path, "tissue", tissue.astype(np.uint8), layout, {1: ("tissue", PALETTE[2])})


def _create(group: zarr.Group, array: ArrayLayout, there: Collection[str]) -> None:
    # Labels are planes; anything else has channels.
    first = 1 if array.kind == "labels" else 0
    channels = len(array.channels)
    for level, grid in enumerate(array.grids):
        if array.path(level) in there:
            continue
        group.create_array(
            array.path(level),
            shape=(channels, *grid.shape)[first:],
            dtype=array.dtype,
            chunks=(array.chunk_channels, array.chunk, array.chunk)[first:],
            shards=(channels, grid.cell, grid.cell)[first:],
            compressors=COMPRESSOR,
            fill_value=array.fill,
            dimension_names=("c", "y", "x")[first:],
        )


def _described(array: ArrayLayout) -> dict[str, Any]:
    return {
        "name": array.name,
        "kind": array.kind,
        "folder": array.folder,
        "channels": list(array.channels),
        "values": list(array.values),
    }


def begun(path: str, settings: Mapping[str, Any], kind: str | None = None) -> Look | None:
    """Give what is seen of a store that was begun with the same ``settings``, or it is an error.

    None where none was begun.
    """
    seen = look(path)
    if seen is None or seen.settings is None:
        return None
    if seen.kind != kind:
        holds = "the pixels of a slide" if seen.kind else "the results of a model"
        raise StoreError(f"{path}: holds {holds}; name another place, or move it away")
    _check_settings(path, seen.settings, settings)
    return seen


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
    ome: dict[str, Any] = {"version": VERSION}
    for array in layout.arrays:
        described = _metadata(array, layout, stem(path))
        if not array.folder:
            ome = described
        else:
            group.require_group(array.folder).attrs["ome"] = described
    labels = group.require_group("labels")
    there: Any = labels.attrs["ome"]
    names = [array.name for array in layout.arrays if array.kind == "labels"]
    own = [name for name in there["labels"] if name not in names]
    labels.attrs["ome"] = {"version": VERSION, "labels": [*own, *names]}
    group.attrs["ome"] = ome


def _metadata(array: ArrayLayout, layout: Layout, name: str) -> dict[str, Any]:
    levels = Placement.pyramid(layout.mpp, array.step, array.levels, layout.origin)
    if array.kind != "labels":
        title = array.name if array.folder else name
        return image_metadata(title, levels, array.channels, array.window, array.colours)
    colours = array.colours or PALETTE
    meanings = {
        value: (channel, colours[i % len(colours)])
        for i, (value, channel) in enumerate(zip(array.values, array.channels, strict=True))
        if value
    }
    return label_metadata(array.name, levels, meanings, FIRST)


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
    written = own.get("format")
    if written != FORMAT:
        later = isinstance(written, int) and written > FORMAT
        remedy = "use the later wsi-pipeline that wrote it" if later else "name another place"
        raise StoreError(
            f"{path}: store format {written}, this version knows {FORMAT}; {remedy}, or move it "
            "away"
        )
    if "kind" not in own:  # the pixels of a slide are for their reader to understand
        check_attributes(own)
    return Look(own.get("settings"), "ome" in attributes, own)


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
