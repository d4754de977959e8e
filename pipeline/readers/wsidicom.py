"""DICOM slides through wsidicom: the only module that imports it, and `pydicom` under it.

wsidicom leaves out what it cannot read: a file whose header is damaged, a level whose tiles
have another size. So the headers are read here first, and what they promise has to be there:
every level at its size, every tile of a level in some file of it.

Of several focal planes or optical paths the one that wsidicom takes for the default is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.uid import VLWholeSlideMicroscopyImageStorage
from wsidicom import WsiDicom
from wsidicom.config import Settings

from pipeline.errors import SlideError
from pipeline.geometry import Box, Shape, ceil_div
from pipeline.readers.base import LevelInfo, Metadata, Mpp, check_sizes, stored_downsample
from pipeline.readers.series import RESAMPLED, files_of, finest_is_missing
from pipeline.readers.streams import check_stream

__all__ = ["DicomReader", "open_reader"]

CACHE_BYTES = 32 * 2**20
"""Decoded tiles one open slide keeps: a row of tiles under a block, not a whole level."""

MOST_PIXELS = 2**28
"""Pixels of the largest label or thumbnail, and of the largest tile, that are believed."""

_ASSOCIATED = {"LABEL": "label", "OVERVIEW": "macro", "THUMBNAIL": "thumbnail"}
_COLOURS = ("RGB", "MONOCHROME2")  # and all that begin with YBR
_REMEDY = "check that all files of the series are whole and in its folder"

# Levels of other tile sizes, and of a downsample that is no power of two, are levels, too.
_SETTINGS = Settings(
    strict_tile_size_check=False,
    level_scale_tolerance=0.5,
    decoded_frame_cache_size=CACHE_BYTES,
    encoded_frame_cache_size=2**20,
)

_SAID = (
    *("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions"),
    *("ImageType", "PhotometricInterpretation", "DimensionOrganizationType", "AcquisitionDateTime"),
    *("NumberOfOpticalPaths", "TotalPixelMatrixFocalPlanes", "LossyImageCompression"),
    *("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"),
)
"""What of a slide's header is shown: nothing of the patient."""


def open_reader(path: str) -> DicomReader:
    """Open the DICOM slide that ``path``, a file of it or its folder, stands for.

    `SlideError` says why where it cannot be.
    """
    if not Path(path).exists():
        raise SlideError(f"{path}: no such file; check the path")
    headers = [header for header in map(_read_header, files_of(path)) if header]
    volumes = [header for header in headers if header.kind == "VOLUME"]
    if not volumes:
        raise SlideError(f"{path}: no DICOM slide; name a file of its series, or their folder")
    finest = max(volumes, key=lambda header: header.shape)
    if finest.resampled:
        raise SlideError(finest_is_missing(path))
    for header in volumes:
        _check_readable(header)
    check_sizes(path, [header.shape for header in volumes])
    for shape in {header.shape for header in volumes}:
        _check_whole(path, [header for header in volumes if header.shape == shape])
    with _translated(path, "cannot be opened"):
        slide = WsiDicom.open([header.file for header in headers], settings=_SETTINGS)
    try:
        _check_found(slide, volumes)
        with _translated(finest.file, "has no header that can be meant"):
            return DicomReader(path, slide, headers, finest.file)
    except SlideError:
        slide.close()
        raise


class DicomReader:
    """One DICOM series; wsidicom reads its files under locks, so threads share it."""

    def __init__(self, path: str, slide: WsiDicom, headers: Sequence[_Header], finest: str) -> None:
        self._path = path
        self._slide = slide
        self._numbers = [level.level for level in slide.levels]
        self._sizes = {_ASSOCIATED[h.kind]: h.shape for h in headers if h.kind in _ASSOCIATED}
        base = pydicom.dcmread(finest, stop_before_pixels=True)
        self._icc = _first(base, "OpticalPathSequence").get("ICCProfile")
        tiles = {header.shape: header.tile for header in headers}
        shapes = [_shape(level.size) for level in slide.levels]
        self._tiles = [tiles[shape] for shape in shapes]
        uids = "".join(sorted(header.uid for header in headers))
        self.metadata = Metadata(
            vendor="dicom",
            levels=tuple(
                LevelInfo(
                    shape,
                    (min(tiles[shape][0], shape[0]), min(tiles[shape][1], shape[1])),
                    stored_downsample(shapes[0], shape),
                )
                for shape in shapes
            ),
            mpp=_mpp(base),
            objective=_positive(_first(base, "OpticalPathSequence").get("ObjectiveLensPower")),
            bounds=None,
            background=(0, 0, 0) if base.SamplesPerPixel == 1 else (255, 255, 255),
            associated=tuple(sorted(self._sizes)),
            properties=tuple(
                sorted((f"dicom.{name}", _text(base[name].value)) for name in _SAID if name in base)
            ),
            identity=f"dicom:{hashlib.sha256(uids.encode()).hexdigest()}",
        )

    def read(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Give the RGB pixels of ``box``; see `pipeline.readers.base.Reader`."""
        if not box.area:
            return np.empty((*box.shape, 3), np.uint8)
        with _translated(
            self._path,
            f"cannot read level {level}, rows {box.y}:{box.y_stop}, columns {box.x}:{box.x_stop}",
        ):
            self._check_tiles(level, box)
            given = self._slide.read_region(
                (box.x, box.y), self._numbers[level], (box.width, box.height), as_array=True
            )
            return _rgb(given, box.shape)

    def associated_image(self, name: str) -> NDArray[np.uint8]:
        """Give a label, macro or thumbnail image: ``(y, x, 3)`` uint8."""
        if name not in self._sizes:
            known = ", ".join(self.metadata.associated) or "none"
            raise SlideError(f"{self._path}: no associated image {name!r}; it has: {known}")
        rows, columns = self._sizes[name]
        if rows * columns > MOST_PIXELS:
            raise SlideError(
                f"{self._path}: associated image {name!r}: {_said((rows, columns))}, at most "
                f"{MOST_PIXELS} px in all are read; {_REMEDY}"
            )
        with _translated(self._path, f"associated image {name!r} cannot be read"):
            if name == "label":
                given = self._slide.read_label(as_array=True)
            elif name == "macro":
                given = self._slide.read_overview(as_array=True)
            else:
                given = self._slide.read_thumbnail((columns, rows), as_array=True)
            return _rgb(given, (given.shape[0], given.shape[1]))

    def icc_profile(self) -> bytes | None:
        """Give the embedded ICC profile; None where there is none."""
        return bytes(self._icc) if self._icc else None

    def close(self) -> None:
        """Release the files."""
        self._slide.close()

    def _check_tiles(self, level: int, box: Box) -> None:
        """Raise `ValueError` where a tile says that it is larger: its decoder believes it."""
        number, tile = self._numbers[level], self._tiles[level]
        for y in range(box.y // tile[0], ceil_div(box.y_stop, tile[0])):
            for x in range(box.x // tile[1], ceil_div(box.x_stop, tile[1])):
                at = (x, y)
                data = self._slide.read_encoded_tile(number, at, crop_to_image_boundary=False)
                check_stream(data, tile)


@dataclass(frozen=True, slots=True)
class _Header:
    """What the header of one file promises."""

    file: str
    uid: str
    kind: str
    resampled: bool
    shape: Shape
    tile: Shape
    frames: int
    sparse: bool
    bits: int
    colours: str


def _read_header(file: str) -> _Header | None:
    """Give what a file promises; None where it is no image of a slide."""
    with _translated(file, "is no DICOM file that can be read"):
        said = pydicom.dcmread(file, stop_before_pixels=True)
        if said.SOPClassUID != VLWholeSlideMicroscopyImageStorage:
            return None
        return _Header(
            file,
            str(said.SOPInstanceUID),
            str(said.ImageType[2]),
            RESAMPLED in said.ImageType[3:4],
            (int(said.TotalPixelMatrixRows), int(said.TotalPixelMatrixColumns)),
            (int(said.Rows), int(said.Columns)),
            int(said.NumberOfFrames),
            said.get("DimensionOrganizationType") == "TILED_SPARSE",
            int(said.BitsStored),
            str(said.PhotometricInterpretation),
        )


def _check_readable(header: _Header) -> None:
    if min(*header.shape, *header.tile) < 1 or header.tile[0] * header.tile[1] > MOST_PIXELS:
        raise SlideError(
            f"{header.file}: a level of {_said(header.shape)} in tiles of {_said(header.tile)}; "
            f"{_REMEDY}"
        )
    if header.bits > 8:
        raise SlideError(f"{header.file}: {header.bits} bits per sample; 8 can be read")
    if header.colours not in _COLOURS and not header.colours.startswith("YBR"):
        raise SlideError(
            f"{header.file}: its colours are {header.colours}; {', '.join(_COLOURS)} and YBR "
            "can be read"
        )


def _check_whole(path: str, level: Sequence[_Header]) -> None:
    """Raise `SlideError` where a level's files have not all its tiles."""
    (rows, columns), (height, width) = level[0].shape, level[0].tile
    tiles = ceil_div(rows, height) * ceil_div(columns, width)
    frames = sum(header.frames for header in level)
    # More than once all of them are focal planes or optical paths.
    if not any(header.sparse for header in level) and (frames < tiles or frames % tiles):
        raise SlideError(
            f"{path}: its level of {_said((rows, columns))} has {frames} of {tiles} tiles, so "
            "that a file of the series is missing; copy all of them into its folder"
        )


def _check_found(slide: WsiDicom, volumes: Sequence[_Header]) -> None:
    """Raise `SlideError` where wsidicom has left out a level."""
    found = {_shape(level.size) for pyramid in slide.pyramids for level in pyramid}
    for header in volumes:
        if header.shape not in found:
            raise SlideError(
                f"{header.file}: wsidicom reads no level of {_said(header.shape)}; {_REMEDY}"
            )


@contextmanager
def _translated(path: str, what: str) -> Iterator[None]:
    try:
        yield
    except SlideError:
        raise
    except Exception as error:
        said = str(error) or type(error).__name__
        raise SlideError(f"{path}: {what}: {said}; {_REMEDY}") from error


def _rgb(given: NDArray[Any], shape: Shape) -> NDArray[np.uint8]:
    """Give a copy, since what is given may be a tile of the cache."""
    if given.dtype != np.uint8:
        raise ValueError(f"pixels of type {given.dtype}; uint8 can be read")
    pixels = np.empty((*shape, 3), np.uint8)
    pixels[:] = given if given.ndim == 3 else given[..., None]
    return pixels


def _mpp(base: pydicom.Dataset) -> Mpp | None:
    shared = _first(base, "SharedFunctionalGroupsSequence")
    spacing_mm = _first(shared, "PixelMeasuresSequence").get("PixelSpacing") or (None, None)
    y, x = (_positive(each) for each in spacing_mm)
    return None if y is None or x is None else Mpp(y * 1e3, x * 1e3, "header")


def _first(dataset: pydicom.Dataset, name: str) -> pydicom.Dataset:
    """Give the first item of a sequence; an empty one where there is none."""
    items = dataset.get(name)
    return items[0] if items else pydicom.Dataset()


def _positive(value: Any) -> float | None:
    number = 0.0 if value is None else float(value)
    return number if 0 < number < np.inf else None


def _text(value: Any) -> str:
    several = isinstance(value, Sequence) and not isinstance(value, str)
    return "\\".join(map(str, value)) if several else str(value)


def _shape(size: Any) -> Shape:
    return (int(size.height), int(size.width))


def _said(shape: Shape) -> str:
    return f"{shape[1]} x {shape[0]} px"
