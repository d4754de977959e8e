"""A user's own mask of a slide: an image, a GeoJSON file of areas, or an OME-Zarr label.

Whatever the file is, it is laid over the same `Raster`, and each of its pixels takes the value
that lies under its centre. A file that does not fit the slide is an error, never stretched.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import ConfigError, StoreError, one_line
from pipeline.files import places
from pipeline.files.notation import parse_json
from pipeline.files.urls import is_url
from pipeline.geometry import Shape
from pipeline.readers.multiscales import is_ome_zarr
from pipeline.store.labels import open_label
from pipeline.tissue import resample_mask

__all__ = ["Raster", "load_mask"]

Mask: TypeAlias = NDArray[np.bool_]
Ring: TypeAlias = NDArray[np.float64]

_TOLERANCE = 0.02
"""Part by which an image's aspect ratio may miss the slide's, or a mask reach beyond the slide."""

_AREAS = {"Polygon", "MultiPolygon"}

_MOST_BYTES = 2**26
"""Of GeoJSON: two million points, which take a second or two a thousand rows of mask."""


@dataclass(frozen=True, slots=True)
class Raster:
    """Where the pixels of a mask lie on a slide of ``slide`` ``(y, x)`` level-0 pixels.

    ``shape`` is its rows and columns, ``step`` the level-0 pixels from one to the next, ``origin``
    where the corner of the first lies.
    """

    slide: Shape
    shape: Shape
    step: tuple[float, float]
    origin: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def covering(cls, slide: Shape, shape: Shape) -> Raster:
        """Give so many pixels over the whole slide, and exactly that."""
        return cls(slide, shape, (slide[0] / shape[0], slide[1] / shape[1]))

    def centres(self, axis: int) -> NDArray[np.float64]:
        """Give the level-0 position of each row's (axis 0) or column's (axis 1) centre."""
        found: NDArray[Any] = self.origin[axis] + self.step[axis] * (
            np.arange(self.shape[axis]) + 0.5
        )
        return found

    def places(self, other: Raster, axis: int) -> NDArray[np.int64]:
        """Give the row or column here that lies under each centre of ``other``; -1 for none."""
        found = np.floor((other.centres(axis) - self.origin[axis]) / self.step[axis])
        return np.where((found >= 0) & (found < self.shape[axis]), found, -1).astype(np.int64)

    def sampled(self, values: NDArray[Any], other: Raster) -> NDArray[Any]:
        """Give ``values``, which lie on this raster, on another; 0 beyond them."""
        rows, columns = self.places(other, 0), self.places(other, 1)
        found = values[np.maximum(rows, 0)[:, None], np.maximum(columns, 0)]
        found[rows < 0] = 0
        found[:, columns < 0] = 0
        return found


def load_mask(path: str, raster: Raster, mpp: tuple[float, float] | None = None) -> Mask:
    """Read a user's mask onto ``raster``: bool ``(y, x)``.

    ``.geojson`` and ``.json`` are areas in level-0 pixels ``(x, y)``, as QuPath exports them: a
    FeatureCollection, a Feature or a bare geometry, of polygons with holes. A zarr group is a
    label image of OME-Zarr, or a result of this package, whose tissue it is; its
    ``coordinateTransformations`` say where it lies, ``mpp`` (um per level-0 pixel ``(y, x)``)
    where that is. Anything else is an image that Pillow reads and that covers the whole slide.
    What is not zero is tissue: not black, for colour and palette images, and not transparent.

    Raises `ConfigError` where the file cannot be read, is too large to be decoded safely, or
    does not fit the slide by more than 2 %.
    """
    if path.lower().endswith((".geojson", ".json")):
        return _drawn(path, raster)
    if is_ome_zarr(path):
        return _placed(path, raster, mpp)
    if is_url(path):
        raise ConfigError(f"{path}: a mask behind a URL is GeoJSON or a .zarr; copy images here")
    return _image(path, raster)


# -- an image -----------------------------------------------------------------------------


def _image(path: str, raster: Raster) -> Mask:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                mask = _nonzero(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ConfigError(
            f"{path}: mask too large to decode safely ({error}); save it at a coarser "
            "resolution, 8 um per pixel is plenty"
        ) from error
    # Pillow's decoders raise SyntaxError and ValueError, too, on broken files.
    except (OSError, SyntaxError, ValueError, MemoryError) as error:
        raise ConfigError(
            f"{path}: tissue mask cannot be read ({one_line(error)}); give an image file such as "
            "PNG or TIFF, GeoJSON, or an OME-Zarr label"
        ) from error
    slide = raster.slide
    aspect, slide_aspect = mask.shape[1] / mask.shape[0], slide[1] / slide[0]
    if abs(aspect / slide_aspect - 1) > _TOLERANCE:
        raise ConfigError(
            f"{path}: mask has aspect ratio {aspect:.4f} ({mask.shape[1]} x {mask.shape[0]}), the "
            f"slide {slide_aspect:.4f} ({slide[1]} x {slide[0]}); the mask must cover the whole "
            "slide, neither cropped nor rotated"
        )
    if raster == Raster.covering(slide, raster.shape):
        return resample_mask(mask, raster.shape)
    return Raster.covering(slide, mask.shape).sampled(mask, raster)


def _nonzero(image: Image.Image) -> Mask:
    if len(image.getbands()) > 1 or image.mode == "P":
        values: NDArray[Any] = np.asarray(image.convert("RGBA"))
        visible: Mask = values[..., :3].any(axis=2) & (values[..., 3] > 0)
        return visible
    nonzero: Mask = np.asarray(image) != 0
    return nonzero


# -- GeoJSON ------------------------------------------------------------------------------


def _drawn(path: str, raster: Raster) -> Mask:
    """Fill the polygons of a GeoJSON file."""
    try:
        content = parse_json(places.read(path, _MOST_BYTES))
        polygons = [rings for geometry in _geometries(content) for rings in _polygons(geometry)]
    except OSError as error:
        raise ConfigError(f"{path}: tissue mask cannot be read: {error.strerror}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply for GeoJSON") from error
    # Whatever is not as RFC 7946 has it; json's own errors are ValueErrors.
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        said = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ConfigError(
            f"{path}: not GeoJSON of areas ({said}); export annotations as GeoJSON, polygons only"
        ) from error
    if not polygons:
        raise ConfigError(f"{path}: holds no polygon; export the areas that are tissue")
    points = np.concatenate([ring for rings in polygons for ring in rings])
    _check_extent(path, points.min(axis=0), points.max(axis=0), raster.slide)
    mask = np.zeros(raster.shape, np.bool_)
    for rings in polygons:
        _fill(mask, rings, raster)
    return mask


def _geometries(found: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    kind = found["type"]
    if kind == "FeatureCollection":
        for feature in found["features"]:
            yield from _geometries(feature)
    elif kind == "Feature":
        yield from _geometries(found["geometry"])
    elif kind == "GeometryCollection":
        for geometry in found["geometries"]:
            yield from _geometries(geometry)
    elif kind in _AREAS:
        yield found
    else:
        raise ValueError(f"a {kind} is no area")


def _polygons(geometry: Mapping[str, Any]) -> Iterator[list[Ring]]:
    """Give the rings ``(n, 2)``, as ``(y, x)``, of each polygon of a geometry."""
    coordinates = geometry["coordinates"]
    for polygon in [coordinates] if geometry["type"] == "Polygon" else coordinates:
        rings = [np.array([point[1::-1] for point in ring], np.float64) for ring in polygon]
        for ring in rings:
            if ring.ndim != 2 or ring.shape[1:] != (2,) or len(ring) < 3:
                raise ValueError(f"a ring of {len(ring)} points, not of three (x, y) or more")
            if not np.isfinite(ring).all():
                raise ValueError("a coordinate that is no finite number")
        if rings:
            yield rings


def _fill(mask: Mask, rings: list[Ring], raster: Raster) -> None:
    """Set the pixels whose centre lies inside of a polygon: in an odd number of its rings.

    Row by row at the centres, which is exact and takes as long as the outline is; skimage's
    polygons take outline times area, Pillow's reach half a pixel beyond their outline.
    """
    # In pixels of the mask, a centre being a whole number.
    scaled = [(ring - raster.origin) / raster.step - 0.5 for ring in rings]
    starts = np.concatenate(scaled)
    stops = np.concatenate([np.roll(ring, -1, axis=0) for ring in scaled])
    low, high = starts.min(axis=0), starts.max(axis=0)
    (y, x), (y_stop, x_stop) = (
        np.clip(np.floor(edge) + beyond, 0, mask.shape).astype(int)
        for edge, beyond in ((low, 0), (high, 2))
    )
    if y >= y_stop or x >= x_stop:
        return
    flips = np.zeros((y_stop - y, x_stop - x + 1), np.bool_)
    for (y0, x0), (y1, x1) in zip(starts, stops, strict=True):
        if y0 == y1:
            continue
        # Half-open, so that a corner counts once.
        first, last = sorted((y0, y1))
        rows = np.arange(max(int(np.ceil(first)), y), min(int(np.ceil(last)), y_stop))
        crossings = x0 + (rows - y0) * ((x1 - x0) / (y1 - y0))
        columns = np.clip(np.ceil(crossings), x, x_stop).astype(int) - x
        flips[rows - y, columns] ^= True
    mask[y:y_stop, x:x_stop] |= np.logical_xor.accumulate(flips, axis=1)[:, :-1]


# -- OME-Zarr -----------------------------------------------------------------------------


def _placed(path: str, raster: Raster, mpp: tuple[float, float] | None) -> Mask:
    """Read a label image where its transformations say that it lies."""
    if mpp is None:
        raise ConfigError(
            f"{path}: is placed in micrometres, and the slide's are unknown; say them "
            "(resolution.assume_mpp, or a manifest)"
        )
    try:
        label = open_label(path, (raster.step[0] * mpp[0], raster.step[1] * mpp[1]))
        corner = label.place.corner(mpp)
        lying = Raster(
            raster.slide,
            label.shape,
            (label.place.scale[0] / mpp[0], label.place.scale[1] / mpp[1]),
            (corner[0] / mpp[0], corner[1] / mpp[1]),
        )
        ends = [lying.origin[axis] + lying.shape[axis] * lying.step[axis] for axis in (0, 1)]
        # Its last pixels may be cut by the slide's border, its first by the crop's.
        _check_extent(
            path,
            np.array(lying.origin) + lying.step,
            np.array(ends) - lying.step,
            raster.slide,
        )
        rows, columns = lying.places(raster, 0), lying.places(raster, 1)
        mask = np.zeros(raster.shape, np.bool_)
        inside = np.ix_(rows >= 0, columns >= 0)
        mask[inside] = label.read(rows[rows >= 0], columns[columns >= 0]) != 0
    except StoreError as error:
        if error.__cause__ is None:
            raise ConfigError(f"tissue.mask: {error}") from error
        # What a store would advise, to remove it, is no advice for a user's mask.
        raise ConfigError(
            f"{path}: tissue mask cannot be read ({' '.join(str(error.__cause__).split())}); give "
            "a label image of OME-Zarr, or a result"
        ) from error
    return mask


def _check_extent(path: str, low: NDArray[Any], high: NDArray[Any], slide: Shape) -> None:
    """Raise `ConfigError` where what spans ``low`` to ``high`` ``(y, x)`` is not of this slide."""
    slack = _TOLERANCE * np.array(slide)
    if (low < -slack).any() or (high > slide + slack).any():
        raise ConfigError(
            f"{path}: mask spans x {low[1]:.6g} to {high[1]:.6g} and y {low[0]:.6g} to "
            f"{high[0]:.6g} level-0 pixels, the slide is {slide[1]} x {slide[0]}; give this "
            "slide's own mask, in level-0 pixels"
        )
