"""What can be laid over one another: the slide, and what a store holds of it.

A layer says what it is as JSON, and gives its tiles: the slide as JPEG or PNG, anything else as
PNG of one channel whose values the page colours, so that a colour map or a threshold can change
without a tile being made again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.geometry import Box
from pipeline.slide import Slide
from pipeline.slide.level import LevelLike
from pipeline.slide.resample import resampled
from pipeline.view.planes import TILE, Plane, jpeg, png

__all__ = ["ClassLayer", "Layer", "SlideLayer", "ValueLayer", "slide_planes", "virtual"]

Meanings = Mapping[int, tuple[str, str]]
"""Value -> its name and its colour as #rrggbb."""


class Layer(Protocol):
    """One layer of one slide."""

    @property
    def planes(self) -> tuple[Plane, ...]:
        """Its resolutions, finest first."""
        ...

    def describe(self) -> dict[str, Any]:
        """Give what the page needs to know of it."""
        ...

    def tile(self, plane: int, box: Box) -> bytes:
        """Give the pixels of ``box`` of a plane, as an image."""
        ...


def virtual(slide: Slide, scale: float) -> LevelLike:
    """Give a slide at ``scale`` level-0 pixels per pixel: a stored level where one is just that.

    `pipeline.slide.Slide.at` does the same, and needs to know the slide's um per pixel.
    """
    levels = [slide.level(i) for i in range(len(slide.metadata.levels))]
    for level in levels:
        if level.downsample == (scale, scale) and level.origin == (0.0, 0.0):
            return level
    return resampled(levels, slide.shape, (scale, scale))


def slide_planes(slide: Slide) -> tuple[Plane, ...]:
    """Give the virtual levels of a slide: each half of the one before, until one tile holds it."""
    planes, scale = [], 1.0
    while True:
        plane = Plane(virtual(slide, scale).plane, (scale, scale))
        planes.append(plane)
        if max(plane.shape) <= TILE:
            return tuple(planes)
        scale *= 2


@dataclass(frozen=True)
class SlideLayer:
    """The slide's own pixels at any power of two, each read from the stored level that suits.

    Where a stored level is just that, its pixels are taken; else it is resampled as
    `pipeline.slide.Slide.at` does it, on a grid that knows no tiles.
    """

    slide: Slide
    encode: Callable[[NDArray[np.uint8]], bytes] = jpeg

    @property
    def planes(self) -> tuple[Plane, ...]:
        """Its virtual levels, finest first."""
        return slide_planes(self.slide)

    def describe(self) -> dict[str, Any]:
        """Give what the page needs to know of it."""
        return {"key": "slide", "kind": "image", "title": "slide"}

    def read(self, plane: int, box: Box) -> NDArray[np.uint8]:
        """Give ``(y, x, 3)`` pixels of ``box``; `SlideError` where they cannot be read."""
        return virtual(self.slide, 2.0**plane).read(box)

    def tile(self, plane: int, box: Box) -> bytes:
        """Give the pixels of ``box`` as an image."""
        return self.encode(self.read(plane, box))


@dataclass(frozen=True)
class ValueLayer:
    """Numbers: scores, or how many objects there are.

    ``read(plane, box)`` gives uint8 ``(y, x)``. 0 stands for ``limits[0]``, 255 for
    ``limits[1]``; ``power`` 2 says that what is between them is their square's.
    """

    key: str
    title: str
    planes: tuple[Plane, ...]
    limits: tuple[float, float]
    read: Callable[[int, Box], NDArray[np.uint8]]
    unit: str = ""
    power: int = 1

    def describe(self) -> dict[str, Any]:
        """Give what the page needs to know of it."""
        return {
            "key": self.key,
            "kind": "values",
            "title": self.title,
            "limits": list(self.limits),
            "unit": self.unit,
            "power": self.power,
        }

    def tile(self, plane: int, box: Box) -> bytes:
        """Give the values of ``box`` as an image of one channel."""
        return png(self.read(plane, box))


@dataclass(frozen=True)
class ClassLayer:
    """A class per pixel; ``meanings`` say what the values are, 0 is none of them."""

    key: str
    title: str
    planes: tuple[Plane, ...]
    meanings: Meanings
    read: Callable[[int, Box], NDArray[np.uint8]]
    extra: Mapping[str, Any] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """Give what the page needs to know of it."""
        classes = [
            {"value": value, "name": name, "colour": colour}
            for value, (name, colour) in self.meanings.items()
        ]
        return {
            "key": self.key,
            "kind": "classes",
            "title": self.title,
            "classes": classes,
            **self.extra,
        }

    def tile(self, plane: int, box: Box) -> bytes:
        """Give the values of ``box`` as an image of one channel."""
        return png(self.read(plane, box))
