"""What pictures of a slide are drawn with: its outline, its heat map, their colours, a scale.

Pure drawing, without pyplot and its global state: safe in threads, and no display is needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patheffects import withStroke

from pipeline.display.pictures import limits_of
from pipeline.geometry import Box
from pipeline.ngff import Placement
from pipeline.results import StoredSlide
from pipeline.store import Coverage
from pipeline.tissue import resample_mask

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

__all__ = [
    "FAINT",
    "HEAT_PIXELS",
    "INK",
    "Area",
    "OverviewImage",
    "area_of",
    "draw_heat",
    "draw_slide",
    "heat_colours",
    "scale_bar_um",
    "scale_bar_words",
    "show_slide",
    "with_heat",
]

INK, FAINT = "#1a1a1a", "#b0b0b0"

HEAT_PIXELS = 1500
"""A finer heat map or thumbnail shows no more at this size."""

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


def with_heat(image: OverviewImage, stored: StoredSlide, number: int = 0) -> OverviewImage:
    """Add a channel of the first scores, at the finest level no larger than what can be seen."""
    outputs = stored.outputs
    level = next(i for i, each in enumerate(outputs) if max(each.plane) <= HEAT_PIXELS)
    # Read here: what is drawn when a run ends must not wait for its workers.
    heat = stored.as_scores(outputs[level].read(Box(0, 0, *outputs[level].plane))[number])
    analysed = analysed_at(stored, (heat.shape[0], heat.shape[1]))
    channel = stored.channels[number]
    return replace(
        image,
        heat=heat,
        heat_um=area_of(stored.placements[level], heat, stored.level0_mpp),
        channel=f"{channel}, mean per pixel" if level else channel,
        analysed=analysed,
        limits=limits_of(heat[analysed], stored.score_range),
    )


def area_of(place: Placement, array: NDArray[Any], mpp: tuple[float, float]) -> Area:
    """Give what an array covers, in um from the slide's corner."""
    return (
        *place.corner(mpp),
        array.shape[0] * place.scale[0],
        array.shape[1] * place.scale[1],
    )


def scale_bar_um(width_um: float) -> float:
    """Give the longest 1-2-5 length of at most a quarter (and more than a tenth) of a width.

    >>> [scale_bar_um(width) for width in (18.0, 400.0, 7_999.0, 8_000.0, 26_000.0)]
    [2.0, 100.0, 1000.0, 2000.0, 5000.0]
    """
    exponent = math.floor(math.log10(width_um / 4))
    lengths = [float(f"{digit}e{exponent + step}") for step in (-1, 0, 1) for digit in (1, 2, 5)]
    return max(length for length in lengths if length <= width_um / 4)


def scale_bar_words(length_um: float) -> str:
    """Say how long a scale bar is.

    >>> scale_bar_words(500.0), scale_bar_words(2000.0)
    ('500 µm', '2 mm')
    """
    return f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} \u00b5m"


def heat_colours() -> ListedColormap:
    """Give viridis (even in lightness, safe for colour-blind readers) with alpha rising by score.

    A score near 0 is clear: what a model says everywhere must not tint the slide.
    """
    scores = np.linspace(0, 1, 256)
    colours = mpl.colormaps["viridis"](scores)
    colours[:, 3] = 0.9 * np.sin(np.pi / 2 * scores)
    return ListedColormap(colours, name="heat")


def show_slide(axes: Axes, image: OverviewImage, pixels: NDArray[np.uint8]) -> None:
    """Draw the slide's pixels ``(y, x, 3)`` alone; the axes' units are um."""
    room = axes.get_window_extent()
    as_they_are = (round(room.height), round(room.width)) == pixels.shape[:2]
    axes.imshow(
        pixels,
        extent=(0, image.width_um, image.height_um, 0),
        aspect="auto",
        interpolation="nearest" if as_they_are else None,  # which is several times as fast
    )


def draw_slide(
    axes: Axes, image: OverviewImage, pixels: NDArray[np.uint8], *, line_pt: float = 0.8
) -> None:
    """Draw the thumbnail and the tissue's outline; the axes' units are um."""
    show_slide(axes, image, pixels)
    if image.tissue is None or not image.tissue.any():
        return
    rows, columns = (min(size, _OUTLINE_PIXELS) for size in image.tissue.shape)
    # A rim of glass closes the outline where tissue reaches the edge of the slide.
    tissue = np.pad(resample_mask(image.tissue, (rows, columns)), 1)
    top, left, height_um, width_um = image.tissue_um or (0, 0, image.height_um, image.width_um)
    y = np.clip(top + (np.arange(-1, rows + 1) + 0.5) / rows * height_um, 0, image.height_um)
    x = np.clip(left + (np.arange(-1, columns + 1) + 0.5) / columns * width_um, 0, image.width_um)
    outline = axes.contour(x, y, tissue, levels=[0.5], colors=INK, linewidths=line_pt)
    outline.set_path_effects([withStroke(linewidth=2.5 * line_pt, foreground="white")])


def draw_heat(axes: Axes, image: OverviewImage, heat: NDArray[np.float32]) -> None:
    """Draw scores where there are some; the axes' units are um."""
    hidden = ~np.isfinite(heat)
    if image.analysed is not None:
        hidden |= ~resample_mask(image.analysed, (heat.shape[0], heat.shape[1]))
    scores = np.ma.masked_array(heat, hidden)
    top, left, height_um, width_um = image.heat_um or (0, 0, image.height_um, image.width_um)
    extent = (left, left + width_um, top + height_um, top)
    low, high = image.limits
    axes.imshow(scores, heat_colours(), extent=extent, aspect="auto", vmin=low, vmax=high)
    axes.set(xlim=(0, image.width_um), ylim=(image.height_um, 0))


def analysed_at(stored: StoredSlide, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Give where there are scores, at the resolution of the heat map."""
    finest = stored.outputs[0]
    per_block = stored.coverage == Coverage.ANALYSED
    rows = np.arange(shape[0]) * finest.plane[0] // (shape[0] * finest.block)
    columns = np.arange(shape[1]) * finest.plane[1] // (shape[1] * finest.block)
    analysed: NDArray[np.bool_] = per_block[np.ix_(rows, columns)]
    return analysed
