"""Which graphs are made of 1 x 1 convolutions alone: ONNX Runtime has them the wrong way round.

On a CPU it lays the channels of images out in blocks of 8 or 16 (its NCHWc), and fills up what is
less. That is the fastest way for convolutions, but where they are of single pixels and give a few
channels nearly all is filling: measured, 1 x 1 from 3 channels to 1 takes 18 times as long as in
the graph's own layout, to 16 and then to 1 still 1.6 times. The two differ in their last digits, so
it is the graph that decides, not a clock: every worker, and the next run, must decide alike.

Of an ONNX file (onnx.proto3) only what says this is read, by the rules of Protocol Buffers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

__all__ = ["is_pointwise"]

_FEW = 16
"""Channels that a convolution may give: of 32 and 64 blocks measured faster."""

_MOST_BYTES = 2**20
"""A larger file has other layers, too, and is not looked into."""

# Numbers of fields.
_GRAPH, _NODE, _INITIALIZER = 7, 1, 5
_INPUT, _OPERATOR = 1, 4
_DIMS, _NAME = 1, 8

_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5  # kinds of values on the wire


def is_pointwise(onnx: Path) -> bool:
    """Say whether a graph convolves, and by kernels of 1 x 1 to few channels alone.

    ``onnx`` is a file that the runtime has read. A kernel whose size it does not keep as that of
    weights counts as larger.
    """
    if onnx.stat().st_size > _MOST_BYTES:
        return False
    kernels: list[bytes] = []
    shapes: dict[bytes, tuple[int, ...]] = {}
    for graph in _parts(onnx.read_bytes(), _GRAPH):
        for node in _parts(graph, _NODE):
            if b"Conv" in _parts(node, _OPERATOR):
                kernels += list(_parts(node, _INPUT))[1:2]
        for tensor in _parts(graph, _INITIALIZER):
            shapes.update(dict.fromkeys(_parts(tensor, _NAME), _dims(tensor)))
    return bool(kernels) and all(_is_small(shapes.get(kernel, ())) for kernel in kernels)


def _is_small(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and shape[2:] == (1, 1) and shape[0] <= _FEW


def _dims(tensor: bytes) -> tuple[int, ...]:
    """Give a tensor's shape, whose numbers may be packed together or not."""
    dims: list[int] = []
    for number, value in _fields(tensor):
        if number == _DIMS:
            dims += [value] if isinstance(value, int) else _varints(value)
    return tuple(dims)


def _parts(message: bytes, wanted: int) -> Iterator[bytes]:
    """Give the values of a field that are strings, bytes or messages themselves."""
    for number, value in _fields(message):
        if number == wanted and isinstance(value, bytes):
            yield value


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == _BYTES:
            length, at = _varint(message, at)
        else:
            length = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}[kind]
        yield number, message[at : at + length]
        at += length


def _varints(packed: bytes) -> Iterator[int]:
    at = 0
    while at < len(packed):
        value, at = _varint(packed, at)
        yield value


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Give the number at a place, seven bits a byte, least first, and where the next one is."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
