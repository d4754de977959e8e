"""A slide's results as SpatialData: ``<slide_id>.spatialdata``, a folder.

Scores are images, labels label images, both with a pyramid; objects and regions that have outlines
are shapes, each with a table of what else is known of them, those that are points are points.
All lie in the coordinate systems ``global``, level-0 pixels, and ``um``, micrometres. SpatialData
holds shapes and points in memory, and writes to a disk alone, to no bucket.

The folder does not end in ``.zarr``, as stores do: it lies beside them and is none.

With the extra ``[spatialdata]``, which brings an older Dask (0.7.3 goes with 2026.1.1). Not before
0.7.3: with ome-zarr 0.14 and later that cannot write (github.com/scverse/spatialdata/issues/1090).
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import StoreError
from pipeline.export.making import Exporting, missing
from pipeline.export.patches import lying
from pipeline.export.tables import arrow, parts, table_names
from pipeline.files.urls import is_url
from pipeline.objects.outlines import shapely_module

__all__ = ["export"]

_XY = ("x", "y")


def export(made: Exporting) -> Iterator[str]:
    """Write all of it into a folder, which is there whole or as it was.

    Raises `MissingExtraError` without spatialdata, `StoreError` where it cannot be written or
    there is nothing that it holds.
    """
    engine, path = _engine(), made.path("spatialdata")
    if is_url(path):
        raise StoreError(f"{path}: SpatialData is written to a disk; let --output name a folder")
    kinds = made.stored.kinds
    if not table_names(made) and not {"scores", "labels"} & {*kinds.values()}:
        raise made.nothing("scores, labels and objects")
    data = engine.SpatialData(
        images={name: _image(made, name) for name, kind in kinds.items() if kind == "scores"},
        labels={name: _labels(made, name) for name, kind in kinds.items() if kind == "labels"},
    )
    for name in table_names(made):
        for element, value in _objects(made, name):
            data[element] = value
    _replace(data, Path(path))
    yield path


def _replace(data: Any, target: Path) -> None:
    partial, old = (
        target.with_name(f".{target.name}.{uuid.uuid4().hex}.{end}") for end in ("partial", "old")
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        data.write(partial)
        if target.exists():
            target.rename(old)
        partial.rename(target)
    except OSError as error:
        why = error.strerror or str(error)
        raise StoreError(f"{target}: cannot be written: {why}; look at the room there") from error
    finally:
        for each in (partial, old):
            shutil.rmtree(each, ignore_errors=True)


def _image(made: Exporting, name: str) -> Any:
    from spatialdata.models import Image2DModel

    levels = made.stored.levels_of(name)
    return Image2DModel.parse(
        levels[0],
        dims=("c", "y", "x"),
        c_coords=list(made.stored.channels_of(name)),
        transformations=_transformations(made, name),
        scale_factors=[2] * (len(levels) - 1) or None,
    )


def _labels(made: Exporting, name: str) -> Any:
    from spatialdata.models import Labels2DModel

    levels = made.stored.levels_of(name)
    return Labels2DModel.parse(
        levels[0],
        dims=("y", "x"),
        transformations=_transformations(made, name),
        scale_factors=[2] * (len(levels) - 1) or None,
    )


def _objects(made: Exporting, name: str) -> Iterator[tuple[str, Any]]:
    """Give the elements of a table, and what they are called."""
    from spatialdata.models import PointsModel, ShapesModel

    frames = [part.replace_schema_metadata(None) for part in parts(made, name)]
    if not frames:
        return
    import geopandas

    table = arrow(made.kind).concat_tables(frames, promote_options="permissive").to_pandas()
    outlines = shapely_module().from_wkb(table.pop("geometry").to_numpy())
    placed = _transformations(made, None)
    if len(outlines) and outlines[0].geom_type == "Point":
        yield name, PointsModel.parse(table, transformations=placed)
        return
    shapes = geopandas.GeoDataFrame(geometry=outlines, index=table["id"])
    yield name, ShapesModel.parse(shapes, transformations=placed)
    yield f"{name}-table", _table(table, name)


def _table(table: Any, name: str) -> Any:
    import anndata
    import pandas as pd
    from spatialdata.models import TableModel

    obs = table.drop(columns=["x", "y"]).assign(region=pd.Categorical([name] * len(table)))
    obs.index = pd.Index([str(each) for each in obs["id"]])
    return TableModel.parse(
        anndata.AnnData(obs=obs, obsm={"spatial": table[["x", "y"]].to_numpy()}),
        region=name,
        region_key="region",
        instance_key="id",
    )


def _transformations(made: Exporting, name: str | None) -> Mapping[str, Any]:
    """Give where the pixels of an output lie; what is in level-0 pixels already where None."""
    from spatialdata.transformations import Identity, Scale, Sequence, Translation

    mpp = made.stored.level0_mpp
    to_level0 = Identity()
    if name is not None:
        lies = lying(made.stored.placement_of(name), mpp)
        to_level0 = Sequence(
            [Scale([*lies.downsample[::-1]], _XY), Translation([*lies.origin[::-1]], _XY)]
        )
    return {"global": to_level0, "um": Sequence([to_level0, Scale([*mpp[::-1]], _XY)])}


def _engine() -> Any:
    try:
        import spatialdata
    except ImportError as error:
        raise missing("spatialdata", "spatialdata export", "spatialdata") from error
    return spatialdata
