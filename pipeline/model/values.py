"""Kinds of values that stand in a card."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

__all__ = ["Auto", "Colour", "Names", "PerChannel", "Whole"]

# `halo: yes` is true in YAML, and would otherwise mean 1.
Whole = Annotated[int, Field(strict=True)]
Auto = Literal["auto"]


def _as_list(value: Any) -> Any:
    return (value,) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _per_channel(values: tuple[float, ...]) -> tuple[float, ...]:
    if len(values) not in (1, 3):
        raise ValueError("give one number, or three: red, green and blue")
    return values


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("a name is given twice")
    return names


_NUMBER = {"type": "number"}
PerChannel = Annotated[
    tuple[float, ...],
    BeforeValidator(_as_list),
    AfterValidator(_per_channel),
    WithJsonSchema(
        {
            "anyOf": [
                _NUMBER,
                {"type": "array", "items": _NUMBER, "minItems": 1, "maxItems": 1},
                {"type": "array", "items": _NUMBER, "minItems": 3, "maxItems": 3},
            ]
        }
    ),
]
Names = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_distinct)]
Colour = Annotated[str, Field(pattern="^#[0-9a-fA-F]{6}$")]
