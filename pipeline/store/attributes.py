"""What this package says of a store in its own attribute, held against what it ever wrote there.

Whoever reads a store further on trusts it: names are no paths out of it, numbers are numbers.
What is not said at all is for whoever needs it to miss.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["check_attributes"]

Check = Callable[[Any], bool]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""As a card names an output."""


def _is(*kinds: type) -> Check:
    return lambda value: isinstance(value, kinds) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return _is(int, float)(value) and abs(value) < 2**63 and math.isfinite(value)


def _count(value: Any) -> bool:
    return _is(int)(value) and 0 <= value < 2**63


def _positive(value: Any) -> bool:
    return _number(value) and value > 0


def _name(value: Any) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _folder(value: Any) -> bool:
    return value == "" or (isinstance(value, str) and all(map(_name, value.split("/"))))


def _list(each: Check, *, of: int | None = None) -> Check:
    return lambda value: (
        isinstance(value, list) and of in (None, len(value)) and all(map(each, value))
    )


def _mapping(each: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(map(each, value.values()))


def _maybe(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _keys(checks: Mapping[str, Check], needed: tuple[str, ...] = ()) -> Check:
    """Accept a mapping whose known keys are as they should be; a name may end in ``*``."""

    def check(value: Any) -> bool:
        if not isinstance(value, dict) or not set(needed) <= value.keys():
            return False
        known = ((checks.get(key) or checks.get(_stem(key)), said) for key, said in value.items())
        return all(one(said) for one, said in known if one is not None)

    return check


def _stem(key: str) -> str:
    return f"{key.rpartition('.')[0]}.*"


def _rising(value: Any) -> bool:
    return _list(_number, of=2)(value) and bool(value[0] < value[1])


def _output(value: Any) -> bool:
    """Accept kind, tensor, activation, stride and channels, as `pipeline.model.refs` has them."""
    return (
        _is(list)(value) and len(value) == 5 and _positive(value[3]) and _list(_is(str))(value[4])
    )


_OUTPUT = _keys(
    {
        "name": _name,
        "kind": lambda value: value in ("scores", "features", "labels"),
        "folder": _folder,
        "channels": _list(_is(str)),
        "values": _list(_count),
    },
    needed=("name", "kind", "folder", "channels"),
)

_SETTINGS = _keys(
    {
        "slide.mpp": _list(_positive, of=2),
        "slide.identity": _is(str),
        "slide.reader": _is(str),
        "slide.crop": _list(_number, of=4),
        "output.block": lambda value: _count(value) and 0 < value < 2**31,
        "tissue.step": _list(_positive, of=2),
        "model.range.*": _rising,
        "model.output.*": _output,
        "model.labels.*": lambda value: _is(list)(value) and len(value) == 2,
        "model.objects.*": lambda value: _is(list)(value) and len(value) >= 5,
    }
)

_SLIDE = _keys(
    {
        "path": _is(str),
        "reader": _is(str),
        "mpp_source": _is(str),
        "shape": lambda value: _list(_count, of=2)(value) and 0 < min(value) <= max(value) < 2**31,
        "seen_mpp": _list(_positive, of=2),
    }
)

_CHECKS: Mapping[str, Check] = {
    "settings": _maybe(_SETTINGS),
    "provenance": _keys(
        {
            "started": _is(str),
            "slide": _SLIDE,
            "model": _is(dict),
            "manifest": _is(dict),
            "versions": _is(dict),
            "notes": _list(_is(str)),
        }
    ),
    "outputs": _list(_OUTPUT),
    "tables": _list(_name),
    "blocks": _mapping(_count),
    "failures": _list(
        _keys({"block": _list(_count, of=2), "reason": _is(str)}, needed=("block", "reason"))
    ),
    "seconds": _number,
    "memory": _mapping(_maybe(_number)),
    "stage_seconds": _mapping(_number),
    "sessions": _list(_list(_is(dict))),
}


def check_attributes(own: Mapping[str, Any]) -> None:
    """Raise `ValueError` naming what is not as any version of this package writes it.

    >>> check_attributes({"tables": ["nuclei"], "seconds": 1.5})
    >>> check_attributes({"tables": ["../nuclei"]})
    Traceback (most recent call last):
    ValueError: its metadata say "tables": ["../nuclei"]
    """
    for key, check in _CHECKS.items():
        if key in own and not check(own[key]):
            raise ValueError(f'its metadata say "{key}": {json.dumps(own[key]):.100}')
