"""What a store should hold, and what of its small things is torn or missing.

`survey` reads metadata, coverage, masks and lists, and gives the parts whose blocks are left to
be read back: `pipeline.checks.examine` does that, on a scheduler.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import zarr
from numpy.typing import NDArray

from pipeline.errors import DamagedStoreError
from pipeline.files import places
from pipeline.geometry import Grid, Index
from pipeline.readers.zarr_stores import zarr_at
from pipeline.store.array import StoredArray
from pipeline.store.array import there as shards_there
from pipeline.store.check import Damage, Part, inside
from pipeline.store.damage import reason, tells_the_store
from pipeline.store.group import look
from pipeline.store.layout import Coverage, halvings
from pipeline.store.small import (
    Listed,
    check_coverage,
    check_labels,
    check_metadata,
    check_patches,
)
from pipeline.store.stored import stored_array
from pipeline.store.tables import REGIONS, StoredTable
from pipeline.store.tables import there as parts_there

__all__ = ["Survey", "survey"]


@dataclass(frozen=True)
class Survey:
    """What is wrong as far as no block was read, and the parts that have blocks.

    ``checked`` says whether the blocks have checksums: without, a changed byte may pass.
    """

    damages: tuple[Damage, ...] = ()
    parts: tuple[Part, ...] = ()
    checked: bool = True


def survey(path: str) -> Survey:
    """Look over the store at ``path``.

    Raises `StoreError` where it is not one of ours, or cannot be read for another reason than
    what is in it.
    """
    try:
        seen = look(path)
    except DamagedStoreError as error:
        return Survey((Damage("metadata", reason(error), kind="lost"),))
    if seen is None or seen.settings is None:  # was not begun: a run makes it anew
        return Survey()
    listed = Listed(path, seen, dict(_sizes(path)))
    damages = [*check_metadata(listed)]
    torn = (each.part.removeprefix("metadata of ") for each in damages if each.kind == "torn")
    listed = replace(listed, broken=frozenset(torn))
    coverage, wrong = check_coverage(listed)
    levels = {each["name"]: _levels(listed, each) for each in listed.outputs}
    damages += [*wrong, *check_labels(listed), *check_patches(listed)]
    damages += [each for found in levels.values() for each in found if isinstance(each, Damage)]
    arrays = {
        name: tuple(each for each in found if isinstance(each, StoredArray))
        for name, found in levels.items()
    }
    parts = [
        *(part for each in arrays.values() for part in _array_parts(each, coverage)),
        *_table_parts(listed, arrays, coverage),
    ]
    checked = all(_has_checksums(each) for found in arrays.values() for each in found)
    return Survey(tuple(damages), tuple(parts), checked)


@tells_the_store
def _sizes(path: str) -> list[tuple[str, int]]:
    return list(places.below(path))


def _levels(listed: Listed, output: Mapping[str, str]) -> list[StoredArray | Damage]:
    """Give an output's levels, finest first, and what is missing of them."""
    found: list[StoredArray | Damage] = []
    folder, count, level = output["folder"], 1, 0
    while level < count or _level(folder, level) in listed.nodes:
        name = _level(folder, level)
        if name in listed.nodes:
            found.append(array := stored_array(listed.path, name))
            if level == 0 and output["kind"] != "features":
                count = len(halvings(Grid(array.plane, array.block)))
        elif name not in listed.broken:
            found.append(Damage(f"metadata of {name}", "not there", kind="missing"))
        level += 1
    return found


def _level(folder: str, level: int) -> str:
    return f"{folder}/{level}" if folder else str(level)


def _array_parts(
    levels: tuple[StoredArray, ...], coverage: NDArray[np.uint8] | None
) -> Iterator[Part]:
    for number, array in enumerate(levels):
        # Levels whose metadata are gone leave a gap: the others keep their own numbers.
        level = int(array.name.rpartition("/")[2])
        if coverage is None:
            wanted: frozenset[Index] = frozenset()
        elif level == 0:
            wanted = _indices(coverage == Coverage.ANALYSED)
        else:  # they are made of failed blocks too, as far as these are there
            todo = _indices((coverage == Coverage.ANALYSED) | (coverage == Coverage.FAILED))
            wanted = frozenset((i >> level, j >> level) for i, j in todo)
        counts = array.grid.counts
        present = inside(shards_there(array).keys(), counts)
        yield Part(array, present, inside(wanted, counts), levels[number + 1 :])


def _table_parts(
    listed: Listed,
    arrays: Mapping[str, tuple[StoredArray, ...]],
    coverage: NDArray[np.uint8] | None,
) -> Iterator[Part]:
    for name in listed.tables:
        table = StoredTable(listed.path, name, Grid((0, 0), 1))
        wanted: frozenset[Index] = frozenset()
        labels = arrays.get(name.removesuffix(REGIONS)) if name.endswith(REGIONS) else None
        if coverage is not None:
            wanted = _indices(coverage == Coverage.ANALYSED)
            if labels is not None:  # its parts are rows of blocks
                wanted = frozenset((row, 0) for row in range(coverage.shape[0]))
        yield Part(table, frozenset(parts_there(table)), wanted)


def _indices(mask: NDArray[np.bool_]) -> frozenset[Index]:
    return frozenset((int(i), int(j)) for i, j in np.argwhere(mask))


@tells_the_store
def _has_checksums(array: StoredArray) -> bool:
    opened = zarr.open_array(zarr_at(array.store), path=array.name, mode="r")
    return any(getattr(each, "checksum", False) for each in opened.compressors)
