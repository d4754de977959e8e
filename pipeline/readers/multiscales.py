"""What is an OME-Zarr image, of 0.4 or 0.5, and what its metadata say, as plain values.

The specification is at https://ngff.openmicroscopy.org; no array is opened here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.files import places
from pipeline.files.notation import parse_json
from pipeline.files.urls import is_url, join, split
from pipeline.ngff import ATTRIBUTE
from pipeline.readers.units import micrometres

__all__ = [
    "GROUP_FILES",
    "Dataset",
    "Multiscale",
    "holds_results",
    "is_ome_zarr",
    "multiscale",
]

GROUP_FILES = ("zarr.json", ".zgroup", ".zattrs")
"""One of these is in every zarr group."""

_MOST_BYTES = 2**26
"""Of a group's metadata, the properties of a converted slide and its failures among them."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """One resolution of an image: its array, its pixel's size and where it lies, ``(y, x)``.

    In the image's own units; NaN where the metadata do not say.
    """

    path: str
    scale: tuple[float, float]
    origin: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Multiscale:
    """One image in several resolutions, as its metadata describe it.

    ``axes`` has one letter per axis of the arrays; ``units`` are those of y and x, empty where
    there is none.
    """

    name: str
    version: str
    axes: str
    units: tuple[str, str]
    datasets: tuple[Dataset, ...]

    @property
    def mpp(self) -> tuple[float, float] | None:
        """Micrometres per pixel of the first dataset, ``(y, x)``; None where nothing says."""
        sizes = [
            scale * micrometres(unit)
            for scale, unit in zip(self.datasets[0].scale, self.units, strict=True)
        ]
        return (sizes[0], sizes[1]) if all(0 < size < math.inf for size in sizes) else None


def is_ome_zarr(path: str) -> bool:
    """Say whether ``path`` is a zarr group, or a URL called .zarr: no other reader takes it."""
    if is_url(path):
        return split(path)[2].rstrip("/").endswith(".zarr")
    return any((Path(path) / name).is_file() for name in GROUP_FILES)


def holds_results(path: str) -> bool:
    """Say whether a folder is a store of this package's own results, which are no slide."""
    try:
        described = parse_json(places.read(join(path, "zarr.json"), _MOST_BYTES))
        own = described["attributes"][ATTRIBUTE]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return not isinstance(own, Mapping) or "kind" not in own


def multiscale(attributes: Mapping[str, Any]) -> Multiscale | None:
    """Understand the attributes of a group, of 0.4 or 0.5; None where they describe no image.

    Raises `ValueError` saying what cannot be understood.
    """
    inner = attributes.get("ome")
    ome = inner if isinstance(inner, Mapping) else attributes
    if not ome.get("multiscales"):
        return None
    try:
        first = ome["multiscales"][0]
        version = str(ome.get("version") or first.get("version") or "unknown")
        if "axes" not in first:
            raise ValueError(f"OME-Zarr {version} without axes; 0.4 and 0.5 are read")
        axes = [axis if isinstance(axis, Mapping) else {"name": axis} for axis in first["axes"]]
        letters = "".join(str(axis["name"]).lower() for axis in axes)
        plain = len(set(letters)) == len(letters) == len(axes)
        if not plain or not {"y", "x"} <= set(letters) <= set("tczyx"):
            names = ", ".join(str(axis["name"]) for axis in axes)
            raise ValueError(f"axes {names}; y and x are needed, and t, c, z may be there, once")
        where = (letters.index("y"), letters.index("x"))
        y, x = (str(axes[i].get("unit") or "") for i in where)
        whole = first.get("coordinateTransformations")
        datasets = tuple(_dataset(each, whole, where) for each in first["datasets"])
        if not datasets:
            raise ValueError("no datasets")
        return Multiscale(str(first.get("name") or ""), version, letters, (y, x), datasets)
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise ValueError(f"metadata that OME-Zarr does not know: {error!r}") from error


def _dataset(described: Mapping[str, Any], whole: Any, where: tuple[int, int]) -> Dataset:
    """Read a dataset; ``whole`` are the transformations of all datasets, applied last."""
    inner, outer = described.get("coordinateTransformations"), whole or []
    scale, origin = _transformed(inner or [], where)
    factor, shift = _transformed(outer, where)
    if not inner:
        scale = (math.nan, math.nan)
    return Dataset(
        str(described["path"]),
        (scale[0] * factor[0], scale[1] * factor[1]),
        (origin[0] * factor[0] + shift[0], origin[1] * factor[1] + shift[1]),
    )


def _transformed(
    transformations: Sequence[Mapping[str, Any]], where: tuple[int, int]
) -> tuple[tuple[float, float], tuple[float, float]]:
    found: dict[str, Any] = {each["type"]: each for each in transformations}
    y, x = where
    scale, translation = (
        found[kind].get(kind) if kind in found else None for kind in ("scale", "translation")
    )
    return (
        (float(scale[y]), float(scale[x])) if scale else (1.0, 1.0),
        (float(translation[y]), float(translation[x])) if translation else (0.0, 0.0),
    )
