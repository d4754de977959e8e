"""From a card and what its graph says to the token that travels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import ModelError
from pipeline.model.card import Card, ObjectsSpec, OutputSpec
from pipeline.model.refs import (
    BACKGROUND,
    CLASSES,
    MapRef,
    ModelRef,
    ObjectsRef,
    OutputRef,
    SessionRef,
)

if TYPE_CHECKING:
    from pipeline.model.session import Graph, Node

__all__ = ["token_of"]

AUTO_PATCH = 512
"""Side of a patch where neither the card nor the graph says one."""

BATCH_PIXELS, MAX_BATCH = 2**18, 32
"""The most of an automatic batch: one patch of 512 px, four of 256 px."""

MOST_PATCH = 2**14


@dataclass(frozen=True, slots=True)
class _Map:
    """What tells two maps apart."""

    tensor: str
    activation: str
    channels: int
    stride: int


def token_of(path: str, card: Card, onnx: str, digest: str, graph: Graph) -> ModelRef:
    """Give the token of a card: outputs that are the same map of values share it.

    Raises `ModelError`, naming the card, where the graph settles something that does not fit.
    """
    patch = _patch(path, card, graph)
    batch, automatic = _batch(path, card, graph, patch)
    types = {node.name: node for node in graph.outputs}
    keys = [_map_of(output, types.get(output.tensor or output.name)) for output in card.outputs]
    maps = tuple(dict.fromkeys(keys))
    tensors = tuple(dict.fromkeys(key.tensor for key in maps))
    _check_numbered(path, card, maps)
    member = SessionRef(
        onnx=onnx,
        digest=digest,
        layout=card.input.layout,
        order=card.input.channels,
        scale=card.input.scale,
        mean=card.input.mean,
        std=card.input.std,
        zscore=card.input.zscore,
        border=card.input.border,
        tensors=tensors,
        patch=patch,
        batch=batch,
        batch_auto=automatic,
    )
    margin = card.margin(patch)
    return ModelRef(
        members=(member,),
        patch=patch,
        step=patch - 2 * margin,
        halo=margin,
        method=card.stitch.method,
        maps=tuple(
            MapRef(
                tensor=tensors.index(key.tensor),
                activation=key.activation,
                channels=key.channels,
                stride=key.stride,
            )
            for key in maps
        ),
        outputs=tuple(
            _output(output, maps.index(key)) for output, key in zip(card.outputs, keys, strict=True)
        ),
    )


def _patch(path: str, card: Card, graph: Graph) -> int:
    if card.input.patch != "auto":
        return card.input.patch
    patch = _static_side(path, card, graph) or AUTO_PATCH
    for problem in card.patch_problems(patch):
        raise ModelError(f"{path}: {problem}")
    return patch


def _static_side(path: str, card: Card, graph: Graph) -> int | None:
    """Give the side of the graph's input; None where it takes any."""
    shape = graph.inputs[0].shape if graph.inputs else ()
    if len(shape) != 4:  # which is told when the card is checked
        return None
    sides = shape[2:4] if card.input.layout == "NCHW" else shape[1:3]
    fixed = sorted({side for side in sides if isinstance(side, int)})
    if len(fixed) > 1:
        raise ModelError(
            f"{path}: input.patch: patches are square, the graph takes {sides[0]} x {sides[1]}; "
            "export it for a square or with dynamic sides"
        )
    if fixed and not 8 <= fixed[0] <= MOST_PATCH:
        raise ModelError(
            f"{path}: input.patch: 8 to {MOST_PATCH} px can be, the graph takes {fixed[0]}"
        )
    return fixed[0] if fixed else None


def _batch(path: str, card: Card, graph: Graph, patch: int) -> tuple[int, bool]:
    """Give the number of patches per call, and whether it is but the most there may be."""
    shape = graph.inputs[0].shape if graph.inputs else ()
    if shape and isinstance(shape[0], int):
        if card.batch not in ("auto", shape[0]):
            raise ModelError(f"{path}: batch: the card says {card.batch}, the graph {shape[0]}")
        return shape[0], False
    if card.batch != "auto":
        return card.batch, False
    return max(1, min(BATCH_PIXELS // patch**2, MAX_BATCH)), True


def _map_of(output: OutputSpec, node: Node | None) -> _Map:
    tensor, count = output.tensor or output.name, len(output.names)
    if node is not None and _holds_class_numbers(output, node):
        return _Map(tensor, CLASSES, 1, output.stride)
    activation = "none" if output.activation == "argmax" else output.activation
    return _Map(tensor, activation, count, output.stride)


def _holds_class_numbers(output: OutputSpec, node: Node) -> bool:
    """Say whether a tensor is the argmax itself: integers, without an axis of classes."""
    if output.kind != "labels" or output.activation != "none" or len(output.names) < 2:
        return False
    flat = len(node.shape) == 3 or (len(node.shape) == 4 and node.shape[1] == 1)
    return "int" in node.type and flat


def _check_numbered(path: str, card: Card, maps: tuple[_Map, ...]) -> None:
    method = card.stitch.method
    for key in maps:
        if key.activation == CLASSES and method != "crop":
            raise ModelError(
                f"{path}: stitch.method {method}: {key.tensor} gives numbers of classes, which "
                "have no average; use crop, or a graph that gives a score for each class"
            )


def _output(output: OutputSpec, number: int) -> OutputRef:
    names = output.names
    return OutputRef(
        name=output.name,
        kind=output.kind,
        map=number,
        channels=names,
        colours=output.colours,
        value_range=output.range,
        dtype=output.dtype if output.kind == "features" else "",
        threshold=output.threshold,
        values=_label_values(names) if output.kind == "labels" else (),
        objects=_objects(output.objects, names) if output.objects else None,
        regions_min_area_um2=output.regions.min_area_um2 if output.regions else None,
    )


def _label_values(names: tuple[str, ...]) -> tuple[int, ...]:
    if len(names) == 1:
        return (1,)
    return tuple(
        0 if name.lower() == BACKGROUND else place for place, name in enumerate(names, start=1)
    )


def _objects(spec: ObjectsSpec, names: tuple[str, ...]) -> ObjectsRef:
    def number(name: str | None) -> int | None:
        return None if name is None else names.index(name)

    return ObjectsRef(
        method=spec.method,
        foreground=number(spec.foreground) or 0,
        seeds=number(spec.seeds),
        boundary=number(spec.boundary),
        classes=tuple((names.index(name), name) for name in spec.classes),
        threshold=spec.threshold,
        min_distance_um=spec.min_distance_um,
        min_area_um2=spec.min_area_um2,
        max_diameter_um=spec.max_diameter_um,
    )
