"""A part of a slide as a figure, with what a model found there: for notebooks and for print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.errors import ConfigError, SlideError
from pipeline.results.analysed import analysed_slide
from pipeline.results.figure import Crop, View, draw
from pipeline.results.stored import StoredSlide
from pipeline.results.within import Raster, labels_in, objects_in, scores_in, tissue_in
from pipeline.slide import Slide
from pipeline.slide.crop import Region

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["show"]

_LEAST_IN, _MOST_IN = 2.0, 30.0
_NEAR_UM = 1.0
"""Micrometres per pixel of the figure from which on outlines of nuclei can be told apart."""


def show(
    what: Slide | StoredSlide,
    region: Sequence[float] | None = None,
    *,
    unit: Literal["px", "um"] = "px",
    layers: Sequence[str] | None = None,
    heat: ArrayLike | None = None,
    slide: Slide | None = None,
    size: float = 8.0,
) -> Crop:
    """Draw a part of a slide, under what a model found there where ``what`` is results.

    ``region`` is x, y, width and height in level-0 pixels, or in um with ``unit="um"``; all of
    the slide by default. ``layers`` of results are ``tissue``, names of outputs, and
    ``output/channel`` of scores; by default tissue, and from near the objects, else the first
    scores or labels. ``heat`` is a score per pixel ``(y, x)`` of exactly the region, of whatever
    resolution. ``slide`` is that of the results, where it is no longer where they say. The
    figure's longer side has ``size`` inches, and the level that has enough pixels for that is read.

    The axes are in um from the slide's corner, level-0 pixels where the scale is not known.
    Raises `ConfigError` for a region, a layer or a heat map that cannot be meant, `SlideError` and
    `StoreError` where something cannot be read.

    >>> show(open_slide("a.svs"), (4000, 5000, 1000, 1000))  # doctest: +SKIP
    """
    if not _LEAST_IN <= size <= _MOST_IN:
        raise ConfigError(f"size: {size:g} inches is no figure; give {_LEAST_IN:g} to {_MOST_IN:g}")
    view = _of_slide(what) if isinstance(what, Slide) else _of_results(what, slide)
    view.look_at(region, unit, size)
    if isinstance(what, StoredSlide):
        _add_layers(view, what, layers)
    elif layers:
        raise ConfigError(f"layers: {', '.join(layers)}: a slide has none; show results instead")
    if heat is not None:
        view.scores = _given(heat, view.region)
    return draw(view, size)


def _of_slide(slide: Slide) -> View:
    known = slide.mpp is not None and slide.mpp_problem is None
    mpp, unit = (slide.believed_mpp, "\u00b5m") if known else ((1.0, 1.0), "level-0 px")
    return View(slide.name, slide.shape, mpp, unit, slide)


def _of_results(stored: StoredSlide, slide: Slide | None) -> View:
    """Give the view of results, on their slide or, where it is gone, on paper that says so."""
    made_of, remark = stored.provenance["slide"], ""
    if slide is None:
        try:
            slide = analysed_slide(stored)
        except SlideError:
            remark = f"the slide is not at {made_of['path']}; give slide="
    else:
        identity = stored.provenance["settings"]["slide.identity"]
        if slide.metadata.identity != identity:
            raise SlideError(
                f"{slide.path}: is not the slide that {stored.path} was made of; give slide= that"
            )
    height, width = made_of["shape"]
    return View(stored.slide_id, (height, width), stored.level0_mpp, "\u00b5m", slide, remark)


def _add_layers(view: View, stored: StoredSlide, layers: Sequence[str] | None) -> None:
    region, pixels, kinds = view.region, view.pixels, stored.kinds
    for layer in _default(view, stored) if layers is None else layers:
        name, _, channel = layer.partition("/")
        kind = "tissue" if name == "tissue" else kinds.get(name, "nothing")
        if kind == "tissue":
            view.tissue = tissue_in(stored, region, pixels)
        elif kind == "objects":
            view.objects += objects_in(stored, name, region)
        elif kind == "labels":
            view.labels.append(labels_in(stored, name, region, pixels))
        elif kind == "scores" and channel in ("", *stored.channels_of(name)):
            channel = channel or stored.channels_of(name)[0]
            view.scores = scores_in(stored, name, channel, region, pixels)
        else:
            there = ", ".join(["tissue", *(f"{each} ({kinds[each]})" for each in kinds)])
            raise ConfigError(f"layers: {layer}: nothing that can be drawn; there is {there}")


def _default(view: View, stored: StoredSlide) -> list[str]:
    """Give tissue and, from near, all objects; else the first scores, or the first labels."""
    named = {
        kind: [name for name, each in stored.kinds.items() if each == kind]
        for kind in ("objects", "scores", "labels")
    }
    near = max(view.region.width, view.region.height) * max(view.mpp) / view.pixels <= _NEAR_UM
    maps = [*named["scores"], *named["labels"]][:1]
    return ["tissue", *(named["objects"] if near and named["objects"] else maps)]


def _given(heat: ArrayLike, region: Region) -> Raster:
    values = np.asarray(heat, np.float32)
    if values.ndim != 2 or not values.size:
        raise ConfigError(
            f"heat: has the shape {values.shape}; give a score per pixel (y, x), one channel alone"
        )
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    low, high = (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
    return Raster("score", values, region, limits=(low, high if high > low else low + 1))
