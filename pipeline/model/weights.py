"""The files that a model's weights are in: what they are, and that they are the model's own.

An ONNX file says of a tensor which other file it is in (onnx.proto, TensorProto.external_data).
ONNX Runtime 1.20 reads any file that is named there (1.32 refuses those elsewhere), so that names
are looked for here, however they are written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.errors import ModelError
from pipeline.model.protobuf import parts

__all__ = ["digest_of", "names_in"]

_INNER: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {
        **dict.fromkeys((5, 10), "tensor"),
        **dict.fromkeys((6, 11), "graph"),
        **dict.fromkeys((22, 23), "sparse"),
    },
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
"""What a message holds by the number of its fields, as far as there may be tensors in it."""


def digest_of(card: str, onnx: Path) -> tuple[str, str]:
    """Give the SHA-256 of an ONNX file with all its weights, and that of the file alone.

    They are the same unless some of the weights are in files of their own. Raises `ModelError`
    where a file cannot be read, or is outside the model's folder.
    """
    try:
        content = onnx.read_bytes()
        digest = hashlib.sha256(content)
        alone = digest.hexdigest()
        for weights in _external(card, onnx, content):
            with weights.open("rb") as file:
                inner = hashlib.file_digest(file, "sha256").digest()
            digest.update(weights.name.encode() + inner)
    except OSError as error:
        raise ModelError(f"{card}: onnx: {error.filename}: {error.strerror}") from error
    return digest.hexdigest(), alone


def names_in(onnx: str, content: bytes) -> list[str]:
    """Give the names of the files that hold weights of an ONNX file of that content, sorted.

    Raises `ModelError` where it is no ONNX file.
    """
    try:
        return sorted(set(_external_names(content)))
    except ValueError as error:
        raise ModelError(f"{onnx}: not an ONNX model that can be run: {error}") from error


def _external_names(content: bytes) -> Iterator[str]:
    waiting = [("model", memoryview(content))]
    while waiting:
        kind, message = waiting.pop()
        fields = parts(message)
        if kind == "entry":
            said = dict(fields)  # of a field that is there twice the last counts
            if bytes(said.get(1, b"")) == b"location":
                yield bytes(said.get(2, b"")).decode()
            continue
        inner = _INNER[kind]
        waiting += [(inner[number], value) for number, value in fields if number in inner]


def _external(card: str, onnx: Path, content: bytes) -> Iterator[Path]:
    for name in names_in(str(onnx), content):
        path = (onnx.parent / name).resolve() if "\0" not in name else Path("/")
        if not path.is_relative_to(onnx.parent):
            raise ModelError(f"{card}: onnx: weights in {name}, outside the model's folder")
        yield path
