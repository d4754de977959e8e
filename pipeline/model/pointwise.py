"""Which graphs are made of 1 x 1 convolutions alone: ONNX Runtime has them the wrong way round.

On a CPU it lays the channels of images out in blocks of 8 or 16 (its NCHWc), and fills up what is
less. That is the fastest way for convolutions, but where they are of single pixels and give a few
channels nearly all is filling: measured, 1 x 1 from 3 channels to 1 takes 18 times as long as in
the graph's own layout, to 16 and then to 1 still 1.6 times. The two differ in their last digits, so
it is the graph that decides, not a clock: every worker, and the next run, must decide alike.

Of an ONNX file (onnx.proto) only what says this is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.model.protobuf import fields, parts, varints

__all__ = ["is_pointwise"]

_FEW = 16
"""Channels that a convolution may give: of 32 and 64 blocks measured faster."""

_MOST_BYTES = 2**20
"""A larger file has other layers, too, and is not looked into."""

# Numbers of fields.
_GRAPH, _NODE, _INITIALIZER = 7, 1, 5
_INPUT, _OPERATOR = 1, 4
_DIMS, _NAME = 1, 8


def is_pointwise(onnx: Path) -> bool:
    """Say whether a graph convolves, and by kernels of 1 x 1 to few channels alone.

    ``onnx`` is a file that the runtime has read. A kernel whose size it does not keep as that of
    weights counts as larger.
    """
    if onnx.stat().st_size > _MOST_BYTES:
        return False
    kernels: list[bytes] = []
    shapes: dict[bytes, tuple[int, ...]] = {}
    for graph in _those(memoryview(onnx.read_bytes()), _GRAPH):
        for node in _those(graph, _NODE):
            if any(bytes(operator) == b"Conv" for operator in _those(node, _OPERATOR)):
                kernels += [bytes(name) for name in list(_those(node, _INPUT))[1:2]]
        for tensor in _those(graph, _INITIALIZER):
            shapes.update({bytes(name): _dims(tensor) for name in _those(tensor, _NAME)})
    return bool(kernels) and all(_is_small(shapes.get(kernel, ())) for kernel in kernels)


def _is_small(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and shape[2:] == (1, 1) and shape[0] <= _FEW


def _dims(tensor: memoryview) -> tuple[int, ...]:
    """Give a tensor's shape, whose numbers may be packed together or not."""
    dims: list[int] = []
    for number, value in fields(tensor):
        if number == _DIMS:
            dims += [value] if isinstance(value, int) else varints(value)
    return tuple(dims)


def _those(message: memoryview, wanted: int) -> Iterator[memoryview]:
    return (value for number, value in parts(message) if number == wanted)
