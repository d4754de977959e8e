"""DICOM slides whose every pixel is known, written as scanners write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    JPEGLSLossless,
    VLWholeSlideMicroscopyImageStorage,
    generate_uid,
)

from pipeline.geometry import Grid

__all__ = ["PLAIN", "REFUSED", "write_dicom"]

Pixels = NDArray[np.uint8]

PLAIN = ExplicitVRLittleEndian
"""Not compressed: OpenSlide reads it."""

REFUSED = JPEGLSLossless
"""Lossless, too, and OpenSlide refuses it."""


def write_dicom(
    folder: Path,
    levels: Sequence[Pixels],
    *,
    syntax: UID = REFUSED,
    tile: int | Sequence[int] = 128,
    mpp: float = 0.5,
    parts: int = 1,
    left_out: Sequence[tuple[int, int]] = (),
    kind: str = "VOLUME",
    series: str = "1.2.826.0.1.3680043.8.498.1",
    icc: bytes | None = None,
    **changes: Any,
) -> list[Path]:
    """Write a series into ``folder``, a file a level, and give the files, level 0 first.

    ``tile`` is the side of the tiles, of all levels or of each; ``parts`` in how many files a
    level is (a concatenation). Where tiles ``(row, column)`` are ``left_out``, the series is one
    of sparse tiles. ``kind`` is VOLUME, LABEL, OVERVIEW or THUMBNAIL. ``changes`` are attributes
    of every file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, pixels in enumerate(levels):
        side = tile if isinstance(tile, int) else tile[number]
        grid = Grid(pixels.shape[:2], side)
        places = [index for index in grid if index not in left_out]
        frames = [_frame(pixels, grid, index) for index in places]
        source = generate_uid(entropy_srcs=[series, kind, str(number)])
        step = -(-len(frames) // parts)
        for part, first in enumerate(range(0, len(frames), step)):
            dataset = _dataset(pixels, side, mpp * levels[0].shape[1] / pixels.shape[1], series)
            dataset.ImageType = ["DERIVED", "PRIMARY", kind, "RESAMPLED" if number else "NONE"]
            dataset.InstanceNumber = number * parts + part + 1
            dataset.SOPInstanceUID = generate_uid(entropy_srcs=[source, str(part)])
            if parts > 1:
                dataset.ConcatenationUID = generate_uid(entropy_srcs=[source, "concatenation"])
                dataset.SOPInstanceUIDOfConcatenationSource = source
                dataset.InConcatenationNumber = part + 1
                dataset.InConcatenationTotalNumber = -(-len(frames) // step)
                dataset.ConcatenationFrameOffsetNumber = first
            if left_out:
                dataset.DimensionOrganizationType = "TILED_SPARSE"
                dataset.PerFrameFunctionalGroupsSequence = Items(
                    [_place(grid, index) for index in places[first : first + step]]
                )
            if icc is not None:
                dataset.OpticalPathSequence[0].ICCProfile = icc
            for name, value in changes.items():
                setattr(dataset, name, value)
            path = folder / f"{kind.lower()}-{number}-{part}.dcm"
            files.append(_save(path, dataset, frames[first : first + step], syntax))
    return files


def _frame(pixels: Pixels, grid: Grid, index: tuple[int, int]) -> Pixels:
    """Give one tile at its full size, grey where it leaves the level."""
    frame = np.full((grid.cell, grid.cell, pixels.shape[2]), 200, np.uint8)
    box = grid.box(index)
    frame[: box.height, : box.width] = pixels[box.y : box.y_stop, box.x : box.x_stop]
    return frame


def _dataset(pixels: Pixels, tile: int, mpp: float, series: str) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID = VLWholeSlideMicroscopyImageStorage
    dataset.StudyInstanceUID = series + ".9"
    dataset.SeriesInstanceUID = series
    dataset.FrameOfReferenceUID = series + ".8"
    dataset.Modality = "SM"
    dataset.Manufacturer = "wsi-pipeline"
    dataset.ManufacturerModelName = "tests"
    dataset.ContainerIdentifier = "container"
    dataset.Rows = dataset.Columns = tile
    dataset.TotalPixelMatrixRows, dataset.TotalPixelMatrixColumns = pixels.shape[:2]
    dataset.TotalPixelMatrixFocalPlanes = 1
    dataset.NumberOfOpticalPaths = 1
    dataset.SamplesPerPixel = pixels.shape[2]
    dataset.PhotometricInterpretation = "RGB" if pixels.shape[2] == 3 else "MONOCHROME2"
    if pixels.shape[2] == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelRepresentation = 0
    dataset.LossyImageCompression = "00"
    dataset.BurnedInAnnotation = "NO"
    dataset.FocusMethod = "AUTO"
    dataset.ExtendedDepthOfField = "NO"
    dataset.DimensionOrganizationType = "TILED_FULL"
    dataset.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
    dataset.ImagedVolumeWidth = pixels.shape[1] * mpp / 1e3
    dataset.ImagedVolumeHeight = pixels.shape[0] * mpp / 1e3
    dataset.ImagedVolumeDepth = 1.0
    origin = Dataset()
    origin.XOffsetInSlideCoordinateSystem = origin.YOffsetInSlideCoordinateSystem = 0.0
    dataset.TotalPixelMatrixOriginSequence = Items([origin])
    measures, frame_type, path, shared = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [mpp / 1e3, mpp / 1e3]
    measures.SliceThickness = 0.001
    frame_type.FrameType = ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
    shared.PixelMeasuresSequence = Items([measures])
    shared.WholeSlideMicroscopyImageFrameTypeSequence = Items([frame_type])
    path.OpticalPathIdentifier = "0"
    path.ObjectiveLensPower = 20.0
    identification = Dataset()
    identification.OpticalPathIdentifier = "0"
    shared.OpticalPathIdentificationSequence = Items([identification])
    dataset.OpticalPathSequence = Items([path])
    dataset.SharedFunctionalGroupsSequence = Items([shared])
    return dataset


def _place(grid: Grid, index: tuple[int, int]) -> Dataset:
    place, frame = Dataset(), Dataset()
    place.RowPositionInTotalImagePixelMatrix = index[0] * grid.cell + 1
    place.ColumnPositionInTotalImagePixelMatrix = index[1] * grid.cell + 1
    place.XOffsetInSlideCoordinateSystem = place.YOffsetInSlideCoordinateSystem = 0.0
    place.ZOffsetInSlideCoordinateSystem = 0.0
    frame.PlanePositionSlideSequence = Items([place])
    return frame


def _save(path: Path, dataset: Dataset, frames: Sequence[Pixels], syntax: UID) -> Path:
    dataset.NumberOfFrames = len(frames)
    if syntax == PLAIN:
        dataset.PixelData = b"".join(frame.tobytes() for frame in frames)
    else:
        # Noise grows: room for twice of it.
        coded = [bytes(imagecodecs.jpegls_encode(f, out=2 * f.nbytes)) for f in frames]
        dataset.PixelData = encapsulate(coded)
    dataset["PixelData"].VR = "OB"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    file = FileDataset(path, dataset, file_meta=meta, preamble=bytes(128))
    file.save_as(path, enforce_file_format=True)
    return path
