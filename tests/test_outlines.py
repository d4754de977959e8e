"""Outlines along pixel edges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.objects.outlines import Corners, find_corners, make_polygons

masks = arrays(
    np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.booleans(), fill=None
)


@settings(max_examples=150, deadline=None)
@given(masks)
def test_an_outline_holds_exactly_its_pixels_and_is_valid(mask: NDArray[Any]) -> None:
    labels, count = ndimage.label(mask)
    found, polygons = make_polygons(find_corners(labels, (5, 9)))
    assert found.tolist() == list(range(1, count + 1))
    assert shapely.is_valid(polygons).all()
    assert shapely.area(polygons).tolist() == np.bincount(labels.ravel())[1:].tolist()
    for number, polygon in zip(found, polygons, strict=True):
        y, x = np.nonzero(labels == number)
        assert shapely.covers(polygon, shapely.points(x + 9.5, y + 5.5)).all()


@settings(max_examples=100, deadline=None)
@given(masks)
def test_filled_outlines_hold_what_they_enclose(mask: NDArray[Any]) -> None:
    labels, _ = ndimage.label(mask)
    found, polygons = make_polygons(find_corners(labels), filled=True)
    assert shapely.is_valid(polygons).all()
    assert not sum(len(polygon.interiors) for polygon in polygons)
    filled = [ndimage.binary_fill_holes(labels == number).sum() for number in found]
    assert shapely.area(polygons).tolist() == filled


@settings(max_examples=100, deadline=None)
@given(masks, st.integers(0, 9), st.integers(0, 9))
def test_corners_of_parts_add_up_to_those_of_the_whole(
    mask: NDArray[Any],
    row: int,
    column: int,
) -> None:
    labels, _ = ndimage.label(mask)
    parts = [
        find_corners(part, (y, x))
        for y, rows in ((0, labels[:row]), (row, labels[row:]))
        for x, part in ((0, rows[:, :column]), (column, rows[:, column:]))
    ]
    summed, whole = Corners.summed(parts), find_corners(labels)
    for name in ("labels", "y", "x", "weights"):
        assert getattr(summed, name).tolist() == getattr(whole, name).tolist()


def test_a_ring_whose_hole_touches_it_is_a_shell_and_a_hole() -> None:
    mask = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]])
    _, (polygon,) = make_polygons(find_corners(mask))
    assert polygon.wkt == (
        "POLYGON ((0 0, 3 0, 3 2, 2 2, 2 3, 0 3, 0 0), (1 1, 2 1, 2 2, 1 2, 1 1))"
    )


def test_nothing_has_no_outline() -> None:
    labels, polygons = make_polygons(find_corners(np.zeros((3, 4), np.int32)))
    assert len(labels) == len(polygons) == 0


@pytest.mark.parametrize("numbers", [(0, 1, 1), (0, 2, 0)])
def test_relabelled_corners_join_or_leave(numbers: tuple[int, ...]) -> None:
    labels = np.array([[1, 2]])
    corners = Corners.summed([find_corners(labels).relabelled(np.array(numbers))])
    joined = np.array(numbers)[labels]
    _, (polygon,) = make_polygons(corners)
    assert polygon.area == np.count_nonzero(joined)
