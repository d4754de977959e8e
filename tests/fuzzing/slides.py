"""Slide files: TIFF by the direct reader, whatever `open_slide` takes, DICOM, OME-Zarr."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Any

import pipeline
from pipeline.colour import described
from pipeline.demo import write_demo
from pipeline.errors import SlideError
from pipeline.geometry import Box
from pipeline.readers.ranges import open_bytes
from pipeline.readers.tiff import open_reader
from pipeline.readers.tiff.ome import ome_images
from pipeline.readers.tiff.tags import read_directories
from pipeline.slide import Slide
from tests.fuzzing.harness import Target, files_of
from tests.fuzzing.mutating import Mutations

__all__ = ["TARGETS"]

WINDOW = 300


# -- TIFF ---------------------------------------------------------------------------------


def _tiffs(seeds: Path) -> None:
    import tifffile

    from tests.test_tiff import LOSSLESS, TILES, _ome, smooth
    from tests.toys import write_tiff

    write_demo(seeds / "demo.svs", 600, 500)
    (seeds / "demo.truth.npz").unlink()
    rgb = smooth(400, 600)
    for kind in ("lzw predicted", "jpeg 2000", "webp", "big-endian bigtiff", "planar", "strips"):
        writer, how = LOSSLESS[kind]
        stored = rgb.transpose(2, 0, 1) if kind == "planar" else rgb
        with tifffile.TiffWriter(seeds / f"{kind}.tif", **writer) as tiff:
            tiff.write(stored, **{**TILES, **how})
    write_tiff(seeds / "pyramid.tif", rgb, levels=3)
    _ome(seeds / "a.ome.tif", rgb.transpose(2, 0, 1), "CYX", photometric="minisblack")


@lru_cache(maxsize=64)
def _likely(path: Path) -> tuple[bytes, tuple[int, ...]]:
    """Give a TIFF and the offsets of its header, directory entries and short values."""
    data = path.read_bytes()
    found = set(range(16))
    with closing(open_bytes(str(path))) as file:
        for directory in read_directories(file):
            for tag in directory._tags.values():
                # An entry lies just before a value that fits into it; a longer one elsewhere.
                found |= {at for at in range(tag.offset - 12, tag.offset + 24) if at >= 0}
    return data, tuple(sorted(at for at in found if at < len(data)))


def _mutated_tiff(seeds: Path, folder: Path, mutations: Mutations) -> Path:
    path = mutations.choose(list(files_of(seeds)))
    case = folder / f"case{path.suffix}"
    case.write_bytes(mutations.binary(*_likely(path)))
    return case


def _tiff(seeds: Path, folder: Path, mutations: Mutations) -> str:
    """Open it by the direct reader and read a corner of each level, and the pictures."""
    with closing(open_reader(str(_mutated_tiff(seeds, folder, mutations)))) as reader:
        metadata = reader.metadata
        return _read_corners(reader, metadata)


def _read_corners(reader: Any, metadata: Any) -> str:
    said = "read"
    for number, level in enumerate(metadata.levels):
        rows, columns = level.shape
        for y, x in ((0, 0), (max(rows - WINDOW, 0), max(columns - WINDOW, 0))):
            try:
                reader.read(number, Box(y, x, WINDOW, WINDOW).clipped(level.shape))
            except SlideError:
                said = "unreadable"
    for name in metadata.associated:
        try:
            reader.associated_image(name)
        except SlideError:
            said = "unreadable"
    return said


def _any_slide(seeds: Path, folder: Path, mutations: Mutations) -> str:
    return _looked_at(pipeline.open_slide(_mutated_tiff(seeds, folder, mutations)))


def _looked_at(slide: Slide) -> str:
    """Do what every command does with a slide, and read corners of it."""
    from pipeline.slide.level import slides

    slide.facts()
    slide.level_table()
    with slides.using(slide.ref) as reader:
        said = _read_corners(reader, slide.metadata)
        try:
            profile = reader.icc_profile()
        except SlideError:
            return "unreadable"
        if profile:
            described(profile)
    return said


# -- DICOM --------------------------------------------------------------------------------


def _dicoms(seeds: Path) -> None:
    from tests.dicoms import PLAIN, REFUSED, write_dicom
    from tests.toys import halved, noise

    rgb = noise(150, 200)
    for name, syntax in (("plain", PLAIN), ("refused", REFUSED)):
        write_dicom(seeds / name, [rgb, halved(rgb)], syntax=syntax, tile=64, icc=b"x" * 200)
    write_dicom(seeds / "sparse", [rgb], syntax=REFUSED, tile=64, left_out=[(1, 1)])


def _dicom(seeds: Path, folder: Path, mutations: Mutations) -> str:
    series = mutations.choose(sorted(seeds.iterdir()))
    changed = mutations.choose(sorted(series.iterdir()))
    for file in sorted(series.iterdir()):
        data = file.read_bytes()
        # Headers are short; pixels are most of a file.
        likely = range(128, min(3000, len(data)))
        made = mutations.binary(data, likely) if file == changed else data
        (folder / file.name).write_bytes(made)
    return _looked_at(pipeline.open_slide(folder))


# -- OME-Zarr -----------------------------------------------------------------------------


def _zarrs(seeds: Path) -> None:
    from tests.test_ome_zarr import write
    from tests.toys import noise, write_tiff

    rgb = noise(120, 150)
    write(seeds / "05.zarr", rgb)
    write(seeds / "04.zarr", rgb, version="0.4", axes="yxc")
    write(
        seeds / "sharded.zarr",
        rgb,
        axes="tczyx",
        chunks=(1, 1, 1, 32, 25),
        shards=(1, 3, 1, 64, 75),
    )
    write_tiff(seeds / "a.tiff", rgb, levels=2)
    pipeline.convert(str(seeds / "a.tiff"), str(seeds / "converted.zarr"))
    (seeds / "a.tiff").unlink()


def mutate_tree(seeds: Path, folder: Path, mutations: Mutations, files: list[Path]) -> None:
    """Copy a tree and change some of its files: JSON as what it holds, others as bytes."""
    shutil.copytree(seeds, folder, dirs_exist_ok=True)
    if mutations.still:
        return
    for file in mutations.rng.choices(files, k=mutations.rng.choice((1, 1, 1, 2))):
        target, data = folder / file.relative_to(seeds), file.read_bytes()
        target.unlink(missing_ok=True)
        if mutations.rng.random() < 0.03:
            continue
        if mutations.rng.random() < 0.7 and file.name.endswith(
            (".json", ".zattrs", ".zarray", ".zgroup")
        ):
            target.write_bytes(mutations.json(json.loads(data)))
        else:
            target.write_bytes(mutations.binary(data))


def _zarr(seeds: Path, folder: Path, mutations: Mutations) -> str:
    store = mutations.choose(sorted(seeds.iterdir()))
    files = list(files_of(store))
    metadata = [each for each in files if each.name.startswith((".z", "zarr"))]
    mutate_tree(store, folder / store.name, mutations, metadata * 3 + files)
    return _looked_at(pipeline.open_slide(folder / store.name))


# -- what slides say of themselves --------------------------------------------------------


def _xml(seeds: Path, folder: Path, mutations: Mutations) -> str:
    text = (seeds / "ome.xml").read_text("utf-8")
    # As `Directory.text` gives it.
    changed = mutations.text(text).encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    ome_images("a.ome.tif", changed)
    return "read"


def _xmls(seeds: Path) -> None:
    pixels = '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="600" SizeY="400"'
    pixels += ' SizeC="3" SizeZ="1" SizeT="1" PhysicalSizeX="0.5" PhysicalSizeXUnit="um"'
    pixels += ' PhysicalSizeY="0.5"><Channel ID="c" SamplesPerPixel="1"/>'
    pixels += '<TiffData IFD="0" FirstC="0" PlaneCount="3"/></Pixels>'
    objective = '<Instrument><Objective ID="o" NominalMagnification="20"/></Instrument>'
    image = f'<Image ID="i" Name="a"><ObjectiveSettings ID="o"/>{pixels}</Image>'
    space = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    (seeds / "ome.xml").write_text(f'<OME xmlns="{space}">{objective}{image}</OME>', "utf-8")


_READERS = tuple(f"pipeline.readers.{name}" for name in ("openslide", "wsidicom", "ome_zarr"))

TARGETS = (
    Target("tiff", _tiffs, _tiff),
    Target("slide", _tiffs, _any_slide, native=True, loads=_READERS),
    Target("dicom", _dicoms, _dicom, native=True, loads=_READERS),
    Target("zarr", _zarrs, _zarr, loads=_READERS),
    Target("xml", _xmls, _xml),
)
