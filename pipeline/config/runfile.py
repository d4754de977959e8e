"""Reading a run file, writing it back, and saying what may stand in it.

Every problem of a file is reported at once, one line each: where, what was given, what is
allowed. The first two come from the file, the last from the field's type in `config`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from pipeline.config import ClusterConfig, LocalPath, RunConfig
from pipeline.config.values import Block
from pipeline.errors import ConfigError, unknown_key
from pipeline.files import places
from pipeline.files.notation import FLOAT, MOST_YAML_BYTES, parse_yaml

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = [
    "FieldDoc",
    "cluster_config",
    "config_table",
    "describe_fields",
    "dump_config",
    "load_config",
    "parse_config",
]


@dataclass(frozen=True, slots=True)
class FieldDoc:
    """One row of the README's table."""

    key: str
    type: str
    default: str
    description: str


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run file, then apply ``"key.sub=value"`` overrides, their values in YAML.

    Relative paths are beside the run file; in overrides they are in the current directory.
    Raises `ConfigError` naming every problem, one per line.
    """
    path = Path(path).expanduser()
    try:
        text = places.read(str(path), MOST_YAML_BYTES).decode()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name a run file (YAML)") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text; name a run file (YAML)") from error
    return parse_config(text, str(path), path.parent, overrides)


def parse_config(text: str, origin: str, folder: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run file's text; ``folder`` is what its paths are relative to. See `load_config`."""
    raw = parse_yaml(text, origin)
    if not isinstance(raw, dict):
        found = "not a mapping of keys" if raw else "empty"
        raise ConfigError(f"{origin}: {found}; a run file needs at least slides: and model:")
    changed = []
    for override in overrides:
        key, change = _parse_override(override)
        raw = _merge(raw, _resolve_paths(change, RunConfig, Path()))
        changed.append(key)
    try:
        config = RunConfig.model_validate(raw)
    except ValidationError as invalid:
        raise ConfigError(_explain(invalid, origin, changed)) from invalid
    # After validation, so that messages show paths as written and defaults are resolved too.
    return RunConfig.model_validate(_resolve_paths(config.model_dump(), RunConfig, folder))


def cluster_config(**settings: Any) -> ClusterConfig:
    """Give what a run file's block ``cluster`` with these keys is; `ConfigError` as of a file."""
    try:
        read = _Clusters.model_validate({"cluster": settings})
    except ValidationError as invalid:
        raise ConfigError(_explain(invalid, "pipeline.cluster", [])) from invalid
    return ClusterConfig.model_validate(
        _resolve_paths(read.cluster.model_dump(), ClusterConfig, Path())
    )


class _Clusters(Block):
    cluster: ClusterConfig


def dump_config(config: RunConfig) -> str:
    """Give the YAML that `load_config` reads back to an equal value."""
    return yaml.dump(config.model_dump(), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def describe_fields(model: type[BaseModel] = RunConfig) -> list[FieldDoc]:
    """Give every setting of ``model``, keys dotted; a block has a row if it may be none."""
    rows: list[FieldDoc] = []
    for name, field in model.model_fields.items():
        block = _block_of(field)
        if block is None or not isinstance(field.default, block):
            default = "required" if field.is_required() else _show(field.default)
            rows.append(FieldDoc(name, _allowed(field), default, str(field.description)))
        if block is not None:
            rows += [replace(row, key=f"{name}.{row.key}") for row in describe_fields(block)]
    return rows


def config_table() -> str:
    """Give the README's table of settings, as GitHub markdown."""
    rows = [
        f"| `{row.key}` | {row.type} | {row.default} | {row.description} |"
        for row in describe_fields()
    ]
    return "\n".join(["| key | value | default | meaning |", "|---|---|---|---|", *rows])


class _Dumper(yaml.SafeDumper):
    pass


# As `Loader` reads it.
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+.0123456789"))


def _parse_override(override: str) -> tuple[str, dict[str, Any]]:
    key, equals, value = override.partition("=")
    if not key or not equals or not key.isprintable():
        raise ConfigError(f"override {ascii(override)[1:-1]}: not of the form key.sub=value")
    change = parse_yaml(value, f"override {override}")
    for name in reversed(key.split(".")):
        change = {name: change}
    return key, change


def _merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**base, **change}
    for key in base.keys() & change.keys():
        if isinstance(base[key], Mapping) and isinstance(change[key], Mapping):
            merged[key] = _merge(base[key], change[key])
    return merged


def _resolve_paths(raw: Mapping[str, Any], model: type[BaseModel], folder: Path) -> dict[str, Any]:
    resolved = dict(raw)
    for name, field in model.model_fields.items():
        block = _block_of(field)
        if block and isinstance(raw.get(name), Mapping):
            resolved[name] = _resolve_paths(raw[name], block, folder)
        for mark in field.metadata:
            if name in raw and isinstance(mark, LocalPath):
                resolved[name] = mark.resolve(raw[name], folder)
    return resolved


def _block_of(field: FieldInfo) -> type[BaseModel] | None:
    for kind in (field.annotation, *get_args(field.annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _explain(invalid: ValidationError, path: str, changed: Sequence[str]) -> str:
    """Give one line for each key that is wrong, blaming the override if one set it."""
    problems: dict[str, str] = {}
    for error in invalid.errors():
        block, keys = _locate(error["loc"])
        problems.setdefault(".".join(keys), _problem(error, block, keys[-1]))
    lines = []
    for key, problem in problems.items():
        # What may be a block or something else is told as the block it was given as.
        if any(other.startswith(f"{key}.") for other in problems):
            continue
        ends = [(f"{key}.", f"{one}.") for one in changed]
        ours = any(a.startswith(b) or b.startswith(a) for a, b in ends)
        lines.append(f"{'override' if ours else path}: {key}: {problem}")
    return "\n".join(lines)


def _locate(loc: tuple[int | str, ...]) -> tuple[type[BaseModel], list[str]]:
    """Give the block and the dotted key, without pydantic's parts for list items and unions."""
    block: type[BaseModel] = RunConfig
    keys, parts = [str(loc[0])], list(loc[1:])
    while parts:
        field = block.model_fields[keys[-1]]
        inner = _block_of(field)
        if inner is not None and _other_than_block(field):
            inner = inner if parts.pop(0) == inner.__name__ and parts else None
        if inner is None:
            break
        block = inner
        keys.append(str(parts.pop(0)))
    return block, keys


def _other_than_block(field: FieldInfo) -> bool:
    """Say whether a field may be a block or something else, null not counted."""
    return len([arm for arm in get_args(field.annotation) if arm is not NoneType]) > 1


def _problem(error: ErrorDetails, block: type[BaseModel], name: str) -> str:
    known = list(block.model_fields)
    if name not in known:
        return unknown_key(name, known)
    remedy = f"give {_allowed(block.model_fields[name])}"
    if error["type"] == "missing":
        return f"missing; {remedy}"
    if error["type"] == "value_error":
        remedy = str(error["ctx"]["error"])
    return f"{_show(error['input'])} is not allowed; {remedy}"


def _show(value: object) -> str:
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=1000, allow_unicode=True)
    text = text.removesuffix("...\n").strip()
    return text if len(text) <= 80 else f"{text[:77]}..."


_WORDS = {str: "text", int: "integer", float: "number", NoneType: "null"}
_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def _allowed(field: FieldInfo, text: str = "text") -> str:
    """Give the field's type in words."""
    block = _block_of(field)
    if block is not None and not _other_than_block(field):
        return f"a block with the keys {', '.join(block.model_fields)}"
    if any(isinstance(mark, LocalPath) for mark in field.metadata):
        text = "path"
    if field.annotation in _WORDS:
        word = text if field.annotation is str else _WORDS[field.annotation]
        signs = [(m, sign, n) for m in field.metadata for n, sign in _BOUNDS.items()]
        return word + " and".join(
            f" {sign} {getattr(m, n)}" for m, sign, n in signs if hasattr(m, n)
        )
    if get_origin(field.annotation) is Literal:
        arms = [str(choice) for choice in get_args(field.annotation)]
    else:
        inner = [FieldInfo.from_annotation(arm) for arm in get_args(field.annotation)]
        arms = [_allowed(arm, text) for arm in inner]
    if get_origin(field.annotation) is list:
        return f"[{arms[0]}, ...]"
    if get_origin(field.annotation) is dict:
        return f"{{{arms[0]}: {arms[1]}, ...}}"
    return " or ".join([", ".join(arms[:-1]), arms[-1]]) if arms[1:] else arms[0]
