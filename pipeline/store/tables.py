"""Tables of objects: one GeoParquet part per block, whole or not at all.

With `StoredTable` they are written by blocks in any order and by anyone; a block is done when
its part is there, also where it holds no row. Any reader of Parquet takes the folder for one
table, geopandas, DuckDB and QuPath's scripts among them. With `pipeline.manifest.listed` the only
module that imports pyarrow.

Layout::

    <slide_id>.zarr/objects/<name>/part-<row>-<column>.parquet

Columns: ``id`` int64, ``x`` and ``y`` double (level-0 pixels, a pixel's centre is at + 0.5),
``area_um2`` double, ``score`` float32 or null, ``class`` string or null, ``truncated`` bool,
``geometry`` WKB in level-0 pixels. The metadata are those of GeoParquet 1.1
(https://geoparquet.org/releases/v1.1.0/) without a coordinate reference system.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import MissingExtraError, StoreError, one_line
from pipeline.files import places
from pipeline.geometry import Box, Grid, Index
from pipeline.objects import PlacedObjects
from pipeline.objects.outlines import shapely_module
from pipeline.store.damage import tells_the_store

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "FOLDER",
    "REGIONS",
    "StoredTable",
    "check_engines",
    "done",
    "drop",
    "read_part",
    "read_parts",
    "read_table",
    "table_names",
    "there",
]

FOLDER = "objects"

REGIONS = "-regions"
"""What is added to the name of labels for the table of their regions."""

_PART = re.compile(r"part-(\d{5})-(\d{5})\.parquet")
_COMPRESSION = "zstd"
_LEAST_BYTES = 12  # of a Parquet file: two marks and the length of what it says of itself


@dataclass(frozen=True, slots=True)
class StoredTable:
    """The token of one table; ``grid`` is the plane whose blocks its parts belong to."""

    store: str
    name: str
    grid: Grid

    @property
    def folder(self) -> str:
        """Where its parts are."""
        return _folder(self.store, self.name)

    def part(self, index: Index) -> str:
        """Give the path of a block's part."""
        return f"{self.folder}/part-{index[0]:05d}-{index[1]:05d}.parquet"

    def check(self, index: Index) -> None:
        """Read one part back: every page of it, against its checksum.

        Raises `ValueError` or `FileNotFoundError`, which say what is wrong with it; another
        `OSError` where it cannot be read.
        """
        content = places.read(self.part(index))
        if len(content) < _LEAST_BYTES:
            raise ValueError(f"{len(content):,} bytes are no Parquet file")
        _check_part(content)

    def write(self, box: Box, objects: PlacedObjects) -> None:
        """Store one block's objects; they are there whole or not at all.

        Raises `StoreError` where ``box`` is no block of the grid, or nothing can be written;
        `MissingExtraError` without pyarrow.
        """
        index = (box.y // self.grid.cell, box.x // self.grid.cell)
        if self.grid.box(index) != box:
            raise StoreError(f"{self.folder}: {box} is not a block of {self.grid}")
        self.write_part(index, objects)

    def write_part(self, index: Index, objects: PlacedObjects) -> None:
        """Store one part by its place; see `write`."""
        _write(self, self.part(index), _encoded(objects))


def done(table: StoredTable) -> set[Index]:
    """Give the blocks whose parts are there, and no file that lost its content."""
    return {index for index, size in there(table).items() if size >= _LEAST_BYTES}


@tells_the_store
def there(table: StoredTable) -> Mapping[Index, int]:
    """Give the bytes of every part that is there, whole or not."""
    # What is being written there has another name.
    found = ((_PART.fullmatch(name), size) for name, size in places.below(table.folder))
    return {(int(match[1]), int(match[2])): size for match, size in found if match}


@tells_the_store
def drop(table: StoredTable, indices: Iterable[Index]) -> None:
    """Remove parts, so that their blocks are pending again."""
    for index in indices:
        places.remove(table.part(index))


@tells_the_store
def table_names(path: str) -> list[str]:
    """Give the names of the tables in the store at ``path``, sorted."""
    # Beside them is what makes their folder a group of zarr's.
    return [name for name in places.names(f"{path}/{FOLDER}") if name != "zarr.json"]


def read_parts(path: str, name: str, rows: range | None = None) -> Iterator[pa.Table]:
    """Give the parts of a table, one after another, by row and column of their blocks.

    ``rows`` are those of the blocks that are wanted, all by default.

    Raises `StoreError` where there is no such table, or a part is damaged.
    """
    indices = _parts(path, name)
    if not indices:
        there = ", ".join(table_names(path)) or "none"
        raise StoreError(f"{path}: no table of objects called {name}; there is {there}")
    table = StoredTable(path, name, Grid((0, 0), 1))
    for index in indices:
        if rows is None or index[0] in rows:
            yield read_part(table, index)


def read_part(table: StoredTable, index: Index) -> pa.Table:
    """Give one part; `StoreError` where it is damaged or not there."""
    return _read(table, table.part(index))


def read_table(path: str, name: str) -> pa.Table:
    """Give a whole table, whose parts are read one by one; see `read_parts`."""
    arrow, _ = _engines()
    whole: pa.Table = arrow.concat_tables(read_parts(path, name)).unify_dictionaries()
    return whole.replace_schema_metadata(None)


def check_engines() -> None:
    """Raise `MissingExtraError` where tables cannot be written: before a block is computed."""
    _engines()
    shapely_module()


def _folder(path: str, name: str) -> str:
    return f"{path}/{FOLDER}/{name}"


@tells_the_store
def _parts(path: str, name: str) -> list[Index]:
    # What is being written there has another name.
    found = map(_PART.fullmatch, places.names(_folder(path, name)))
    return [(int(match[1]), int(match[2])) for match in found if match]


@tells_the_store
def _write(_table: StoredTable, path: str, content: bytes) -> None:
    places.write_whole(path, content)


@tells_the_store
def _read(_table: StoredTable, path: str) -> pa.Table:
    arrow, parquet = _engines()
    source = arrow.BufferReader(places.read(path))
    return parquet.read_table(source, page_checksum_verification=True)


def _check_part(content: bytes) -> None:
    arrow, parquet = _engines()
    try:
        table = parquet.read_table(arrow.BufferReader(content), page_checksum_verification=True)
        table.validate(full=True)
    except (arrow.ArrowException, OSError) as error:  # Arrow's own error for bytes is an OSError
        raise ValueError(one_line(error)) from error
    if not table.schema.equals(_schema(arrow)):
        there = ", ".join(f"{each.name} {each.type}" for each in table.schema)
        raise ValueError(f"columns {there} are not those of objects")
    json.loads((table.schema.metadata or {}).get(b"geo", b""))


def _schema(arrow: Any) -> Any:
    return arrow.schema(
        {
            "id": arrow.int64(),
            "x": arrow.float64(),
            "y": arrow.float64(),
            "area_um2": arrow.float64(),
            "score": arrow.float32(),
            "class": arrow.dictionary(arrow.int32(), arrow.string()),
            "truncated": arrow.bool_(),
            "geometry": arrow.binary(),
        }
    )


def _encoded(objects: PlacedObjects) -> bytes:
    """Give the bytes of a part; the same objects give the same bytes."""
    arrow, parquet = _engines()
    wkb = shapely_module().to_wkb(objects.geometries) if len(objects) else []
    classes = arrow.array(objects.classes, arrow.int32(), mask=objects.classes < 0)
    columns = {
        "id": arrow.array(objects.ids, arrow.int64()),
        "x": arrow.array(objects.x, arrow.float64()),
        "y": arrow.array(objects.y, arrow.float64()),
        "area_um2": arrow.array(objects.areas_um2, arrow.float64()),
        "score": arrow.array(objects.scores, arrow.float32(), mask=np.isnan(objects.scores)),
        "class": arrow.DictionaryArray.from_arrays(
            classes, arrow.array(objects.class_names, arrow.string())
        ),
        "truncated": arrow.array(objects.truncated, arrow.bool_()),
        "geometry": arrow.array(wkb, arrow.binary()),
    }
    table = arrow.table(columns).replace_schema_metadata({"geo": json.dumps(_geo(objects))})
    sink = arrow.BufferOutputStream()
    parquet.write_table(table, sink, compression=_COMPRESSION, write_page_checksum=True)
    return bytes(sink.getvalue())


def _geo(objects: PlacedObjects) -> dict[str, Any]:
    """Give what GeoParquet says of the geometry; there is no box around nothing."""
    column: dict[str, Any] = {"encoding": "WKB", "geometry_types": [], "crs": None}
    if len(objects):
        shapely = shapely_module()
        kinds = {str(geometry.geom_type) for geometry in objects.geometries}
        bounds = [float(at) for at in shapely.total_bounds(objects.geometries)]
        column |= {"geometry_types": sorted(kinds), "bbox": bounds}
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def _engines() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError(
            "tables of objects need pyarrow, which is not installed; "
            "pip install 'wsi-pipeline[objects]'"
        ) from error
    return pa, parquet
