"""GeoJSON for QuPath, read back by json and shapely, against what is true of the slides."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import shapely
from scipy.spatial import cKDTree
from shapely.geometry import Polygon, box, shape
from skimage.measure import label

from pipeline.demo import read_truth
from pipeline.errors import MissingExtraError
from pipeline.export import export
from tests import exported
from tests.test_object_runs import f1
from tests.toys import expected_neighbours


def features(path: str) -> list[dict[str, Any]]:
    collection = json.loads(Path(path).read_text(encoding="utf-8"))
    assert collection["type"] == "FeatureCollection"
    listed: list[dict[str, Any]] = collection["features"]
    return listed


def of_kind(listed: list[dict[str, Any]], kind: str, named: str | None = None) -> list[Any]:
    """Give the features of a kind, and of a class if one is asked for."""
    return [
        each
        for each in listed
        if each["properties"]["objectType"] == kind
        and named in (None, each["properties"].get("classification", {}).get("name"))
    ]


@pytest.fixture(scope="module")
def demo(demo_results: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("demo")
    (path,) = export("geojson", str(demo_results / "demo.zarr"), output=str(folder))
    return features(path)


@pytest.fixture(scope="module")
def many(many_results: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("many")
    (path,) = export("geojson", str(many_results / "drawn.zarr"), output=str(folder))
    assert [each.name for each in folder.iterdir()] == ["drawn.geojson"]
    return features(path)


def test_nuclei_are_detections_where_the_truth_has_them(
    demo: list[dict[str, Any]], demo_slide: Path
) -> None:
    truth = read_truth(demo_slide)
    nuclei = of_kind(demo, "detection", "nuclei")
    middles = shapely.get_coordinates(shapely.centroid([shape(n["geometry"]) for n in nuclei]))
    assert f1(truth.nuclei, middles, 2.0 / truth.mpp) > 0.9
    assert f1(truth.nuclei, middles + 30, 2.0 / truth.mpp) < 0.3
    # Not shifted by half a pixel either: the convention is QuPath's.
    away, nearest = cKDTree(truth.nuclei).query(middles)
    offsets = (middles - truth.nuclei[nearest])[away < 2.0 / truth.mpp]
    assert np.abs(np.median(offsets, axis=0)).max() < 0.2


def test_measurements_are_numbers_by_name(demo: list[dict[str, Any]], demo_slide: Path) -> None:
    mpp = read_truth(demo_slide).mpp
    for each in of_kind(demo, "detection"):
        measured = each["properties"]["measurements"]
        assert set(measured) == {"Area \u00b5m^2", "Score", "ID"}
        area = shape(each["geometry"]).area * mpp**2
        assert measured["Area \u00b5m^2"] == pytest.approx(area, abs=2e-3)
        assert 0.3 <= measured["Score"] <= 1


@pytest.mark.parametrize("which", ["demo", "many"])
def test_rings_are_closed_and_valid_and_ids_unique(
    which: str, request: pytest.FixtureRequest
) -> None:
    listed = request.getfixturevalue(which)
    for each in listed:
        assert each["type"] == "Feature"
        UUID(each["id"])
        assert each["geometry"]["type"] == "Polygon"
        for ring in each["geometry"]["coordinates"]:
            assert ring[0] == ring[-1]
            assert len(ring) >= 4
        assert shape(each["geometry"]).is_valid
    assert len({each["id"] for each in listed}) == len(listed) > 100


def test_classes_have_a_name_and_a_colour_or_qupath_would_refuse_them(
    many: list[dict[str, Any]],
) -> None:
    classified = [each["properties"].get("classification") for each in many]
    classes = {each["name"]: each["color"] for each in classified if each is not None}
    assert classes == {
        "tissue": [0, 158, 115],
        "red": [255, 0, 0],
        "blue": [0, 0, 255],
        "bright": [230, 159, 0],
    }


def test_tissue_is_outlined_where_it_is(demo: list[dict[str, Any]], demo_slide: Path) -> None:
    tissue = of_kind(demo, "annotation", "tissue")
    assert all(each["properties"]["isLocked"] is True for each in tissue)
    found = shapely.union_all([shape(each["geometry"]) for each in tissue])
    truth = shapely.union_all([Polygon(each) for each in read_truth(demo_slide).tissue])
    assert found.intersection(truth).area / found.union(truth).area > 0.85
    moved = shapely.affinity.translate(found, 200, 0)
    assert moved.intersection(truth).area / moved.union(truth).area < 0.8


def test_regions_keep_their_holes_and_their_place(many: list[dict[str, Any]]) -> None:
    """The map has no tissue below row 192: what is below is label 0."""
    top, bottom, left, right = exported.RED
    y, y_stop, x, x_stop = exported.HOLE
    (red,) = (shape(each["geometry"]) for each in of_kind(many, "annotation", "red"))
    frame = box(left, top, right, min(bottom, exported.TISSUE_ROWS)) - box(x, y, x_stop, y_stop)
    assert red.symmetric_difference(frame).area == 0
    assert len(red.interiors) == 1
    assert not of_kind(many, "annotation", "Background")


def test_labels_without_a_table_of_regions_are_outlined_too(many: list[dict[str, Any]]) -> None:
    bright = of_kind(many, "annotation", "bright")
    truth = expected_neighbours(exported.drawn())[0, : exported.TISSUE_ROWS] >= exported.BRIGHT
    assert len(bright) == label(truth, connectivity=1).max() > 10
    um2 = sum(each["properties"]["measurements"]["Area \u00b5m^2"] for each in bright)
    assert um2 == pytest.approx(truth.sum() * np.prod(exported.MPP), rel=1e-6)
    whole = shapely.union_all([shape(each["geometry"]) for each in bright])
    y, x = np.nonzero(truth)
    covered = shapely.contains_xy(whole, x + 0.5, y + 0.5).mean()
    assert covered > 0.9
    assert shapely.contains_xy(whole, x + 20.5, y + 0.5).mean() < 0.7


def test_patches_are_tiles_with_their_scores(many: list[dict[str, Any]]) -> None:
    tiles = of_kind(many, "tile")
    truth = exported.means(exported.drawn())
    rows = exported.TISSUE_ROWS // exported.STEP
    assert len(tiles) == rows * truth.shape[1]
    for each in tiles:
        left, top, right, bottom = shape(each["geometry"]).bounds
        assert (right - left, bottom - top) == (exported.STEP, exported.STEP)
        row, column = int(top // exported.STEP), int(left // exported.STEP)
        assert list(each["properties"]["measurements"]) == ["dull", "lush", "cold"]
        scores = list(each["properties"]["measurements"].values())
        np.testing.assert_allclose(scores, truth[row, column], rtol=1e-5)


def test_the_variants_say_the_same(demo_results: Path, tmp_path: Path) -> None:
    def made(kind: str, folder: str) -> Path:
        (path,) = export(kind, str(demo_results / "demo.zarr"), output=str(tmp_path / folder))
        return Path(path)

    plain = made("geojson", "a").read_bytes()
    with gzip.open(made("geojson.gz", "a")) as file:
        assert file.read() == plain
    with zipfile.ZipFile(made("geojson.zip", "a")) as archive:
        assert archive.namelist() == ["demo.geojson"]
        assert archive.read("demo.geojson") == plain
        assert archive.infolist()[0].compress_size < len(plain) / 4
    lines = made("geojsonl", "a").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == json.loads(plain)["features"]
    for kind in ("geojson", "geojson.gz", "geojson.zip", "geojsonl"):
        assert made(kind, "b").read_bytes() == (tmp_path / "a" / f"demo.{kind}").read_bytes()


def test_without_shapely_nothing_is_written(
    many_results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "shapely", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'wsi-pipeline\[objects\]'"):
        export("geojson", str(many_results / "drawn.zarr"), output=str(tmp_path))
    assert not list(tmp_path.iterdir())
