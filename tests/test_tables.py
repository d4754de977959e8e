"""Tables of objects: parts of GeoParquet."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely

from pipeline.errors import MissingExtraError, StoreError
from pipeline.geometry import Box, Grid
from pipeline.objects import PlacedObjects
from pipeline.objects.outlines import make_points
from pipeline.store.tables import (
    StoredTable,
    done,
    drop,
    read_parts,
    read_table,
    table_names,
)

GRID = Grid((100, 250), 100)


def some(*ids: int, classes: tuple[int, ...] | None = None) -> PlacedObjects:
    """Give points on a diagonal, in classes ``a`` (by default) or ``b``, or in none (-1)."""
    at = np.array(ids, np.float64)
    return PlacedObjects(
        ids=np.array(ids, np.int64),
        x=at + 0.5,
        y=at * 2 + 0.5,
        areas_um2=at / 4,
        scores=np.where(at % 2, at, np.nan).astype(np.float32),
        classes=np.array(classes or (0,) * len(ids), np.int32),
        class_names=("a", "b"),
        truncated=at > 6,
        geometries=make_points(at + 0.5, at * 2 + 0.5),
    )


def table_at(place: object) -> StoredTable:
    return StoredTable(str(place), "nuclei", GRID)


def geo(path: str) -> dict[str, Any]:
    metadata: dict[str, Any] = json.loads(pq.read_schema(path).metadata[b"geo"])
    return metadata


def test_a_table_reads_back_as_it_was_written(tmp_path: Path) -> None:
    table = table_at(tmp_path)
    table.write(Box(0, 100, 100, 100), some(7, 8, classes=(1, -1)))
    table.write(Box(0, 0, 100, 100), some(3))
    read = read_table(str(tmp_path), "nuclei")
    assert read.schema.names == [
        "id",
        "x",
        "y",
        "area_um2",
        "score",
        "class",
        "truncated",
        "geometry",
    ]
    assert [str(kind) for kind in read.schema.types] == [
        *("int64", "double", "double", "double", "float"),
        *("dictionary<values=string, indices=int32, ordered=0>", "bool", "binary"),
    ]
    columns = read.to_pydict()
    assert columns["id"] == [3, 7, 8]
    assert columns["score"] == [3.0, 7.0, None]
    assert columns["class"] == ["a", "b", None]
    assert columns["truncated"] == [False, True, True]
    points = shapely.from_wkb(columns["geometry"])
    assert shapely.get_y(points).tolist() == columns["y"] == [6.5, 14.5, 16.5]


def test_a_block_is_done_when_its_part_is_there_also_an_empty_one(tmp_path: Path) -> None:
    table = table_at(tmp_path)
    assert done(table) == set()
    table.write(GRID.box((0, 2)), some())
    assert done(table) == {(0, 2)}
    assert read_table(str(tmp_path), "nuclei").num_rows == 0
    drop(table, [(0, 2), (0, 1)])
    assert done(table) == set()


def test_what_is_being_written_is_no_part(tmp_path: Path) -> None:
    table = table_at(tmp_path)
    table.write_part((0, 0), some(1))
    part = Path(table.part((0, 0)))
    part.rename(part.with_name(f".{part.name}.0123.partial"))
    assert done(table) == set()


def test_parts_come_in_the_order_of_their_blocks(tmp_path: Path) -> None:
    table = StoredTable(str(tmp_path), "nuclei", Grid((1200, 1200), 100))
    for index in ((11, 0), (2, 10), (2, 9)):
        table.write_part(index, some(sum(index)))
    parts = [part.column("id").to_pylist() for part in read_parts(str(tmp_path), "nuclei")]
    assert parts == [[11], [12], [11]]
    assert Path(table.part((2, 10))).name == "part-00002-00010.parquet"


def test_the_same_objects_give_the_same_bytes(tmp_path: Path) -> None:
    paths = []
    for name in ("one", "two"):
        table = StoredTable(str(tmp_path), name, GRID)
        table.write_part((0, 0), some(1, 2))
        paths.append(Path(table.part((0, 0))))
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert table_names(str(tmp_path)) == ["one", "two"]


def test_the_metadata_are_geoparquets(tmp_path: Path) -> None:
    # https://geoparquet.org/releases/v1.1.0/schema.json: what it requires, and its patterns.
    table = table_at(tmp_path)
    table.write_part((0, 0), some(1, 3))
    assert geo(table.part((0, 0))) == {
        "version": "1.1.0",
        "primary_column": "geometry",
        "columns": {
            "geometry": {
                "encoding": "WKB",
                "geometry_types": ["Point"],
                "crs": None,
                "bbox": [1.5, 2.5, 3.5, 6.5],
            }
        },
    }
    table.write_part((0, 0), some())
    (column,) = geo(table.part((0, 0)))["columns"].values()
    assert column == {"encoding": "WKB", "geometry_types": [], "crs": None}


def test_a_box_that_is_no_block_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is not a block"):
        table_at(tmp_path).write(Box(0, 0, 100, 99), some())


def test_a_table_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    table_at(tmp_path).write_part((0, 0), some())
    with pytest.raises(StoreError, match="no table of objects called cells; there is nuclei"):
        read_table(str(tmp_path), "cells")


def test_a_damaged_part_names_its_table(tmp_path: Path) -> None:
    table = table_at(tmp_path)
    table.write_part((0, 0), some(1))
    part = Path(table.part((0, 0)))
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(StoreError, match="nuclei: damaged"):
        read_table(str(tmp_path), "nuclei")


def test_a_byte_of_a_part_that_changed_is_found_or_changes_no_value(tmp_path: Path) -> None:
    table = table_at(tmp_path)
    table.write_part((0, 0), some(1, 2, 3))
    table.check((0, 0))
    good, part = read_table(str(tmp_path), "nuclei"), Path(table.part((0, 0)))
    content = bytearray(part.read_bytes())
    found, tried = 0, range(0, len(content), 17)
    for at in tried:
        content[at] ^= 16
        part.write_bytes(content)
        try:
            table.check((0, 0))
        except ValueError:
            found += 1
        else:
            assert read_table(str(tmp_path), "nuclei").equals(good)
        content[at] ^= 16
    assert found > len(tried) / 2


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" * 40])
def test_a_part_that_is_no_parquet_is_torn(content: bytes, tmp_path: Path) -> None:
    table = table_at(tmp_path)
    table.write_part((0, 0), some(1))
    Path(table.part((0, 0))).write_bytes(content)
    with pytest.raises(ValueError, match="Parquet"):
        table.check((0, 0))
    # Only a file that cannot be one by its size alone is done again without being read.
    assert done(table) == ({(0, 0)} if len(content) > 100 else set())


@pytest.mark.parametrize("engine", ["pyarrow", "shapely"])
def test_without_the_extra_the_message_names_it(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *given: Any, **named: Any) -> Any:
        if name.split(".", maxsplit=1)[0] == engine:
            raise ImportError(name)
        return real(name, *given, **named)

    objects = some(1)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"wsi-pipeline\[objects\]"):
        table_at(tmp_path).write_part((0, 0), objects)


def test_tables_lie_in_buckets_too(bucket: str) -> None:
    table = table_at(bucket)
    table.write_part((0, 1), some(5))
    assert done(table) == {(0, 1)}
    assert read_table(bucket, "nuclei").column("id").to_pylist() == [5]
    drop(table, [(0, 1), (0, 0)])
    assert done(table) == set()
