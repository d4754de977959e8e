"""What is torn or missing of the small things of a store: metadata, coverage, masks, lists."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from pipeline.errors import DamagedStoreError, one_line
from pipeline.files import places
from pipeline.files.urls import join
from pipeline.readers.zarr_stores import zarr_at
from pipeline.store.check import Damage
from pipeline.store.damage import DAMAGE, reason
from pipeline.store.features import PATCH_ARRAYS
from pipeline.store.group import METADATA, Look
from pipeline.store.stored import read_coverage
from pipeline.store.tables import FOLDER

__all__ = ["Listed", "check_coverage", "check_labels", "check_metadata", "check_patches"]

_NOT_THERE = "not there"
_NO_IMAGE = "do not make it an image"
_COVERAGE_CHUNK = "coverage/c/0/0"


@dataclass(frozen=True)
class Listed:
    """A store with the bytes of all its objects; ``broken`` are nodes of torn metadata."""

    path: str
    seen: Look
    sizes: Mapping[str, int]
    broken: frozenset[str] = frozenset()

    @property
    def outputs(self) -> list[Mapping[str, Any]]:
        """What is said of every output that is an array."""
        return list(self.seen.attributes.get("outputs", ()))

    @property
    def tables(self) -> list[str]:
        """The names of all tables."""
        return list(self.seen.attributes.get("tables", ()))

    @cached_property
    def nodes(self) -> frozenset[str]:
        """The groups and arrays that can be opened."""
        named = (name for name in self.sizes if name.rpartition("/")[2] == METADATA)
        return frozenset(n.removesuffix(METADATA).rstrip("/") for n in named) - self.broken


def check_metadata(listed: Listed) -> Iterator[Damage]:
    """Give the groups and arrays whose metadata are torn or missing."""
    torn = set()
    for node in sorted(listed.nodes - {""}):
        name = f"{node}/{METADATA}"
        try:
            described = json.loads(places.read(join(listed.path, *name.split("/"))))
            if described["node_type"] == "array":
                zarr.open_array(zarr_at(listed.path), path=node, mode="r")
        except DAMAGE as error:
            torn.add(node)
            mask = next((each for each in _masks(listed) if f"{node}/".startswith(each)), None)
            text = f"{listed.sizes[name]:,} bytes are no metadata: {one_line(error)}"
            yield Damage(f"metadata of {node}", text, drop=(mask or name,))
    for node in sorted(_always(listed) - listed.nodes):
        yield Damage(f"metadata of {node}", _NOT_THERE, kind="missing")
    if listed.seen.committed:
        for output in listed.outputs:
            node = output["folder"]
            if node in listed.nodes - {"", *torn} and not _image_levels(listed.path, node):
                yield Damage(f"metadata of {node}", _NO_IMAGE, kind="missing")


def _image_levels(path: str, node: str) -> list[str]:
    """Give the arrays that a group's metadata make an image; none where they do not."""
    try:
        ome: Any = zarr.open_group(zarr_at(path), path=node, mode="r").attrs.get("ome")
        return [] if ome is None else [each["path"] for each in ome["multiscales"][0]["datasets"]]
    except DAMAGE:
        return []


def _always(listed: Listed) -> set[str]:
    """Give the groups and arrays that every store of these outputs has, levels aside."""
    deepest = [each["folder"] for each in listed.outputs if each["folder"]]
    deepest += (f"{FOLDER}/{name}" for name in listed.tables)
    parts = (folder.split("/") for folder in deepest)
    around = ("/".join(each[: i + 1]) for each in parts for i in range(len(each)))
    return {"coverage", "labels", "labels/tissue", *around}


def check_coverage(listed: Listed) -> tuple[NDArray[np.uint8] | None, list[Damage]]:
    """Give a committed store's coverage, or what is wrong with it."""
    if not listed.seen.committed or "coverage" not in listed.nodes:
        return None, []
    if _COVERAGE_CHUNK not in listed.sizes:
        return None, [Damage("coverage", _NOT_THERE, kind="missing")]
    try:
        return read_coverage(listed.path), []
    except DamagedStoreError as error:
        return None, [Damage("coverage", reason(error), drop=(_COVERAGE_CHUNK,))]


def check_labels(listed: Listed) -> Iterator[Damage]:
    """Give the masks, of tissue and of what spoils it, that are torn; a run writes them anew."""
    for folder in _masks(listed):
        node = folder.rstrip("/")
        if node not in listed.nodes:
            if node not in listed.broken and node != "labels/tissue":
                yield Damage(f"metadata of {node}", _NOT_THERE, kind="missing")
            continue
        levels = _image_levels(listed.path, node)
        wrong = [] if levels else [f"its metadata {_NO_IMAGE}"]
        for array in (f"{node}/{each}" for each in levels):
            if array in listed.nodes:
                wrong += _problems(listed, array)
            elif array not in listed.broken:
                wrong.append(f"array {array} is {_NOT_THERE}")
        if wrong:
            yield Damage(node, wrong[0], drop=(folder,))


def _masks(listed: Listed) -> list[str]:
    """Give the folders of the masks: of tissue, and of what spoils it if that was looked for."""
    own = {each["name"] for each in listed.outputs if each["kind"] == "labels"}
    named = {"tissue"}
    if "labels" in listed.nodes:
        try:
            attributes = zarr.open_group(zarr_at(listed.path), path="labels", mode="r").attrs
            ome: Any = attributes["ome"]
            named |= {*ome["labels"]} & {"quality"}
        except DAMAGE:  # is torn, and named as such
            pass
    return [f"labels/{name}/" for name in sorted(named - own)]


def check_patches(listed: Listed) -> Iterator[Damage]:
    """Give the lists of patches that are torn or missing."""
    for output in listed.outputs:
        for name in PATCH_ARRAYS if output["kind"] == "features" else ():
            node = f"{output['folder']}/{name}"
            if node in listed.nodes:
                for text in _problems(listed, node):
                    yield Damage(node, text, drop=(f"{node}/",))
            elif listed.seen.committed and node not in listed.broken:
                yield Damage(node, _NOT_THERE, kind="missing")


def _problems(listed: Listed, node: str) -> Iterator[str]:
    """Give what is wrong with a small array that zarr wrote."""
    array = zarr.open_array(zarr_at(listed.path), path=node, mode="r")
    if any(getattr(each, "checksum", False) for each in array.compressors):
        # Those without were written without the chunks that are all fill.
        for index in np.ndindex(array.cdata_shape):
            chunk = "/".join(map(str, index))
            if f"{node}/c/{chunk}" not in listed.sizes:
                yield f"chunk {chunk} is not there"
    try:
        array[:]
    except DAMAGE as error:
        yield one_line(error)
