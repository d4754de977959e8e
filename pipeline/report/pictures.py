"""The pictures of a report: a slide, what was found in it, and which blocks are done.

Each is as wide as it is in micrometres, with a scale bar below. WebP, a third of what JPEG
takes: every browser since 2020 shows it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from pipeline.results.drawing import (
    FAINT,
    INK,
    OverviewImage,
    draw_heat,
    draw_slide,
    heat_colours,
    scale_bar_um,
    scale_bar_words,
    show_slide,
)
from pipeline.store import Coverage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from pipeline.results.drawing import Area

__all__ = [
    "COVERAGE_COLOURS",
    "Drawn",
    "draw_coverage",
    "draw_labels",
    "draw_points",
    "draw_scores",
    "draw_tissue",
    "ramp",
    "thumb",
]

COVERAGE_COLOURS = {
    Coverage.ANALYSED: "#0072B2",
    Coverage.BACKGROUND: "#999999",
    Coverage.FAILED: "#D55E00",
    Coverage.PENDING: "#F0E442",
}
"""Of Okabe and Ito's colours; failed blocks are crossed out as well."""

_OPACITY = {
    Coverage.ANALYSED: 0.25,
    Coverage.BACKGROUND: 0.35,
    Coverage.FAILED: 0.7,
    Coverage.PENDING: 0.5,
}
"""What is usual lets the slide through."""

_DPI = 100
_LONGEST, _NARROWEST = 1000, 360  # pixels
_STRIP, _BAR, _WORDS_PT = 46, 8, 20  # below the slide, in pixels; the size of its text
_LINE_PT = 1.6
_QUALITY, _THUMB_QUALITY = 80, 60
_THUMB = 72
_MOST_CROSSES = 2000

Draw = Callable[["Axes"], None]


@dataclass(frozen=True)
class Drawn:
    """A picture as a data URI, and its size in pixels."""

    uri: str
    width: int
    height: int


def draw_tissue(image: OverviewImage) -> Drawn:
    """Draw the slide with its tissue outlined."""
    return _panel(image, lambda axes: draw_slide(axes, image, image.thumbnail, line_pt=_LINE_PT))


def draw_scores(image: OverviewImage) -> Drawn:
    """Draw the scores, or what else is in ``heat``, over the slide in grey."""

    def draw(axes: Axes) -> None:
        draw_slide(axes, image, _grey(image), line_pt=_LINE_PT)
        if image.heat is not None:
            draw_heat(axes, image, image.heat)

    return _panel(image, draw)


def draw_labels(
    image: OverviewImage, labels: NDArray[np.uint8], area: Area, colours: Mapping[int, str]
) -> Drawn:
    """Draw a label map ``(y, x)`` over the slide in grey; ``area`` is what it covers, um."""
    table = np.zeros((256, 4))
    for value, colour in colours.items():
        table[value] = to_rgba(colour, 0.65)

    def draw(axes: Axes) -> None:
        draw_slide(axes, image, _grey(image), line_pt=_LINE_PT)
        _overlay(axes, image, table[labels], area)

    return _panel(image, draw)


def draw_points(
    image: OverviewImage, points: Mapping[str, NDArray[np.float64]], colours: Mapping[str, str]
) -> Drawn:
    """Draw objects as dots over the slide in grey: by class, x and y of each, um."""

    def draw(axes: Axes) -> None:
        draw_slide(axes, image, _grey(image), line_pt=_LINE_PT)
        for name, at in points.items():
            axes.scatter(
                at[:, 0], at[:, 1], s=14, c=colours[name], linewidths=0.4, edgecolors="white"
            )
        axes.set(xlim=(0, image.width_um), ylim=(image.height_um, 0))

    return _panel(image, draw)


def draw_coverage(
    image: OverviewImage, coverage: NDArray[np.uint8], block_um: tuple[float, float]
) -> Drawn:
    """Draw what has become of each block over the slide in grey."""
    table = np.zeros((256, 4))
    for state, colour in COVERAGE_COLOURS.items():
        table[state] = to_rgba(colour, _OPACITY[state])
    (rows, columns), (height, width) = coverage.shape, block_um

    def draw(axes: Axes) -> None:
        show_slide(axes, image, _grey(image))
        _overlay(axes, image, table[coverage], (0, 0, rows * height, columns * width))
        if max(rows, columns) <= 100:
            lines: dict[str, Any] = {"colors": "white", "linewidths": 0.8}
            axes.vlines(np.arange(1, columns) * width, 0, image.height_um, **lines)
            axes.hlines(np.arange(1, rows) * height, 0, image.width_um, **lines)
        failed = np.argwhere(coverage == Coverage.FAILED)[:_MOST_CROSSES]
        # Their middle as far as they are on the slide.
        y = (failed[:, 0] * height + np.minimum((failed[:, 0] + 1) * height, image.height_um)) / 2
        x = (failed[:, 1] * width + np.minimum((failed[:, 1] + 1) * width, image.width_um)) / 2
        axes.scatter(x, y, s=120, marker="x", c=INK, linewidths=2.5)
        axes.set(xlim=(0, image.width_um), ylim=(image.height_um, 0))

    return _panel(image, draw)


def thumb(pixels: NDArray[np.uint8]) -> Drawn:
    """Give a small picture for a table."""
    image = Image.fromarray(pixels)
    image.thumbnail((_THUMB, _THUMB))
    return _encoded(image, _THUMB_QUALITY)


def ramp(stops: int = 48) -> list[str]:
    """Give the colours of scores from low to high, as they look on white, as #rrggbb."""
    colours = heat_colours()(np.linspace(0, 1, stops))
    seen = colours[:, :3] * colours[:, 3:] + (1 - colours[:, 3:])
    return [f"#{bytes(round(255 * each) for each in rgb).hex()}" for rgb in seen]


def _grey(image: OverviewImage) -> NDArray[np.uint8]:
    """Give the slide without its colours, so that every colour in a picture is a finding."""
    grey = image.thumbnail.mean(axis=2, dtype=np.float32).astype(np.uint8)
    return np.stack([grey] * 3, axis=2)


def _overlay(axes: Axes, image: OverviewImage, rgba: NDArray[np.float64], area: Area) -> None:
    top, left, height, width = area
    extent = (left, left + width, top + height, top)
    axes.imshow(rgba, extent=extent, aspect="auto", interpolation="nearest")
    axes.set(xlim=(0, image.width_um), ylim=(image.height_um, 0))


def _panel(image: OverviewImage, draw: Draw) -> Drawn:
    """Draw on axes of the slide's own shape, and a scale bar below."""
    longest = max(image.width_um, image.height_um)
    width, height = (
        max(round(_LONGEST * side / longest), 1) for side in (image.width_um, image.height_um)
    )
    across, down = max(width, _NARROWEST), height + _STRIP
    figure = Figure(figsize=(across / _DPI, down / _DPI), dpi=_DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, _STRIP / down, width / across, height / down))
    draw(axes)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(linewidth=0.5, color=FAINT)
    length_um = scale_bar_um(image.width_um)
    length = width * length_um / image.width_um
    y = _STRIP / 2 - _BAR / 2
    bar = Rectangle((4 / across, y / down), length / across, _BAR / down, gid="scale bar")
    bar.set(transform=figure.transFigure, facecolor=INK, linewidth=0, snap=False)
    figure.add_artist(bar)
    figure.text(
        (4 + length + 12) / across,
        (_STRIP / 2) / down,
        scale_bar_words(length_um),
        fontsize=_WORDS_PT,
        color=INK,
        va="center_baseline",
    )
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    return _encoded(Image.fromarray(np.ascontiguousarray(pixels)), _QUALITY)


def _encoded(image: Image.Image, quality: int) -> Drawn:
    out = BytesIO()
    image.save(out, format="WEBP", quality=quality, method=2)
    data = base64.b64encode(out.getvalue()).decode()
    return Drawn(f"data:image/webp;base64,{data}", image.width, image.height)
