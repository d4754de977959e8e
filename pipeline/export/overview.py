"""One picture of one slide for people: where the tissue is, and what the model saw there.

Pure drawing, without pyplot and its global state: safe in threads, and no display is needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from pipeline import places
from pipeline.errors import StoreError
from pipeline.export.making import Exporting
from pipeline.ngff import Placement
from pipeline.results import StoredSlide
from pipeline.store import Coverage
from pipeline.tissue import resample_mask

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text
    from numpy.typing import NDArray

__all__ = ["OverviewImage", "draw_overview", "heat_colours", "save_overview", "scale_bar_um"]

# Inches throughout, so that text keeps its size whatever the slide's shape.
_DPI = 150
_MARGIN, _GAP, _FOOTER, _MIN_WIDTH = 0.3, 0.3, 0.4, 5.0
_COLOUR_BAR, _COLOUR_BAR_LABELS = 0.14, 0.75
_ROOM_BESIDE, _ROOM_STACKED = (6.0, 7.0), (11.0, 5.0)  # (width, height) for each panel
_STACK_FROM_ASPECT = 2.2  # wider slides have their panels one above the other

_INK, _FAINT = "#1a1a1a", "#b0b0b0"
_HEAT_PIXELS = 1500  # a finer heat map or thumbnail shows no more at this size
_HIGHEST_PERCENTILE = 99.5  # a few bright pixels must not make all others dark
_OUTLINE_PIXELS = 1500  # a finer mask is thinned: lines cannot show more


Area = tuple[float, float, float, float]
"""Top, left, height and width."""


@dataclass(frozen=True)
class OverviewImage:
    """What an overview shows.

    Every array covers the whole slide, each at its own resolution; scores and tissue may go on
    beyond it, where their pixels do not divide the slide, or begin before it.

    thumbnail: uint8 (y, x, 3).
    heat: float32 (y, x) scores; None draws the slide alone.
    heat_um, tissue_um: top, left, height and width of what they cover, from the slide's corner;
        None: the slide.
    limits: the scores at the two ends of the colours; beyond them the end's colour is drawn.
    tissue: bool (y, x), drawn as an outline.
    width_um, height_um: the slide's extent; they alone decide shape and scale.
    title, subtitle: shortened in the middle when they do not fit.
    channel: the name of what `heat` is a score of.
    analysed: bool (y, x), where `heat` has values; elsewhere it is not drawn.
    """

    thumbnail: NDArray[np.uint8]
    heat: NDArray[np.float32] | None
    tissue: NDArray[np.bool_] | None
    width_um: float
    height_um: float
    title: str
    channel: str
    subtitle: str = ""
    analysed: NDArray[np.bool_] | None = None
    heat_um: Area | None = None
    tissue_um: Area | None = None
    limits: tuple[float, float] = (0.0, 1.0)


def export(made: Exporting) -> Iterator[str]:
    """Draw a slide's overview: ``<slide_id>.overview.png``.

    A pixel of the heat map is the mean over all it covers, so that sparse objects are faint in
    it; the colours span what is there, and the colour bar says what that is.
    """
    stored, slide, path = made.stored, made.slide, made.path("overview.png")
    l0_mpp = stored.level0_mpp
    image = OverviewImage(
        thumbnail=slide.thumbnail(_HEAT_PIXELS),
        heat=None,
        tissue=stored.tissue,
        width_um=slide.shape[1] * l0_mpp[1],
        height_um=slide.shape[0] * l0_mpp[0],
        tissue_um=_area(stored.tissue_placement, stored.tissue, l0_mpp),
        title=slide.name,
        channel="",
        subtitle="" if stored.state == "done" else f"failed blocks: {len(stored.failures)}",
    )
    save_overview(_with_heat(image, stored) if stored.channels else image, path)
    yield path


def _with_heat(image: OverviewImage, stored: StoredSlide) -> OverviewImage:
    """Add the first scores, at the finest level that is no larger than what can be seen."""
    level = next(i for i, each in enumerate(stored.outputs) if max(each.plane) <= _HEAT_PIXELS)
    heat = stored.as_scores(np.asarray(stored.levels[level][0]))
    analysed = _analysed(stored, (heat.shape[0], heat.shape[1]))
    channel = stored.channels[0]
    return replace(
        image,
        heat=heat,
        heat_um=_area(stored.placements[level], heat, stored.level0_mpp),
        channel=f"{channel}, mean per pixel" if level else channel,
        analysed=analysed,
        limits=_limits(heat[analysed], stored.score_range),
    )


def _area(place: Placement, array: NDArray[Any], mpp: tuple[float, float]) -> Area:
    """Give what an array covers, in um from the slide's corner."""
    return (
        *place.corner(mpp),
        array.shape[0] * place.scale[0],
        array.shape[1] * place.scale[1],
    )


def _limits(scores: NDArray[np.float32], score_range: tuple[float, float]) -> tuple[float, float]:
    """Give the ends of the colours: the least score there can be, and nearly the highest there is.

    At least a twentieth of the range, or noise would be drawn as findings.
    """
    low, high = score_range
    if scores.size == 0:
        return score_range
    top = float(np.percentile(scores, _HIGHEST_PERCENTILE))
    return (low, min(max(top, low + (high - low) / 20), high))


def scale_bar_um(width_um: float) -> float:
    """Give the longest 1-2-5 length of at most a quarter (and more than a tenth) of a width.

    >>> [scale_bar_um(width) for width in (18.0, 400.0, 7_999.0, 8_000.0, 26_000.0)]
    [2.0, 100.0, 1000.0, 2000.0, 5000.0]
    """
    exponent = math.floor(math.log10(width_um / 4))
    lengths = [float(f"{digit}e{exponent + step}") for step in (-1, 0, 1) for digit in (1, 2, 5)]
    return max(length for length in lengths if length <= width_um / 4)


def heat_colours() -> ListedColormap:
    """Give viridis (even in lightness, safe for colour-blind readers) with alpha rising by score.

    A score near 0 is clear: what a model says everywhere must not tint the slide.
    """
    scores = np.linspace(0, 1, 256)
    colours = mpl.colormaps["viridis"](scores)
    colours[:, 3] = 0.9 * np.sin(np.pi / 2 * scores)
    return ListedColormap(colours, name="heat")


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
    _draw_slide(_axes(figure, (_MARGIN, top, width, height)), image, image.thumbnail)
    _draw_scale_bar(figure, (_MARGIN, top + down + height, width), image.width_um)
    if image.heat is not None:
        # Grey tissue, so that every colour in this panel is the model's.
        grey = image.thumbnail.mean(axis=2, dtype=np.float32).astype(np.uint8)
        panel = _axes(figure, (_MARGIN + right, top + down, width, height))
        _draw_slide(panel, image, np.stack([grey] * 3, axis=2))
        _draw_heat(panel, image, image.heat)
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
    axes.spines[:].set(linewidth=0.5, color=_FAINT)
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
        text = figure.text(_MARGIN / width, 1 - down / height, words, fontsize=size, color=_INK)
        _fit(text, width - 2 * _MARGIN)


def _draw_slide(axes: Axes, image: OverviewImage, pixels: NDArray[np.uint8]) -> None:
    """Draw the thumbnail and the tissue's outline; the axes' units are um."""
    axes.imshow(pixels, extent=(0, image.width_um, image.height_um, 0), aspect="auto")
    if image.tissue is None or not image.tissue.any():
        return
    rows, columns = (min(size, _OUTLINE_PIXELS) for size in image.tissue.shape)
    # A rim of glass closes the outline where tissue reaches the edge of the slide.
    tissue = np.pad(resample_mask(image.tissue, (rows, columns)), 1)
    top, left, height_um, width_um = image.tissue_um or (0, 0, image.height_um, image.width_um)
    y = np.clip(top + (np.arange(-1, rows + 1) + 0.5) / rows * height_um, 0, image.height_um)
    x = np.clip(left + (np.arange(-1, columns + 1) + 0.5) / columns * width_um, 0, image.width_um)
    outline = axes.contour(x, y, tissue, levels=[0.5], colors=_INK, linewidths=0.8)
    outline.set_path_effects([withStroke(linewidth=2.0, foreground="white")])


def _draw_heat(axes: Axes, image: OverviewImage, heat: NDArray[np.float32]) -> None:
    hidden = ~np.isfinite(heat)
    if image.analysed is not None:
        hidden |= ~resample_mask(image.analysed, (heat.shape[0], heat.shape[1]))
    scores = np.ma.masked_array(heat, hidden)
    top, left, height_um, width_um = image.heat_um or (0, 0, image.height_um, image.width_um)
    extent = (left, left + width_um, top + height_um, top)
    low, high = image.limits
    axes.imshow(scores, heat_colours(), extent=extent, aspect="auto", vmin=low, vmax=high)
    axes.set(xlim=(0, image.width_um), ylim=(image.height_um, 0))


def _draw_colour_bar(axes: Axes, channel: str, limits: tuple[float, float]) -> None:
    ramp = np.linspace(1, 0, 256)[:, np.newaxis]
    axes.imshow(ramp, heat_colours(), extent=(0, 1, 0, 1), aspect="auto", vmin=0, vmax=1)
    axes.yaxis.set(ticks_position="right", label_position="right")
    low, high = limits
    axes.set_yticks([0, 0.5, 1], [f"{score:.2g}" for score in (low, (low + high) / 2, high)])
    axes.tick_params(labelsize=8, labelcolor=_INK, color=_FAINT, width=0.5, length=3)
    label = axes.set_ylabel(channel, fontsize=9, color=_INK)
    _fit(label, axes.get_window_extent().height / _DPI + _GAP)


def _draw_scale_bar(figure: Figure, place: tuple[float, float, float], width_um: float) -> None:
    # Below the panel (left, bottom, width): readable on any slide, and hiding none of it.
    width, height = figure.get_size_inches()
    left, bottom, panel_width = place
    length_um = scale_bar_um(width_um)
    length, y = panel_width * length_um / width_um, 1 - (bottom + 0.18) / height
    bar = Rectangle((left / width, y), length / width, 0.045 / height, gid="scale bar")
    bar.set(transform=figure.transFigure, facecolor=_INK, linewidth=0, snap=False)
    figure.add_artist(bar)
    words = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} \u00b5m"
    x = (left + length + 0.08) / width
    figure.text(x, y + 0.022 / height, words, fontsize=9, color=_INK, va="center_baseline")


def _analysed(stored: StoredSlide, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Give where there are scores, at the resolution of the heat map."""
    finest = stored.outputs[0]
    per_block = stored.coverage == Coverage.ANALYSED
    rows = np.arange(shape[0]) * finest.plane[0] // (shape[0] * finest.block)
    columns = np.arange(shape[1]) * finest.plane[1] // (shape[1] * finest.block)
    analysed: NDArray[np.bool_] = per_block[np.ix_(rows, columns)]
    return analysed
