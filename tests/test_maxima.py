"""Maxima that keep a distance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.feature import peak_local_max

from pipeline.objects.maxima import find_maxima


def landscape(rows: list[str]) -> NDArray[Any]:
    """Give a small landscape from digits; a dot is nothing."""
    return np.array([[-np.inf if at == "." else float(at) for at in row] for row in rows], "f4")


def places(rows: list[str], distance: float) -> list[tuple[int, int]]:
    found = find_maxima(landscape(rows), distance)
    return list(zip(found.y.tolist(), found.x.tolist(), strict=True))


def test_a_maximum_near_a_greater_value_is_none() -> None:
    assert places([".5.7.", ".....", "....."], 2.0) == [(0, 1), (0, 3)]
    assert places([".5.7.", ".....", "....."], 2.1) == [(0, 3)]


def test_a_plateau_is_one_maximum_in_its_middle() -> None:
    assert places(["1111111", "1133311", "1133311", "1133311", "1111111"], 1.0) == [(2, 3)]


def test_the_skirt_of_a_slope_is_no_maximum_however_flat() -> None:
    assert places(["0" * 20 + "123"], 3.0) == [(0, 22)]


def test_of_equals_the_first_stays_and_those_near_the_dropped_too() -> None:
    assert places(["5.5.5.5.5", "........."], 3.0) == [(0, 0), (0, 4), (0, 8)]


def test_plateaus_are_numbered_by_row_and_column() -> None:
    found = find_maxima(landscape(["....3", ".....", "55..."]), 1.0)
    assert found.plateaus.tolist() == [[0, 0, 0, 0, 1], [0] * 5, [2, 2, 0, 0, 0]]


@pytest.mark.parametrize("seed", range(3))
def test_without_ties_they_are_scikit_images(seed: int) -> None:
    values = np.random.default_rng(seed).random((60, 50)).astype("f4")
    footprint = np.hypot(*np.mgrid[-3:4, -3:4]) < 3.5
    theirs = peak_local_max(values, footprint=footprint, exclude_border=False)
    found = find_maxima(values, 3.5)
    assert list(zip(found.y, found.x, strict=True)) == sorted(map(tuple, theirs))
