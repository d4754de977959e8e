"""A first run file, written after a look at the slides and the model."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from pipeline.config import LocalPath, RunConfig
from pipeline.config.runfile import parse_config
from pipeline.errors import SlideError
from pipeline.files.urls import is_url, shown
from pipeline.manifest.jobs import Job, jobs
from pipeline.model import Model, load_model
from pipeline.slide import Slide, open_slide

__all__ = ["Draft", "draft"]

_MOST_OPENED = 10
"""Slides that are looked at: enough to see whether they say their scale."""

_LOOK_PIXELS = 512
_DARK = 60
"""Mean grey level of the median pixel below which a picture has no glass: fluorescence."""

_WANTED = {
    "scores": ("overview",),
    "labels": ("overview", "geojson"),
    "objects": ("overview", "geojson"),
    "features": ("hdf5",),
}
"""Kind of output -> the exports that show it."""


@dataclass(frozen=True)
class Draft:
    """The text of a run file, and what its user should know of what was seen."""

    text: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Seen:
    """What was found: how many slides there are, and those of them that were opened."""

    count: int
    opened: tuple[Slide, ...]
    without_mpp: int
    dark: bool


def draft(slides: str, model: str, path: Path) -> Draft:
    """Give a run file for the place ``path``: what it needs to say, and why.

    ``slides`` and ``model`` are as in a run file, relative to the current directory. A few slides
    are opened, and the model. Raises `ConfigError` where there are no slides, `SlideError` where
    none of them can be read, `ModelError` where the model is none.
    """
    here = LocalPath()
    given = {"slides": here.resolve(slides, Path()), "model": here.resolve(model, Path())}
    todo = jobs(RunConfig.model_validate(given))
    loaded = load_model(given["model"])
    notes: list[str] = []
    seen = _look(todo, notes)
    if loaded.card.mpp is None:
        notes.append(
            f"{loaded.path}: says no um per pixel; set resolution.mpp to what it was made for"
        )
    text = "\n".join(_lines(seen, loaded, _relative(given, path.parent), path)) + "\n"
    parse_config(text, str(path), path.parent)  # what is written can be read, or is a defect
    return Draft(text, tuple(notes))


def _look(todo: Sequence[Job], notes: list[str]) -> _Seen:
    """Open the first slides; one that cannot be read is noted, all of them are an error."""
    opened, known = [], set()
    first: SlideError | None = None
    for job in todo[:_MOST_OPENED]:
        try:
            slide = open_slide(job.path)
        except SlideError as error:
            first = first or error
            notes.append(str(error))
            continue
        opened.append(slide)
        if job.mpp is not None:
            known.add(slide.path)
    if not opened and first is not None:
        raise first
    mute = [s for s in opened if s.mpp_problem is not None and s.path not in known]
    notes += [f"{slide.path}: {slide.mpp_problem}" for slide in mute]
    return _Seen(len(todo), tuple(opened), len(mute), _is_dark(opened[0]))


def _is_dark(slide: Slide) -> bool:
    return bool(np.median(slide.thumbnail(_LOOK_PIXELS).mean(axis=2)) < _DARK)


def _relative(given: dict[str, str], folder: Path) -> dict[str, str]:
    """Give paths as a run file in ``folder`` names them: relative where they lie below it."""
    whole = folder.absolute()
    return {
        key: value
        if is_url(value) or not Path(value).is_relative_to(whole)
        else os.path.relpath(value, whole)
        for key, value in given.items()
    }


def _lines(seen: _Seen, model: Model, given: dict[str, str], path: Path) -> Iterator[str]:
    """Give the run file line by line; every comment says what was seen, or when to change it."""
    yield "# A run file: what is left out keeps its default, and a misspelt key is an error."
    yield f"# wsi-pipeline plan {path.name} says what it would do, run {path.name} does it."
    yield ""
    yield f"# {_counted(seen)}"
    yield f"slides: {_quoted(shown(given['slides']))}"
    yield f"# {_model_said(model)}"
    yield f"model: {_quoted(given['model'])}"
    yield ""
    yield "output:"
    yield "  # Run again after an interruption, and what is stored is not done twice."
    yield f"  directory: results/{path.stem}"
    yield "  # uint8 holds scores in 255 steps; float32 holds them exactly, in 4 times the space."
    yield "  dtype: uint8"
    yield ""
    yield "resolution:"
    yield from _resolution(seen, model)
    yield ""
    yield "tissue:"
    yield from _tissue(seen)
    yield ""
    yield "# What is made of the stored results for people and for other programs."
    yield f"export: [{', '.join(_exports(model))}]"
    yield ""
    yield "cluster:"
    yield "  # Worker processes of this machine, with Dask's dashboard; threads starts none."
    yield "  kind: local"


def _counted(seen: _Seen) -> str:
    first = seen.opened[0]
    rows, columns = first.shape
    count = "1 slide" if seen.count == 1 else f"{seen.count} slides; the first"
    scale = "says no scale" if first.mpp is None else f"{first.mpp.x:g} um per pixel"
    return f"{count}, {first.name}: {columns} x {rows} px, {scale}, {first.metadata.vendor}"


def _model_said(model: Model) -> str:
    card = model.card
    what = ", ".join(f"{output.name} ({output.kind})" for output in card.outputs)
    scale = "at no stated scale" if card.mpp is None else f"at {card.mpp:g} um per pixel"
    return f"{card.name} gives {what}, {scale}; licence: {card.licence or 'not said'}"


def _resolution(seen: _Seen, model: Model) -> Iterator[str]:
    if model.card.mpp is None:
        yield "  # The card does not say for what scale the model was made: give um per pixel."
        yield "  # mpp: 0.5"
    else:
        yield "  # What the card says; a number is um per pixel, {level: 0} a level as it is."
        yield "  mpp: model"
    if seen.without_mpp:
        count = f"{seen.without_mpp} of {len(seen.opened)}"
        yield f"  # {count} slides looked at say no um per pixel. If you know it for all of them:"
        yield "  # missing: assume, assume_mpp: 0.25; for some: a manifest with a column mpp."
    yield "  missing: error"


def _tissue(seen: _Seen) -> Iterator[str]:
    if seen.dark:
        yield "  # The first slide is dark, as fluorescence is: methods that look for colour on"
        yield "  # glass do not fit, so that everything is analysed."
        yield "  method: none"
        return
    yield "  # By colour, for H&E and IHC. mask takes your own (an image, GeoJSON), none analyses"
    yield "  # everything."
    yield "  method: otsu"


def _exports(model: Model) -> list[str]:
    known = get_args(get_args(RunConfig.model_fields["export"].annotation)[0])
    wanted = [each for output in model.card.outputs for each in _WANTED[output.kind]]
    return [each for each in dict.fromkeys([*wanted, "report"]) if each in known]


def _quoted(text: str) -> str:
    """Give text as YAML takes it whatever is in it: JSON is YAML."""
    return json.dumps(text, ensure_ascii=False)
