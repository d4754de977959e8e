"""What was found on a slide as GeoJSON for QuPath, in level-0 pixels ``(x, y)`` as it counts them.

``<slide_id>.geojson`` is one FeatureCollection, a feature a line; ``.geojson.zip`` the same in an
archive, which QuPath opens too; ``.geojson.gz`` the same by gzip, which QuPath does not unpack;
``.geojsonl`` bare features, one a line (RFC 8142 without its separators, GDAL's GeoJSONSeq).

========  ==========  ==================================================================
of        objectType  what
========  ==========  ==================================================================
tissue    annotation  outlines with holes, locked
labels    annotation  connected regions with holes, simplified by a pixel of the map
objects   detection   outlines or points, area and score
scores    tile        the patches of a model that gives a score for each, with the scores
========  ==========  ==================================================================

What QuPath (0.4 and later) reads and writes is in its source, `qupath.lib.io`. By
`QuPathTypeAdapters` ``id`` is a UUID; ``properties`` are ``objectType``, ``name``,
``classification``, ``isLocked``, ``measurements`` and ``metadata``; measurements are an object of
numbers since 0.4, a list of ``{name, value}`` before, which is read still. By `GsonTools` a
classification has ``name`` *and* ``color`` ``[r, g, b]``, or it is refused. By `PathIO` objects are
in .geojson, .json and .zip. Rings are closed and valid by shapely. Ids follow from slide, model
and object: the same export gives the same ids.

Written part by part: in memory is a block's objects, or a row of blocks' regions.
"""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from pipeline.export.features import features
from pipeline.export.making import Exporting

__all__ = ["export"]

Write = Callable[[str], object]


def export(made: Exporting) -> Iterator[str]:
    """Write the features of a slide in the form that the kind names.

    Raises `MissingExtraError` without shapely, or without pyarrow where there are objects.
    """
    opening = _OPENINGS.get(made.kind, _plain)
    with made.writing(made.kind) as path, opening(path, Path(made.stem).name) as write:
        if made.kind == "geojsonl":
            for feature in features(made):
                write(f"{feature}\n")
        else:
            write('{"type": "FeatureCollection", "features": [')
            before = "\n"
            for feature in features(made):
                write(f"{before}{feature}")
                before = ",\n"
            write("\n]}\n")
    yield made.path(made.kind)


@contextmanager
def _plain(path: Path, _name: str) -> Iterator[Write]:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        yield file.write


@contextmanager
def _gzipped(path: Path, name: str) -> Iterator[Write]:
    # Neither the time nor the name of what is written for now: the same gives the same bytes.
    with (
        path.open("wb") as file,
        gzip.GzipFile(f"{name}.geojson", "wb", 6, file, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as text,
    ):
        yield text.write


@contextmanager
def _zipped(path: Path, name: str) -> Iterator[Write]:
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(_member(f"{name}.geojson"), "w", force_zip64=True) as member,
        io.TextIOWrapper(member, encoding="utf-8", newline="\n") as text,
    ):
        yield text.write


def _member(name: str) -> zipfile.ZipInfo:
    # Without the time of now, for the same reason.
    member = zipfile.ZipInfo(name)
    member.compress_type = zipfile.ZIP_DEFLATED
    return member


_OPENINGS: dict[str, Callable[[Path, str], AbstractContextManager[Write]]] = {
    "geojson.gz": _gzipped,
    "geojson.zip": _zipped,
}
