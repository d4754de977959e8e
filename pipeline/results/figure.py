"""How a part of a slide is drawn: pixels, what lies over them, axes, legend, scale bar.

Without pyplot and its global state: a figure shows itself in a notebook, with or without
``%matplotlib inline``, and is gone when nobody holds it any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke

from pipeline.display.pictures import limits_of
from pipeline.errors import ConfigError
from pipeline.results.drawing import heat_colours, scale_bar_um
from pipeline.results.within import Objects, Raster
from pipeline.slide import Slide
from pipeline.slide.crop import Region, crop

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["UM", "Crop", "View", "draw"]

UM = "\u00b5m"

_DPI = 100
_INK, _PAPER = "#1a1a1a", "#f4f4f4"
_BESIDE_IN = 1.1
"""Room for what is written around the slide."""


class Crop(Figure):
    """A figure that shows itself in a notebook, also where pyplot was never imported."""

    def _repr_png_(self) -> bytes:
        drawn = BytesIO()
        self.savefig(drawn, format="png")
        return drawn.getvalue()


@dataclass
class View:
    """What is drawn: a region of a slide of ``shape``, ``mpp`` um a pixel if that is known."""

    name: str
    shape: tuple[int, int]
    mpp: tuple[float, float]
    unit: str
    slide: Slide | None
    remark: str = ""
    region: Region = field(default_factory=lambda: Region(0, 0, 1, 1))
    pixels: int = 0
    scores: Raster | None = None
    labels: list[Raster] = field(default_factory=list)
    tissue: Raster | None = None
    objects: list[Objects] = field(default_factory=list)

    def look_at(self, given: Sequence[float] | None, unit: str, size: float) -> None:
        """Choose the region; `ConfigError` where that is not of the slide."""
        self.pixels = int(size * _DPI)
        if given is None:
            self.region = Region(0, 0, self.shape[1], self.shape[0])
            return
        if unit not in ("px", "um") or (unit == "um" and self.unit != UM):
            raise ConfigError(
                f"unit: {unit}: give px, or um where the slide's um per pixel are known"
            )
        self.region = Region.of(given, self.mpp if unit == "um" else (1.0, 1.0))
        if not self.region.touches(self.shape):
            raise ConfigError(
                f"region: {tuple(given)} {unit} lies outside of {self.name}, which has "
                f"{self.shape[1]} x {self.shape[0]} px"
            )

    def extent(self, region: Region) -> tuple[float, float, float, float]:
        """Give left, right, bottom and top on the axes."""
        (y, x), end_x, end_y = self.mpp, region.x + region.width, region.y + region.height
        return (region.x * x, end_x * x, end_y * y, region.y * y)


def draw(view: View, size: float) -> Crop:
    """Give the figure; its longer side has ``size`` inches."""
    (y, x), region = view.mpp, view.region
    aspect = region.height * y / (region.width * x)
    width, height = (size, size * aspect) if aspect < 1 else (size / aspect, size)
    figure = Crop(
        figsize=(max(width, 3.0) + _BESIDE_IN, max(height, 1.0) + _BESIDE_IN),
        dpi=_DPI,
        facecolor="white",
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    said = _draw_slide(axes, view)
    legend: list[Any] = []
    for labels in view.labels:
        legend += _draw_labels(axes, view, labels)
    if view.scores is not None:
        _draw_scores(axes, view, view.scores)
    if view.tissue is not None:
        legend += _draw_tissue(axes, view, view.tissue)
    for objects in view.objects:
        legend.append(_draw_objects(axes, view, objects))
    left, right, bottom, top = view.extent(region)
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    axes.set(xlabel=f"x ({view.unit})", ylabel=f"y ({view.unit})")
    axes.set_title(f"{view.name}: {view.remark or said}", fontsize=10, parse_math=False)
    if view.unit == UM:
        _draw_scale_bar(axes, view)
    if legend:
        figure.legend(handles=legend, loc="outside lower center", ncols=4, fontsize=8)
    return figure


def _draw_slide(axes: Axes, view: View) -> str:
    """Draw the slide's pixels, grey under scores; say what they are."""
    if view.slide is None:
        axes.set_facecolor(_PAPER)
        return ""
    pixels, covered, level = crop(view.slide, view.region, view.pixels)
    if view.scores is not None:
        # So that every colour is the model's.
        grey = pixels.mean(axis=2, dtype=np.float32).astype(np.uint8)
        pixels = np.stack([grey] * 3, axis=2)
    axes.imshow(pixels, extent=view.extent(covered), aspect="auto", interpolation="antialiased")
    per_pixel = view.mpp[1] * covered.width / pixels.shape[1]
    return f"level {level.index}, {per_pixel:.3g} {view.unit} per pixel"


def _draw_scores(axes: Axes, view: View, scores: Raster) -> None:
    values = np.ma.masked_invalid(scores.values)
    low, high = limits_of(values.compressed(), scores.limits)
    colours = heat_colours()
    axes.imshow(
        values,
        colours,
        extent=view.extent(scores.covered),
        aspect="auto",
        vmin=low,
        vmax=high,
        interpolation="nearest",
    )
    shown = ScalarMappable(Normalize(low, high), colours)
    bar = axes.figure.colorbar(shown, ax=axes, shrink=0.8, pad=0.02, aspect=30)
    bar.set_label(scores.name, parse_math=False)


def _draw_labels(axes: Axes, view: View, labels: Raster) -> list[Any]:
    table = np.zeros((256, 4))
    for value, _, colour in labels.classes:
        table[value] = (*to_rgba(colour)[:3], 0.5)
    axes.imshow(
        table[labels.values],
        extent=view.extent(labels.covered),
        aspect="auto",
        interpolation="nearest",
    )
    there = set(np.unique(labels.values).tolist())
    return [
        Patch(color=colour, alpha=0.5, label=_plain(name))
        for value, name, colour in labels.classes
        if value in there
    ]


def _draw_tissue(axes: Axes, view: View, tissue: Raster) -> list[Any]:
    """Draw the outline through the middles between pixels; a rim of glass closes it."""
    rows, columns = tissue.values.shape
    if not tissue.values.any() or not rows or not columns:
        return []
    left, right, bottom, top = view.extent(tissue.covered)
    y = top + (np.arange(-1, rows + 1) + 0.5) / rows * (bottom - top)
    x = left + (np.arange(-1, columns + 1) + 0.5) / columns * (right - left)
    padded = np.pad(tissue.values, 1)
    outline = axes.contour(x, y, padded, levels=[0.5], colors=_INK, linewidths=1.0)
    outline.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
    return [Line2D([], [], color=_INK, linewidth=1.0, label="tissue")]


def _draw_objects(axes: Axes, view: View, objects: Objects) -> Any:
    scale = np.array(view.mpp[::-1])
    if objects.rings:
        lines = LineCollection(
            [ring * scale for ring in objects.rings], colors=objects.colour, linewidths=1.2
        )
        lines.set_gid("objects")
        axes.add_collection(lines)
    elif objects.count:
        x, y = (np.concatenate(objects.middles) * scale).T
        axes.plot(x, y, ",", color=objects.colour, gid="objects")
    label = f"{_plain(objects.name)} ({objects.count:,})"
    return Line2D([], [], color=objects.colour, linewidth=1.2, label=label)


def _draw_scale_bar(axes: Axes, view: View) -> None:
    left, right, bottom, top = view.extent(view.region)
    length = scale_bar_um(right - left)
    inset, height = (right - left) * 0.03, (bottom - top) * 0.012
    at = (right - inset - length, bottom - inset - height)
    bar = Rectangle(at, length, height, facecolor=_INK, linewidth=0, gid="scale bar")
    bar.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
    axes.add_patch(bar)
    words = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} {UM}"
    text = axes.text(at[0] + length / 2, at[1] - height, words, ha="center", va="bottom", size=9)
    text.set(color=_INK, bbox={"facecolor": "white", "alpha": 0.7, "pad": 1.5, "linewidth": 0})


def _plain(name: str) -> str:
    """Give a name that matplotlib takes for a text: no formula, and not hidden."""
    return name.replace("$", r"\$").lstrip("_") or "unnamed"
