"""What levels look like to people: a text, a piece of HTML, a small picture in bounded time.

The picture is made of a coarse stored level, or of the thumbnail that the file carries. Where
there is neither there is none: nobody who asks what a variable is wants a slide read for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.display.describe import SIDE, as_html, as_text
from pipeline.files.urls import shown, stem
from pipeline.geometry import Box
from pipeline.readers import LevelInfo, Reader
from pipeline.slide.level import Level, LevelLike, slides
from pipeline.slide.recoloured import Recoloured

__all__ = ["MOST_PIXELS", "NO_PICTURE", "html_of", "preview", "preview_or_why", "text_of"]

MOST_PIXELS = 2**23
"""Pixels that are read for a picture, at most: 25 MB, and well below a second."""

NO_PICTURE = "none: the file has no level that is small enough; thumbnail() reads a larger one"

_SAME_SHAPE = 0.02
"""Part by which a thumbnail's proportions may differ from the slide's: its sides are rounded."""


def text_of(level: LevelLike) -> str:
    """Say what a level is, in lines."""
    return as_text(_title(level), _facts(level))


def html_of(level: LevelLike) -> str:
    """Say the same for a notebook, with a picture; never an error where the file is gone."""
    picture, why = preview_or_why(level)
    return as_html(_title(level), _facts(level) | why, picture=picture)


def preview_or_why(level: LevelLike) -> tuple[NDArray[np.uint8] | None, dict[str, str]]:
    """Give a level's small picture; where there is none, a fact that says why."""
    try:
        picture = preview(level)
    except OSError as error:  # gone, or broken: what is known of it can still be said
        return None, {"picture": f"none: {error}"}
    return picture, {"picture": NO_PICTURE} if picture is None else {}


def preview(level: LevelLike, size: int = SIDE) -> NDArray[np.uint8] | None:
    """Give all of a level with its longer side at most ``size`` pixels: ``(y, x, 3)`` uint8.

    At most `MOST_PIXELS` are read; None where the file has nothing so coarse. Raises `SlideError`
    where it cannot be read.
    """
    recoloured: list[Recoloured] = []
    while isinstance(level, Recoloured):
        recoloured.insert(0, level)
        level = level.level
    stored = level.stored
    with slides.using(stored.slide) as reader:
        found = _coarse_part(reader, stored, size)
        if found is None:
            found = _carried(reader, stored)
    if found is None:
        return None
    pixels, part = found
    for each in recoloured:
        pixels = each.converted(pixels)
    height, width = (n * d for n, d in zip(level.plane, level.downsample, strict=True))
    ratio = min(size / max(height, width), 1.0)
    columns, rows = (max(round(n * ratio), 1) for n in (width, height))
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((columns, rows), Image.Resampling.BILINEAR, box=part))


Part = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels of a picture."""


def _coarse_part(reader: Reader, stored: Level, size: int) -> tuple[NDArray[np.uint8], Part] | None:
    """Give pixels of a coarse level, and where in them a level's own lie; None without one."""
    infos = reader.metadata.levels
    index = _coarse(infos, _extent(stored), size)
    if index is None:
        return None
    spans = [
        (offset * own / down, min((offset + n) * own / down, float(there)))
        for offset, n, own, down, there in zip(
            *(stored.offset, stored.plane, stored.downsample),
            *(infos[index].downsample, infos[index].shape),
            strict=True,
        )
    ]
    (top, bottom), (left, right) = spans
    box = Box.spanning(int(top), int(left), math.ceil(bottom), math.ceil(right))
    part = (left - box.x, top - box.y, right - box.x, bottom - box.y)
    return reader.read(index, box), part


def _carried(reader: Reader, stored: Level) -> tuple[NDArray[np.uint8], Part] | None:
    """Give the thumbnail that a file carries, where it shows what the level does."""
    whole = stored.plane == reader.metadata.levels[stored.index].shape
    if not whole or "thumbnail" not in reader.metadata.associated:
        return None
    pixels = reader.associated_image("thumbnail")
    (height, width), (rows, columns) = _extent(stored), pixels.shape[:2]
    off = rows / columns / (height / width) - 1
    return (pixels, (0, 0, columns, rows)) if abs(off) <= _SAME_SHAPE else None


def _coarse(infos: Sequence[LevelInfo], extent: tuple[float, float], size: int) -> int | None:
    """Give the coarsest level that is fine enough, else the finest that may be read; or None."""
    sides = [tuple(n / d for n, d in zip(extent, info.downsample, strict=True)) for info in infos]
    small = [i for i, (height, width) in enumerate(sides) if height * width <= MOST_PIXELS]
    fine = [i for i in small if max(sides[i]) >= min(size, max(extent))]
    return max(fine) if fine else min(small, default=None)


def _extent(level: LevelLike) -> tuple[float, float]:
    """Give rows and columns of level 0 that a level covers."""
    (rows, columns), (y, x) = level.plane, level.downsample
    return (rows * y, columns * x)


def _title(level: LevelLike) -> str:
    name = stem(level.slide.path)
    if isinstance(level, Level):
        return f"Level {level.index} of {name}"
    return f"{type(level).__name__} level of {name}"


def _facts(level: LevelLike) -> dict[str, str]:
    y, x = level.downsample
    stored = level.stored
    facts = {
        "path": shown(level.slide.path),
        "size": f"{level.plane[1]} x {level.plane[0]} px",
        "downsample": f"{x:.6g}" if x == y else f"{x:.6g} x {y:.6g}",
        "tile": f"{stored.tile[1]} x {stored.tile[0]} px",
        "reader": level.slide.reader,
    }
    if stored is not level:
        facts["made of"] = f"level {stored.index}, downsample {stored.downsample[1]:.6g}"
    said = {"slide.filter": "resampled", "slide.colours": "colours", "slide.stain": "stained as"}
    settings = level.settings
    return facts | {said[key]: str(settings[key]) for key in said if key in settings}
