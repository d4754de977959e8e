"""Reading a run file, writing it back, and saying what may stand in it.

Every problem of a file is reported at once, one line each: where, what was given, what is
allowed. The first two come from the file, the last from the field's type in `config`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from pipeline.config import ClusterConfig, LocalPath, RunConfig
from pipeline.config.values import Block
from pipeline.errors import ConfigError, unknown_key

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
    "parse_yaml",
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
        text = path.read_text(encoding="utf-8")
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


class _Loader(yaml.SafeLoader):
    # No setting is a date, but `directory: 2026-01-31` is a folder.
    yaml_constructors: ClassVar[Any] = {
        **yaml.SafeLoader.yaml_constructors,
        "tag:yaml.org,2002:timestamp": yaml.SafeLoader.construct_yaml_str,
    }

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in lines:
                problem = f"{key.value} is given twice, first in line {lines[key.value]}"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return node


class _Dumper(yaml.SafeDumper):
    pass


# PyYAML takes 1e4 for text: https://github.com/yaml/pyyaml/issues/173
_FLOAT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def parse_yaml(text: str, origin: str) -> Any:
    """Read YAML safely: a key given twice is an error, a date is text, 1e4 is a number.

    Raises `ConfigError` naming ``origin`` and the line.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{origin}: line {line}: a character YAML does not allow") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        quote = "; quote text that starts with *" if "alias" in f"{error}" else ""
        raise ConfigError(f"{origin}: line {line}: {error.problem}{quote}") from error
    except RecursionError as error:
        raise ConfigError(f"{origin}: nested too deeply") from error


def _parse_override(override: str) -> tuple[str, dict[str, Any]]:
    key, equals, value = override.partition("=")
    if not key or not equals:
        raise ConfigError(f"override {override}: not of the form key.sub=value")
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
