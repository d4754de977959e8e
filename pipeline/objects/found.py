"""Dense maps of a block and what is around it -> the objects whose middle is in the block.

Pure functions. Positions are pixels of the map by QuPath's convention: pixel ``(y, x)`` spans
``y`` to ``y + 1``, its centre is at ``+ 0.5``. Nothing depends on how the plane is cut, nor on
any numbering: ids, ties and order follow from positions in the plane. For that the margin
around a block must hold any object that begins in it and whatever that one touches: twice the
largest object's diameter, and a few times the least distance (`pipeline.objects.maxima` says how
many). One diameter is enough where objects do not touch. In a foreground that is one clump,
with seeds that have nothing to do with it and few different values, a flood's way can be
longer: of 609 objects in such noise one changed, by a pixel, at a margin of five diameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.geometry import Box, Shape
from pipeline.objects.maxima import Maxima, find_maxima
from pipeline.objects.outlines import find_corners, make_points, make_polygons, shapely_module
from pipeline.objects.watershed import divide

__all__ = ["Finder", "Objects", "PlacedObjects", "find_objects"]

Floats = NDArray[np.float32]
Labels = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Finder:
    """How objects are found in maps; channels by number, lengths and areas in the map's pixels.

    ``method`` is ``peaks``: a point at every maximum of the seeds (by default the foreground)
    where the foreground is at least ``threshold``, ``min_distance`` apart. Or ``watershed``: an
    outline around every maximum of the seeds (by default the distance to the edge) in the
    foreground that is at least ``threshold``; a connected piece with one maximum is one object,
    one with several is divided by flooding from each, highest values first. The ``boundary``
    is subtracted from the foreground before either. ``classes`` pairs channels and names.
    """

    method: str
    foreground: int
    seeds: int | None
    boundary: int | None
    classes: tuple[tuple[int, str], ...]
    threshold: float
    min_distance: float
    min_area: float


@dataclass(frozen=True, slots=True)
class Objects:
    """Objects in pixels of a map, by their ids; any number, also none.

    An id is the first pixel's place in the plane, ``y * width + x``. ``x`` and ``y`` are the
    centroid, or the centre of the object's pixel nearest to it where that is not one of its
    own. ``areas`` are those of the geometries: 0 for points, polygons with their holes filled.
    ``scores`` are the foreground's mean (NaN: none); ``classes`` count in ``class_names``, -1
    is none. ``truncated`` are those that leave what was looked at: larger than the margin.
    """

    ids: NDArray[np.int64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    areas: NDArray[np.float64]
    scores: Floats
    classes: Labels
    class_names: tuple[str, ...]
    truncated: NDArray[np.bool_]
    geometries: NDArray[Any]

    def __len__(self) -> int:
        return len(self.ids)

    def placed(
        self,
        step: tuple[float, float],
        origin: tuple[float, float],
        mpp: tuple[float, float],
    ) -> PlacedObjects:
        """Give them in level-0 pixels and um2.

        ``step`` is level-0 pixels per pixel of the map, ``origin`` the level-0 position of the
        map's upper left corner, ``mpp`` um per level-0 pixel; each ``(y, x)``. The centre of the
        map's first pixel comes to lie at ``origin + step / 2``.
        """
        scale, corner = np.array(step[::-1]), np.array(origin[::-1])
        geometries = self.geometries
        if len(self):
            geometries = shapely_module().transform(geometries, lambda xy: xy * scale + corner)
        return PlacedObjects(
            ids=self.ids,
            x=self.x * step[1] + origin[1],
            y=self.y * step[0] + origin[0],
            areas_um2=self.areas * (step[0] * mpp[0] * step[1] * mpp[1]),
            scores=self.scores,
            classes=self.classes,
            class_names=self.class_names,
            truncated=self.truncated,
            geometries=geometries,
        )


@dataclass(frozen=True, slots=True)
class PlacedObjects:
    """Objects on their slide: the columns of `Objects`, in level-0 pixels and um2."""

    ids: NDArray[np.int64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    areas_um2: NDArray[np.float64]
    scores: Floats
    classes: Labels
    class_names: tuple[str, ...]
    truncated: NDArray[np.bool_]
    geometries: NDArray[Any]

    def __len__(self) -> int:
        return len(self.ids)


def find_objects(
    values: Floats, o_outer: Box, o_kept: Box, o_plane: Shape, finder: Finder
) -> Objects:
    """Give the objects in ``o_kept`` of maps ``values`` (c, y, x) that cover ``o_outer``.

    An object belongs to the box its ``(x, y)`` is in. ``o_outer`` is within the plane of
    ``o_plane`` rows and columns; where it ends with the plane, objects end there too and are
    not truncated. Raises `ConfigError` for a method there is none of, `MissingExtraError`
    without shapely.
    """
    foreground = values[finder.foreground]
    if finder.boundary is not None:
        foreground = foreground - values[finder.boundary]
    mask = foreground >= np.float32(finder.threshold)
    scene = _Scene(values, foreground, o_outer, o_kept, o_plane)
    if finder.method == "peaks":
        landscape = foreground if finder.seeds is None else values[finder.seeds]
        maxima = find_maxima(np.where(mask, landscape, -np.inf), finder.min_distance)
        return _as_points(scene, maxima, finder)
    if finder.method == "watershed":
        seeds = None if finder.seeds is None else values[finder.seeds]
        return _as_polygons(scene, divide(mask, seeds, finder.min_distance), finder)
    raise ConfigError(f"objects: method {finder.method!r}: there are peaks and watershed")


@dataclass(frozen=True, slots=True)
class _Scene:
    """What objects are looked for in, and where that lies."""

    values: Floats
    foreground: Floats
    outer: Box
    kept: Box
    plane: Shape

    def ids(self, y: NDArray[np.int64], x: NDArray[np.int64]) -> NDArray[np.int64]:
        """Give the ids of objects by their first pixels in the plane."""
        return y * self.plane[1] + x

    def keeps(self, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Say which positions in the plane are in the box that is wanted."""
        box = self.kept
        return (y >= box.y) & (y < box.y_stop) & (x >= box.x) & (x < box.x_stop)


def _as_points(scene: _Scene, maxima: Maxima, finder: Finder) -> Objects:
    b_y, b_x = maxima.y, maxima.x
    y, x = _centres(b_y + scene.outer.y), _centres(b_x + scene.outer.x)
    inside = scene.keeps(y, x)
    b_y, b_x, y, x = b_y[inside], b_x[inside], y[inside], x[inside]
    of_classes = scene.values[[channel for channel, _ in finder.classes]][:, b_y, b_x]
    return Objects(
        ids=scene.ids(b_y + scene.outer.y, b_x + scene.outer.x),
        x=x,
        y=y,
        areas=np.zeros(len(y)),
        scores=scene.foreground[b_y, b_x],
        classes=_greatest(of_classes, len(y)),
        class_names=tuple(name for _, name in finder.classes),
        truncated=np.zeros(len(y), np.bool_),
        geometries=make_points(x, y),
    )


def _centres(pixels: NDArray[np.int64]) -> NDArray[np.float64]:
    centres: NDArray[np.float64] = pixels + np.float64(0.5)
    return centres


def _greatest(of_classes: NDArray[Any], count: int) -> Labels:
    """Give the class (c, n) of the greatest value, the first of equals; -1 without classes."""
    if not len(of_classes):
        return np.full(count, -1, np.int32)
    greatest: Labels = of_classes.argmax(axis=0).astype(np.int32)
    return greatest


def _as_polygons(scene: _Scene, labels: Labels, finder: Finder) -> Objects:
    b_y, b_x = np.nonzero(labels)
    _, first, number = np.unique(labels[b_y, b_x], return_index=True, return_inverse=True)
    # Numbered by their first pixels.
    rank = np.argsort(np.argsort(first))
    number, first = rank[number], np.sort(first)
    y, x = b_y + scene.outer.y, b_x + scene.outer.x
    middle_y, middle_x = _middles(number, y, x, len(first))
    inside = scene.keeps(middle_y, middle_x)
    numbers = np.zeros(labels.shape, np.int32)
    numbers[b_y, b_x] = np.where(inside[number], number + 1, 0)
    found, polygons = make_polygons(
        find_corners(numbers, (scene.outer.y, scene.outer.x)), filled=True
    )
    areas = shapely_module().area(polygons)
    large = areas >= finder.min_area
    these = found[large] - 1
    sizes = np.bincount(number, minlength=len(first))

    def means(channel: Floats) -> NDArray[np.float64]:
        sums = np.bincount(number, channel[b_y, b_x], len(first))
        of_these: NDArray[np.float64] = (sums / sizes)[these]
        return of_these

    of_classes = np.array([means(scene.values[channel]) for channel, _ in finder.classes])
    return Objects(
        ids=scene.ids(y[first], x[first])[these],
        x=middle_x[these],
        y=middle_y[these],
        areas=areas[large],
        scores=means(scene.foreground).astype(np.float32),
        classes=_greatest(of_classes, len(these)),
        class_names=tuple(name for _, name in finder.classes),
        truncated=np.isin(these + 1, _at_cuts(numbers, scene)),
        geometries=polygons[large],
    )


def _middles(
    number: NDArray[np.int64], y: NDArray[np.int64], x: NDArray[np.int64], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Give the centroid of each object, or of its pixel nearest to it."""
    sizes = np.bincount(number, minlength=count)
    # Sums of whole numbers are exact, so that a centroid is the same wherever it is computed.
    middle_y = np.bincount(number, y, count) / sizes + 0.5
    middle_x = np.bincount(number, x, count) / sizes + 0.5
    own = np.zeros(count, np.bool_)
    own[number[(y == np.floor(middle_y[number])) & (x == np.floor(middle_x[number]))]] = True
    # The few whose centroid is not theirs.
    pixels = np.flatnonzero(~own[number])
    dy, dx = y[pixels] + 0.5 - middle_y[number[pixels]], x[pixels] + 0.5 - middle_x[number[pixels]]
    pixels = pixels[np.lexsort((dy * dy + dx * dx, number[pixels]))]
    lost, nearest = np.unique(number[pixels], return_index=True)
    middle_y[lost], middle_x[lost] = y[pixels[nearest]] + 0.5, x[pixels[nearest]] + 0.5
    return middle_y, middle_x


def _at_cuts(labels: Labels, scene: _Scene) -> Labels:
    """Give the objects that reach a border of what was looked at which is not the plane's."""
    outer, (height, width) = scene.outer, scene.plane
    cuts = (
        (outer.y > 0, labels[:1]),
        (outer.x > 0, labels[:, :1]),
        (outer.y_stop < height, labels[-1:]),
        (outer.x_stop < width, labels[:, -1:]),
    )
    return np.concatenate([np.zeros(0, np.int32), *(edge.ravel() for cut, edge in cuts if cut)])
