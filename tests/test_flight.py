"""Slides in flight: bounded, in the order in which they end, and none begun that is not wanted."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest

from pipeline.batch.flight import in_flight, slides_at_once


@dataclass
class Counted:
    """Work that waits for company, and knows the most that were ever together."""

    most: int = 0
    under_way: int = 0
    begun: list[int] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, number: int) -> int:
        with self.lock:
            self.begun.append(number)
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        threading.Event().wait(0.01)
        with self.lock:
            self.under_way -= 1
        return number


@pytest.mark.parametrize("at_once", [1, 3])
def test_so_many_are_under_way_and_all_are_given(at_once: int) -> None:
    work = Counted()
    assert sorted(in_flight(range(20), work, at_once, lambda: False)) == list(range(20))
    assert work.most == at_once


@pytest.mark.parametrize("at_once", [1, 3])
def test_none_begins_once_there_is_enough(at_once: int) -> None:
    work = Counted()
    given = list(in_flight(range(20), work, at_once, lambda: len(work.begun) >= 4))
    assert sorted(given) == sorted(work.begun)
    assert 4 <= len(given) < 4 + at_once


def test_items_are_taken_when_there_is_room_and_not_before() -> None:
    taken = []

    def items() -> object:
        for number in range(1000):
            taken.append(number)
            yield number

    stream = in_flight(items(), lambda number: number, 2, lambda: False)  # type: ignore[arg-type, var-annotated]
    next(stream)
    assert len(taken) <= 4
    stream.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_defect_is_raised(at_once: int) -> None:
    with pytest.raises(ZeroDivisionError):
        list(in_flight([1, 0], lambda number: 1 // number, at_once, lambda: False))


def test_two_are_under_way_or_more_where_there_are_many_threads() -> None:
    assert slides_at_once("auto", 1) == 2
    assert slides_at_once("auto", 24) == 6
    assert slides_at_once("auto", 1000) == 16
    assert slides_at_once(1, 1000) == 1
