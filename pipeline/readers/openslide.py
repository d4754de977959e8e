"""OpenSlide, the reader of record: the only module that imports `openslide`.

Three oddities of the library end here.

- ``read_region`` takes its position in level-0 pixels and its size in the level's; where a
  level's downsample is no whole number, OpenSlide resamples. Such levels are read from anchors
  (`pipeline.readers.anchors`), so that a pixel has one value whatever box it is read in, and
  nearly always the stored one. Measured against the stored pixels, decoded by tifffile, with
  regions that begin every 512 pixels and with these (share of pixels that differ; mean and
  largest difference of a colour, in grey levels of 255):

  ======================  ==========  ==================  ================
  level                   downsample  every 512           anchors
  ======================  ==========  ==================  ================
  TCGA-CR-7395, level 1   2.0005      64.0 %, 2.1, 52     0
  erosion-HE, level 1     3.9998      38.1 %, 1.1, 31     0.005 %, 0.0, 1
  erosion-HE, level 2     15.9909     15.4 %, 0.15, 6     0
  noise, 1067 px long     1.4992      52.0 %, 11.2, 67    0
  noise, 9000 px long     4.0002      92.6 %, 4.9, 31     22.7 %, 0.9, 20
  ======================  ==========  ==================  ================

  What is left are stretches farther from an anchor than OpenSlide reads at once, in levels of
  more than 4096 pixels: they lie up to half a level-0 pixel off.
- Its Python layer makes a picture of each region, un-premultiplied, under the interpreter's
  lock. Here the C function fills an array, without the lock, and `lay_over` gives RGB.
- Errors latch: a handle that failed once fails for ever, so whoever sees an error drops the
  handle (`pipeline.handles.Pool` does).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from ctypes import POINTER, c_uint32
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray
from openslide import lowlevel

from pipeline.errors import SlideError
from pipeline.files.urls import shown
from pipeline.geometry import Box
from pipeline.readers import properties as said
from pipeline.readers.anchors import anchors, pieces
from pipeline.readers.argb import lay_over
from pipeline.readers.base import LevelInfo, Metadata, check_sizes, stored_downsample
from pipeline.readers.series import RESAMPLED, any_file, finest_is_missing
from pipeline.readers.staging import StagedFile, stage

__all__ = ["OpenSlideReader", "library_version", "open_reader"]

CACHE_BYTES = 32 * 2**20
"""Decoded tiles that all open slides of a process keep together: rows of tiles under a few blocks,
not a whole level, and no more after many slides than after one."""

MOST_PIXELS = 2**28
"""Pixels of the largest label, macro or thumbnail that is believed: a header may claim any."""

MOST_TILE_PIXELS = 2**26
"""Pixels of the largest tile that is believed: four bytes each while it is decoded."""

_PIECES, _PIECE_BYTES = 64, 2**16
_REMEDY = "check that the file is whole, or copy it again from where it comes from"


def library_version() -> str:
    """Give the version of the OpenSlide library that is loaded."""
    return str(openslide.__library_version__)


def open_reader(path: str) -> OpenSlideReader:
    """Open ``path``, or the DICOM slide in that folder, with OpenSlide; a URL by a local copy.

    `SlideError` says why where it cannot be.
    """
    with ExitStack() as failing:
        staged = stage(path)
        failing.callback(staged.close)
        file = any_file(staged.path) if Path(staged.path).is_dir() else staged.path
        reader = OpenSlideReader(shown(path), _open(shown(path), file), file, staged)
        failing.pop_all()
    return reader


def _open(name: str, path: str) -> openslide.OpenSlide:
    if not Path(path).exists():
        raise SlideError(f"{name}: no such file; check the path")
    try:
        slide = openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError as error:
        raise SlideError(
            f"{name}: not a slide that OpenSlide {openslide.__library_version__} can read; "
            "check that the file is whole and its format is listed at openslide.org/formats"
        ) from error
    except openslide.OpenSlideError as error:
        raise SlideError(f"{name}: OpenSlide cannot open it: {error}; {_REMEDY}") from error
    if slide.properties.get("dicom.ImageType[3]") == RESAMPLED:
        slide.close()
        raise SlideError(finest_is_missing(name))
    return slide


@cache
def _tiles() -> openslide.OpenSlideCache:
    return openslide.OpenSlideCache(CACHE_BYTES)


class OpenSlideReader:
    """One OpenSlide handle; the C library is thread-safe, so threads share it."""

    def __init__(
        self,
        name: str,
        slide: openslide.OpenSlide,
        file: str | None = None,
        staged: StagedFile | None = None,
    ) -> None:
        self._path = name
        self._slide = slide
        self._staged = staged or StagedFile(name)
        self._slide.set_cache(_tiles())
        # Asked once: after another thread's error this too would raise.
        self.downsamples: tuple[float, ...] = slide.level_downsamples
        self.metadata = _describe(file or name, slide)
        self._anchors = [
            None if down.is_integer() else tuple(anchors(length, down) for length in info.shape)
            for down, info in zip(self.downsamples, self.metadata.levels, strict=True)
        ]

    @property
    def copied(self) -> str:
        """Where what is at a URL was copied to, and how much; empty for a file."""
        return self._staged.reason

    def read(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Give the RGB pixels of ``box``; see `pipeline.readers.base.Reader`."""
        pixels = np.empty((*box.shape, 3), np.uint8)
        for source, part in self._regions(level, box):
            # Unnamed, so that one region is freed before the next is read.
            lay_over(
                self._argb(level, source)[part.within(source)],
                self.metadata.background,
                pixels[part.within(box)],
            )
        return pixels

    def associated_image(self, name: str) -> NDArray[np.uint8]:
        """Give a label, macro or thumbnail image: ``(y, x, 3)`` uint8."""
        if name not in self.metadata.associated:
            known = ", ".join(self.metadata.associated) or "none"
            raise SlideError(f"{self._path}: no associated image {name!r}; it has: {known}")
        try:
            width, height = lowlevel.get_associated_image_dimensions(_handle(self._slide), name)
            if not 0 < width * height <= MOST_PIXELS:
                raise SlideError(
                    f"{self._path}: associated image {name!r}: {width} x {height} px, at most "
                    f"{MOST_PIXELS} px in all are read; {_REMEDY}"
                )
            argb = np.empty((height, width), np.uint32)
            _read_associated_image(self._slide, name, argb)
        except openslide.OpenSlideError as error:
            raise SlideError(
                f"{self._path}: associated image {name!r}: {error}; {_REMEDY}"
            ) from error
        pixels = np.empty((height, width, 3), np.uint8)
        lay_over(argb, self.metadata.background, pixels)
        return pixels

    def icc_profile(self) -> bytes | None:
        """Give the embedded ICC profile; None where there is none."""
        try:
            profile: bytes | None = lowlevel.read_icc_profile(_handle(self._slide))
        except openslide.OpenSlideError as error:
            raise SlideError(f"{self._path}: ICC profile: {error}; {_REMEDY}") from error
        return profile

    def close(self) -> None:
        """Release the file."""
        self._slide.close()
        self._staged.close()

    def region(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Give OpenSlide's own answer for a box: resampled where its corner lies between pixels."""
        pixels = np.empty((*box.shape, 3), np.uint8)
        lay_over(self._argb(level, box), self.metadata.background, pixels)
        return pixels

    def _regions(self, level: int, box: Box) -> Iterator[tuple[Box, Box]]:
        """Give what to read of ``level`` and which part of ``box`` it holds."""
        if not box.area:
            return
        starts = self._anchors[level]
        if starts is None:
            yield box, box
            return
        rows = pieces(box.y, box.y_stop, starts[0])
        columns = pieces(box.x, box.x_stop, starts[1])
        for (y0, y, y_stop), (x0, x, x_stop) in product(list(rows), list(columns)):
            # Where a region ends does not matter: to the end of the part.
            yield Box.spanning(y0, x0, y_stop, x_stop), Box.spanning(y, x, y_stop, x_stop)

    def _argb(self, level: int, box: Box) -> NDArray[np.uint32]:
        downsample = self.downsamples[level]
        argb = np.empty(box.shape, np.uint32)
        try:
            _read_region(
                self._slide, (round(box.x * downsample), round(box.y * downsample)), level, argb
            )
        except openslide.OpenSlideError as error:
            raise SlideError(
                f"{self._path}: cannot read level {level}, rows {box.y}:{box.y_stop}, "
                f"columns {box.x}:{box.x_stop}: {error}; {_REMEDY}"
            ) from error
        return argb


# What of the Python layer is private is used here only: its own way to the C functions, which
# lets go of the interpreter's lock, takes any memory and raises what `openslide_get_error` says.


def _handle(slide: openslide.OpenSlide) -> lowlevel._OpenSlide:
    return slide._osr  # noqa: SLF001


def _read_region(
    slide: openslide.OpenSlide, l0_xy: tuple[int, int], level: int, argb: NDArray[np.uint32]
) -> None:
    height, width = argb.shape
    memory = argb.ctypes.data_as(POINTER(c_uint32))
    lowlevel._read_region(_handle(slide), memory, *l0_xy, level, width, height)  # noqa: SLF001


def _read_associated_image(slide: openslide.OpenSlide, name: str, argb: NDArray[np.uint32]) -> None:
    memory = argb.ctypes.data_as(POINTER(c_uint32))
    lowlevel._read_associated_image(_handle(slide), name, memory)  # noqa: SLF001


def _describe(path: str, slide: openslide.OpenSlide) -> Metadata:
    # A name that is not UTF-8 is listed and cannot be asked for.
    asked = ((name, slide.properties.get(name)) for name in slide.properties)
    properties = {name: value for name, value in asked if value is not None}
    shapes = [(height, width) for width, height in slide.level_dimensions]
    check_sizes(path, shapes)
    _check_tiles(path, properties, len(shapes))
    levels = tuple(
        LevelInfo(shape, said.tile(properties, i, shape), stored_downsample(shapes[0], shape))
        for i, shape in enumerate(shapes)
    )
    return Metadata(
        vendor=properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown"),
        levels=levels,
        mpp=said.mpp(properties),
        objective=said.objective(properties),
        bounds=said.bounds(properties),
        background=said.background(properties),
        associated=tuple(sorted(slide.associated_images)),
        properties=tuple(sorted(properties.items())),
        identity=_identity(path, properties),
    )


def _check_tiles(path: str, properties: dict[str, str], levels: int) -> None:
    """Raise `SlideError` for tiles so large that the library, out of memory, ends the process."""
    for level in range(levels):
        width, height = (
            int(properties.get(f"openslide.level[{level}].tile-{side}", "1"))
            for side in ("width", "height")
        )
        if width * height > MOST_TILE_PIXELS:
            raise SlideError(
                f"{path}: level {level} is in tiles of {width} x {height} px, each of which is "
                f"decoded whole; at most {MOST_TILE_PIXELS} px in all are; {_REMEDY}"
            )


def _identity(path: str, properties: dict[str, str]) -> str:
    quickhash = properties.get(openslide.PROPERTY_NAME_QUICKHASH1)
    if quickhash and properties.get(openslide.PROPERTY_NAME_VENDOR) == "dicom":
        return quickhash  # of the series; it may be opened by any of its files
    return f"{quickhash or _sampled_hash(path)}:{Path(path).stat().st_size}"


def _sampled_hash(path: str) -> str:
    """Hash 64 pieces of a file, evenly spread: for files to which OpenSlide gives no hash."""
    size, digest = Path(path).stat().st_size, hashlib.sha256()
    with Path(path).open("rb") as file:
        for i in range(_PIECES):
            file.seek(max(size - _PIECE_BYTES, 0) * i // (_PIECES - 1))
            digest.update(file.read(_PIECE_BYTES))
    return digest.hexdigest()
