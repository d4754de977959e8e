"""The number of patches per call, by a clock that says what we want."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline.errors import ModelError
from pipeline.model.batching import Choice, candidates, fitting, measured


class Machine:
    """Runs batches in no time and says that they took what ``seconds`` gives."""

    def __init__(self, seconds: Callable[[int], float], warming: float = 1) -> None:
        self.runs: list[int] = []
        self.now = 0.0
        self.fits = 2**30
        self._seconds = seconds
        self._warming = warming

    def run(self, batch: int) -> None:
        first = batch not in self.runs
        self.runs.append(batch)
        if batch > self.fits:
            raise ModelError("no memory")
        self.now += self._seconds(batch) * (self._warming if first else 1)

    def chosen(self, most: int) -> Choice:
        return measured(self.run, most, clock=lambda: self.now)


@pytest.mark.parametrize(
    ("most", "tried"),
    [(1, [1]), (2, [2]), (3, [2, 3]), (4, [2, 4]), (12, [2, 4, 8, 12]), (16, [2, 4, 8, 16])],
)
def test_powers_of_two_and_the_most_are_tried_but_not_one(most: int, tried: list[int]) -> None:
    assert candidates(most) == tried
    machine = Machine(lambda _: 0.01)
    machine.chosen(most)
    assert machine.runs == [batch for batch in tried for _ in range(4)]


def test_the_fastest_per_patch_is_taken() -> None:
    per_patch = {2: 0.5, 4: 0.25, 8: 0.375}
    assert Machine(lambda n: n * per_patch[n] / 128).chosen(8) == Choice(4, 0.25 / 128)


def test_of_those_within_three_percent_the_smallest_is_taken() -> None:
    for each, batch in ((0.001029, 2), (0.00104, 4)):
        per_patch = {2: each, 4: 0.001005, 8: 0.001}
        assert Machine(lambda n, t=per_patch: n * t[n]).chosen(8).batch == batch  # type: ignore[misc]


def test_warming_up_does_not_count() -> None:
    # The first run of each size takes eight times as long.
    assert Machine(lambda _: 1 / 256, warming=8).chosen(4) == Choice(4, 1 / 1024)


def test_after_a_run_of_more_than_50_ms_nothing_larger_is_tried() -> None:
    machine = Machine(lambda n: 0.015 * n)
    assert machine.chosen(64).batch == 2
    assert machine.runs == [2] * 4 + [4] * 2


def test_the_last_one_s_warming_up_does_not_count_either() -> None:
    machine = Machine(lambda _: 1 / 16, warming=2)
    assert machine.chosen(64) == Choice(2, 1 / 32)
    assert machine.runs == [2] * 2


def test_a_run_of_more_than_50_ms_counts_all_the_same() -> None:
    assert Machine(lambda n: 0.035 + 0.005 * n).chosen(64).batch == 4


def test_a_model_that_takes_seconds_is_run_once() -> None:
    machine = Machine(lambda n: 5.0 * n)
    assert machine.chosen(64) == Choice(2, 5.0)
    assert machine.runs == [2]


def test_a_batch_that_fails_ends_the_search_and_what_ran_before_it_is_taken() -> None:
    machine = Machine(lambda _: 0.01)  # the larger the better
    machine.fits = 7
    assert machine.chosen(64).batch == 4
    assert machine.runs == [2] * 4 + [4] * 4 + [8]


def test_where_not_even_the_smallest_batch_runs_its_error_is_the_answer() -> None:
    machine = Machine(lambda _: 0.01)
    machine.fits = 1
    with pytest.raises(ModelError, match="no memory"):
        machine.chosen(64)


def test_on_a_gpu_the_most_that_fits_its_memory_is_taken() -> None:
    tried: list[int] = []

    def run(batch: int) -> None:
        tried.append(batch)
        if batch > 10:
            raise ModelError("out of memory")

    clock = iter([0.0, 8.0])
    assert fitting(run, 32, clock=lambda: next(clock)) == Choice(8, 1.0)
    assert tried == [32, 16, 8, 8]


def test_where_not_even_one_patch_fits_a_gpu_its_error_is_the_answer() -> None:
    def run(_: int) -> None:
        raise ModelError("out of memory")

    with pytest.raises(ModelError, match="out of memory"):
        fitting(run, 4)
