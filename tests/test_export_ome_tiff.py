"""Pyramidal OME-TIFF, read back by tifffile and ome-types."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import ome_types
import pytest
import tifffile

import pipeline
from pipeline.demo import read_truth
from pipeline.export import export
from tests import exported
from tests.test_crop import Bounded, bounded
from tests.test_export_hdf5 import run
from tests.toys import expected_neighbours

__all__ = ["bounded"]


@pytest.fixture(scope="module")
def many(many_results: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = str(tmp_path_factory.mktemp("many"))
    made = export("ome-tiff", str(many_results / "drawn.zarr"), output=folder)
    return {Path(path).name.split(".")[1]: Path(path) for path in made}


@pytest.fixture(scope="module")
def heat(demo_results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = str(tmp_path_factory.mktemp("demo"))
    (path,) = export("ome-tiff", str(demo_results / "demo.zarr"), output=folder)
    return Path(path)


def test_every_level_of_the_heat_map_is_the_stores(heat: Path, demo_results: Path) -> None:
    assert heat.name == "demo.nucleus.ome.tiff"
    levels = pipeline.open_results(demo_results)["demo"].levels
    assert len(levels) == 3
    with tifffile.TiffFile(heat) as file:
        (series,) = file.series
        assert len(series.levels) == 3
        assert (series.kind, series.axes) == ("ome", "YX")
        for number, (written, stored) in enumerate(zip(series.levels, levels, strict=True)):
            np.testing.assert_array_equal(written.asarray(), stored[0].compute())
            page = written.keyframe
            assert (page.tilelength, page.tilewidth) == (512, 512)
            assert page.resolution == pytest.approx([1e4 / (0.5 * 2**number)] * 2)
            assert page.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        assert len(file.pages) == 1, "the coarser levels are SubIFDs"
        assert len(file.pages[0].subifds or ()) == 2


def test_the_heat_map_is_bright_where_nuclei_are(heat: Path, demo_slide: Path) -> None:
    truth = read_truth(demo_slide)
    ome, image = ome_types.from_tiff(heat), tifffile.imread(heat)
    pixels = ome.images[0].pixels
    um = truth.nuclei * truth.mpp
    scale = np.array([pixels.physical_size_x, pixels.physical_size_y], np.float64)
    x, y = (um / scale).astype(int).T
    assert np.mean(image[y, x] > 255 * 0.3) > 0.9
    assert np.mean(image[y, (x + 40) % image.shape[1]] > 255 * 0.3) < 0.5


def test_ome_xml_says_scale_names_and_place(many: dict[str, Path]) -> None:
    ome = ome_types.from_tiff(many["thirds"])
    pixels = ome.images[0].pixels
    assert ome.images[0].name == "drawn: thirds"
    assert (pixels.size_x, pixels.size_y, pixels.size_c) == (exported.WIDTH, exported.HEIGHT, 3)
    assert (pixels.physical_size_y, pixels.physical_size_x) == exported.MPP
    assert pixels.physical_size_x_unit.value == pixels.physical_size_y_unit.value == "\u00b5m"
    assert [each.name for each in pixels.channels] == ["red", "green", "blue"]
    assert [(each.position_x, each.position_y) for each in pixels.planes] == [(0, 0)] * 3
    grade = ome_types.from_tiff(many["grade"]).images[0].pixels
    assert grade.physical_size_x == exported.STEP * exported.MPP[1]
    assert grade.physical_size_y == exported.STEP * exported.MPP[0]
    assert len({ome_types.from_tiff(path).uuid for path in many.values()}) == len(many)


def test_channels_and_labels_hold_what_the_model_says(many: dict[str, Path]) -> None:
    assert sorted(many) == ["bright", "dominant", "grade", "sum", "thirds"]
    rgb, rows = exported.drawn(), exported.TISSUE_ROWS
    sums = expected_neighbours(rgb)[0]
    np.testing.assert_array_equal(tifffile.imread(many["sum"])[:rows], sums[:rows])
    thirds = tifffile.imread(many["thirds"])
    expected = (rgb / np.float32(256)).transpose(2, 0, 1)
    np.testing.assert_array_equal(thirds[:, :rows], expected[:, :rows].astype(np.float32))
    labels = tifffile.imread(many["dominant"])
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels[:rows], np.array([1, 0, 3])[rgb.argmax(axis=2)][:rows])
    assert not labels[rows:].any()


def test_what_values_mean_is_said_beside_them(many: dict[str, Path], heat: Path) -> None:
    def said(path: Path) -> dict[str, str]:
        annotations = ome_types.from_tiff(path).structured_annotations
        assert annotations is not None
        (annotation,) = annotations.map_annotations
        return {str(each.k): each.value for each in annotation.value.ms}

    assert said(many["dominant"]) == {
        "slide": "drawn",
        "output": "dominant",
        "level0_mpp_x": "0.25",
        "level0_mpp_y": "0.5",
        "label 0": "none",
        "label 1": "red",
        "label 3": "blue",
    }
    assert said(heat)["score of 255"] == "1.0"
    assert "score of 255" not in said(many["sum"]), "floats are scores themselves"


def test_a_map_that_begins_before_the_slide_says_so(
    bounded: Bounded, toy_model: Callable[..., Path], tmp_path: Path
) -> None:
    """Of a cropped slide a coarser level begins with the pixel that holds the corner."""
    bounded()
    slide, card = tmp_path / "bounded.tif", toy_model("neighbours")
    resolution = {"mpp": {"level": 2}}
    output = {"directory": "results", "block": 68, "dtype": "float16"}
    store = run(tmp_path, slide, card, resolution=resolution, output=output)
    (path,) = export("ome-tiff", store)
    pixels = ome_types.from_tiff(path).images[0].pixels
    assert (pixels.physical_size_x, pixels.type.value) == (2.0, "float")
    place = pixels.planes[0]
    # The crop begins at x 58, y 101, which is in pixel 14, 25 of the level: 2 and 1 pixels in.
    assert (place.position_x, place.position_y) == (-2 * 0.5, -1 * 0.5)


def test_the_same_export_gives_the_same_bytes(
    many: dict[str, Path], many_results: Path, tmp_path: Path
) -> None:
    for path in export("ome-tiff", str(many_results / "drawn.zarr"), output=str(tmp_path)):
        assert Path(path).read_bytes() == many[Path(path).name.split(".")[1]].read_bytes()
