"""What is made of a committed store, one file per kind.

A new kind is a file here that offers ``export(made: Exporting) -> Iterator[str]``, the paths of
what it wrote, one line in `EXPORTS` and its name in `pipeline.config`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.export.making import Exporting, Tell
    from pipeline.slide import Slide

__all__ = ["EXPORTS", "OF_RUNS", "Kind", "export"]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of export: its module, imported when it is first asked for, and what it gives."""

    module: str
    gives: str


EXPORTS = {
    "overview": Kind("pipeline.export.overview", "a picture of the slide; opens the slide"),
    "geojson": Kind("pipeline.export.geojson", "objects, regions, patches, tissue for QuPath"),
    "geojson.gz": Kind("pipeline.export.geojson", "the same, gzip; QuPath wants it unpacked"),
    "geojson.zip": Kind("pipeline.export.geojson", "the same, zipped; QuPath opens it"),
    "geojsonl": Kind("pipeline.export.geojson", "the same, a feature a line and nothing else"),
    "csv": Kind("pipeline.export.csv_files", "a row per object, and a row per patch"),
    "parquet": Kind("pipeline.export.parquet", "all objects as one GeoParquet file"),
    "hdf5": Kind("pipeline.export.hdf5", "features and coords, as CLAM and TRIDENT read them"),
    "stamp": Kind("pipeline.export.hdf5", "the same as STAMP reads it, in micrometres"),
    "anndata": Kind("pipeline.export.h5ad", "objects and patches for scanpy and squidpy, .h5ad"),
    "ome-tiff": Kind("pipeline.export.ome_tiff", "heat maps and label maps as pyramids, OME-TIFF"),
    "spatialdata": Kind("pipeline.export.spatial", "all of it as SpatialData, extra [spatialdata]"),
}
"""Every kind of export, by the name that a run file and the command know it by."""

OF_RUNS = ("report",)
"""Kinds that are made of a whole run, at its end: see `pipeline.report`."""


def export(
    kind: str,
    store: str,
    slide: Slide | None = None,
    *,
    output: str | None = None,
    tell: Tell | None = None,
) -> tuple[str, ...]:
    """Make one kind of file of the store at a path and give the files' paths.

    They go beside the store, or into ``output``, a folder or a place in a bucket. ``slide`` is
    opened from where the store says it is where it is needed and not given. ``tell`` is told how
    far it is: stage, finished, total.

    Raises `StoreError` where the store is not committed, holds nothing of that kind or a file
    cannot be written, `MissingExtraError` where what writes it is not installed, and `SlideError`
    where the slide is needed and cannot be opened.
    """
    from pipeline.export.making import exporting

    make: Callable[[Exporting], Iterator[str]] = import_module(EXPORTS[kind].module).export
    return tuple(make(exporting(kind, store, slide, output, tell)))
