"""Small files that claim, or unfold to, more than any machine has: refused, in bounded memory."""

from __future__ import annotations

import json
import resource
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

import pipeline
from pipeline.config.runfile import load_config
from pipeline.errors import ConfigError, ModelError, PipelineError, SlideError, StoreError
from pipeline.geometry import Box
from pipeline.manifest.jobs import jobs
from pipeline.model.load import read_card_at
from pipeline.readers import open_reader
from pipeline.readers.base import check_sizes
from pipeline.readers.multiscales import holds_results
from pipeline.tissue.masks import Raster, load_mask
from tests.test_ome_zarr import write as write_zarr
from tests.toys import noise

ROOM = 2**31
"""Address space a test may take beside what it has when it begins."""

RASTER = Raster.covering((1200, 1500), (60, 75))

DEEP = "[" * 100_000


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """Let nothing here allocate without bound."""
    had = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, had[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, had)


# -- slides -------------------------------------------------------------------------------


def tiff_that_says(path: Path, **tags: int) -> Path:
    """Give a small tiled TIFF with other values in its tags."""
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(noise(300, 400), tile=(128, 128), photometric="rgb", metadata=None)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for name, value in tags.items():
            tiff.pages.first.tags[name].overwrite(value)
    return path


@pytest.mark.parametrize("reader", ["auto", "tiff", "openslide"])
@pytest.mark.parametrize(
    "tags",
    [
        {"ImageWidth": 10**9, "ImageLength": 10**9},
        # OpenSlide would end the process: it cannot do without the memory it asks for.
        {"TileWidth": 2**16, "TileLength": 2**16},
    ],
    ids=["image", "tile"],
)
def test_a_tiff_that_claims_what_no_slide_has_is_refused(
    tags: dict[str, int], reader: str, tmp_path: Path
) -> None:
    with pytest.raises(SlideError):
        pipeline.open_slide(tiff_that_says(tmp_path / "a.tiff", **tags), reader=reader)


def test_a_level_is_between_one_pixel_and_a_metre_of_glass() -> None:
    check_sizes("a.svs", [(1, 1), (2**20, 2**20), (2**22, 100)])
    for shape in ((0, 5), (5, 0), (2**22 + 1, 1), (2**21, 2**20)):
        with pytest.raises(
            SlideError, match=rf"^a\.svs: claims a level of {shape[1]} x {shape[0]}"
        ):
            check_sizes("a.svs", [(9, 9), shape])


@pytest.mark.parametrize("side", [8, 4000, 65000])
@pytest.mark.parametrize("reader", ["tiff", "openslide"])
def test_a_jpeg_of_another_size_than_its_tile_is_unreadable(
    side: int, reader: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.tiff"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            noise(300, 400),
            tile=(128, 128),
            photometric="rgb",
            compression="jpeg",
            compressionargs={"outcolorspace": "rgb"},
            metadata=None,
        )
    other = bytearray(imagecodecs.jpeg8_encode(np.zeros((8, 8, 3), np.uint8)))
    frame = other.index(b"\xff\xc0")  # its header: length, bits, rows, columns
    other[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tags = tiff.pages.first.tags
        for name, value in (("TileOffsets", path.stat().st_size), ("TileByteCounts", len(other))):
            tags[name].overwrite([value, *tags[name].value[1:]])
    path.write_bytes(path.read_bytes() + other)
    opened = open_reader(str(path), reader)
    with pytest.raises(SlideError, match="cannot read level 0, rows 0:"):
        opened.read(0, Box(0, 0, 100, 100))
    opened.close()


def zeros_as_zstd(count: int) -> bytes:
    """Give a frame of zstd (RFC 8878) that unfolds to so many bytes, four for each 128 KiB."""
    block, whole = 2**17, count // 2**17
    repeated = [
        (block << 3 | 1 << 1 | (i == whole - 1)).to_bytes(3, "little") for i in range(whole)
    ]
    head = b"\x28\xb5\x2f\xfd" + bytes([0b11100000]) + (whole * block).to_bytes(8, "little")
    return head + b"".join(each + b"\0" for each in repeated)


def test_a_chunk_of_zarr_that_inflates_without_end_is_unreadable(tmp_path: Path) -> None:
    store = write_zarr(tmp_path / "a.zarr", noise(100, 100), levels=1)
    bomb = zeros_as_zstd(2**34)
    assert len(bomb) < 2**20
    chunks = [each for each in store.rglob("*") if each.is_file() and each.suffix != ".json"]
    for chunk in chunks:
        chunk.write_bytes(bomb)
    assert chunks
    slide = pipeline.open_slide(store)
    with pytest.raises(SlideError, match="cannot read"):
        slide.levels[0][:50, :50].compute(scheduler="synchronous")


def test_an_array_of_zarr_may_claim_any_size_and_is_refused(tmp_path: Path) -> None:
    store = write_zarr(tmp_path / "a.zarr", noise(100, 100), levels=1)
    described = json.loads((store / "0" / "zarr.json").read_text())
    (store / "0" / "zarr.json").write_text(json.dumps({**described, "shape": [3, 2**40, 2**40]}))
    with pytest.raises(SlideError, match="claims a level of"):
        pipeline.open_slide(store)


# -- YAML and JSON ------------------------------------------------------------------------


def laughs(levels: int = 30) -> str:
    """Give YAML of a few lines whose last one stands for 10 to that power of values."""
    lines = ["l0: &l0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    lines += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines)


BAD_YAML = {
    "aliases": (laughs(), "it stands for more than 1,048,576 values"),
    "circle": ("name: &a [*a]", "it contains itself"),
    "deep": (f"name: {DEEP[:5000]}", "nested too deeply"),
    "digits": (f"name: {'9' * 100_000}", "is no whole number"),
    "hexadecimal": (f"name: 0x{'f' * 100_000}", "is too large a number"),
    "base 60": (f"name: 1{':59' * 3000}", "number"),
    "tag": ("name: !!int x", "'x' is no whole number"),
    "no tag": ("!!bool onnx: a", "'onnx' is no true or false"),
    "half a character": (r'name: "\ud800"', "holds a character that is no text"),
    "NUL": (r'name: "a\0b"', "holds a character that is no text"),
}


@pytest.mark.parametrize(("text", "said"), BAD_YAML.values(), ids=BAD_YAML)
def test_yaml_that_unfolds_or_lies_is_refused_with_its_line(
    text: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    for error, read in ((ConfigError, load_config), (ModelError, read_card_at)):
        with pytest.raises(error) as caught:
            read(str(path))
        assert said in f"{caught.value}"
        assert len(f"{caught.value}") < 500


def test_aliases_that_say_little_twice_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("slides: &a a.svs\nmodel: *a\nexport: [csv]\n")
    assert str(load_config(path).model).endswith("a.svs")


def test_a_run_file_of_more_than_anyone_writes_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    hollow(path)
    for error, read in ((ConfigError, load_config), (ModelError, read_card_at)):
        with pytest.raises(error, match="larger than the 16 MiB that are read"):
            read(str(path))


BAD_JSON = {
    "deep": DEEP,
    "digits": f'{{"spec_version": {"9" * 10_000}}}',
    "empty": "",
    "number": "1",
}


@pytest.mark.parametrize("text", BAD_JSON.values(), ids=BAD_JSON)
def test_json_that_is_nothing_is_refused_by_all_who_read_it(text: str, tmp_path: Path) -> None:
    for name, error, read in (
        ("config.json", ModelError, read_card_at),
        ("a.geojson", ConfigError, lambda path: load_mask(path, RASTER)),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(error):
            read(str(tmp_path / name))
    store = tmp_path / "a.zarr"
    store.mkdir()
    (store / "zarr.json").write_text(text)
    assert not holds_results(str(store))
    with pytest.raises(SlideError):
        pipeline.open_slide(store)
    results = tmp_path / "results"
    results.mkdir()
    store.rename(results / "b.zarr")
    assert isinstance(pipeline.open_results(results).unopened["b"], StoreError)


# -- masks and manifests ------------------------------------------------------------------


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "1e308"])
def test_a_corner_that_is_nowhere_makes_no_mask(number: str, tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(f'{{"type": "Polygon", "coordinates": [[[0, 0], [9, {number}], [9, 9]]]}}')
    with pytest.raises(ConfigError):
        load_mask(str(path), RASTER)


def test_outlines_of_more_points_than_a_mask_needs_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    hollow(path)
    with pytest.raises(ConfigError, match="larger than the 64 MiB that are read"):
        load_mask(str(path), RASTER)


def hollow(path: Path) -> None:
    """Write a file of 16 GiB of nothing, which takes no room."""
    with path.open("wb") as file:
        file.truncate(2**34)


MANIFESTS: dict[str, Callable[[Path], object]] = {
    "NUL": lambda path: path.write_bytes(b"image_path\na\0b.svs\n"),
    "a large cell": lambda path: path.write_bytes(b"image_path\n" + b"x" * 10_000_000),
    "large": hollow,
}


@pytest.mark.parametrize("write", MANIFESTS.values(), ids=MANIFESTS)
def test_a_manifest_that_is_none_is_refused(
    write: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "a.csv"
    write(path)
    run_file = tmp_path / "run.yaml"
    run_file.write_text("slides: a.csv\nmodel: builtin:nuclei\n")
    with pytest.raises(ConfigError) as caught:
        jobs(load_config(run_file))
    assert len(f"{caught.value}") < 500


def test_a_url_that_can_be_none_is_no_slide(tmp_path: Path) -> None:
    for url in ("http://[a", "https://[::1", "http://a]b/c.svs", "https://\u2100/a.svs", "s3://"):
        with pytest.raises(PipelineError):
            pipeline.open_slide(url)
    with pytest.raises(SlideError, match="no path can be so"):
        pipeline.open_slide("a\0b.svs")
