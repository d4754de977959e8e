"""What the page may ask, and what it is told: the same over HTTP and in a notebook.

A question names a slide by its id and a tile by numbers; none holds a path. Questions::

    maps                             the colour maps, 256 colours each
    slides                           id and state of every slide
    slide/ID                         its layers, and where they lie
    state/ID                         what changes when there is something new to see
    thumbnail/ID                     a small picture
    tile/ID/LAYER/PLANE/ROW/COLUMN   one tile of one layer
    objects/ID/LAYER/ROW/COLUMN      the objects of one block
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pipeline.view.catalogue import Catalogue
from pipeline.view.colours import colour_maps
from pipeline.view.objects import ObjectLayer
from pipeline.view.picture import thumbnail
from pipeline.view.planes import jpeg
from pipeline.view.shown import ShownSlide

__all__ = ["Answer", "UnknownQuestionError", "answer"]

_ID = r"([A-Za-z0-9][A-Za-z0-9._-]{0,127})"
_KEY = r"([a-z]{1,12}(?:-[0-9]{1,4}){0,2})"
_N = r"([0-9]{1,7})"

_BYTES, _JSON = "application/octet-stream", "application/json"
_PNG, _JPEG = "image/png", "image/jpeg"


class UnknownQuestionError(LookupError):
    """A question that is none, or about what is not there."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Bytes and what they are."""

    kind: str
    content: bytes


def answer(catalogue: Catalogue, question: str) -> Answer:
    """Answer a question.

    Raises `UnknownQuestionError` where there is no such thing, `SlideError` or `StoreError` where
    it cannot be read.
    """
    for pattern, reply in _QUESTIONS:
        found = re.fullmatch(pattern, question)
        if found is not None:
            return reply(catalogue, *found.groups())
    raise UnknownQuestionError("no such question")


def _maps(_catalogue: Catalogue) -> Answer:
    return _json(colour_maps())


def _slides(catalogue: Catalogue) -> Answer:
    return _json(catalogue.listed())


def _slide(catalogue: Catalogue, slide_id: str) -> Answer:
    return _json(_found(catalogue, slide_id).describe())


def _state(catalogue: Catalogue, slide_id: str) -> Answer:
    shown = _found(catalogue, slide_id)
    return _json({"state": shown.state, "stamp": shown.stamp})


def _thumbnail(catalogue: Catalogue, slide_id: str) -> Answer:
    shown = _found(catalogue, slide_id)
    if shown.slide is None:
        raise UnknownQuestionError(f"{slide_id}: the slide is not there")
    return Answer(_JPEG, _small(shown.slide))


@lru_cache(maxsize=512)
def _small(slide: Any) -> bytes:
    return jpeg(thumbnail(slide))


def _tile(catalogue: Catalogue, slide_id: str, key: str, *numbers: str) -> Answer:
    layer = _found(catalogue, slide_id).layer(key)
    if layer is None:
        raise UnknownQuestionError(f"{slide_id}: no layer {key}")
    plane, row, column = map(int, numbers)
    planes = layer.planes
    box = planes[plane].tile(row, column) if plane < len(planes) else None
    if box is None:
        raise UnknownQuestionError(f"{slide_id}: {key} has no tile {plane}/{row}/{column}")
    return Answer(_JPEG if key == "slide" else _PNG, layer.tile(plane, box))


def _objects(catalogue: Catalogue, slide_id: str, key: str, row: str, column: str) -> Answer:
    layer = _found(catalogue, slide_id).layer(key)
    if not isinstance(layer, ObjectLayer):
        raise UnknownQuestionError(f"{slide_id}: no objects {key}")
    return Answer(_BYTES, layer.part((int(row), int(column))))


_QUESTIONS: tuple[tuple[str, Callable[..., Answer]], ...] = (
    ("maps", _maps),
    ("slides", _slides),
    (f"slide/{_ID}", _slide),
    (f"state/{_ID}", _state),
    (f"thumbnail/{_ID}", _thumbnail),
    (f"tile/{_ID}/{_KEY}/{_N}/{_N}/{_N}", _tile),
    (f"objects/{_ID}/{_KEY}/{_N}/{_N}", _objects),
)


def _found(catalogue: Catalogue, slide_id: str) -> ShownSlide:
    shown = catalogue.find(slide_id)
    if shown is None:
        raise UnknownQuestionError(f"{slide_id}: no such slide")
    return shown


def _json(value: Any) -> Answer:
    return Answer(_JSON, json.dumps(value, allow_nan=False).encode())
