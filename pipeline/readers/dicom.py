"""DICOM slides that OpenSlide refuses, through wsidicom, which is an extra."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import SlideError
from pipeline.readers.series import is_dicom

if TYPE_CHECKING:
    from pipeline.readers.wsidicom import DicomReader

__all__ = ["is_dicom", "open_reader"]


def open_reader(path: str) -> DicomReader:
    """Open the DICOM slide that ``path``, a file of it or its folder, stands for.

    Raises `SlideError` where it cannot be read, and where wsidicom is not installed.
    """
    try:
        from pipeline.readers.wsidicom import open_reader as open_
    except ImportError as error:
        raise SlideError(
            f"{path}: this DICOM slide needs wsidicom ({error}); pip install 'wsi-pipeline[dicom]'"
        ) from error
    return open_(path)
