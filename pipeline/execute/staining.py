"""How a slide is stained, found on a sample of its pixels, and how it is to look.

Directions of stains can be seen on a coarse picture, amounts cannot: at 8 um per pixel nuclei
are averaged with what is around them, and on a real biopsy half of the haematoxylin is left (0.88
of 1.84). So a coarse picture tells where tissue is, and windows there are read at the scale that
references are of.
"""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.colour import to_srgb
from pipeline.colour.stain import LIGHT, PUBLISHED, Colours, Stains, fit, light_of
from pipeline.errors import ConfigError, SlideError
from pipeline.execute.finding import find_tissue
from pipeline.execute.schedulers import scheduler_in_force
from pipeline.files.urls import is_url, shown
from pipeline.geometry import Box, Grid
from pipeline.lazy import read_blocks
from pipeline.plan.seen import Tissue
from pipeline.readers.ranges import locate
from pipeline.slide import Slide, open_slide
from pipeline.slide.coloured import coloured
from pipeline.slide.level import LevelLike
from pipeline.slide.restained import Stain
from pipeline.tissue import TissueSettings

__all__ = ["Method", "check_target", "fit_stain"]

Method = Literal["macenko", "reinhard"]
Pixels = NDArray[np.uint8]
Fitted = tuple[Stains | Colours, tuple[str, ...]]

_NAME = "published"

_MPP = 1.1
"""Um per pixel that windows have at most: a fourth of what a 40x objective scans, 0.22 to 0.275."""

_PICTURE_MPP = 8.0
"""Um per pixel of the picture in which tissue is looked for, as for a run."""

_TISSUE, _GLASS = 64, 16
"""Windows on tissue and beside it: places a slide is looked at."""

_SIDE, _EVERY = 256, 4
"""Pixels of a window's side, and which are taken: of four million that are read a sixteenth."""

_KEPT = _SIDE // _EVERY

_MOST = 2**18
"""Most pixels of a reference image that are looked at."""

_TARGETS = 8

_SLIDES = {".tif", ".tiff", ".svs"}
"""Endings of images that are slides, too, and are read as such."""


def fit_stain(
    slide: Slide,
    method: Method,
    target: str | os.PathLike[str] = _NAME,
    *,
    tissue: Tissue | None = None,
    icc: str = "ignore",
) -> Stain:
    """Find how a slide is stained, once for all of it, to be applied by `normalised`.

    ``method`` is ``macenko`` or ``reinhard``, see `pipeline.colour.stain`. ``target`` is
    ``published``, an image or a slide, which is fitted alike. Windows of ``tissue`` (where there is
    none given, it is looked for) are read on the scheduler in force, at about 1 um per pixel or the
    next finer level, always the same ones; with ``icc`` ``apply`` in sRGB.

    Raises `SlideError` where a slide has too little tissue or one colour only, `ConfigError`
    where that is so of the target, or it cannot be read.
    """
    if method not in PUBLISHED:
        raise ConfigError(f"colour.normalise: {method} is no method; use {', '.join(PUBLISHED)}")
    target = os.fspath(target)
    wanted, remarks = _target(method, target, icc)
    try:
        source, own = _of_slide(slide, method, tissue, icc)
    except SlideError as error:
        raise SlideError(f"{slide.path}: {error}") from error
    made = f"its stain is normalised ({method}) to {shown(target)}"
    return Stain(source, wanted, (made, *own, *(f"{shown(target)}: {each}" for each in remarks)))


def check_target(method: Method, target: str, icc: str) -> None:
    """Raise `ConfigError` where there is no such target, or it is an image that cannot be fitted.

    Computes nothing: whether a slide can be fitted is seen when it is.
    """
    if target == _NAME:
        return
    if _is_image(target):
        _target(method, target, icc)
        return
    try:
        locate(target)
    except SlideError as error:
        raise ConfigError(f"colour.target: {error}") from error


def _target(method: Method, target: str, icc: str) -> Fitted:
    if target == _NAME:
        return PUBLISHED[method], ()
    try:
        where, stamp = locate(target)
        fitted = _of_image if _is_image(where) else _of_other
        return fitted(method, where, stamp, icc)
    except SlideError as error:
        said = str(error) if str(error).startswith(shown(target)) else f"{shown(target)}: {error}"
        raise ConfigError(f"colour.target: {said}") from error


# Once for all slides of a run; the stamp changes when the file does.
@lru_cache(_TARGETS)
def _of_other(method: Method, target: str, _stamp: tuple[int, int], icc: str) -> Fitted:
    return _of_slide(open_slide(target), method, None, icc)


@lru_cache(_TARGETS)
def _of_image(method: Method, target: str, _stamp: tuple[int, int], icc: str) -> Fitted:
    pixels = _read_image(target, icc)
    return fit(method, pixels, light_of(pixels) or LIGHT), ()


def _is_image(target: str) -> bool:
    ending = Path(target).suffix.lower()
    return not is_url(target) and ending not in _SLIDES and ending in Image.registered_extensions()


def _read_image(path: str, icc: str) -> Pixels:
    """Give pixels of an image, ``(n, 3)``: all, or as many as `_MOST` at even distances."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                mode, profile = image.mode, image.info.get("icc_profile")
                shrunk = min(math.sqrt(_MOST / (image.width * image.height)), 1.0)
                size = max(int(image.width * shrunk), 1), max(int(image.height * shrunk), 1)
                picked = image.resize(size, Image.Resampling.NEAREST).convert("RGB")
    # Pillow's decoders raise SyntaxError and ValueError, too, on broken files.
    except (
        *(OSError, SyntaxError, ValueError),
        *(Image.DecompressionBombError, Image.DecompressionBombWarning),
    ) as error:
        raise SlideError(
            f"{path}: cannot be read as a reference ({error}); give an image or a slide"
        ) from error
    if mode[0] in "IF":
        raise SlideError(f"has pixels of Pillow's mode {mode}; give a reference of 8 bits")
    pixels = np.asarray(picked)
    if icc == "apply" and profile:
        pixels = to_srgb(profile)(pixels)
    return pixels.reshape(-1, 3)


def _of_slide(slide: Slide, method: Method, tissue: Tissue | None, icc: str) -> Fitted:
    tissue = tissue or find_tissue(slide, TissueSettings(), _PICTURE_MPP, None)
    level: LevelLike = slide.coarse(_MPP / max(slide.mpp.y, slide.mpp.x) if slide.mpp else 1.0)
    if icc == "apply":
        level = coloured(level)
    samples = [
        _sample(_Windows(level, _places(level, tissue, mask, count)))
        for mask, count in ((tissue.mask, _TISSUE), (~tissue.mask, _GLASS))
    ]
    light = light_of(np.concatenate([pixels for pixels, _ in samples]))
    unread = sum(count for _, count in samples)
    remarks = []
    if unread:
        remarks.append(f"{unread} of the windows in which its stain was looked for cannot be read")
    if light is None:
        remarks.append(f"no glass was seen, so that its light is taken for {LIGHT[0] - 1:g} of 255")
    return fit(method, samples[0][0], light or LIGHT), tuple(remarks)


def _places(
    level: LevelLike, tissue: Tissue, mask: NDArray[np.bool_], count: int
) -> tuple[tuple[int, int], ...]:
    """Give the corners of windows in the middle of some pixels of a mask, evenly picked."""
    there = np.flatnonzero(mask)
    if not there.size:
        return ()
    picked = there[np.linspace(0, there.size - 1, min(count, there.size)).round().astype(int)]
    corners = []
    for axis, at in enumerate(np.unravel_index(picked, mask.shape)):
        l0_at = (at + 0.5) * tissue.step[axis] + tissue.origin[axis]
        middle = (l0_at - level.origin[axis]) / level.downsample[axis]
        most = max(level.plane[axis] - _SIDE, 0)
        corners.append((middle - _SIDE / 2).round().astype(int).clip(0, most).tolist())
    return tuple(zip(*corners, strict=True))


def _sample(windows: _Windows) -> tuple[Pixels, int]:
    """Give the pixels of all windows, ``(n, 3)``, and how many windows could not be read."""
    if not windows.places:
        return np.empty((0, 3), np.uint8), 0
    lazy = read_blocks(windows, Grid(windows.shape[:2], _KEPT))
    pixels: Pixels = scheduler_in_force().compute(lazy).reshape(len(windows.places), -1, 4)
    unread = int((~pixels[..., 3].any(axis=1)).sum())
    return pixels[pixels[..., 3] > 0][:, :3], unread


@dataclass(frozen=True, slots=True)
class _Windows:
    """Some windows of a level, one below the other; each is a block, read by one task.

    ``(y, x, 4)``: every fourth pixel, and 255 where it is one of the level's, 0 where it lies
    outside or the window cannot be read.
    """

    level: LevelLike
    places: tuple[tuple[int, int], ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        return (len(self.places) * _KEPT, _KEPT, 4)

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        return np.dtype(np.uint8)

    @property
    def axes(self) -> str:
        return "yxs"

    def read(self, box: Box) -> Pixels:
        y, x = self.places[box.y // _KEPT]
        inside = Box(y, x, _SIDE, _SIDE).clipped(self.level.plane)
        pixels = np.zeros((_SIDE, _SIDE, 4), np.uint8)
        with contextlib.suppress(SlideError):
            pixels[: inside.height, : inside.width, :3] = self.level.read(inside)
            pixels[: inside.height, : inside.width, 3] = 255
        return pixels[::_EVERY, ::_EVERY]
