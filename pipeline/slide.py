"""A slide: what its file says, and one lazy dask array per level.

`SlideRef` and `Level` are tokens; the open file is found in this process's pool when pixels
are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import overload

import dask.array as da
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.describe import as_html, as_text
from pipeline.errors import SlideError
from pipeline.geometry import Shape
from pipeline.lazy import sliceable
from pipeline.level import BLOCK, Level, SlideRef, slides
from pipeline.readers import Metadata, Mpp

__all__ = ["Level", "Slide", "SlideRef", "open_slide"]


class Levels(Sequence[da.Array]):
    """The levels of a slide as lazy ``(y, x, 3)`` uint8 arrays, level 0 first."""

    def __init__(self, levels: tuple[Level, ...]) -> None:
        self._levels = levels

    def __len__(self) -> int:
        return len(self._levels)

    @overload
    def __getitem__(self, index: int) -> da.Array: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[da.Array]: ...
    def __getitem__(self, index: int | slice) -> da.Array | Sequence[da.Array]:
        if isinstance(index, slice):
            return Levels(self._levels[index])
        level = self._levels[index]
        rows, columns = (max(BLOCK // n, 1) * n for n in level.tile)
        return sliceable(level, (rows, columns, 3))

    def __iter__(self) -> Iterator[da.Array]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return "\n".join(f"{i}: {array!r}" for i, array in enumerate(self))


@dataclass(frozen=True)
class Slide:
    """A whole-slide image: metadata now, pixels when they are computed.

    >>> slide = open_slide("a.svs")  # doctest: +SKIP
    >>> slide.levels[0][5000:6000, 4000:5000].compute().shape  # doctest: +SKIP
    (1000, 1000, 3)
    """

    ref: SlideRef
    metadata: Metadata

    @property
    def path(self) -> str:
        """Where it is."""
        return self.ref.path

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return Path(self.ref.path).stem

    @property
    def mpp(self) -> Mpp | None:
        """Micrometres per level-0 pixel with their source; None where nothing says."""
        return self.metadata.mpp

    @property
    def shape(self) -> Shape:
        """Rows and columns of level 0."""
        return self.metadata.levels[0].shape

    @property
    def properties(self) -> dict[str, str]:
        """Every property of the file."""
        return dict(self.metadata.properties)

    @cached_property
    def levels(self) -> Levels:
        """One lazy ``(y, x, 3)`` uint8 dask array per level; slicing reads only the slice."""
        return Levels(tuple(self.level(i) for i in range(len(self.metadata.levels))))

    def level(self, index: int) -> Level:
        """Give level ``index`` as a source; `SlideError` where there is no such level."""
        if not 0 <= index < len(self.metadata.levels):
            raise SlideError(
                f"{self.path}: no level {index}; it has levels 0 to {len(self.metadata.levels) - 1}"
            )
        info = self.metadata.levels[index]
        return Level(
            self.ref, index, info.shape, info.downsample, info.tile, self.metadata.background
        )

    def assuming(self, mpp: float) -> Slide:
        """Give the same slide with ``mpp`` um per level-0 pixel, marked as assumed."""
        return replace(self, metadata=replace(self.metadata, mpp=Mpp(mpp, mpp, "assumed")))

    def coarse(self, l0_per_pixel: float) -> Level:
        """Give the coarsest level with at most that many level-0 pixels per pixel."""
        fits = [
            i
            for i, info in enumerate(self.metadata.levels)
            if max(info.downsample) <= max(l0_per_pixel, 1.0) * 1.01
        ]
        return self.level(fits[-1])

    def thumbnail(self, size: int = 1024) -> NDArray[np.uint8]:
        """Give the whole slide with its longer side ``size`` pixels or its own: ``(y, x, 3)``."""
        longer = max(self.shape)
        size = min(size, longer)
        level = self.coarse(longer / size)
        factor = max(max(level.plane) // size, 1)
        small = np.asarray(level.reduced(factor)).transpose(1, 2, 0)
        rows, columns = (max(round(n * size / longer), 1) for n in self.shape)
        # The last cells may hold less than `factor` pixels; they must not be stretched to it.
        height, width = (n / factor for n in level.plane)
        image = Image.fromarray(small).resize(
            (columns, rows), Image.Resampling.BOX, box=(0, 0, width, height)
        )
        return np.asarray(image)

    def associated_image(self, name: str) -> NDArray[np.uint8]:
        """Give a label, macro or thumbnail image: ``(y, x, 3)`` uint8."""
        with slides.using(self.ref) as reader:
            return reader.associated_image(name)

    def facts(self) -> dict[str, str]:
        """Say what there is to know, for people: name -> text."""
        meta = self.metadata
        mpp = extent = "unknown"
        if meta.mpp is not None:
            mpp = f"{meta.mpp.x:g} x {meta.mpp.y:g} um/px ({meta.mpp.source})"
            width_mm, height_mm = self.shape[1] * meta.mpp.x / 1e3, self.shape[0] * meta.mpp.y / 1e3
            extent = f"{width_mm:.2f} x {height_mm:.2f} mm"
        box = meta.bounds
        return {
            "path": self.path,
            "vendor": meta.vendor,
            "size": f"{self.shape[1]} x {self.shape[0]} px",
            "extent": extent,
            "mpp": mpp,
            "objective": "unknown" if meta.objective is None else f"{meta.objective:g}x",
            "bounds": "whole image"
            if box is None
            else (f"x {box.x}, y {box.y}, {box.width} x {box.height} px"),
            "associated": ", ".join(meta.associated) or "none",
            "reader": self.ref.reader,
        }

    def level_table(self) -> list[tuple[str, ...]]:
        """Say per level, under a head: index, width x height, downsample, um per pixel, tile."""
        mpp = self.metadata.mpp
        rows = [
            (
                str(i),
                f"{info.shape[1]} x {info.shape[0]}",
                f"{info.downsample[1]:g}",
                "unknown" if mpp is None else f"{mpp.x * info.downsample[1]:.4g}",
                f"{info.tile[1]} x {info.tile[0]}",
            )
            for i, info in enumerate(self.metadata.levels)
        ]
        return [("level", "size", "downsample", "um/px", "tile"), *rows]

    def __repr__(self) -> str:
        _, *rows = self.level_table()
        lines = [
            f"level {i}: {size}, downsample {down}, {mpp} um/px, tiles {tile}"
            for i, size, down, mpp, tile in rows
        ]
        return as_text(f"Slide {self.name}", self.facts(), lines)

    def _repr_html_(self) -> str:
        return as_html(f"Slide {self.name}", self.facts(), self.level_table(), self.thumbnail(256))


def open_slide(path: str | PathLike[str], *, reader: str = "openslide") -> Slide:
    """Open the slide at ``path`` and read its metadata; no pixel is read.

    Raises `SlideError` where the path is not there, is not a slide or is broken.
    """
    given = Path(path).expanduser().absolute()
    try:
        stat = given.stat()
    except FileNotFoundError as error:
        raise SlideError(f"{given}: no such file; check the path") from error
    except OSError as error:
        raise SlideError(f"{given}: {error.strerror}") from error
    ref = SlideRef(str(given), reader, (stat.st_size, stat.st_mtime_ns))
    with slides.using(ref) as handle:
        return Slide(ref, handle.metadata)
