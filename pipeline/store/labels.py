"""Label images ``(y, x)``: written beside a slide's scores, and read wherever they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from pipeline.errors import StoreError
from pipeline.files import places
from pipeline.files.notation import parse_json
from pipeline.files.urls import join
from pipeline.geometry import Grid, Shape, ceil_div
from pipeline.ngff import LARGEST, VERSION, Placement, label_metadata
from pipeline.readers.multiscales import Multiscale, multiscale
from pipeline.readers.units import micrometres
from pipeline.readers.zarr_stores import zarr_at
from pipeline.store.damage import tells_the_store
from pipeline.store.layout import LABEL_CHUNK, Layout
from pipeline.store.shards import ALL_CHUNKS, COMPRESSOR

__all__ = [
    "Label",
    "label_files",
    "open_label",
    "read_colours",
    "read_label",
    "read_meanings",
    "write_label",
]

_FINE_ENOUGH = 1.01
"""Headers round: pixels so much larger than those that are wanted are as wanted."""


@tells_the_store
def write_label(
    path: str,
    name: str,
    values: NDArray[np.uint8],
    layout: Layout,
    meanings: Mapping[int, tuple[str, str]],
) -> None:
    """Write ``labels/<name>`` of a store that was begun, unless it is there.

    ``values`` lie where the tissue does; ``meanings`` are name and colour (#rrggbb) of each
    value but 0. It has as many levels as the image has, as OME-Zarr asks.
    """
    labels = zarr.open_group(zarr_at(path), mode="r+", path="labels")
    if name in labels and "ome" in labels[name].attrs:
        return
    group = labels.create_group(name, overwrite=True)
    level = values
    for i in range(layout.label_levels):
        array = group.create_array(
            str(i),
            shape=level.shape,
            dtype="uint8",
            chunks=tuple(min(n, LABEL_CHUNK) for n in level.shape),
            compressors=COMPRESSOR,
            config=ALL_CHUNKS,
            dimension_names=("y", "x"),
        )
        array[:] = level
        # The largest of 2 x 2: an average of labels is not a label.
        even = np.pad(level, [(0, n % 2) for n in level.shape])
        level = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2).max(axis=(1, 3))
    levels = Placement.pyramid(
        layout.mpp, layout.label_step, layout.label_levels, layout.label_origin
    )
    # Last of all, so that one that was killed in between is written anew.
    group.attrs["ome"] = label_metadata(name, levels, meanings, LARGEST)
    there: Any = labels.attrs["ome"]
    names = [*(each for each in there["labels"] if each != name), name]
    labels.attrs["ome"] = {"version": VERSION, "labels": names}


def label_files(layout: Layout) -> int:
    """Give the objects of a label image: its metadata, its arrays' and their chunks, at most."""
    files, shape = 1, layout.label_shape
    for _ in range(layout.label_levels):
        files += 1 + Grid(shape, LABEL_CHUNK).size
        shape = (ceil_div(shape[0], 2), ceil_div(shape[1], 2))
    return files


@tells_the_store
def read_label(path: str, name: str) -> NDArray[np.uint8] | None:
    """Give a store's label image ``(y, x)``, finest level; None where it has none of this name."""
    labels = zarr.open_group(zarr_at(path), mode="r", path="labels")
    if name not in labels:
        return None
    array = zarr.open_array(zarr_at(path), path=f"labels/{name}/0", mode="r")
    return np.asarray(array[:], np.uint8)


@tells_the_store
def read_colours(path: str, name: str) -> dict[int, str]:
    """Give the colour (#rrggbb) of each value of a store's label image."""
    ome: Any = zarr.open_group(zarr_at(path), mode="r", path=f"labels/{name}").attrs["ome"]
    return {
        each["label-value"]: f"#{bytes(each['rgba'][:3]).hex()}"
        for each in ome["image-label"]["colors"]
    }


@tells_the_store
def read_meanings(path: str) -> dict[int, tuple[str, str]]:
    """Give name and colour (#rrggbb) of each value of the label image at a path.

    Nothing where its metadata say none, or are not there yet.
    """
    try:
        attributes = parse_json(places.read(join(path, "zarr.json"))).get("attributes", {})
    except FileNotFoundError:
        return {}
    label = attributes.get("ome", {}).get("image-label", {})
    names = {int(each["label-value"]): each["name"] for each in label.get("properties", [])}
    return {
        (value := int(each["label-value"])): (
            str(names.get(value, value)),
            f"#{bytes(each['rgba'][:3]).hex()}",
        )
        for each in label.get("colors", [])
    }


@dataclass(frozen=True)
class Label:
    """One resolution of a label image that is open for reading, and where it lies."""

    path: str
    shape: Shape
    place: Placement
    array: Any
    axes: str

    @tells_the_store
    def read(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[Any]:
        """Give the values where these rows and columns cross; chunks are read one by one."""
        spatial = {"y": rows, "x": columns}
        picked = tuple(spatial.get(axis, 0) for axis in self.axes)
        values: NDArray[Any] = np.asarray(self.array.oindex[picked])
        return values.T if self.axes.index("y") > self.axes.index("x") else values

    @property
    def store(self) -> str:
        """Where it is."""
        return self.path


@tells_the_store
def open_label(path: str, step_um: tuple[float, float]) -> Label:
    """Open a label image of OME-Zarr at the coarsest level that still has ``step_um`` ``(y, x)``.

    ``path`` is that of the label, or of a result, whose ``labels/tissue`` it is then. Raises
    `StoreError` where it is neither, or where its metadata do not say where it lies.
    """
    group = zarr.open_group(zarr_at(path), mode="r")
    if "labels/tissue" in group:
        group = zarr.open_group(zarr_at(path), mode="r", path="labels/tissue")
    try:
        image = multiscale(group.attrs.asdict())
    except ValueError as error:
        raise StoreError(f"{path}: {error}") from error
    if image is None:
        raise StoreError(f"{path}: no label image, and no result with a tissue label in it")
    placed = [_place(path, image, i) for i in range(len(image.datasets))]
    fine = [
        i
        for i, place in enumerate(placed)
        if all(
            own <= wanted * _FINE_ENOUGH for own, wanted in zip(place.scale, step_um, strict=True)
        )
    ]
    index = max(fine or [0], key=lambda i: placed[i].scale)
    array: Any = group[image.datasets[index].path]
    _check_labels(path, image, array)
    y, x = (array.shape[image.axes.index(axis)] for axis in "yx")
    return Label(path, (y, x), placed[index], array, image.axes)


def _place(path: str, image: Multiscale, index: int) -> Placement:
    """Give where a dataset lies, in micrometres."""
    dataset = image.datasets[index]
    y, x = (micrometres(unit) for unit in image.units)
    scale = (dataset.scale[0] * y, dataset.scale[1] * x)
    if not all(0 < each < np.inf for each in scale):
        raise StoreError(
            f"{path}: its scale {dataset.scale} in {image.units[0] or 'no unit'} says no "
            "micrometres; give it a scale and a unit of length"
        )
    return Placement(scale, (dataset.origin[0] * y, dataset.origin[1] * x))


def _check_labels(path: str, image: Multiscale, array: Any) -> None:
    others = [n for axis, n in zip(image.axes, array.shape, strict=True) if axis not in "yx"]
    if any(n != 1 for n in others) or array.dtype.kind not in "uib":
        raise StoreError(
            f"{path}: axes {image.axes} of {array.shape} {array.dtype} are no label image; "
            "one plane of whole numbers is"
        )
