"""OME-Zarr 0.4 and 0.5 as slides: zarr v2 or v3, sharded or not, on a disk or behind a URL.

What counts as a slide: a multiscale image of 8-bit values whose axes are y and x in any place,
a c of three (read as red, green, blue) or one (grey, given thrice), and t or z of one; or a
folder of such images as bioformats2raw writes it, of which the largest is taken. Its levels
are taken to cover the same area; where the first one lies on a stage does not matter.

A chunk that is not stored reads as the array's fill value: that is what zarr means by it. One
that is there and broken is a `SlideError`. So is what a conversion of this package's own could
not read: it is stored as fill, but known.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from pipeline.errors import SlideError
from pipeline.files.urls import is_url
from pipeline.geometry import Box, Shape
from pipeline.ngff import ATTRIBUTE
from pipeline.readers.base import LevelInfo, Metadata, Mpp, check_sizes
from pipeline.readers.carried import IMAGE, Carried, kept
from pipeline.readers.multiscales import Multiscale, multiscale
from pipeline.readers.zarr_level import BROKEN, REMEDY, ZarrLevel, downsample, why
from pipeline.readers.zarr_stores import zarr_at

__all__ = ["OmeZarrReader", "open_reader"]

_SAMPLES, _SAMPLE_SIDE, _SMALL_PIXELS = 4, 256, 2**22


def open_reader(path: str) -> OmeZarrReader:
    """Open the OME-Zarr image at ``path``; `SlideError` says why where it cannot be."""
    try:
        group = zarr.open_group(zarr_at(path), mode="r")
        return _reader(path, group, group.attrs.asdict())
    except SlideError:
        raise
    except (FileNotFoundError, zarr.errors.GroupNotFoundError) as error:
        raise SlideError(f"{path}: {_absence(path)}") from error
    except zarr.errors.ContainsArrayError as error:
        raise SlideError(
            f"{path}: one zarr array; name the OME-Zarr image it is a level of"
        ) from error
    except BROKEN as error:
        raise SlideError(f"{path}: cannot be opened: {why(error)}; {REMEDY}") from error


class OmeZarrReader:
    """One open image; zarr's arrays may be read from several threads."""

    def __init__(
        self, path: str, group: zarr.Group, image: Multiscale, levels: Sequence[ZarrLevel]
    ) -> None:
        self._path = path
        self._group = group
        self._image = image
        self._levels = levels
        own: Any = group.attrs.get(ATTRIBUTE)
        self._carried = kept(own) if isinstance(own, dict) else Carried()
        self._settings = own.get("settings") if isinstance(own, dict) else None

    @cached_property
    def metadata(self) -> Metadata:
        """What the image says of itself; its identity takes a look at its coarsest pixels."""
        carried, mpp = self._carried, self._image.mpp
        return Metadata(
            vendor=carried.vendor,
            levels=tuple(
                LevelInfo(level.shape, level.tile, downsample(self._levels[0], level))
                for level in self._levels
            ),
            mpp=None if mpp is None else Mpp(*mpp, carried.mpp_source),
            objective=carried.objective,
            bounds=None,
            background=carried.background,
            associated=tuple(name for name, _ in carried.associated),
            properties=tuple(sorted({**dict(carried.properties), **self._properties()}.items())),
            identity=self._identity(),
        )

    def read(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Give the RGB pixels of ``box``; see `pipeline.readers.base.Reader`."""
        if not box.area:
            return np.empty((*box.shape, 3), np.uint8)
        for where, unreadable in self._carried.unreadable:
            if where == level and unreadable.intersection(box).area:
                raise SlideError(
                    f"{self._path}: {_place(level, unreadable)} could not be read when it was "
                    "converted; convert the slide again"
                )
        return self._levels[level].read(box, _place(level, box))

    def associated_image(self, name: str) -> NDArray[np.uint8]:
        """Give a label, macro or thumbnail image: ``(y, x, 3)`` uint8."""
        places = dict(self._carried.associated)
        if name not in places:
            known = ", ".join(places) or "none"
            raise SlideError(f"{self._path}: no associated image {name!r}; it has: {known}")
        try:
            inner: Any = self._group[places[name]]
            image = multiscale(inner.attrs.asdict())
            if image is None:
                raise ValueError("it is no OME-Zarr image")
            first = image.datasets[0]
            level = ZarrLevel(self._path, inner[first.path], image.axes, first)
        except BROKEN as error:
            raise SlideError(
                f"{self._path}: associated image {name!r}: {why(error)}; {REMEDY}"
            ) from error
        return level.read(Box(0, 0, *level.shape), f"associated image {name!r}")

    def icc_profile(self) -> bytes | None:
        """Give the ICC profile that was converted with the slide; None where there was none."""
        if self._carried.icc_profile is None:
            return None
        try:
            profile: Any = self._group[self._carried.icc_profile]
            return np.asarray(profile[:], np.uint8).tobytes()
        except BROKEN as error:
            raise SlideError(f"{self._path}: ICC profile: {why(error)}; {REMEDY}") from error

    def close(self) -> None:
        """Release it: nothing is held open."""

    def _properties(self) -> dict[str, str]:
        image = self._image
        return {
            "ome-zarr.version": image.version,
            "ome-zarr.name": image.name,
            "ome-zarr.path": self._group.path,
            "ome-zarr.axes": image.axes,
            "ome-zarr.units": " ".join(image.units).strip(),
            "ome-zarr.zarr-format": str(self._group.metadata.zarr_format),
        }

    def _identity(self) -> str:
        """Digest what the image is, and its coarsest level: all of that if it is small.

        As OpenSlide does for most formats: whoever changes a slide changes its overview too.
        Colours and windows for display do not count, nor when and where it was converted.
        """
        shapes = [[*level.array.shape, str(level.array.dtype)] for level in self._levels]
        facts = [self._image.axes, self._image.units, self._image.mpp, shapes, self._settings]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for box in _samples(self._levels[-1].shape):
            try:
                digest.update(self._levels[-1].read(box, "its coarsest level").tobytes())
            except SlideError:  # reading says so where it matters
                digest.update(b"unreadable")
        return f"ome-zarr:{digest.hexdigest()}"


def _reader(path: str, group: zarr.Group, attributes: dict[str, Any]) -> OmeZarrReader:
    own = attributes.get(ATTRIBUTE)
    if isinstance(own, dict) and own.get("kind") != IMAGE:
        raise SlideError(f"{path}: the results of a model, not a slide; name the slide itself")
    image = multiscale(attributes)
    if image is not None:
        return _opened(path, group, image)
    if isinstance(own, dict):
        raise SlideError(f"{path}: its conversion is not finished; run it again")
    ome = attributes.get("ome", attributes)
    if "plate" in ome:
        raise SlideError(f"{path}: a plate of many images; name one of them, as {path}/A/1/0")
    if "bioformats2raw.layout" not in ome:
        raise SlideError(f"{path}: a zarr group without an OME-Zarr image; name the image itself")
    found = [
        (inner, series)
        for inner in _series(group)
        if (series := multiscale(inner.attrs.asdict())) is not None
    ]
    if not found:
        raise SlideError(f"{path}: a bioformats2raw folder without an image; {REMEDY}")
    return _opened(path, *max(found, key=_pixels))


def _series(group: zarr.Group) -> list[zarr.Group]:
    """Give the images of a bioformats2raw folder: those it lists, else 0, 1, 2 ..."""
    listed: Any = None
    if "OME" in group:
        attributes = group["OME"].attrs.asdict()
        inner: Any = attributes.get("ome", attributes)
        listed = inner.get("series")
    names = [str(name) for name in listed or ()]
    while not listed and str(len(names)) in group:
        names.append(str(len(names)))
    members = [group[name] for name in names]
    return [member for member in members if isinstance(member, zarr.Group)]


def _pixels(found: tuple[zarr.Group, Multiscale]) -> int:
    group, image = found
    array: Any = group[image.datasets[0].path]
    sizes = dict(zip(image.axes, array.shape, strict=True))
    return int(sizes["y"] * sizes["x"])


def _opened(path: str, group: zarr.Group, image: Multiscale) -> OmeZarrReader:
    levels = [ZarrLevel(path, group[each.path], image.axes, each) for each in image.datasets]
    check_sizes(path, [level.shape for level in levels])
    first = levels[0]
    for level in levels:
        name = level.dataset.path
        if any(n > whole for n, whole in zip(level.shape, first.shape, strict=True)):
            raise SlideError(
                f"{path}: levels {first.dataset.path} of {first.shape} and {name} of "
                f"{level.shape} px cannot show the same area; {REMEDY}"
            )
        away = _away(first, level)
        if max(away) > 1:
            raise SlideError(
                f"{path}: level {name} begins {away[0]:.3g}, {away[1]:.3g} (y, x) of its pixels "
                f"from the first one: they do not show the same area; {REMEDY}"
            )
    finest_first = sorted(levels, key=lambda level: -math.prod(level.shape))
    return OmeZarrReader(path, group, image, finest_first)


def _away(first: ZarrLevel, level: ZarrLevel) -> tuple[float, ...]:
    """Give how far a level begins from the first one, in its own pixels; 0 where nothing says.

    Some give the corners of pixels instead of their centres: half a pixel is no difference.
    """
    pixels = zip(level.dataset.origin, first.dataset.origin, level.dataset.scale, strict=True)
    return tuple(abs((here - there) / size) if size else 0.0 for here, there, size in pixels)


def _samples(shape: Shape) -> list[Box]:
    if math.prod(shape) <= _SMALL_PIXELS:
        return [Box(0, 0, *shape)]
    rows, columns = (
        [max(n - _SAMPLE_SIDE, 0) * i // (_SAMPLES - 1) for i in range(_SAMPLES)] for n in shape
    )
    side = _SAMPLE_SIDE
    return [Box(y, x, side, side).clipped(shape) for y in rows for x in columns]


def _absence(path: str) -> str:
    if Path(path).is_dir():
        return "a folder that is not OME-Zarr; name the slide's own file inside it"
    if is_url(path):
        return "no OME-Zarr is there; check the URL"
    return "not OME-Zarr; check the path" if Path(path).exists() else "no such file; check the path"


def _place(level: int, box: Box) -> str:
    return f"level {level}, rows {box.y}:{box.y_stop}, columns {box.x}:{box.x_stop}"
