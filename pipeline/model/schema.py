"""The model card as a JSON schema (draft 2020-12), for editors, and as the README's table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.config.schema import DIALECT
from pipeline.model.card import Card

__all__ = ["card_schema", "card_table"]


def card_schema() -> dict[str, Any]:
    """Give the schema of a card: every field, its type, its bounds, its default and its meaning.

    What two fields must have in common is not in it: that is checked when a card is loaded.
    """
    made = Card.model_json_schema()
    return {"$schema": DIALECT, **made, "title": "wsi-pipeline model card"}


def card_table() -> str:
    """Give the README's table of a card's keys, as GitHub markdown."""
    schema = card_schema()
    rows = [
        f"| `{key}` | {value} | {default} | {meaning} |"
        for key, value, default, meaning in _rows(schema, schema["$defs"], "")
    ]
    return "\n".join(["| key | value | default | meaning |", "|---|---|---|---|", *rows])


def _rows(
    block: Mapping[str, Any], blocks: Mapping[str, Any], prefix: str
) -> Iterator[tuple[str, str, str, str]]:
    """Give key, value, default and meaning of every field, those of blocks in it too."""
    needed = block.get("required", ())
    for name, field in block["properties"].items():
        inner, mark = _block_in(field)
        default = "required" if name in needed else _default(field.get("default", ""))
        # A block that is always there says nothing by itself.
        if inner is None or mark or _may_be_none(field):
            meaning = field["description"].replace("|", "\\|")
            yield f"{prefix}{name}", _allowed(field), default, meaning
        if inner is not None:
            yield from _rows(blocks[inner], blocks, f"{prefix}{name}{mark}.")


def _block_in(field: Mapping[str, Any]) -> tuple[str | None, str]:
    """Give the block that a field holds, and ``[]`` where it holds a list of them."""
    if field.get("type") == "array":
        return _block_in(field.get("items", {}))[0], "[]"
    for arm in [field, *field.get("anyOf", ()), *field.get("allOf", ())]:
        if "$ref" in arm:
            return arm["$ref"].rpartition("/")[2], ""
    return None, ""


def _may_be_none(field: Mapping[str, Any]) -> bool:
    return any(arm.get("type") == "null" for arm in field.get("anyOf", ()))


def _default(value: Any) -> str:
    return "empty" if value in ("", [], None) else json.dumps(value).strip('"')


_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
_WORDS = {"string": "text"}


def _allowed(field: Mapping[str, Any]) -> str:
    """Give a field's type in words."""
    if "anyOf" in field:
        arms = [_allowed(arm) for arm in field["anyOf"] if arm.get("type") != "null"]
        return " or ".join(dict.fromkeys(arms))
    if "$ref" in field:
        return "a block"
    choices = field.get("enum") or ([field["const"]] if "const" in field else [])
    if choices:
        *most, last = map(str, choices)
        return f"{', '.join(most)} or {last}" if most else last
    if field["type"] == "array":
        return _list_of(field)
    signs = [f" {sign} {field[name]}" for name, sign in _BOUNDS.items() if name in field]
    word = str(field["type"])
    return _WORDS.get(word, word) + " and".join(signs)


def _list_of(field: Mapping[str, Any]) -> str:
    if "prefixItems" in field:
        return f"[{', '.join(map(_allowed, field['prefixItems']))}]"
    item, most = _allowed(field["items"]), field.get("maxItems")
    return f"[{', '.join([item] * most)}]" if most else f"[{item}, ...]"
