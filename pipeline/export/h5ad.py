"""Objects and patches as AnnData: ``<slide_id>.<output>.h5ad``, one for each table and features.

``obs`` has a row per object or patch, ``obsm["spatial"]`` its x and y in level-0 pixels: an
object's own, a patch's centre. Features are ``X``, their channels ``var``; objects have neither.
Scores of whole patches are columns of ``obs``, beside the features where these have the same
patches, and in ``<slide_id>.patches.h5ad`` where there are none.

``uns["spatial"][slide_id]`` is as squidpy and scanpy have it: ``scalefactors`` with
``tissue_hires_scalef`` 1 (coordinates are pixels of the whole slide) and ``spot_diameter_fullres``,
the side of a patch or the mean diameter of the objects; no images. Beside them are the um per
pixel, which neither knows a place for.

What has a row per object is written part by part in AnnData's format on disk
(https://anndata.readthedocs.io/en/stable/fileformat-prose.html), the rest by `anndata` itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.export.h5ad_rows import Categories, Column, Frame
from pipeline.export.hdf5 import h5py_module
from pipeline.export.making import Exporting, missing
from pipeline.export.patches import Patches, feature_patches, scored_patches
from pipeline.export.tables import arrow, parts, table_names

__all__ = ["export"]


def export(made: Exporting) -> Iterator[str]:
    """Write all tables and patches there are; `StoreError` where there is none.

    Raises `MissingExtraError` without anndata, or without pyarrow where there are objects.
    """
    stored = made.stored
    features = [name for name, kind in stored.kinds.items() if kind == "features"]
    scored = scored_patches(stored)
    if not features and scored is None and not table_names(made):
        raise made.nothing("objects, features and scores of whole patches")
    _anndata()
    for name in table_names(made):
        yield _objects(made, name)
    for name in features:
        patches = feature_patches(stored, name)
        same = scored is not None and np.array_equal(scored.index, patches.index)
        yield _patches(made, name, patches, scored if same else None)
    if scored is not None and not features:
        yield _patches(made, "patches", None, scored)


def _objects(made: Exporting, name: str) -> str:
    arrow(made.kind)
    ending, area, count = f"{name}.h5ad", 0.0, 0
    with made.writing(ending) as path, h5py_module(made.kind).File(path, "w") as file:
        frame = Frame(file, ["area_um2", "score", "class", "truncated", "slide_id"])
        columns = {
            "area_um2": Column(frame.group, "area_um2", np.float64),
            "score": Column(frame.group, "score", np.float32),
            "truncated": Column(frame.group, "truncated", np.bool_),
        }
        classes = Categories(frame.group, "class")
        spatial = Column(file.create_group("obsm"), "spatial", np.float64, 2)
        for part in parts(made, name):
            frame.names.add([str(each) for each in part.column("id").to_pylist()])
            for each, column in columns.items():
                column.add(part.column(each).to_numpy())
            classes.add(part.column("class").to_pylist())
            spatial.add(np.column_stack([part.column(each).to_numpy() for each in "xy"]))
            area += float(part.column("area_um2").to_numpy().sum())
            count += len(part)
        classes.close()
        _constant(frame, made, count)
        mean_px = area / max(count, 1) / float(np.prod(made.stored.level0_mpp))
        _finish(file, made, name, 2 * float(np.sqrt(mean_px / np.pi)), ())
    return made.path(ending)


def _patches(made: Exporting, name: str, features: Patches | None, scores: Patches | None) -> str:
    patches = features if features is not None else scores
    assert patches is not None  # noqa: S101 - for the type checker: its caller has one
    measured = scores.names if scores is not None else ()
    ending = f"{name}.h5ad"
    with made.writing(ending) as path, h5py_module(made.kind).File(path, "w") as file:
        frame = Frame(file, ["row", "column", *measured, "slide_id"])
        frame.names.add([f"{row}_{column}" for row, column in patches.index.tolist()])
        for number, each in enumerate(("row", "column")):
            Column(frame.group, each, np.int32).add(patches.index[:, number])
        if scores is not None:
            columns = [Column(frame.group, each, np.float32) for each in measured]
            for _, values in scores.rows():
                for column, own in zip(columns, values.T, strict=True):
                    column.add(own)
        centres = patches.corners + np.array(patches.size) / 2
        Column(file.create_group("obsm"), "spatial", np.float64, 2).add(centres)
        if features is not None:
            _write_x(made, file, features)
        _constant(frame, made, len(patches))
        names = features.names if features is not None else ()
        _finish(file, made, name, float(np.mean(patches.size)), names)
    return made.path(ending)


def _write_x(made: Exporting, file: Any, features: Patches) -> None:
    kind = features.columns[0].dtype
    # AnnData's tools compute in 32 bits at least.
    x = Column(file, "X", np.promote_types(kind, np.float32), len(features.names))
    for which, values in features.rows():
        x.add(values)
        made.tell(features.columns[0].output, which.stop, len(features))


def _constant(frame: Frame, made: Exporting, count: int) -> None:
    """Say of every row which slide it is of, for when slides are put together."""
    slides = Categories(frame.group, "slide_id")
    slides.add([made.stored.slide_id] * count)
    slides.close()


def _finish(
    file: Any, made: Exporting, name: str, diameter: float, variables: Sequence[str]
) -> None:
    """Write what has no row per object, by anndata."""
    import pandas as pd

    write = _anndata().io.write_elem
    file["obsm"].attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
    for group in ("layers", "obsp", "varm", "varp"):
        write(file, group, {})
    write(file, "var", pd.DataFrame(index=pd.Index(list(variables), dtype=object)))
    write(file, "uns", _uns(made, name, diameter))
    file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})


def _uns(made: Exporting, name: str, diameter: float) -> Mapping[str, Any]:
    y, x = made.stored.level0_mpp
    factors = {"tissue_hires_scalef": 1.0}
    if diameter:  # points have none
        factors["spot_diameter_fullres"] = diameter
    library = {
        "images": {},
        "scalefactors": factors,
        "metadata": {"level0_mpp_x": x, "level0_mpp_y": y},
    }
    model = made.stored.provenance.get("model", {})
    said = {each: str(model[each]) for each in ("name", "version") if each in model}
    return {
        "spatial": {made.stored.slide_id: library},
        "wsi_pipeline": {"output": name, "model": said},
    }


def _anndata() -> Any:
    try:
        import anndata
    except ImportError as error:
        raise missing("anndata", "anndata export") from error
    return anndata
