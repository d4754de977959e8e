"""One picture of one slide for people: where the tissue is, and what the model saw there.

Pure drawing, without pyplot and its global state: safe in threads, and no display is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from pipeline.errors import StoreError
from pipeline.export.making import Exporting
from pipeline.files import places
from pipeline.results.drawing import (
    FAINT,
    HEAT_PIXELS,
    INK,
    OverviewImage,
    area_of,
    draw_heat,
    draw_slide,
    heat_colours,
    scale_bar_um,
    scale_bar_words,
    with_heat,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text

__all__ = ["OverviewImage", "draw_overview", "heat_colours", "save_overview", "scale_bar_um"]

# Inches throughout, so that text keeps its size whatever the slide's shape.
_DPI = 150
_MARGIN, _GAP, _FOOTER, _MIN_WIDTH = 0.3, 0.3, 0.4, 5.0
_COLOUR_BAR, _COLOUR_BAR_LABELS = 0.14, 0.75
_ROOM_BESIDE, _ROOM_STACKED = (6.0, 7.0), (11.0, 5.0)  # (width, height) for each panel
_STACK_FROM_ASPECT = 2.2  # wider slides have their panels one above the other


def export(made: Exporting) -> Iterator[str]:
    """Draw a slide's overview: ``<slide_id>.overview.png``.

    A pixel of the heat map is the mean over all it covers, so that sparse objects are faint in
    it; the colours span what is there, and the colour bar says what that is.
    """
    stored, slide, path = made.stored, made.slide, made.path("overview.png")
    l0_mpp = stored.level0_mpp
    image = OverviewImage(
        thumbnail=slide.thumbnail(HEAT_PIXELS),
        heat=None,
        tissue=stored.tissue,
        width_um=slide.shape[1] * l0_mpp[1],
        height_um=slide.shape[0] * l0_mpp[0],
        tissue_um=area_of(stored.tissue_placement, stored.tissue, l0_mpp),
        title=slide.name,
        channel="",
        subtitle="" if stored.state == "done" else f"failed blocks: {len(stored.failures)}",
    )
    save_overview(with_heat(image, stored) if stored.channels else image, path)
    yield path


def draw_overview(image: OverviewImage) -> Figure:
    """Give the figure: the slide with its tissue outlined, and the same under the heat map."""
    aspect = image.width_um / image.height_um
    stacked = aspect > _STACK_FROM_ASPECT
    room = _ROOM_STACKED if stacked else _ROOM_BESIDE
    width = min(room[0], room[1] * aspect)
    height = width / aspect
    top = 0.85 if image.subtitle else 0.65
    legend, right, down = _MARGIN, 0.0, 0.0
    if image.heat is not None:
        legend = _GAP / 2 + _COLOUR_BAR + _COLOUR_BAR_LABELS
        right, down = (0.0, _GAP + height) if stacked else (_GAP + width, 0.0)
    figure_width = max(_MIN_WIDTH, _MARGIN + width + right + legend)
    figure_height = top + height + down + _FOOTER
    figure = Figure(figsize=(figure_width, figure_height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)

    _write_header(figure, image)
    draw_slide(_axes(figure, (_MARGIN, top, width, height)), image, image.thumbnail)
    _draw_scale_bar(figure, (_MARGIN, top + down + height, width), image.width_um)
    if image.heat is not None:
        # Grey tissue, so that every colour in this panel is the model's.
        grey = image.thumbnail.mean(axis=2, dtype=np.float32).astype(np.uint8)
        panel = _axes(figure, (_MARGIN + right, top + down, width, height))
        draw_slide(panel, image, np.stack([grey] * 3, axis=2))
        draw_heat(panel, image, image.heat)
        bar = (_MARGIN + right + width + _GAP / 2, top + down, _COLOUR_BAR, height)
        _draw_colour_bar(_axes(figure, bar), image.channel, image.limits)
    return figure


def save_overview(image: OverviewImage, path: str | Path) -> None:
    """Write the overview as PNG: the whole file or none. `StoreError` where it cannot be."""
    drawn = BytesIO()
    draw_overview(image).savefig(drawn, format="png")
    try:
        places.write_whole(str(path), drawn.getvalue())
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror}; run again") from error


def _axes(figure: Figure, box: tuple[float, float, float, float]) -> Axes:
    """Give bare axes at a box (left, top, width, height), counted from the top left corner."""
    figure_width, figure_height = figure.get_size_inches()
    left, top, width, height = box
    x, y = left / figure_width, 1 - (top + height) / figure_height
    axes = figure.add_axes((x, y, width / figure_width, height / figure_height))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(linewidth=0.5, color=FAINT)
    return axes


def _fit(text: Text, room: float) -> None:
    """Shorten a text in its middle until it fits: names differ at their ends."""
    words = " ".join(text.get_text().split())
    text.set(text=words, parse_math=False)  # a file name may hold $
    keep = len(words)
    while keep > 1 and (excess := max(text.get_window_extent().size) / (room * _DPI)) > 1:
        keep = min(keep - 1, int(keep / excess) + 2)  # the first guess is close
        text.set_text(f"{words[: (keep + 1) // 2]}\u2026{words[len(words) - keep // 2 :]}")


def _write_header(figure: Figure, image: OverviewImage) -> None:
    width, height = figure.get_size_inches()
    for words, down, size in ((image.title, 0.34, 13), (image.subtitle, 0.58, 9)):
        text = figure.text(_MARGIN / width, 1 - down / height, words, fontsize=size, color=INK)
        _fit(text, width - 2 * _MARGIN)


def _draw_colour_bar(axes: Axes, channel: str, limits: tuple[float, float]) -> None:
    ramp = np.linspace(1, 0, 256)[:, np.newaxis]
    axes.imshow(ramp, heat_colours(), extent=(0, 1, 0, 1), aspect="auto", vmin=0, vmax=1)
    axes.yaxis.set(ticks_position="right", label_position="right")
    low, high = limits
    axes.set_yticks([0, 0.5, 1], [f"{score:.2g}" for score in (low, (low + high) / 2, high)])
    axes.tick_params(labelsize=8, labelcolor=INK, color=FAINT, width=0.5, length=3)
    label = axes.set_ylabel(channel, fontsize=9, color=INK)
    _fit(label, axes.get_window_extent().height / _DPI + _GAP)


def _draw_scale_bar(figure: Figure, place: tuple[float, float, float], width_um: float) -> None:
    # Below the panel (left, bottom, width): readable on any slide, and hiding none of it.
    width, height = figure.get_size_inches()
    left, bottom, panel_width = place
    length_um = scale_bar_um(width_um)
    length, y = panel_width * length_um / width_um, 1 - (bottom + 0.18) / height
    bar = Rectangle((left / width, y), length / width, 0.045 / height, gid="scale bar")
    bar.set(transform=figure.transFigure, facecolor=INK, linewidth=0, snap=False)
    figure.add_artist(bar)
    x = (left + length + 0.08) / width
    figure.text(
        x,
        y + 0.022 / height,
        scale_bar_words(length_um),
        fontsize=9,
        color=INK,
        va="center_baseline",
    )
