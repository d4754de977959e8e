"""OpenSlide, the reader of record: the only module that imports `openslide`.

Two oddities of the library end here. ``read_region`` takes its position in level-0 pixels
and its size in the level's; where a level's downsample is not an integer the position falls
between two of the level's pixels, OpenSlide resamples, and the values depend on where a
region starts. So such levels are read from fixed anchors (`_ANCHOR`) and cropped: a pixel
then has one value whatever box it is read in. And errors latch: a handle that failed once
fails for ever, so whoever sees an error drops the handle (`pipeline.handles.Pool` does).
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import SlideError
from pipeline.geometry import Box, Grid, Shape
from pipeline.readers.base import LevelInfo, Metadata, Mpp

__all__ = ["OpenSlideReader", "open_reader"]

CACHE_BYTES = 32 * 2**20
"""Decoded tiles one open slide keeps: a row of tiles under a block, not a whole level."""

_ANCHOR = 512
_DEFAULT_TILE = 256
_PIECES, _PIECE_BYTES = 64, 2**16
_WHITE = (255, 255, 255)
_REMEDY = "check that the file is whole, or copy it again from where it comes from"


def open_reader(path: str) -> OpenSlideReader:
    """Open ``path`` with OpenSlide; `SlideError` says why where it cannot be."""
    if not Path(path).exists():
        raise SlideError(f"{path}: no such file; check the path")
    if Path(path).is_dir():
        raise SlideError(f"{path}: is a directory; name the slide's own file inside it")
    try:
        slide = openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError as error:
        raise SlideError(
            f"{path}: not a slide that OpenSlide {openslide.__library_version__} can read; "
            "check that the file is whole and its format is listed at openslide.org/formats"
        ) from error
    except openslide.OpenSlideError as error:
        raise SlideError(f"{path}: OpenSlide cannot open it: {error}; {_REMEDY}") from error
    return OpenSlideReader(path, slide)


class OpenSlideReader:
    """One OpenSlide handle; the C library is thread-safe, so threads share it."""

    def __init__(self, path: str, slide: openslide.OpenSlide) -> None:
        self._path = path
        self._slide = slide
        self._slide.set_cache(openslide.OpenSlideCache(CACHE_BYTES))
        # Asked once: after another thread's error this too would raise.
        self._downsamples = slide.level_downsamples
        self.metadata = _describe(path, slide)
        self._background = np.array(self.metadata.background, np.uint16)

    def read(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Give the RGB pixels of ``box``; see `pipeline.readers.base.Reader`."""
        if not box.area:
            return np.empty((*box.shape, 3), np.uint8)
        if self._downsamples[level].is_integer():
            return self._region(level, box)
        pixels = np.empty((*box.shape, 3), np.uint8)
        anchors = Grid(self.metadata.levels[level].shape, _ANCHOR)
        for index in anchors.touching(box):
            part = anchors.box(index).intersection(box)
            start = anchors.box(index)
            # From the anchor to the end of the part: where the region ends does not matter.
            source = Box.spanning(start.y, start.x, part.y_stop, part.x_stop)
            pixels[part.within(box)] = self._region(level, source)[part.within(source)]
        return pixels

    def associated_image(self, name: str) -> NDArray[np.uint8]:
        """Give a label, macro or thumbnail image: ``(y, x, 3)`` uint8."""
        try:
            image = self._slide.associated_images[name]
        except KeyError as error:
            known = ", ".join(self.metadata.associated) or "none"
            raise SlideError(
                f"{self._path}: no associated image {name!r}; it has: {known}"
            ) from error
        except openslide.OpenSlideError as error:
            raise SlideError(
                f"{self._path}: associated image {name!r}: {error}; {_REMEDY}"
            ) from error
        return _composite(image, self._background)

    def close(self) -> None:
        """Release the file."""
        self._slide.close()

    def _region(self, level: int, box: Box) -> NDArray[np.uint8]:
        downsample = self._downsamples[level]
        location = (round(box.x * downsample), round(box.y * downsample))
        try:
            image = self._slide.read_region(location, level, (box.width, box.height))
        except openslide.OpenSlideError as error:
            raise SlideError(
                f"{self._path}: cannot read level {level}, rows {box.y}:{box.y_stop}, "
                f"columns {box.x}:{box.x_stop}: {error}; {_REMEDY}"
            ) from error
        return _composite(image, self._background)


def _composite(image: Image.Image, background: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Lay straight-alpha RGBA over the background colour, rounding to nearest."""
    if image.mode != "RGBA":
        return np.array(image.convert("RGB"))
    rgba = np.asarray(image)
    alpha = rgba[..., 3:]
    if alpha.min(initial=255) == 255:
        return np.ascontiguousarray(rgba[..., :3])
    weight = alpha.astype(np.uint16)
    # 255 * 255 + 127 fits in 16 bits.
    mixed = (rgba[..., :3] * weight + background * (255 - weight) + 127) // 255
    return mixed.astype(np.uint8)


def _describe(path: str, slide: openslide.OpenSlide) -> Metadata:
    properties = dict(slide.properties)
    shapes = [(height, width) for width, height in slide.level_dimensions]
    levels = tuple(
        LevelInfo(shape, _tile(properties, i, shape), _downsample(shapes[0], shape))
        for i, shape in enumerate(shapes)
    )
    quickhash = properties.get(openslide.PROPERTY_NAME_QUICKHASH1) or _sampled_hash(path)
    return Metadata(
        vendor=properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown"),
        levels=levels,
        mpp=_mpp(properties),
        objective=_number(properties, openslide.PROPERTY_NAME_OBJECTIVE_POWER),
        bounds=_bounds(properties),
        background=_background(properties),
        associated=tuple(sorted(slide.associated_images)),
        properties=tuple(sorted(properties.items())),
        identity=f"{quickhash}:{Path(path).stat().st_size}",
    )


def _sampled_hash(path: str) -> str:
    """Hash 64 pieces of a file, evenly spread: for files to which OpenSlide gives no hash."""
    size, digest = Path(path).stat().st_size, hashlib.sha256()
    with Path(path).open("rb") as file:
        for i in range(_PIECES):
            file.seek(max(size - _PIECE_BYTES, 0) * i // (_PIECES - 1))
            digest.update(file.read(_PIECE_BYTES))
    return digest.hexdigest()


def _tile(properties: dict[str, str], level: int, shape: Shape) -> Shape:
    sides = [properties.get(f"openslide.level[{level}].tile-{s}") for s in ("height", "width")]
    rows, columns = (int(side) if side else _DEFAULT_TILE for side in sides)
    return (min(rows, shape[0]), min(columns, shape[1]))


def _downsample(l0_shape: Shape, shape: Shape) -> tuple[float, float]:
    """Give level-0 pixels per pixel, per axis.

    A pyramid divides by a whole number and rounds the size; the quotient of the sizes would
    carry that rounding into every coordinate, so the whole number is taken where it explains
    both sizes.

    >>> _downsample((16866, 13196), (4217, 3299))
    (4.0, 4.0)
    >>> _downsample((300, 5000), (18, 312))
    (16.0, 16.0)
    >>> _downsample((1000, 1000), (300, 300))
    (3.3333333333333335, 3.3333333333333335)
    """
    longer = l0_shape.index(max(l0_shape))  # there rounding weighs least
    whole = max(round(l0_shape[longer] / shape[longer]), 1)
    if all(
        n in (math.floor(l0 / whole), math.ceil(l0 / whole))
        for l0, n in zip(l0_shape, shape, strict=True)
    ):
        return (float(whole), float(whole))
    return (l0_shape[0] / shape[0], l0_shape[1] / shape[1])


def _number(properties: dict[str, str], name: str) -> float | None:
    try:
        value = float(properties[name])
    except (KeyError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _mpp(properties: dict[str, str]) -> Mpp | None:
    y = _number(properties, openslide.PROPERTY_NAME_MPP_Y)
    x = _number(properties, openslide.PROPERTY_NAME_MPP_X)
    if y is None or x is None or min(y, x) <= 0:
        return None
    return Mpp(y, x, "header")


def _bounds(properties: dict[str, str]) -> Box | None:
    names: tuple[Any, ...] = (
        openslide.PROPERTY_NAME_BOUNDS_Y,
        openslide.PROPERTY_NAME_BOUNDS_X,
        openslide.PROPERTY_NAME_BOUNDS_HEIGHT,
        openslide.PROPERTY_NAME_BOUNDS_WIDTH,
    )
    if not all(name in properties for name in names):
        return None
    return Box(*(int(properties[name]) for name in names))


def _background(properties: dict[str, str]) -> tuple[int, int, int]:
    colour = properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR)
    if colour is None or len(colour) != 6:
        return _WHITE
    return (int(colour[0:2], 16), int(colour[2:4], 16), int(colour[4:6], 16))
