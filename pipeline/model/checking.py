"""A model's token held against its ONNX files: each is run on an empty batch."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np

from pipeline.errors import ModelError
from pipeline.model.activate import as_map
from pipeline.model.checked import Footprint
from pipeline.model.refs import MapRef, ModelRef, SessionRef
from pipeline.model.runtime import INPUT_TYPES, Graph, graph_of, open_graph, run_graph
from pipeline.process import resident_bytes

__all__ = ["check_card"]


def check_card(card: str, ref: ModelRef) -> Footprint:
    """Run each of a model's files on an empty batch and give what memory that took, all together.

    Raises `ModelError`, which names ``card``, where it and a graph disagree.
    """
    taken = [_check_member(card, ref, member) for member in ref.members]
    return Footprint(
        session_bytes=sum(each.session_bytes for each in taken),
        running_bytes=sum(each.running_bytes for each in taken),
    )


def _check_member(card: str, ref: ModelRef, member: SessionRef) -> Footprint:
    gc.collect()  # what others left is not to be freed in between, and counted as the model's
    before = resident_bytes()
    opened = open_graph(member.onnx, member.provider, member.gpu_bytes)
    after = resident_bytes()
    graph = graph_of(opened)
    _check_input(card, graph, member)
    _check_tensors(card, graph, member)
    taken = graph.inputs[0]
    empty = np.zeros(member.input_shape(member.batch), INPUT_TYPES[taken.type])
    given = run_graph(opened, member.tensors, {taken.name: empty}, member.onnx)
    for each in ref.maps:
        _check_map(card, ref, member, each, as_map(given[each.tensor]).shape)
    del given
    # The second run finds the session's arena in pieces, and may make it grow once more. What it
    # took it keeps, so that it can be seen afterwards.
    run_graph(opened, member.tensors, {taken.name: empty}, member.onnx)
    ran = resident_bytes()
    return Footprint(max(after - before, 0), max(ran - after, 0))


def _check_input(card: str, graph: Graph, member: SessionRef) -> None:
    if len(graph.inputs) != 1:
        found = ", ".join(node.name for node in graph.inputs) or "none"
        raise ModelError(f"{card}: input: the card describes one, the graph has {found}")
    taken = graph.inputs[0]
    if taken.type not in INPUT_TYPES:
        raise ModelError(f"{card}: input: float32 is given, the graph takes {taken.type}")
    asked = member.input_shape(member.batch)
    if len(taken.shape) != len(asked) or any(
        isinstance(n, int) and n != m for n, m in zip(taken.shape, asked, strict=True)
    ):
        raise ModelError(
            f"{card}: input: the card's layout {member.layout}, channels {member.order} and patch "
            f"{member.patch} give {asked}, the graph takes {_said(taken.shape)}"
        )


def _check_tensors(card: str, graph: Graph, member: SessionRef) -> None:
    names = [node.name for node in graph.outputs]
    for tensor in member.tensors:
        if tensor not in names:
            raise ModelError(
                f"{card}: outputs.tensor: the card says {tensor}, the graph has {', '.join(names)}"
            )


def _check_map(
    card: str, ref: ModelRef, member: SessionRef, made: MapRef, given: tuple[int, ...]
) -> None:
    whole, middle = ref.patch // made.stride, ref.step // made.stride
    # Only where the margin is whole pixels of the map too is the middle of a patch on its grid.
    sides = {whole} if ref.halo % made.stride == 0 else set()
    if ref.method == "crop":
        sides.add(middle)
    if (
        len(given) != 4
        or given[:2] != (member.batch, made.channels)
        or given[2] != given[3]
        or given[2] not in sides
    ):
        side = whole if whole in sides else middle
        raise ModelError(
            f"{card}: outputs: {made.channels} channels, stride {made.stride} and patch "
            f"{ref.patch} ask for {member.tensors[made.tensor]} of shape "
            f"(batch, {made.channels}, {side}, {side}); the graph gives {given}"
        )


def _said(shape: tuple[Any, ...]) -> str:
    return f"({', '.join('?' if n is None else str(n) for n in shape)})"
