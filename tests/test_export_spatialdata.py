"""SpatialData, read back by spatialdata where it is installed: its Dask is older than ours."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import shapely

import pipeline
from pipeline.demo import read_truth
from pipeline.errors import MissingExtraError
from pipeline.export import export
from tests import exported
from tests.test_object_runs import f1


def test_without_spatialdata_the_extra_is_named(
    demo_results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "spatialdata", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'wsi-pipeline\[spatialdata\]'"):
        export("spatialdata", str(demo_results / "demo.zarr"), output=str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_nuclei_and_scores_lie_where_the_truth_is(
    demo_results: Path, demo_slide: Path, tmp_path: Path
) -> None:
    spatialdata = pytest.importorskip("spatialdata", reason="spatialdata is not installed")
    truth = read_truth(demo_slide)
    results = Path(shutil.copytree(demo_results, tmp_path / "results"))
    there = {each.name for each in results.iterdir()}
    for _ in range(2):  # the second replaces the first
        (path,) = export("spatialdata", str(results / "demo.zarr"))
    assert {each.name for each in results.iterdir()} == there | {"demo.spatialdata"}
    assert not pipeline.open_results(results).unopened, "it is taken for no store of ours"
    read = spatialdata.read_zarr(path)
    nuclei = spatialdata.transform(read["nuclei"], to_coordinate_system="um")
    middles = shapely.get_coordinates(shapely.centroid(nuclei.geometry.to_numpy()))
    assert f1(truth.nuclei * truth.mpp, middles, 2.0) > 0.9
    assert list(read["nuclei-table"].obs["id"]) == list(read["nuclei"].index)
    extent = spatialdata.get_extent(read["nucleus"], coordinate_system="um")
    assert extent["x"] == (0, truth.width * truth.mpp)
    assert extent["y"] == (0, truth.height * truth.mpp)


def test_labels_and_regions_are_there(many_results: Path, tmp_path: Path) -> None:
    spatialdata = pytest.importorskip("spatialdata", reason="spatialdata is not installed")
    (path,) = export("spatialdata", str(many_results / "drawn.zarr"), output=str(tmp_path))
    read = spatialdata.read_zarr(path)
    assert sorted(read.images) == ["grade", "sum", "thirds"]
    assert sorted(read.labels) == ["bright", "dominant"]
    labels = np.asarray(read["dominant"])[: exported.TISSUE_ROWS]
    expected = np.array([1, 0, 3])[exported.drawn().argmax(axis=2)]
    np.testing.assert_array_equal(labels, expected[: exported.TISSUE_ROWS])
    grade = spatialdata.get_extent(read["grade"], coordinate_system="global")
    assert grade["x"] == (0, 16 * exported.STEP)
    assert list(read["dominant-regions-table"].obs["class"]).count("red") == 1
