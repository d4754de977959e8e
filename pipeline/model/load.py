"""From a path to a checked model: the card is found, read, and held against its ONNX file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ModelError, one_line
from pipeline.files import places
from pipeline.files.notation import MOST_YAML_BYTES
from pipeline.files.urls import beside, is_url, shown
from pipeline.model.card import Card
from pipeline.model.checked import Footprint, Model
from pipeline.model.download import as_url, downloaded, is_remote, read_card
from pipeline.model.found import find_card
from pipeline.model.refs import CLASSES, MapRef, ModelRef, OutputRef
from pipeline.model.session import MOST_SESSIONS, check_card, read_graph
from pipeline.model.tokens import token_of
from pipeline.model.weights import digest_of, names_in
from pipeline.model.written import card_of, mapping_of
from pipeline.model.zoo import translator

if TYPE_CHECKING:
    from pipeline.model.session import Graph

__all__ = ["load_model", "load_models", "read_card_at"]


def load_model(path: str | PathLike[str]) -> Model:
    """Load a model card, or the one card in a folder, or ``builtin:NAME``.

    A card may also be at a URL, or be what the WSInfer zoo or bioimage.io have in its place. The
    ONNX file is opened and run once on an empty patch, and must agree with the card.
    Raises `ModelError` naming the card's field, what it says and what the ONNX file says.
    """
    source, card, foreign = read_card_at(str(path))
    onnx, digest = _onnx_of(source, card)
    graph = read_graph(str(onnx))
    if foreign:
        card = _by_place(source, card, graph)
    ref = token_of(source, card, str(onnx), digest, graph)
    return Model(source, card, ref, check_card(source, ref))


def read_card_at(path: str) -> tuple[str, Card, bool]:
    """Give where the card is that a path means, the card, and whether another format says it.

    The ONNX file is not looked at. Raises `ModelError` where there is no card, or none to read.
    """
    source, content = _card_at(path)
    raw = mapping_of(content, source)
    translate = translator(raw)
    return source, card_of(translate(raw, source) if translate else raw, source), bool(translate)


def _by_place(source: str, card: Card, graph: Graph) -> Card:
    """Give a card whose outputs are the graph's, in their order."""
    if len(card.outputs) != len(graph.outputs):
        ours = ", ".join(output.name for output in card.outputs)
        theirs = ", ".join(node.name for node in graph.outputs)
        raise ModelError(f"{source}: outputs: {ours} are described, the graph has {theirs}")
    pairs = zip(card.outputs, graph.outputs, strict=True)
    outputs = tuple(output.model_copy(update={"tensor": node.name}) for output, node in pairs)
    return card.model_copy(update={"outputs": outputs})


def load_models(paths: Sequence[str | PathLike[str]]) -> Model:
    """Load several cards as one model, whose scores are the mean of theirs; see `load_model`.

    Raises `ModelError` also where they do not agree in what patches they take and what they give.
    """
    if not paths:
        raise ModelError("model: an empty list; name a card")
    if len(paths) > MOST_SESSIONS:
        raise ModelError(
            f"model: an ensemble of {len(paths)} cards; a process keeps {MOST_SESSIONS} models "
            "open, and would open more of them for every block; take fewer"
        )
    models = [load_model(path) for path in paths]
    first, *others = models
    for other in others:
        for what, ours, theirs in _differences(first, other):
            raise ModelError(
                f"{other.path}: {what} {theirs}, but {first.path} has {ours}; the models of an "
                "ensemble must agree in it"
            )
    if others and any(each.activation == CLASSES for each in first.ref.maps):
        raise ModelError(
            f"{first.path}: outputs: it gives numbers of classes, which have no mean; for an "
            "ensemble it must give a score for each class"
        )
    members = tuple(member for model in models for member in model.ref.members)
    footprint = Footprint(
        sum(model.footprint.session_bytes for model in models),
        sum(model.footprint.running_bytes for model in models),
    )
    return replace(
        first,
        ref=replace(first.ref, members=members),
        footprint=footprint,
        others=tuple(model.card for model in others),
    )


def _card_at(path: str) -> tuple[str, bytes]:
    """Give where a card is, for messages and for what lies beside it, and its content."""
    if is_remote(path):
        url = as_url(path)
        return url, read_card(url)
    card = find_card(path)
    try:
        return str(card), places.read(str(card), MOST_YAML_BYTES)
    except OSError as error:
        raise ModelError(f"{card}: {error.strerror}; name a model card") from error


def _onnx_of(source: str, card: Card) -> tuple[Path, str]:
    """Give a card's ONNX file, and the digest of it and of all its weights."""
    onnx = _onnx_at(source, card)
    digest, alone = digest_of(source, onnx)
    if card.sha256 not in (None, alone):
        raise ModelError(
            f"{source}: sha256: the card says {card.sha256}, {onnx} has {alone}; it is another "
            "file, or not whole"
        )
    return onnx, digest


def _onnx_at(source: str, card: Card) -> Path:
    if is_remote(card.onnx) or is_url(source):
        url = as_url(card.onnx) if is_remote(card.onnx) else beside(source, card.onnx)
        onnx = downloaded(source, url, card.sha256)
        if outside := names_in(shown(url), onnx.read_bytes()):
            raise ModelError(
                f"{source}: onnx: {shown(url)} has weights in {', '.join(outside)}; download them "
                "all into one folder, and name the card there"
            )
        return onnx
    try:
        onnx = (Path(source).parent / card.onnx).resolve()
        there = onnx.is_file()
    except (OSError, RuntimeError) as error:  # a name too long, links in a circle
        raise ModelError(f"{source}: onnx: {one_line(error)}; name the file beside it") from error
    if not there:
        raise ModelError(f"{source}: onnx: no file {onnx}; put it beside the card")
    return onnx


def _differences(first: Model, other: Model) -> Iterator[tuple[str, Any, Any]]:
    """Give what two models of an ensemble do not agree in, by name, and both values."""
    ours, theirs = _facts(first), _facts(other)
    yield from ((what, ours[what], theirs[what]) for what in ours if ours[what] != theirs[what])


def _facts(model: Model) -> dict[str, Any]:
    ref: ModelRef = model.ref
    return {
        "mpp": model.card.mpp,
        "input.patch": ref.patch,
        "stitch.method": ref.method,
        "stitch.halo" if ref.method == "crop" else "half of stitch.overlap": ref.halo,
        "outputs": "; ".join(map(_named, ref.outputs)),
        **{
            f"outputs.{output.name}.{field}": value
            for output in ref.outputs
            for field, value in {**_of(output), **_of(ref.maps[output.map])}.items()
        },
    }


def _of(ref: OutputRef | MapRef) -> dict[str, Any]:
    return {field.name: getattr(ref, field.name) for field in fields(ref)}


def _named(output: OutputRef) -> str:
    return f"{output.name} ({output.kind}: {', '.join(output.channels)})"
