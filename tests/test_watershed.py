"""Connected pieces, divided where they have several maxima."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.objects.watershed import divide


def discs(*centres: tuple[int, int], radius: float = 6.5) -> NDArray[Any]:
    y, x = np.mgrid[:40, :60]
    mask: NDArray[Any] = np.any([np.hypot(y - b, x - a) < radius for b, a in centres], axis=0)
    return mask


def test_touching_discs_are_two_and_meet_halfway() -> None:
    mask = discs((20, 20), (20, 31))
    labels = divide(mask, None, 4.0)
    assert len(np.unique(labels[mask])) == 2
    assert labels[20, 15] == labels[20, 25] != labels[20, 26]
    assert labels[20, 26] == labels[20, 36]


def test_pieces_are_objects_even_where_their_maximum_is_near_a_greater_one() -> None:
    mask = discs((20, 20))
    mask[20, 28] = True
    labels = divide(mask, None, 10.0)
    assert labels[20, 28] not in (0, labels[20, 20])


def test_seeds_that_are_too_near_make_one_object() -> None:
    mask = discs((20, 20), (20, 31))
    assert len(np.unique(divide(mask, None, 12.0)[mask])) == 1


def test_flat_ground_belongs_to_the_nearer_seed() -> None:
    mask = np.ones((9, 40), np.bool_)
    seeds = np.zeros((9, 40), np.float32)
    seeds[1, 4], seeds[7, 35] = 1, 0.5
    labels = divide(mask, seeds, 3.0)
    away = [np.hypot(*(np.mgrid[:9, :40] - np.reshape(at, (2, 1, 1)))) for at in ((1, 4), (7, 35))]
    clear = np.abs(away[0] - away[1]) > 1.5
    assert ((labels == labels[1, 4]) == (away[0] < away[1]))[clear].all()


def test_a_mask_that_is_full_is_one_object() -> None:
    assert len(np.unique(divide(np.ones((5, 6), np.bool_), None, 2.0))) == 1


def test_pixels_that_touch_at_a_corner_are_two_objects() -> None:
    labels = divide(np.eye(2, dtype=np.bool_), None, 1.0)
    assert sorted(np.unique(labels)) == [0, 1, 2]
