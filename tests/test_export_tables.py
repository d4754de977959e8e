"""Objects and patches as GeoParquet and CSV, read back by geopandas, pandas and pyarrow."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import shapely
import yaml

import pipeline
from pipeline.demo import read_truth
from pipeline.errors import StoreError
from pipeline.export import export
from tests import exported
from tests.test_object_runs import f1
from tests.toys import noise, spoil_first_tile, write_tiff


@pytest.fixture(scope="module")
def demo(demo_results: Path, tmp_path_factory: pytest.TempPathFactory) -> geopandas.GeoDataFrame:
    folder = str(tmp_path_factory.mktemp("demo"))
    (path,) = export("parquet", str(demo_results / "demo.zarr"), output=folder)
    return geopandas.read_parquet(path)


def test_geoparquet_has_every_object_of_the_store(
    demo: geopandas.GeoDataFrame, demo_results: Path
) -> None:
    stored = pipeline.open_results(demo_results)["demo"].objects("nuclei")
    assert list(demo.columns) == ["output", *stored.schema.names]
    assert set(demo["output"]) == {"nuclei"}
    assert demo.crs is None
    assert demo["id"].is_unique
    for name in ("id", "x", "y", "area_um2", "score", "truncated"):
        np.testing.assert_array_equal(demo[name], stored.column(name).to_numpy())
    np.testing.assert_array_equal(
        shapely.to_wkb(demo.geometry.to_numpy()), stored.column("geometry").to_numpy()
    )


def test_geoparquet_lies_where_the_truth_is(demo: geopandas.GeoDataFrame, demo_slide: Path) -> None:
    truth = read_truth(demo_slide)
    middles = demo.geometry.centroid
    seen = np.column_stack([middles.x, middles.y])
    assert f1(truth.nuclei, seen, 2.0 / truth.mpp) > 0.9
    assert f1(truth.nuclei, seen[:, ::-1], 2.0 / truth.mpp) < 0.3


def test_its_metadata_are_those_of_geoparquet(
    demo: geopandas.GeoDataFrame, demo_results: Path, tmp_path: Path
) -> None:
    (path,) = export("parquet", str(demo_results / "demo.zarr"), output=str(tmp_path))
    said = json.loads(pq.read_metadata(path).metadata[b"geo"])
    assert (said["version"], said["primary_column"]) == ("1.1.0", "geometry")
    column = said["columns"]["geometry"]
    assert column["bbox"] == list(demo.total_bounds)
    assert (column["encoding"], column["crs"]) == ("WKB", None)
    assert column["geometry_types"] == ["Polygon"]


def test_csv_has_the_same_objects_but_their_outlines(
    demo: geopandas.GeoDataFrame, demo_results: Path, tmp_path: Path
) -> None:
    (path,) = export("csv", str(demo_results / "demo.zarr"), output=str(tmp_path))
    read = pd.read_csv(path, dtype={"score": np.float32}, float_precision="round_trip")
    assert list(read.columns) == [name for name in demo.columns if name != "geometry"]
    for name in ("id", "x", "y", "area_um2", "score", "truncated", "output"):
        np.testing.assert_array_equal(read[name], demo[name])
    assert read["class"].isna().all()


def test_patches_have_a_row_each_with_their_scores(many_results: Path, tmp_path: Path) -> None:
    objects, patches = export("csv", str(many_results / "drawn.zarr"), output=str(tmp_path))
    assert pd.read_csv(objects)["class"].tolist().count("red") == 1
    read = pd.read_csv(patches)
    assert list(read.columns) == [
        *("x", "y", "width", "height", "row", "column"),
        *("dull", "lush", "cold"),
    ]
    truth = exported.means(exported.drawn())
    rows = exported.TISSUE_ROWS // exported.STEP
    assert len(read) == rows * truth.shape[1]
    assert not read.duplicated(["row", "column"]).any()
    np.testing.assert_array_equal(read["x"], read["column"] * exported.STEP)
    np.testing.assert_array_equal(read["y"], read["row"] * exported.STEP)
    assert set(read["width"]) == set(read["height"]) == {exported.STEP}
    expected = truth[read["row"], read["column"]]
    np.testing.assert_allclose(read[["dull", "lush", "cold"]], expected, rtol=1e-5)


def test_of_dense_scores_alone_there_is_no_table(demo_slide: Path, tmp_path: Path) -> None:
    settings = f"slides: {demo_slide}\nmodel: builtin:nuclei\ncluster: {{kind: threads}}\n"
    (tmp_path / "run.yaml").write_text(settings)
    assert pipeline.run(tmp_path / "run.yaml").complete
    for kind in ("csv", "parquet"):
        with pytest.raises(StoreError, match=r"there is nucleus \(scores\)"):
            export(kind, str(tmp_path / "results" / "demo.zarr"))


def test_a_slide_without_tissue_has_a_table_without_rows(tmp_path: Path) -> None:
    white = np.full((600, 700, 3), 255, np.uint8)
    slide = write_tiff(tmp_path / "white.tiff", white)
    settings = f"slides: {slide}\nmodel: builtin:nuclei-objects\ncluster: {{kind: threads}}\n"
    (tmp_path / "run.yaml").write_text(settings)
    assert pipeline.run(tmp_path / "run.yaml").complete
    store = str(tmp_path / "results" / "white.zarr")
    assert len(geopandas.read_parquet(*export("parquet", store))) == 0
    assert len(pd.read_csv(*export("csv", store))) == 0
    assert json.loads(Path(*export("geojson", store)).read_text())["features"] == []


def test_patches_of_a_block_that_failed_have_no_row(
    toy_model: Callable[..., Path], tmp_path: Path
) -> None:
    spoil_first_tile(write_tiff(tmp_path / "a.tiff", noise(200, 300)))
    settings = {
        "slides": str(tmp_path / "a.tiff"),
        "model": str(toy_model("per_patch")),
        "output": {"directory": "results", "block": 128},
        "tissue": {"method": "none"},
        "cluster": {"kind": "threads"},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    assert not pipeline.run(tmp_path / "run.yaml").complete
    (path,) = export("csv", str(tmp_path / "results" / "a.zarr"))
    read = pd.read_csv(path)
    in_the_first = (read["x"] < 128) & (read["y"] < 128)
    assert not in_the_first.any()
    assert len(read) == 7 * 10 - 4 * 4
