"""Cards as they are written: text to a `Card`, or what is wrong with it in one line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from pipeline.errors import ConfigError, ModelError, unknown_key
from pipeline.files.notation import parse_json, parse_yaml
from pipeline.model.card import Card, InputSpec, ObjectsSpec, OutputSpec, RegionsSpec, StitchSpec

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = ["card_of", "mapping_of"]

_BLOCKS: Mapping[str, type[BaseModel]] = {
    "input": InputSpec,
    "outputs": OutputSpec,
    "stitch": StitchSpec,
    "objects": ObjectsSpec,
    "regions": RegionsSpec,
}


def mapping_of(content: bytes, path: str) -> dict[str, Any]:
    """Give what a YAML or JSON file of that content says. Raises `ModelError` naming ``path``."""
    try:
        text = content.decode("utf-8")
        # Tabs may indent JSON, and nothing in YAML.
        raw = parse_json(text) if path.endswith(".json") else parse_yaml(text, path)
    except json.JSONDecodeError as error:
        raise ModelError(f"{path}: line {error.lineno}: {error.msg}; not JSON") from error
    except ConfigError as error:
        raise ModelError(f"{error}; a model card is a YAML file") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: not UTF-8 text; a model card is a YAML file") from error
    except ValueError as error:
        raise ModelError(f"{path}: {error}; not JSON of a model") from error
    if not isinstance(raw, dict):
        raise ModelError(f"{path}: not a model card: a mapping with name, onnx, input, outputs")
    return raw


def card_of(raw: Mapping[str, Any], path: str) -> Card:
    """Give the card that a mapping is. Raises `ModelError` with everything that is wrong in it."""
    try:
        return Card.model_validate(raw)
    except ValidationError as error:
        problems = "; ".join(_problems(error.errors(include_url=False)))
        raise ModelError(f"{path}: {problems}") from error


def _problems(errors: list[ErrorDetails]) -> Iterator[str]:
    """Say each thing wrong with a card: where, what, what was given or was meant."""
    by_place: dict[tuple[str, ...], list[ErrorDetails]] = {}
    for error in errors:
        by_place.setdefault(_keys(error), []).append(error)
    for keys, found in by_place.items():
        # A list of which an item is wrong is also said to be too short.
        if not any(other != keys and other[: len(keys)] == keys for other in by_place):
            yield f"{'.'.join(keys)}: {_said(keys, found)}" if keys else _said(keys, found)


def _said(keys: tuple[str, ...], errors: list[ErrorDetails]) -> str:
    first = errors[0]
    if first["type"] == "extra_forbidden":
        *parents, name = [key for key in keys if not key.isdigit()]
        block = _BLOCKS[parents[-1]] if parents else Card
        return unknown_key(name, tuple(block.model_fields))
    if first["type"] == "missing":
        return "missing"
    # What may be a number or a word is said to be neither, one error each.
    messages = dict.fromkeys(each["msg"].removeprefix("Value error, ") for each in errors)
    said = ", or ".join(messages)
    return said if isinstance(first["input"], dict) else f"{said} (given {first['input']!r:.60})"


def _keys(error: ErrorDetails) -> tuple[str, ...]:
    """Give where an error is, without pydantic's parts for the arms of a union."""
    block: type[BaseModel] | None = Card
    keys: list[str] = []
    for place, part in enumerate(error["loc"], start=1):
        if isinstance(part, int):
            keys.append(str(part))
        elif block is not None:
            own = part in block.model_fields
            if own or (error["type"] == "extra_forbidden" and place == len(error["loc"])):
                keys.append(part)
                block = _BLOCKS.get(part)
    return tuple(keys)
