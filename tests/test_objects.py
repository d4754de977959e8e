"""Objects found in dense maps, whatever blocks the plane is cut into."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from pipeline.errors import ConfigError
from pipeline.geometry import Box, Grid
from pipeline.objects import Finder, Objects, find_objects

FINDER = Finder("watershed", 0, None, None, (), 0.5, 3.0, 0.0)
COLUMNS = [field.name for field in fields(Objects) if field.name != "geometries"]


def found(values: NDArray[np.float32], finder: Finder) -> Objects:
    plane = values.shape[1:]
    whole = Box(0, 0, *plane)
    return find_objects(values, whole, whole, (plane[0], plane[1]), finder)


def found_in_blocks(
    values: NDArray[np.float32], finder: Finder, block: int, margin: int
) -> dict[str, Any]:
    """Give the columns of all blocks' objects together, by id."""
    plane = (values.shape[1], values.shape[2])
    grid = Grid(plane, block)
    parts = []
    for index in grid:
        kept = grid.box(index)
        outer = kept.expanded(margin).clipped(plane)
        part = values[(slice(None), *outer.within(Box(0, 0, *plane)))]
        parts.append(find_objects(part, outer, kept, plane, finder))
    order = np.argsort(np.concatenate([part.ids for part in parts]))
    names = [name for name in (*COLUMNS, "geometries") if name != "class_names"]
    return {name: np.concatenate([getattr(part, name) for part in parts])[order] for name in names}


def texture(seed: int, levels: float | None) -> NDArray[np.float32]:
    """Give two channels of blobs that touch in clumps; with ``levels``, full of plateaus."""
    noise = np.random.default_rng(seed).normal(size=(2, 150, 130))
    smooth = gaussian_filter(noise, (0, 2.0, 2.0))
    values: NDArray[np.float32] = (smooth / smooth.std()).astype(np.float32)
    if levels is not None:
        values = np.round(values * levels).astype(np.float32) / np.float32(levels)
    return values


@pytest.mark.parametrize("levels", [None, 4.0])
@pytest.mark.parametrize(("method", "seeds"), [("watershed", None), ("watershed", 0), ("peaks", 1)])
def test_objects_do_not_depend_on_the_blocks(
    method: str, seeds: int | None, levels: float | None
) -> None:
    classes = ((1, "one"), (0, "other"))
    finder = Finder(method, 0, seeds, None, classes, 0.9, 4.0, 3.0)
    values = texture(0, levels)
    whole = found(values, finder)
    assert len(whole) > 50
    for block in (41, 64, 100):
        parts = found_in_blocks(values, finder, block, margin=50)
        assert not parts["truncated"].any()
        for name in ("ids", "x", "y", "areas", "scores", "classes"):
            assert parts[name].tolist() == getattr(whole, name).tolist(), name
        assert parts["geometries"].tolist() == whole.geometries.tolist()


def one_square() -> NDArray[np.float32]:
    values = np.zeros((3, 20, 30), np.float32)
    values[0, 5:9, 10:16] = 0.75
    values[0, 8, 15] = 1
    values[1], values[2] = 0.2, 0.3
    return values


def test_a_square_is_its_outline_area_centre_and_mean() -> None:
    objects = found(one_square(), FINDER)
    (polygon,) = objects.geometries
    assert polygon.wkt == "POLYGON ((10 5, 16 5, 16 9, 10 9, 10 5))"
    assert objects.ids.tolist() == [5 * 30 + 10]
    assert (objects.x.tolist(), objects.y.tolist()) == ([13.0], [7.0])
    assert objects.areas.tolist() == [24.0]
    assert objects.scores[0] == pytest.approx((23 * 0.75 + 1) / 24)
    assert not objects.truncated.any()


def test_the_class_is_the_channel_with_the_greatest_mean() -> None:
    classes = ((1, "stroma"), (2, "tumour"))
    objects = found(one_square(), replace(FINDER, classes=classes))
    assert [objects.class_names[number] for number in objects.classes] == ["tumour"]
    assert found(one_square(), FINDER).classes.tolist() == [-1]


def test_peaks_are_points_with_their_pixels_score() -> None:
    objects = found(one_square(), replace(FINDER, method="peaks"))
    assert [point.wkt for point in objects.geometries] == ["POINT (15.5 8.5)"]
    assert objects.scores.tolist() == [1.0]
    assert objects.areas.tolist() == [0.0]


def test_the_boundary_is_taken_out_of_the_foreground() -> None:
    values = one_square()
    values[1, :, 12] = 1
    objects = found(values, replace(FINDER, boundary=1, threshold=0.1))
    assert sorted(objects.areas) == [8.0, 12.0]


def test_small_objects_are_left_out_by_the_area_of_their_outline() -> None:
    assert len(found(one_square(), replace(FINDER, min_area=24.0))) == 1
    assert len(found(one_square(), replace(FINDER, min_area=24.5))) == 0


def test_holes_are_filled() -> None:
    values = one_square()
    values[0, 6:8, 11:14] = 0
    objects = found(values, replace(FINDER, min_distance=20.0))
    assert objects.areas.tolist() == [24.0]
    assert not shapely.get_num_interior_rings(objects.geometries).any()


def test_an_arc_is_placed_on_its_own_pixel_nearest_to_its_centroid() -> None:
    values = np.zeros((1, 12, 12), np.float32)
    values[0, 2:10, 2:10] = 1
    values[0, 3:10, 3:9] = 0
    objects = found(values, replace(FINDER, min_distance=30.0))
    # The centroid (6, 5) lies in the gap, nearest to the bar on top.
    assert (objects.x.tolist(), objects.y.tolist()) == ([5.5], [2.5])


def test_what_leaves_the_margin_is_truncated_and_what_leaves_the_plane_is_not() -> None:
    values = np.zeros((1, 20, 40), np.float32)
    values[0, 3:6, :30] = 1
    values[0, 10:13, 20:] = 1
    finder = replace(FINDER, min_distance=50.0)
    whole = found(values, finder)
    assert whole.truncated.tolist() == [False, False]
    left = Box(0, 0, 20, 25)
    parts = find_objects(values[:, :, :25], left, left, (20, 40), finder)
    assert parts.truncated.tolist() == [True, True]


def test_an_object_on_a_border_belongs_to_the_box_that_begins_there() -> None:
    values = one_square()
    plane, whole = (20, 30), Box(0, 0, 20, 30)
    counts = [
        len(find_objects(values, whole, kept, plane, FINDER))
        for kept in (Box(0, 0, 20, 13), Box(0, 13, 20, 17), Box(0, 0, 7, 30), Box(7, 0, 13, 30))
    ]
    assert counts == [0, 1, 0, 1]


@pytest.mark.parametrize("method", ["peaks", "watershed"])
def test_nothing_is_found_in_nothing(method: str) -> None:
    finder = replace(FINDER, method=method, classes=((0, "a"),))
    objects = found(np.zeros((1, 9, 9), np.float32), finder).placed((1, 1), (0, 0), (1, 1))
    assert all(len(getattr(objects, name)) == 0 for name in ("ids", "x", "classes", "geometries"))
    assert objects.class_names == ("a",)


def test_objects_are_placed_by_pixel_corners() -> None:
    placed = found(one_square(), FINDER).placed((2.0, 4.0), (100.0, 1000.0), (0.5, 0.25))
    assert (placed.x.tolist(), placed.y.tolist()) == ([1052.0], [114.0])
    (polygon,) = placed.geometries
    assert polygon.bounds == (1040.0, 110.0, 1064.0, 118.0)
    assert placed.areas_um2.tolist() == [24.0]


def test_an_unknown_method_says_which_there_are() -> None:
    with pytest.raises(ConfigError, match=r"'blobs'.*peaks and watershed"):
        found(one_square(), replace(FINDER, method="blobs"))
