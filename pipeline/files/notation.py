"""YAML and JSON as plain values, within bounds: whoever wrote a file, reading it takes little."""

from __future__ import annotations

import json
import re
from typing import Any, ClassVar

import yaml

from pipeline.errors import ConfigError

__all__ = ["FLOAT", "MOST_YAML_BYTES", "Loader", "parse_json", "parse_yaml"]

MOST_YAML_BYTES = 2**24
"""Of a run file or a card: 100,000 slides, one a line; PyYAML takes a minute for as much."""

_MOST_VALUES = 2**20
"""Values of one document, counted again wherever an alias stands for them."""

_MOST_DIGITS = 20
"""Of a whole number in JSON: 64 bits have as many."""

FLOAT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")
"""What is a number, too: PyYAML takes 1e4 for text, https://github.com/yaml/pyyaml/issues/173."""

_NO_TEXT = re.compile("[\0\ud800-\udfff]")


class Loader(yaml.SafeLoader):
    """PyYAML's safe loader, less what it lets through that is no value."""

    # No setting is a date, but `directory: 2026-01-31` is a folder.
    yaml_constructors: ClassVar[Any] = {
        **yaml.SafeLoader.yaml_constructors,
        "tag:yaml.org,2002:timestamp": yaml.SafeLoader.construct_yaml_str,
    }

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        """Refuse a key that is given twice."""
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in lines:
                problem = f"{_short(key.value)} is given twice, first in line {lines[key.value]}"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return node

    def construct_document(self, node: yaml.Node) -> Any:
        """Refuse aliases that blow up, before anything is made of them."""
        _count(node, {})
        return super().construct_document(node)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Refuse a tag that lies of its value, a number beyond 64 bits, and what is no text."""
        try:
            value = super().construct_object(node, deep)
        except (ValueError, LookupError, ArithmeticError) as error:
            raise _refused(node, f"{_said(node)} is no {_kind(node)}") from error
        if isinstance(value, int) and abs(value) >= 2**64:
            raise _refused(node, f"{_said(node)} is too large a number")
        if isinstance(value, str) and _NO_TEXT.search(value):
            raise _refused(node, f"{_said(node)} holds a character that is no text")
        return value


Loader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+.0123456789"))


def parse_yaml(text: str, origin: str) -> Any:
    """Read YAML safely: a key given twice is an error, a date is text, 1e4 is a number.

    Raises `ConfigError` naming ``origin`` and the line.
    """
    try:
        return yaml.load(text, Loader=Loader)  # noqa: S506 - a SafeLoader
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{origin}: line {line}: a character YAML does not allow") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        quote = "; quote text that starts with *" if "alias" in f"{error}" else ""
        raise ConfigError(f"{origin}: line {line}: {_short(error.problem)}{quote}") from error
    except RecursionError as error:
        raise ConfigError(f"{origin}: nested too deeply") from error


def parse_json(content: str | bytes) -> Any:
    """Read JSON; `ValueError` says what is wrong with it, whatever that is.

    >>> parse_json('{"a": [1, 2.5]}')
    {'a': [1, 2.5]}
    """
    try:
        return json.loads(content, parse_int=_whole)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


def _count(node: yaml.Node, counted: dict[int, int]) -> int:
    """Give how many values a node stands for, its aliases written out."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in counted:
        if not counted[id(node)]:
            raise _refused(node, "it contains itself")
        return counted[id(node)]
    counted[id(node)] = 0  # begun
    total = 1
    for each in node.value:
        inner = each if isinstance(each, tuple) else (each,)
        total += sum(_count(one, counted) for one in inner)
        if total > _MOST_VALUES:
            raise _refused(node, f"it stands for more than {_MOST_VALUES:,} values")
    counted[id(node)] = total
    return total


def _refused(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def _kind(node: yaml.Node) -> str:
    name = node.tag.rpartition(":")[2]
    return {"int": "whole number", "float": "number", "bool": "true or false"}.get(name, name)


def _said(node: yaml.Node) -> str:
    value = node.value if isinstance(node, yaml.ScalarNode) else node.tag
    return _short(ascii(value), 60)


def _short(text: str | None, most: int = 200) -> str:
    said = text or "not YAML"
    return said if len(said) <= most else f"{said[: most - 3]}..."
