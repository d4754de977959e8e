"""What was found on a slide as features of GeoJSON, by `pipeline.export.geojson` for QuPath."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import numpy as np
from numpy.typing import NDArray

from pipeline.export.making import Exporting
from pipeline.export.patches import lying, scored_patches
from pipeline.export.regions import labels_without_regions, regions_found
from pipeline.export.tables import arrow, parts, table_names
from pipeline.ngff import PALETTE
from pipeline.objects.outlines import outline_mask, shapely_module
from pipeline.store.labels import read_colours
from pipeline.store.tables import REGIONS

__all__ = ["features"]

_TISSUE_COLOUR = PALETTE[2]

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)

_UNITS = {"area_um2": "Area \u00b5m^2", "score": "Score"}
"""Columns of numbers, and what QuPath's users know them as."""


def features(made: Exporting) -> Iterator[str]:
    """Give all features as JSON, one by one: tissue, regions, objects, patches."""
    shapely_module()
    ids = _Ids.of(made)
    yield from _tissue(made, ids)
    tables = table_names(made)
    for name in sorted(tables, key=lambda table: not table.endswith(REGIONS)):
        yield from _objects(made, name, ids)
    for name in labels_without_regions(made.stored):
        for part in regions_found(made, name):
            yield from _rows(part, _Style.of_regions(made, name), name + REGIONS, ids)
    yield from _patches(made, ids)


@dataclass(frozen=True)
class _Ids:
    """Ids that are the same whenever the same is found."""

    root: UUID

    @classmethod
    def of(cls, made: Exporting) -> _Ids:
        settings = made.stored.provenance["settings"]
        own = {
            key: value
            for key, value in settings.items()
            if key.startswith(("model.", "slide.identity"))
        }
        return cls(uuid5(NAMESPACE_URL, json.dumps(own, sort_keys=True)))

    def of_one(self, name: str, number: int) -> str:
        return str(uuid5(self.root, f"{name}/{number}"))


@dataclass(frozen=True)
class _Style:
    """What the features of a table have in common.

    ``tolerance`` is how far an outline may move when it is simplified, in level-0 pixels.
    """

    kind: str
    colours: Mapping[str, str]
    unnamed: str
    tolerance: float = 0.0

    @classmethod
    def of_objects(cls, made: Exporting, name: str) -> _Style:
        found = made.stored.provenance["settings"].get(f"model.objects.{name}", [None] * 5)
        classes = [each for _, each in found[4] or ()] or [name]
        colours = {each: PALETTE[i % len(PALETTE)] for i, each in enumerate(classes)}
        return cls("detection", colours, name)

    @classmethod
    def of_regions(cls, made: Exporting, name: str) -> _Style:
        stored = made.stored
        meanings, colours = stored.classes(name), read_colours(stored.path, name)
        place = stored.placement_of(name)
        named = {meanings[value]: colour for value, colour in colours.items() if value in meanings}
        step = max(lying(place, stored.level0_mpp).downsample)
        return cls("annotation", named, name, tolerance=step)


def _tissue(made: Exporting, ids: _Ids) -> Iterator[str]:
    shapely, stored = shapely_module(), made.stored
    lies = lying(stored.tissue_placement, stored.level0_mpp)
    scale, origin = np.array(lies.downsample[::-1]), np.array(lies.origin[::-1])
    outlines = outline_mask(stored.tissue)
    if not len(outlines):
        return
    placed = shapely.transform(outlines, lambda xy: xy * scale + origin)
    areas = shapely.area(placed) * np.prod(stored.level0_mpp)
    shapes = shapely.to_geojson(_simplified(placed, max(lies.downsample)))
    for number, (shape, area) in enumerate(zip(shapes, areas.tolist(), strict=True)):
        properties = {
            "objectType": "annotation",
            "classification": _class("tissue", _TISSUE_COLOUR),
            "isLocked": True,
            "measurements": {_UNITS["area_um2"]: round(area, 3)},
        }
        yield _feature(ids.of_one("tissue", number), shape, properties)


def _objects(made: Exporting, name: str, ids: _Ids) -> Iterator[str]:
    arrow(made.kind)
    labels = name.removesuffix(REGIONS)
    regions = name != labels and made.stored.kinds.get(labels) == "labels"
    style = _Style.of_regions(made, labels) if regions else _Style.of_objects(made, name)
    for part in parts(made, name):
        yield from _rows(part, style, name, ids)


def _rows(part: Any, style: _Style, name: str, ids: _Ids) -> Iterator[str]:
    """Give the features of a part of a table."""
    shapely = shapely_module()
    shapes = shapely.from_wkb(part.column("geometry").to_numpy())
    if style.tolerance:
        shapes = _simplified(shapes, style.tolerance)
    texts = shapely.to_geojson(shapes)
    columns = part.drop_columns(["geometry", "x", "y"]).to_pydict()
    scores = part.column("score").to_numpy()
    for i, number in enumerate(columns["id"]):
        area = columns["area_um2"][i]  # points have none
        measured: dict[str, float] = {_UNITS["area_um2"]: round(area, 3)} if area else {}
        if columns["score"][i] is not None:
            measured[_UNITS["score"]] = _short(scores[i])
        measured["ID"] = number
        named = columns["class"][i] or style.unnamed
        properties: dict[str, Any] = {
            "objectType": style.kind,
            "classification": _class(named, style.colours.get(named, PALETTE[-1])),
            "measurements": measured,
        }
        if columns["truncated"][i]:
            properties["metadata"] = {"truncated": "true"}
        yield _feature(ids.of_one(name, number), texts[i], properties)


def _patches(made: Exporting, ids: _Ids) -> Iterator[str]:
    patches = scored_patches(made.stored)
    if patches is None:
        return
    shapely, (width, height), names = shapely_module(), patches.size, patches.names
    for which, values in patches.rows():
        x, y = patches.corners[which].T
        shapes = shapely.to_geojson(shapely.box(x, y, x + width, y + height))
        places = patches.index[which].tolist()
        for shape, (row, column), scores in zip(shapes, places, values, strict=True):
            measured = dict(zip(names, map(_short, scores), strict=True))
            properties = {"objectType": "tile", "measurements": measured}
            yield _feature(str(uuid5(ids.root, f"patch/{row}/{column}")), shape, properties)
        made.tell("patches", which.stop, len(patches))


def _simplified(shapes: NDArray[Any], tolerance: float) -> NDArray[Any]:
    """Give outlines without the stairs of pixels; one that would become invalid stays as it is."""
    shapely = shapely_module()
    simple: NDArray[Any] = shapely.simplify(shapes, tolerance, preserve_topology=True)
    good = shapely.is_valid(simple) & ~shapely.is_empty(simple)
    return np.where(good, simple, shapes)


def _feature(identity: str, shape: str, properties: Mapping[str, Any]) -> str:
    said = _ENCODER.encode(properties)
    return f'{{"type": "Feature", "id": "{identity}", "geometry": {shape}, "properties": {said}}}'


def _class(name: str, colour: str) -> dict[str, Any]:
    return {"name": name, "color": [*bytes.fromhex(colour[1:])]}


def _short(value: np.floating[Any]) -> float:
    """Give the shortest number that stands for a float of 32 bits.

    >>> _short(np.float32(0.1))
    0.1
    """
    return float(str(value))
