"""The files that a model's weights are in: what they are, and that they are the model's own."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import ModelError

__all__ = ["digest_of", "external_names"]

# A tensor kept in another file says so by a pair of strings, key and value, in the ONNX file
# (onnx.proto3, StringStringEntryProto; field 1 is "location", field 2 the path and its length).
_EXTERNAL = re.compile(rb"\x0a\x08location\x12([\x80-\xff]*[\x00-\x7f])")


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


def external_names(content: bytes) -> list[str]:
    """Give the names of the files that hold weights of an ONNX file of that content, sorted."""
    names = set()
    for found in _EXTERNAL.finditer(content):
        length = sum((byte & 0x7F) << 7 * i for i, byte in enumerate(found[1]))
        names.add(content[found.end() : found.end() + length].decode(errors="replace"))
    return sorted(names)


def _external(card: str, onnx: Path, content: bytes) -> Iterator[Path]:
    for name in external_names(content):
        path = (onnx.parent / name).resolve()
        if not path.is_relative_to(onnx.parent):
            raise ModelError(f"{card}: onnx: weights in {name}, outside the model's folder")
        yield path
