"""From a path to a checked model: the card is found, read, and held against its ONNX file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from pipeline.errors import ConfigError, ModelError, unknown_key
from pipeline.model.card import Card, InputSpec, Model, ModelRef, OutputSpec, StitchSpec
from pipeline.model.session import batch_size, check_card
from pipeline.runfile import parse_yaml

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = ["load_model"]


def load_model(path: str | PathLike[str]) -> Model:
    """Load a model card, or the one card in a folder, or ``builtin:NAME``.

    The ONNX file is opened and run once on an empty patch, and must agree with the card.
    Raises `ModelError` naming the card's field, what it says and what the ONNX file says.
    """
    source = _card_path(str(path))
    card = _read_card(source)
    onnx = (source.parent / card.onnx).resolve()
    if not onnx.is_file():
        raise ModelError(f"{source}: onnx: no file {onnx}; put it beside the card")
    digest = _digest(source, onnx)
    ref = _token(card, onnx, digest, batch_size(onnx, card))
    return Model(str(source), card, ref, check_card(source, ref))


# A tensor kept in another file says so by a pair of strings, key and value, in the ONNX file
# (onnx.proto3, StringStringEntryProto; field 1 is "location", field 2 the path and its length).
_EXTERNAL = re.compile(rb"\x0a\x08location\x12([\x80-\xff]*[\x00-\x7f])")


def _digest(card: Path, onnx: Path) -> str:
    """Give the SHA-256 of an ONNX file, and of whatever files its weights are in."""
    try:
        content = onnx.read_bytes()
        digest = hashlib.sha256(content)
        for weights in _external(card, onnx, content):
            digest.update(weights.name.encode() + hashlib.sha256(weights.read_bytes()).digest())
    except OSError as error:
        raise ModelError(f"{card}: onnx: {error.filename}: {error.strerror}") from error
    return digest.hexdigest()


def _external(card: Path, onnx: Path, content: bytes) -> Iterator[Path]:
    """Give the files beside an ONNX file that hold its weights, in the order of their names."""
    names = set()
    for found in _EXTERNAL.finditer(content):
        length = sum((byte & 0x7F) << 7 * i for i, byte in enumerate(found[1]))
        names.add(content[found.end() : found.end() + length].decode(errors="replace"))
    for name in sorted(names):
        path = (onnx.parent / name).resolve()
        if not path.is_relative_to(onnx.parent):
            raise ModelError(f"{card}: onnx: weights in {name}, outside the model's folder")
        yield path


def _card_path(path: str) -> Path:
    if path.startswith("builtin:"):
        name = path.removeprefix("builtin:")
        card = Path(str(files("pipeline.model.builtin"))) / f"{name}.yaml"
        if not card.is_file():
            known = ", ".join(sorted(f"builtin:{c.stem}" for c in card.parent.glob("*.yaml")))
            raise ModelError(f"{path}: no such built-in model; there is {known}")
        return card
    given = Path(path).expanduser().absolute()
    if given.is_dir():
        cards = sorted([*given.glob("*.yaml"), *given.glob("*.yml")])
        if len(cards) != 1:
            found = ", ".join(card.name for card in cards) or "none"
            raise ModelError(f"{given}: a model folder holds one card (*.yaml); found {found}")
        return cards[0]
    if given.suffix == ".onnx":
        beside = given.with_suffix(".yaml")
        if not beside.is_file():
            raise ModelError(f"{given}: an ONNX file needs a card; write {beside.name} beside it")
        return beside
    if not given.is_file():
        raise ModelError(f"{given}: no such model card; give a card, its folder or builtin:nuclei")
    return given


def _read_card(path: Path) -> Card:
    try:
        raw = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except ConfigError as error:
        raise ModelError(f"{error}; a model card is a YAML file") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: not UTF-8 text; a model card is a YAML file") from error
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}; name a model card") from error
    if not isinstance(raw, dict):
        raise ModelError(f"{path}: not a model card: a mapping with name, onnx, input, outputs")
    try:
        return Card.model_validate(raw)
    except ValidationError as error:
        # A tuple of which an item is wrong is also said to be too short.
        told = [each for each in error.errors(include_url=False) if each["type"] != "too_short"]
        problems = "; ".join(map(_problem, told or error.errors(include_url=False)))
        raise ModelError(f"{path}: {problems}") from error


def _problem(error: ErrorDetails) -> str:
    """Say one thing wrong with a card: where, what, what was given or was meant."""
    where = ".".join(str(part) for part in error["loc"]) or "card"
    if error["type"] == "extra_forbidden":
        *parents, name = map(str, error["loc"])
        return f"{where}: {unknown_key(name, _BLOCKS[parents[0]] if parents else _KEYS)}"
    if error["type"] == "missing":
        return f"{where}: missing"
    return f"{where}: {error['msg'].removeprefix('Value error, ')} (given {error['input']!r:.60})"


_KEYS = tuple(Card.model_fields)
_BLOCKS = {
    "input": tuple(InputSpec.model_fields),
    "outputs": tuple(OutputSpec.model_fields),
    "stitch": tuple(StitchSpec.model_fields),
}


def _token(card: Card, onnx: Path, digest: str, batch: int) -> ModelRef:
    output = card.outputs[0]
    return ModelRef(
        onnx=str(onnx),
        digest=digest,
        patch=card.input.patch,
        halo=card.stitch.halo,
        stride=output.stride,
        channels=len(output.channels),
        batch=batch,
        layout=card.input.layout,
        order=card.input.channels,
        scale=card.input.scale,
        mean=card.input.mean,
        std=card.input.std,
        output=output.name,
        activation=output.activation,
        value_range=output.range,
    )
