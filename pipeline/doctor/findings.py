"""What a check has found: well, to be minded, or to be mended, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Check", "Finding", "State", "told"]

State = Literal["ok", "warning", "problem", "skipped"]

_MOST_TOLD = 3
"""Of what is wrong in many places alike, so many are told one by one."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look has found.

    ``said`` is what was looked at, with its values, ``remedy`` what to do where it is not well.
    ``values`` are the same for programs, JSON. Of a check that was ``skipped``, ``said`` names
    those that it needs. ``traceback`` is there where the check itself has failed.
    """

    state: State
    said: str
    remedy: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    check: str = ""
    traceback: str = ""

    @classmethod
    def ok(cls, said: str, **values: Any) -> Finding:
        """Give what is well."""
        return cls("ok", said, values=values)

    @classmethod
    def warning(cls, said: str, remedy: str, **values: Any) -> Finding:
        """Give what a run survives, and its user should know."""
        return cls("warning", said, remedy, values)

    @classmethod
    def problem(cls, said: str, remedy: str, **values: Any) -> Finding:
        """Give what stops a run, or spoils what comes of it."""
        return cls("problem", said, remedy, values)

    @classmethod
    def of_error(cls, message: str) -> Finding:
        """Give the problem that an error's message tells.

        Messages end in what to do, after a semicolon.

        >>> Finding.of_error("a.svs: not a slide; name another").remedy
        'name another'
        """
        said, _, remedy = " ".join(message.split()).rpartition("; ")
        return cls.problem(said, remedy) if said else cls.problem(remedy, "mend what it names")


@dataclass(frozen=True, slots=True)
class Check:
    """What is looked at, left out where one of those that it ``needs`` has a problem.

    ``look`` is called with nothing, or with a `Case`.
    """

    name: str
    look: Callable[..., Iterator[Finding]]
    needs: tuple[str, ...] = ()


def told(each: Sequence[str]) -> Iterator[str]:
    """Give the first few of many, and how many more there are.

    >>> list(told(["a", "b", "c", "d", "e"]))
    ['a', 'b', 'c', 'and 2 more']
    """
    yield from each[:_MOST_TOLD]
    if len(each) > _MOST_TOLD:
        yield f"and {len(each) - _MOST_TOLD} more"
