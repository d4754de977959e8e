"""A slide's own pixels as a store: begun, and committed. Blocks in between are as any output's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from pipeline.files.urls import stem
from pipeline.ngff import ATTRIBUTE, Placement, rgb_metadata
from pipeline.readers.carried import IMAGE
from pipeline.readers.zarr_stores import zarr_at
from pipeline.store.damage import tells_the_store
from pipeline.store.group import FORMAT, begun, sweep
from pipeline.store.layout import ImageLayout
from pipeline.store.shards import COMPRESSOR

__all__ = ["Kept", "begin_image", "commit_image"]

_SMALL_CHUNK = 512  # of associated images


@dataclass(frozen=True)
class Kept:
    """What goes with the pixels: attributes as JSON, images ``(y, x, 3)`` and an ICC profile."""

    attributes: Mapping[str, Any]
    associated: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    icc_profile: bytes | None = None


@tells_the_store
def begin_image(path: str, layout: ImageLayout, settings: Mapping[str, Any], kept: Kept) -> None:
    """Make the store, or find that it was begun with the same ``settings``.

    Raises `StaleStoreError` naming the first setting that differs, what it was and what it
    is; `StoreError` where ``path`` holds something else.
    """
    if begun(path, settings, IMAGE):
        return
    # Arrays first, settings last: a store killed in between has no settings and is remade.
    group = zarr.open_group(zarr_at(path), mode="w", attributes={ATTRIBUTE: {"format": FORMAT}})
    for i, grid in enumerate(layout.grids):
        group.create_array(
            str(i),
            shape=(3, *grid.shape),
            dtype="uint8",
            # All colours in one chunk: who shows one shows all, and they compress better so.
            chunks=(3, layout.chunk, layout.chunk),
            shards=(3, grid.cell, grid.cell),
            compressors=COMPRESSOR,
            fill_value=layout.fill,
            dimension_names=("c", "y", "x"),
        )
    own = {
        **kept.attributes,
        "format": FORMAT,
        "kind": IMAGE,
        "settings": dict(settings),
        "associated": _write_associated(group, kept.associated),
        "icc_profile": _write_profile(group, kept.icc_profile),
    }
    group.attrs.update({ATTRIBUTE: own})


@tells_the_store
def commit_image(path: str, layout: ImageLayout, record: Mapping[str, Any]) -> None:
    """Write the metadata that make the group an OME-Zarr image; ``record`` joins our own."""
    group = zarr.open_group(zarr_at(path), mode="r+")
    sweep(path)
    own: Any = group.attrs[ATTRIBUTE]
    group.attrs[ATTRIBUTE] = {**own, **record}
    group.attrs["ome"] = rgb_metadata(
        stem(path), layout.places, unit=layout.unit, method=layout.method
    )


def _write_associated(group: zarr.Group, images: Mapping[str, NDArray[np.uint8]]) -> dict[str, str]:
    """Write each as an image of its own; give the path of each name."""
    places: dict[str, str] = {}
    for number, (name, pixels) in enumerate(sorted(images.items())):
        safe = re.sub(r"[^A-Za-z0-9._ -]+", "_", name).strip("._ ") or "image"
        taken = f"associated/{safe}" in places.values()
        places[name] = f"associated/{safe}-{number}" if taken else f"associated/{safe}"
        inner = group.create_group(places[name])
        array = inner.create_array(
            "0",
            shape=(3, *pixels.shape[:2]),
            dtype="uint8",
            chunks=(3, *(min(n, _SMALL_CHUNK) for n in pixels.shape[:2])),
            compressors=COMPRESSOR,
            dimension_names=("c", "y", "x"),
        )
        array[:] = pixels.transpose(2, 0, 1)
        place = Placement((1.0, 1.0), (0.0, 0.0))
        inner.attrs["ome"] = rgb_metadata(name, [place], unit=None, method=None)
    return places


def _write_profile(group: zarr.Group, profile: bytes | None) -> str | None:
    if profile is None:
        return None
    values = np.frombuffer(profile, np.uint8)
    group.create_array("icc_profile", data=values, chunks=values.shape)
    return "icc_profile"
