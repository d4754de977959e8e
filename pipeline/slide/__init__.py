"""A slide: what its file says, and one lazy dask array per level.

`SlideRef` and `Level` are tokens; the open file is found in this process's pool when pixels
are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.colour import described
from pipeline.display.describe import as_html, as_text
from pipeline.errors import SlideError
from pipeline.files.urls import shown, stem
from pipeline.geometry import Box, Shape
from pipeline.readers import Metadata, Mpp
from pipeline.readers.choose import AUTO, choose
from pipeline.readers.ranges import locate
from pipeline.slide.level import Level, LevelLike, Levels, SlideRef, slides
from pipeline.slide.looks import preview_or_why
from pipeline.slide.resample import resampled
from pipeline.slide.scale import REMEDY, problem_of, wanted_mpp

__all__ = ["Level", "Slide", "SlideRef", "open_slide"]


@dataclass(frozen=True)
class Slide:
    """A whole-slide image: metadata now, pixels when they are computed.

    ``crop`` is the part of the file's level 0 that is taken for the slide, None for all of it.
    Shapes, levels, pictures and every coordinate are relative to it. ``file_mpp`` is what the
    file says where somebody else says `mpp`; ``reason`` says why it is read as it is.

    >>> slide = open_slide("a.svs")  # doctest: +SKIP
    >>> slide.levels[0][5000:6000, 4000:5000].compute().shape  # doctest: +SKIP
    (1000, 1000, 3)
    """

    ref: SlideRef
    metadata: Metadata
    crop: Box | None = None
    file_mpp: Mpp | None = None
    reason: str = ""

    @property
    def path(self) -> str:
        """Where it is."""
        return shown(self.ref.path)

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return stem(self.ref.path)

    @property
    def mpp(self) -> Mpp | None:
        """Micrometres per level-0 pixel with their source; None where nothing says."""
        return self.metadata.mpp

    @property
    def mpp_problem(self) -> str | None:
        """What is wrong with `mpp`, and what to do; None where it can be believed."""
        problem = problem_of(self.metadata.mpp)
        if problem is None:
            return None
        # What a file says but cannot mean (nan, 0) is no `mpp`, and still worth telling.
        said = [f"{key} = {text}" for key, text in self.metadata.properties if ".mpp-" in key]
        told = f" ({', '.join(said)})" if said and self.mpp is None else ""
        return f"{problem}{told}; {REMEDY}"

    @property
    def shape(self) -> Shape:
        """Rows and columns of level 0."""
        return self.metadata.levels[0].shape if self.crop is None else self.crop.shape

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
        return Level.of(self.ref, index, info, self.metadata.background, self.crop)

    def at(self, mpp: float | tuple[float, float], *, tolerance: float = 0.0) -> LevelLike:
        """Give the slide at ``mpp`` um per pixel, one number or ``(y, x)``: a virtual level.

        It is resampled from the coarsest stored level that is fine enough, and enlarged from
        level 0 where none is. A stored level that is as wanted, to within ``tolerance`` of it,
        is given as it is: its own ``downsample`` says what it has.

        Raises `ConfigError` where ``mpp`` cannot be meant, `SlideError` where the slide's own is
        not known.

        >>> open_slide("a.svs").at(0.5).array()  # doctest: +SKIP
        """
        own, (y, x) = self.believed_mpp, wanted_mpp(mpp)
        scale = (y / own[0], x / own[1])
        levels = [self.level(i) for i in range(len(self.metadata.levels))]
        near = min(levels, key=lambda level: _off(level, scale))
        as_wanted = near.downsample == scale and near.origin == (0.0, 0.0)
        if as_wanted or (tolerance and _off(near, scale) <= tolerance):
            return near
        return resampled(levels, self.shape, scale)

    @property
    def believed_mpp(self) -> tuple[float, float]:
        """Um per level-0 pixel, ``(y, x)``; `SlideError` where the slide gives none to believe."""
        if self.mpp is None or self.mpp_problem is not None:
            raise SlideError(f"{self.path}: {self.mpp_problem}")
        return (self.mpp.y, self.mpp.x)

    def assuming(self, mpp: float | tuple[float, float], source: str = "assumed") -> Slide:
        """Give the same slide with ``mpp`` um per level-0 pixel, one number or ``(y, x)``.

        ``source`` is who says so. Raises `ConfigError` where that cannot be meant.
        """
        y, x = wanted_mpp(mpp)
        said = self.mpp if self.mpp is not None and self.mpp.source == "header" else self.file_mpp
        metadata = replace(self.metadata, mpp=Mpp(y, x, source))
        return replace(self, metadata=metadata, file_mpp=said)

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
        # The slide may begin inside of a cell, and the last cells may hold less than `factor`
        # pixels; they must not be stretched to it.
        (top, bottom), (left, right) = (
            (-start / down / factor, min((n - start) / down, pixels) / factor)
            for n, start, down, pixels in zip(
                self.shape, level.origin, level.downsample, level.plane, strict=True
            )
        )
        image = Image.fromarray(small).resize(
            (columns, rows), Image.Resampling.BOX, box=(left, top, right, bottom)
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
        facts = {
            "path": shown(self.path),
            "vendor": meta.vendor,
            "size": f"{self.shape[1]} x {self.shape[0]} px",
            "extent": extent,
            "mpp": mpp,
            "objective": "unknown" if meta.objective is None else f"{meta.objective:g}x",
            "bounds": self._bounds_said(),
            "associated": ", ".join(meta.associated) or "none",
            "colours": self._profile_said(),
            "reader": f"{self.ref.reader}: {self.reason}",
        }
        if self.mpp_problem is not None:
            facts["problem"] = self.mpp_problem
        return facts

    def _profile_said(self) -> str:
        try:
            with slides.using(self.ref) as reader:
                profile = reader.icc_profile()
        except SlideError:  # gone meanwhile, which must not keep it from being shown
            return "unknown"
        return "no ICC profile" if profile is None else described(profile)

    def _bounds_said(self) -> str:
        box, shape = self.metadata.bounds, self.metadata.levels[0].shape
        if box is None:
            return "whole image"
        said = f"x {box.x}, y {box.y}, {box.width} x {box.height} px"
        if not box.clipped(shape).area:
            return f"{said}: outside of the image, and not used"
        cropped = "not cropped to" if self.crop is None else "cropped to"
        return f"{said} of {shape[1]} x {shape[0]} px; {cropped}"

    def level_table(self) -> list[tuple[str, ...]]:
        """Say per level, under a head: index, width x height, downsample, um per pixel, tile."""
        mpp = self.metadata.mpp
        planes = [self.level(i).plane for i in range(len(self.metadata.levels))]
        rows = [
            (
                str(i),
                f"{planes[i][1]} x {planes[i][0]}",
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
        picture, why = preview_or_why(self.level(0))
        return as_html(f"Slide {self.name}", self.facts() | why, self.level_table(), picture)


def open_slide(path: str | PathLike[str], *, reader: str = AUTO, crop: bool = True) -> Slide:
    """Open the slide at ``path`` and read its metadata, and of its pixels a few samples at most.

    ``reader`` names a way of reading; ``auto`` takes the fastest that is exact on this file (see
    `pipeline.readers.choose`). Where the file names its scanned area the slide is that, unless
    ``crop`` is False. Raises `SlideError` where the path is not there, is not a slide or is broken.
    """
    where, stamp = locate(path)
    choice = choose(where, reader)
    ref = SlideRef(where, choice.reader, stamp)
    scanned = _scanned(choice.metadata) if crop else None
    return Slide(ref, choice.metadata, scanned, reason=choice.reason)


def _scanned(metadata: Metadata) -> Box | None:
    """Give the scanned area where it is a part of the image; None where it is all, or unknown."""
    shape = metadata.levels[0].shape
    if metadata.bounds is None:
        return None
    inside = metadata.bounds.clipped(shape)
    return None if inside.shape == shape or not inside.area else inside


def _off(level: Level, scale: tuple[float, float]) -> float:
    """Give the part by which a level misses a scale, on its worse axis."""
    return max(abs(d / s - 1) for d, s in zip(level.downsample, scale, strict=True))
