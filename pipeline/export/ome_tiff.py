"""Heat maps and label maps as pyramids: ``<slide_id>.<output>.ome.tiff``, one for each output.

OME-TIFF by https://docs.openmicroscopy.org/ome-model/6.3.1/ome-tiff/specification.html: a page per
channel, the coarser levels of the store in its SubIFDs, tiles of 512 pixels, Deflate. OME-XML has
the size of a pixel in micrometres, the names of the channels, and as every plane's position, the
one place OME has for it, where the corner of the image lies from that of the slide's level 0, in
micrometres. QuPath and napari go by the size alone and lay an image at 0, 0, where that of most
models begins.

Values are as they are stored; float16, which OME does not know, becomes float32. An annotation of
the image says what they mean: the scores of 0 and 255, the names of labels. Read and compressed
tile by tile: the image is never in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import tifffile
from numpy.typing import NDArray

from pipeline import __version__
from pipeline.export.making import Exporting
from pipeline.geometry import Grid
from pipeline.store import StoredArray, stored_outputs

__all__ = ["export"]

_TILE = 512
_BUFFER_BYTES = 2**24
"""Tiles that are compressed at once; by itself tifffile gathers 256 MiB."""

_BIG_BYTES = 2**31
"""Before compression; what might be more is BigTIFF."""

_UM = "\u00b5m"


def export(made: Exporting) -> Iterator[str]:
    """Write the scores and labels; `StoreError` where the model gives neither."""
    kinds = made.stored.kinds
    names = [name for name, kind in kinds.items() if kind in ("scores", "labels")]
    if not names:
        raise made.nothing("scores and labels")
    for name in names:
        ending = f"{name}.ome.tiff"
        levels = stored_outputs(made.stored.path, made.stored.folder_of(name))
        with made.writing(ending) as path:
            large = 2 * np.prod(levels[0].shape) * levels[0].dtype.itemsize > _BIG_BYTES
            with tifffile.TiffWriter(path, ome=True, bigtiff=bool(large)) as file:
                _write(made, name, levels, file)
        yield made.path(ending)


def _write(made: Exporting, name: str, levels: tuple[StoredArray, ...], file: Any) -> None:
    dtype = np.dtype(np.float32) if levels[0].dtype == np.float16 else levels[0].dtype
    y, x = made.stored.placement_of(name).scale
    tiles = sum(each.channels * Grid(each.plane, _TILE).size for each in levels)
    written = 0

    def told(array: StoredArray) -> Iterator[NDArray[Any]]:
        nonlocal written
        for tile in _tiles(array, dtype):
            yield tile
            written += 1
            made.tell(name, written, tiles)

    for number, array in enumerate(levels):
        scale = 2**number
        file.write(
            told(array),
            shape=array.shape,
            dtype=dtype,
            tile=(_TILE, _TILE),
            photometric="minisblack",
            compression="zlib",
            resolution=(1e4 / (x * scale), 1e4 / (y * scale)),
            resolutionunit="CENTIMETER",
            software=f"wsi-pipeline {__version__}",
            subifds=0 if number else len(levels) - 1,
            subfiletype=1 if number else 0,
            metadata=None if number else _described(made, name, array.channels),
            maxworkers=2,
            buffersize=_BUFFER_BYTES,
        )


def _tiles(array: StoredArray, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    """Give the tiles of each channel, row by row; those at the border are filled up."""
    grid = Grid(array.plane, _TILE)
    for channel in range(array.channels):
        for index in grid:
            box = grid.box(index)
            values = array.read_channel(channel, box).astype(dtype, copy=False)
            if box.shape != (_TILE, _TILE):
                beyond = [(0, _TILE - side) for side in box.shape]
                values = np.pad(values, beyond, constant_values=dtype.type(array.background))
            yield values


def _described(made: Exporting, name: str, channels: int) -> dict[str, Any]:
    """Give what OME-XML says, by the keys of `tifffile.OmeXml`."""
    stored = made.stored
    place = stored.placement_of(name)
    y, x = place.corner(stored.level0_mpp)
    labels = stored.kinds[name] == "labels"
    settings = json.dumps(stored.provenance["settings"], sort_keys=True)
    return {
        "axes": "CYX",
        "Name": f"{stored.slide_id}: {name}",
        # Of what it is and not of when it was made: the same export gives the same bytes.
        "UUID": str(uuid5(NAMESPACE_URL, f"{settings}/{name}")),
        "Creator": f"wsi-pipeline {__version__}",
        "PhysicalSizeX": place.scale[1],
        "PhysicalSizeXUnit": _UM,
        "PhysicalSizeY": place.scale[0],
        "PhysicalSizeYUnit": _UM,
        "Channel": {"Name": [name] if labels else list(stored.channels_of(name))},
        "Plane": {
            "PositionX": [x] * channels,
            "PositionXUnit": [_UM] * channels,
            "PositionY": [y] * channels,
            "PositionYUnit": [_UM] * channels,
        },
        "MapAnnotation": _meanings(made, name),
    }


def _meanings(made: Exporting, name: str) -> Mapping[str, str]:
    stored = made.stored
    y, x = stored.level0_mpp
    said = {
        "slide": stored.slide_id,
        "output": name,
        "level0_mpp_x": str(x),
        "level0_mpp_y": str(y),
    }
    if stored.kinds[name] == "labels":
        classes = {f"label {value}": meant for value, meant in stored.classes(name).items()}
        return {**said, "label 0": "none", **classes}
    array = stored_outputs(stored.path, stored.folder_of(name))[0]
    if not np.issubdtype(array.dtype, np.integer):
        return said
    low, high = stored.range_of(name)
    return {**said, "score of 0": str(low), "score of 255": str(high)}
