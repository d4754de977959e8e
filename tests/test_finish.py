"""What each output stores of a block's maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.errors import ModelError
from pipeline.model import OutputRef
from pipeline.plan.finish import as_labels, quantise


def store(
    scores: list[float], stored_as: str = "uint8", low: float = 0.0, high: float = 1.0
) -> NDArray[Any]:
    block = np.array(scores, np.float32).reshape(1, 1, -1)
    stored = quantise(block, stored_as, (low, high), "scores")
    assert stored.dtype == stored_as
    assert stored.shape == block.shape
    line: NDArray[Any] = stored[0, 0]
    return line


def test_bytes_span_the_range_and_are_rounded_to_nearest() -> None:
    assert store([0, 1, 0.4 / 255, 0.6 / 255, 99.49 / 255]).tolist() == [0, 255, 0, 1, 99]
    assert store([-4, 4, 0, 2], low=-4, high=4).tolist() == [0, 255, 128, 191]


@settings(max_examples=50, deadline=None)
@given(st.floats(-10, 10, width=32), st.floats(0.125, 20, width=32), st.floats(0, 1, width=32))
def test_a_stored_byte_is_within_half_a_step_of_its_score(
    low: float, span: float, share: float
) -> None:
    score = low + share * span
    (stored,) = store([score], low=low, high=low + span)
    assert abs(low + int(stored) * span / 255 - score) <= 0.501 * span / 255 + 1e-5


def test_a_score_just_beyond_the_range_is_its_end() -> None:
    assert store([-0.4 / 255, 1 + 0.4 / 255]).tolist() == [0, 255]


@pytest.mark.parametrize("score", [-0.6 / 255, 1 + 0.6 / 255, 255.0, -7.0])
def test_a_score_that_cannot_be_stored_is_an_error(score: float) -> None:
    with pytest.raises(
        ModelError, match=r"^scores: scores from .* do not fit 0 to 1; set .*float32"
    ):
        store([0.5, score])


def test_floats_are_stored_as_they_are() -> None:
    scores = [-7.5, 0.1, 300.25]
    assert store(scores, "float32").tolist() == np.array(scores, np.float32).tolist()
    assert store(scores, "float16").tolist() == np.array(scores, np.float16).tolist()


def test_a_score_too_large_for_float16_is_an_error_and_not_infinity() -> None:
    with pytest.raises(ModelError, match=r"^scores: .*1e\+06.* float16.*float32"):
        store([0.5, 1e6], "float16")


def test_an_empty_block_is_stored_as_nothing() -> None:
    assert store([]).shape == (0,)


# Labels


def labels_output(values: tuple[int, ...], threshold: float = 0.5) -> OutputRef:
    names = tuple(f"class {value}" for value in values)
    return OutputRef(
        name="classes",
        kind="labels",
        map=0,
        channels=names,
        colours=(),
        value_range=(0.0, 1.0),
        dtype="",
        threshold=threshold,
        values=values,
    )


def scores_of(*channels: list[float]) -> NDArray[np.float32]:
    return np.array(channels, np.float32)[:, None, :]


def test_a_label_is_that_of_the_greatest_channel() -> None:
    scores = scores_of([0.1, 0.9, 0.2], [0.5, 0.8, 0.1], [0.4, 0.0, 0.7])
    assert as_labels(scores, labels_output((0, 2, 3))).tolist() == [[[2, 0, 3]]]


def test_a_single_channel_is_a_label_from_its_threshold_on() -> None:
    labels = as_labels(scores_of([0.29, 0.3, 0.9]), labels_output((1,), 0.3))
    assert labels.tolist() == [[[0, 1, 1]]]
    assert labels.dtype == np.uint8


def test_numbers_of_classes_are_looked_up() -> None:
    output = labels_output((1, 0, 3))
    assert as_labels(scores_of([2, 0, 1]), output).tolist() == [[[3, 1, 0]]]
    with pytest.raises(ModelError, match=r"class numbers from 0 to 3, the card names 3; add"):
        as_labels(scores_of([3, 0, 1]), output)


def test_what_was_not_predicted_has_no_label() -> None:
    unknown = np.array([[True, False, True]])
    nan = float("nan")
    scores = scores_of([nan, 0.9, nan], [nan, 0.1, nan])
    assert as_labels(scores, labels_output((1, 2)), unknown).tolist() == [[[0, 1, 0]]]
    assert as_labels(scores_of([nan, 1, nan]), labels_output((1, 2)), unknown)[0].tolist() == [
        [0, 2, 0]
    ]
    assert as_labels(scores_of([nan, 1, nan]), labels_output((1,)), unknown)[0].tolist() == [
        [0, 1, 0]
    ]
