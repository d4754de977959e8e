"""A user's mask in each of its kinds, laid over a slide."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import ConfigError
from pipeline.ngff import LARGEST, Placement, label_metadata
from pipeline.tissue.masks import Raster, load_mask

PINK = (200, 120, 180)


def load(path: Path, shape: tuple[int, int], slide: tuple[int, int]) -> NDArray[np.bool_]:
    return load_mask(str(path), Raster.covering(slide, shape))


def picture(shape: tuple[int, int], colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    values = np.random.default_rng(7).normal(colour, 3, (*shape, 3))
    return np.clip(values.round(), 0, 255).astype(np.uint8)


def scene() -> NDArray[np.bool_]:
    mask = np.zeros((40, 60), dtype=np.bool_)
    mask[5:20, 10:50] = True
    return mask


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I;16", "F"])
@pytest.mark.parametrize("value", [1, 255])
def test_nonzero_is_tissue_in_every_mode(tmp_path: Path, mode: str, value: int) -> None:
    mask = scene()
    if mode in ("I;16", "F"):
        dtype = np.uint16 if mode == "I;16" else np.float32
        image = Image.fromarray((mask * value).astype(dtype))
    else:
        image = Image.fromarray((mask * (255 if mode == "1" else value)).astype(np.uint8))
        image = image.convert(mode)
    path = tmp_path / "mask.tif"
    image.save(path)
    np.testing.assert_array_equal(load(path, mask.shape, mask.shape), mask)


def test_what_is_transparent_is_not_tissue(tmp_path: Path) -> None:
    rgba = np.full((40, 60, 4), 255, dtype=np.uint8)
    rgba[..., 3] = scene() * 255
    path = tmp_path / "mask.png"
    Image.fromarray(rgba).save(path)
    np.testing.assert_array_equal(load(path, (40, 60), (40, 60)), scene())


def test_a_mask_is_resampled_to_the_nearest_pixel(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    mask = np.random.default_rng(3).random((40, 60)) < 0.5
    Image.fromarray(mask).save(path)
    np.testing.assert_array_equal(
        load(path, (120, 180), (120, 180)), np.kron(mask, np.ones((3, 3)))
    )
    np.testing.assert_array_equal(load(path, (8, 12), (8, 12)), mask[2::5, 2::5])


def test_a_mask_shaped_unlike_the_slide_is_refused_with_both_ratios(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray(scene()).save(path)
    load(path, (400, 610), (400, 610))
    with pytest.raises(ConfigError, match=r"1\.5000 \(60 x 40\).*1\.5500 \(620 x 400\)"):
        load(path, (400, 620), (400, 620))
    with pytest.raises(ConfigError, match="aspect ratio"):
        load(path, (60, 40), (60, 40))


def test_a_picture_that_claims_more_bytes_than_there_is_memory_is_refused(tmp_path: Path) -> None:
    whole = tmp_path / "mask.png"
    Image.fromarray(scene()).save(whole)
    before, after = whole.read_bytes().split(b"IDAT", 1)
    path = tmp_path / "large.png"
    path.write_bytes(before[:-4] + b"\xff" * 4 + b"IDAT" + after)
    code = """
import resource, sys
from pipeline.errors import ConfigError
from pipeline.tissue.masks import Raster, load_mask
resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
try:
    load_mask(sys.argv[1], Raster.covering((40, 60), (40, 60)), (0.5, 0.5))
except ConfigError as error:
    print(error)
"""
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "large.png: tissue mask cannot be read (MemoryError); give" in done.stdout


def test_a_missing_mask_is_an_error_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.png: tissue mask cannot be read"):
        load(tmp_path / "nowhere.png", (4, 4), (4, 4))


def test_what_is_no_image_or_half_of_one_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "mask.txt"
    text.write_text("tissue everywhere")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(text, (4, 4), (4, 4))
    whole = tmp_path / "mask.png"
    Image.fromarray(picture((64, 64), PINK)).save(whole)
    half = tmp_path / "half.png"
    half.write_bytes(whole.read_bytes()[:3000])
    with pytest.raises(ConfigError, match="cannot be read"):
        load(half, (64, 64), (64, 64))


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_mask_that_would_fill_the_memory_is_refused_before_it_is_decoded(
    tmp_path: Path, side: int
) -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + header
        + struct.pack(">I", zlib.crc32(header))
        + b"\0\0\0\0IEND\xaeB`\x82"
    )
    with pytest.raises(ConfigError, match=r"too large to decode safely.*coarser"):
        load(path, (100, 100), (100, 100))


def test_a_mask_is_compared_with_the_slide_and_not_with_its_coarse_picture(tmp_path: Path) -> None:
    """Rounded up to whole pixels of the picture, a small slide has another aspect ratio."""
    path = tmp_path / "mask.png"
    Image.fromarray(np.full((257, 1001), 255, np.uint8)).save(path)
    assert load(path, (17, 63), (257, 1001)).shape == (17, 63)
    with pytest.raises(ConfigError, match=r"3\.8949 \(1001 x 257\), the slide 3\.7059 \(63 x 17\)"):
        load(path, (17, 63), (17, 63))


def test_a_mask_too_large_to_decode_is_refused_whatever_the_filter_of_warnings(
    tmp_path: Path,
) -> None:
    path = tmp_path / "bomb.png"
    Image.new("1", (10_000, 10_000)).save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ConfigError, match="too large to decode safely"):
            load(path, (10, 10), (10, 10))


def test_an_image_lies_over_the_slide_also_on_a_raster_that_leaves_it(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    mask = np.zeros((40, 60), np.bool_)
    mask[:20, :30] = True
    Image.fromarray(mask).save(path)
    raster = Raster((400, 600), (9, 13), (48.0, 48.0), (-8.0, -8.0))
    found = load_mask(str(path), raster)
    expected = np.zeros((9, 13), np.bool_)
    expected[:4, :6] = True  # centres at 16 + 48 i: those below 200 and 300
    np.testing.assert_array_equal(found, expected)


# -- GeoJSON ------------------------------------------------------------------------------

SLIDE = (400, 600)
FINE = Raster.covering(SLIDE, (100, 150))


def box(x: float, y: float, x_stop: float, y_stop: float) -> list[list[float]]:
    return [[x, y], [x_stop, y], [x_stop, y_stop], [x, y_stop], [x, y]]


HOLED = {"type": "Polygon", "coordinates": [box(100, 40, 500, 360), box(200, 120, 280, 200)]}
TWO = {
    "type": "MultiPolygon",
    "coordinates": [HOLED["coordinates"], [box(220, 140, 260, 180)], [box(0, 0, 20, 20)]],
}


def geojson(path: Path, content: Any) -> str:
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def feature(geometry: Any) -> dict[str, Any]:
    return {
        "type": "Feature",
        "id": "PathAnnotationObject",
        "geometry": geometry,
        "properties": {"objectType": "annotation", "classification": {"name": "Tissue"}},
    }


def holed() -> NDArray[np.bool_]:
    mask = np.zeros((100, 150), np.bool_)
    mask[10:90, 25:125] = True
    mask[30:50, 50:70] = False
    return mask


@pytest.mark.parametrize(
    "content",
    [
        HOLED,
        feature(HOLED),
        {"type": "FeatureCollection", "features": [feature(HOLED)]},
        {"type": "GeometryCollection", "geometries": [HOLED]},
        {
            "type": "Polygon",
            "coordinates": [[[*p, 7.0] for p in ring[::-1]] for ring in HOLED["coordinates"]],
        },
    ],
    ids=["bare", "feature", "collection", "geometries", "clockwise with z"],
)
def test_a_polygon_with_a_hole_is_filled_to_the_pixel(tmp_path: Path, content: Any) -> None:
    found = load_mask(geojson(tmp_path / "a.geojson", content), FINE)
    np.testing.assert_array_equal(found, holed())


def test_polygons_add_up_also_one_in_the_hole_of_another(tmp_path: Path) -> None:
    expected = holed()
    expected[35:45, 55:65] = True
    expected[:5, :5] = True
    found = load_mask(geojson(tmp_path / "a.json", TWO), FINE)
    np.testing.assert_array_equal(found, expected)


def test_a_drawn_outline_takes_the_pixels_whose_centre_it_holds(tmp_path: Path) -> None:
    """Held against every centre's distance from the middle of a circle."""
    angles = np.linspace(0, 2 * np.pi, 721)[:-1]
    x, y = 300.3 + 150 * np.cos(angles), 190.7 + 150 * np.sin(angles)
    ring = np.stack([x, y], axis=1).tolist()
    path = geojson(tmp_path / "a.geojson", {"type": "Polygon", "coordinates": [ring]})
    raster = Raster(SLIDE, (87, 131), (4.7, 4.6), (-3.1, 0.0))
    found = load_mask(path, raster)
    rows, columns = raster.centres(0), raster.centres(1)
    distance = np.hypot(rows[:, None] - 190.7, columns - 300.3)
    assert found[distance < 149.9].all()
    assert not found[distance > 150].any()


def test_a_drawn_area_may_end_a_little_beyond_the_slide_and_no_further(tmp_path: Path) -> None:
    over = {"type": "Polygon", "coordinates": [box(-10, -7, 300, 200)]}
    found = load_mask(geojson(tmp_path / "a.geojson", over), FINE)
    expected = np.zeros((100, 150), np.bool_)
    expected[:50, :75] = True
    np.testing.assert_array_equal(found, expected)
    far = {"type": "Polygon", "coordinates": [box(0, 0, 30_000, 20_000)]}
    with pytest.raises(
        ConfigError, match=r"b\.geojson: mask spans x 0 to 30000 and y 0 to 20000.*600 x 400; give"
    ):
        load_mask(geojson(tmp_path / "b.geojson", far), FINE)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"type": "Point", "coordinates": [1, 2]}, "a Point is no area"),
        (feature({"type": "LineString", "coordinates": [[1, 2], [3, 4]]}), "a LineString is no"),
        (feature(None), "not GeoJSON of areas"),
        ({"features": []}, "no 'type'"),
        ([1, 2], "not GeoJSON of areas"),
        ({"type": "FeatureCollection", "features": []}, "holds no polygon"),
        ({"type": "Polygon", "coordinates": [[[1, 2], [3, 4]]]}, "a ring of 2 points"),
        ({"type": "Polygon", "coordinates": [[[1], [3], [4]]]}, "a ring of 3 points"),
        ({"type": "Polygon", "coordinates": [[["a", 2], [3, 4], [5, 6]]]}, "could not convert"),
        ({"type": "Polygon", "coordinates": [[[1, float("nan")], [3, 4], [5, 6]]]}, "no finite"),
    ],
)
def test_what_is_no_geojson_of_areas_is_refused(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"a\.geojson: .*{said}"):
        load_mask(geojson(tmp_path / "a.geojson", content), FINE)


def test_a_geojson_file_that_is_not_there_or_no_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.geojson: tissue mask cannot be read: No such file"):
        load_mask(str(tmp_path / "no.geojson"), FINE)
    (tmp_path / "a.geojson").write_text('{"type": ')
    with pytest.raises(ConfigError, match="not GeoJSON"):
        load_mask(str(tmp_path / "a.geojson"), FINE)


# -- OME-Zarr -----------------------------------------------------------------------------

MPP = (0.5, 0.25)


def mine(levels: list[Placement]) -> dict[str, Any]:
    return label_metadata("mine", levels, {1: ("mine", "#009E73")}, LARGEST)


def label(
    path: Path, values: NDArray[Any], step: float, origin: tuple[float, float], **changes: Any
) -> str:
    """Write a label image whose pixels are ``step`` level-0 pixels of `MPP`."""
    group = zarr.open_group(str(path), mode="w")
    group.create_array("0", data=values, chunks=(16, 16))
    described = mine([Placement.of(MPP, (step, step), origin)])
    described["multiscales"][0] |= changes
    group.attrs["ome"] = described
    return str(path)


def test_a_label_lies_where_its_transformations_say(tmp_path: Path) -> None:
    values = np.zeros((20, 30), np.uint16)
    values[5:10, 10:20] = 300
    path = label(tmp_path / "a.zarr", values, 10.0, (100.0, 200.0))
    expected = np.zeros((100, 150), np.bool_)
    # Rows 150 to 200 and columns 300 to 400 of level 0, every 4: those whose centre is in.
    centres = FINE.centres(0), FINE.centres(1)
    rows, columns = (
        (centres[0] >= 150) & (centres[0] < 200),
        (centres[1] >= 300) & (centres[1] < 400),
    )
    expected[np.ix_(rows, columns)] = True
    np.testing.assert_array_equal(load_mask(path, FINE, MPP), expected)


def test_a_label_in_other_units_and_with_more_axes_is_the_same(tmp_path: Path) -> None:
    values = np.random.default_rng(3).random((40, 60)) < 0.5
    plain = label(tmp_path / "a.zarr", values.astype(np.uint8), 10.0, (0.0, 0.0))
    group = zarr.open_group(str(tmp_path / "b.zarr"), mode="w")
    group.create_array("0", data=values.T[None], chunks=(1, 16, 16))
    place = Placement.of(MPP, (10.0, 10.0))
    scale, origin = ([n / 1000 for n in each[::-1]] for each in (place.scale, place.origin))
    axes: list[Any] = [{"name": "c", "type": "channel"}] + [
        {"name": name, "type": "space", "unit": "millimeter"} for name in "xy"
    ]
    moved: list[Any] = [
        {"type": "scale", "scale": [1.0, *scale]},
        {"type": "translation", "translation": [0.0, *origin]},
    ]
    group.attrs["multiscales"] = [
        {
            "version": "0.4",
            "axes": axes,
            "datasets": [{"path": "0", "coordinateTransformations": moved}],
        }
    ]
    expected = load_mask(plain, FINE, MPP)
    assert 0.4 < expected.mean() < 0.6
    np.testing.assert_array_equal(load_mask(str(tmp_path / "b.zarr"), FINE, MPP), expected)


def test_the_coarsest_level_that_is_fine_enough_is_read(tmp_path: Path) -> None:
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    levels = [Placement.of(MPP, (step, step)) for step in (2.0, 4.0, 8.0)]
    group.create_array("1", data=np.ones((100, 150), np.uint8))
    group.attrs["ome"] = mine(levels)  # only level 1 is there
    assert load_mask(str(tmp_path / "a.zarr"), FINE, MPP).all()


def test_a_label_of_another_slide_is_refused(tmp_path: Path) -> None:
    path = label(tmp_path / "a.zarr", np.ones((50, 60), np.uint8), 10.0, (0.0, 0.0))
    with pytest.raises(ConfigError, match=r"a\.zarr: mask spans .*the slide is 600 x 400"):
        load_mask(path, FINE, MPP)


def test_what_is_no_label_or_says_no_scale_is_refused(tmp_path: Path) -> None:
    ones = np.ones((40, 60))
    with pytest.raises(ConfigError, match=r"a\.zarr: axes yx of .* float64 are no label image"):
        load_mask(label(tmp_path / "a.zarr", ones, 10.0, (0, 0)), FINE, MPP)
    axes = [{"name": "y"}, {"name": "x"}]
    path = label(tmp_path / "b.zarr", ones.astype(np.uint8), 10.0, (0, 0), axes=axes)
    with pytest.raises(ConfigError, match=r"b\.zarr: its scale .* in no unit says no micrometres"):
        load_mask(path, FINE, MPP)
    zarr.open_group(str(tmp_path / "c.zarr"), mode="w")
    with pytest.raises(ConfigError, match=r"c\.zarr: no label image"):
        load_mask(str(tmp_path / "c.zarr"), FINE, MPP)
    path = label(tmp_path / "d.zarr", ones.astype(np.uint8), 10.0, (0, 0))
    with pytest.raises(ConfigError, match=r"d\.zarr: is placed in micrometres.*unknown"):
        load_mask(path, FINE)
    (tmp_path / "e.zarr").mkdir()
    (tmp_path / "e.zarr" / "zarr.json").write_text("{")
    with pytest.raises(ConfigError, match=r"e\.zarr: tissue mask cannot be read .*; give a label"):
        load_mask(str(tmp_path / "e.zarr"), FINE, MPP)
