"""All objects of a slide as one GeoParquet file: ``<slide_id>.objects.parquet``.

The columns are those of the store's tables (`pipeline.store.tables`), and ``output``, the name
of the table. Outlines are in level-0 pixels without a coordinate reference system, by
GeoParquet 1.1 (https://geoparquet.org/releases/v1.1.0/). Written part by part: in memory is
what one row group holds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline.export.making import Exporting
from pipeline.export.tables import arrow, batches, schema, table_names
from pipeline.objects.outlines import shapely_module

__all__ = ["export"]


def export(made: Exporting) -> Iterator[str]:
    """Write the objects, regions among them; `StoreError` where the model finds none."""
    if not table_names(made):
        raise made.nothing("objects")
    columns = schema(arrow(made.kind))
    from pyarrow.parquet import ParquetWriter

    ending, geometry = "objects.parquet", _Geometry()
    with (
        made.writing(ending) as path,
        ParquetWriter(path, columns, compression="zstd") as writer,
    ):
        for batch in batches(made):
            geometry.add(batch)
            writer.write_table(batch)
        writer.add_key_value_metadata({"geo": json.dumps(geometry.described())})
    yield made.path(ending)


class _Geometry:
    """What GeoParquet says of a column, gathered while it is written."""

    def __init__(self) -> None:
        self._kinds: set[str] = set()
        self._bounds = np.array([np.inf, np.inf, -np.inf, -np.inf])

    def add(self, batch: Any) -> None:
        """Look at some more rows."""
        if not len(batch):
            return
        shapely = shapely_module()
        geometries = shapely.from_wkb(batch.column("geometry").to_numpy())
        self._kinds |= {each.geom_type for each in geometries}
        x, y, x_stop, y_stop = shapely.total_bounds(geometries)
        np.minimum(self._bounds[:2], (x, y), out=self._bounds[:2])
        np.maximum(self._bounds[2:], (x_stop, y_stop), out=self._bounds[2:])

    def described(self) -> dict[str, Any]:
        """Give the metadata; there is no box around nothing."""
        kinds: list[str] = sorted(self._kinds)
        column: dict[str, Any] = {"encoding": "WKB", "geometry_types": kinds, "crs": None}
        if kinds:
            column["bbox"] = self._bounds.tolist()
        return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
