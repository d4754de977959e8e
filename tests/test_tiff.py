"""The direct TIFF reader against files whose every pixel is known, and against OpenSlide."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import SlideError
from pipeline.geometry import Box, Grid
from pipeline.readers import Mpp, open_reader
from pipeline.readers.openslide import open_reader as open_record
from pipeline.readers.tiff import TiffReader
from pipeline.readers.tiff import open_reader as open_tiff
from tests.contracts import check_opener, check_reader
from tests.test_readers import CUT, box_in, whole
from tests.toys import Pixels, halved, noise, read_directly, spoil_first_tile, write_tiff

TILES: dict[str, Any] = {"tile": (128, 112), "photometric": "rgb", "metadata": None}


def smooth(height: int, width: int, seed: int = 0) -> Pixels:
    """Give an image that JPEG keeps nearly as it is."""
    coarse = np.random.default_rng(seed).integers(0, 256, (-(-height // 40), -(-width // 40), 3))
    return np.kron(coarse, np.ones((40, 40, 1))).astype(np.uint8)[:height, :width]


def read_all(path: Path, level: int = 0) -> Pixels:
    with closing(open_tiff(str(path))) as reader:
        return reader.read(level, whole(reader, level))


def patched(path: Path, page: int, tag: str, value: int, index: int = 0) -> Path:
    """Overwrite one value of a tag in a file."""
    with tifffile.TiffFile(path) as tiff:
        found: Any = tiff.pages[page].aspage().tags[tag]
        size = {3: 2, 4: 4, 16: 8}[int(found.dtype)]
        offset = found.valueoffset + index * size
    data = bytearray(path.read_bytes())
    data[offset : offset + size] = value.to_bytes(size, "little")
    path.write_bytes(data)
    return path


LOSSLESS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "uncompressed": ({}, {}),
    "lzw": ({}, {"compression": "lzw"}),
    "lzw predicted": ({}, {"compression": "lzw", "predictor": True}),
    "deflate": ({}, {"compression": "zlib"}),
    "deflate predicted": ({}, {"compression": "zlib", "predictor": True}),
    "zstd": ({}, {"compression": "zstd"}),
    "packbits": ({}, {"compression": "packbits"}),
    "webp": ({}, {"compression": "webp", "compressionargs": {"lossless": True}}),
    "jpeg 2000": ({}, {"compression": "jpeg2000", "compressionargs": {"level": 0}}),
    "planar": ({}, {"compression": "zlib", "planarconfig": "separate"}),
    "bigtiff": ({"bigtiff": True}, {"compression": "zlib"}),
    "big-endian": ({"byteorder": ">"}, {"compression": "lzw"}),
    "big-endian bigtiff": ({"byteorder": ">", "bigtiff": True}, {}),
    "strips": ({}, {"tile": None, "rowsperstrip": 17, "compression": "zlib"}),
    "one strip": ({}, {"tile": None}),
}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_every_lossless_way_of_storing_gives_the_stored_pixels(tmp_path: Path, kind: str) -> None:
    writer, how = LOSSLESS[kind]
    rgb, path = noise(300, 410), tmp_path / "a.tif"
    stored = rgb.transpose(2, 0, 1) if kind == "planar" else rgb
    with tifffile.TiffWriter(path, **writer) as tiff:
        tiff.write(stored, **{**TILES, **how})
    np.testing.assert_array_equal(read_all(path), rgb)
    with closing(open_tiff(str(path))) as reader:
        check_reader(reader)


@pytest.mark.parametrize("compression", [33003, 33004, 33005, 34712])
def test_jpeg_2000_is_read_under_all_its_numbers(tmp_path: Path, compression: int) -> None:
    rgb, path = noise(128, 112), tmp_path / "a.tif"
    encoded = bytes(imagecodecs.jpeg2k_encode(rgb, level=0, codecformat="j2k", mct=False))
    tifffile.imwrite(
        path, iter([encoded]), shape=rgb.shape, dtype="u1", compression=compression, **TILES
    )
    np.testing.assert_array_equal(read_all(path), rgb)


@pytest.mark.parametrize("subsampling", [None, (2, 1), (2, 2)])
@pytest.mark.parametrize("photometric", ["rgb", "ycbcr"])
def test_jpeg_is_exactly_what_libjpeg_gives(
    tmp_path: Path, photometric: str, subsampling: tuple[int, int] | None
) -> None:
    path, rgb = tmp_path / "a.tif", smooth(300, 410)
    how = {**TILES, "compression": "jpeg"}  # which tifffile turns into YCbCr, and marks so
    if photometric == "rgb":
        how["compressionargs"] = {"outcolorspace": "rgb"}
    elif subsampling:
        how["subsampling"] = subsampling
    tifffile.imwrite(path, rgb, **how)
    given_ = read_all(path)
    np.testing.assert_array_equal(given_, read_directly(path))
    assert np.abs(given_.astype(int) - rgb).mean() < 4


def test_jpeg_tables_that_all_tiles_share_are_used(shared_data: Path) -> None:
    path = shared_data / "slides" / "CMU-1-Small-Region.svs"
    np.testing.assert_array_equal(read_all(path), read_directly(path))


def test_a_jpeg_stream_that_says_it_is_ycbcr_is_believed(tmp_path: Path) -> None:
    """Bio-Formats marks such files RGB, and writes JFIF, which is always YCbCr."""
    rgb, path = smooth(128, 112), tmp_path / "a.tif"
    jfif = bytes(imagecodecs.jpeg8_encode(rgb, level=95, colorspace="rgb", outcolorspace="ycbcr"))
    assert jfif[6:10] == b"JFIF"
    tifffile.imwrite(path, iter([jfif]), shape=rgb.shape, dtype="u1", compression="jpeg", **TILES)
    assert np.abs(read_all(path).astype(int) - rgb).mean() < 4


@pytest.mark.parametrize("inverted", [False, True])
def test_grey_is_given_three_times(tmp_path: Path, inverted: bool) -> None:
    grey, path = noise(90, 200)[..., 0], tmp_path / "a.tif"
    kind = "miniswhite" if inverted else "minisblack"
    tifffile.imwrite(path, grey, **{**TILES, "photometric": kind})
    expected = 255 - grey if inverted else grey
    np.testing.assert_array_equal(read_all(path), np.repeat(expected[..., None], 3, axis=2))


@pytest.mark.parametrize("alpha", ["unassalpha", "assocalpha"])
def test_what_is_transparent_is_laid_over_white(tmp_path: Path, alpha: str) -> None:
    rgba, path = np.zeros((128, 112, 4), np.uint8), tmp_path / "a.tif"
    rgba[:40] = (10, 20, 30, 255)
    rgba[40:80, :, 3] = 0
    rgba[80:] = (100, 50, 0, 128)
    tifffile.imwrite(path, rgba, **TILES, extrasamples=[alpha])
    given_ = read_all(path)
    assert (given_[:40] == (10, 20, 30)).all()
    assert (given_[40:80] == 255).all()
    share = 1.0 if alpha == "assocalpha" else 128 / 255
    expected = np.array([100, 50, 0]) * share + 127
    assert np.abs(given_[80:] - expected).max() <= 1


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TiffReader]:
    path = tmp_path_factory.mktemp("pyramid") / "a.tif"
    write_tiff(path, noise(600, 800), levels=[noise(401, 534, 1), noise(150, 200, 2)])
    with closing(open_tiff(str(path))) as reader:
        yield reader


@CUT
@given(st.data())
def test_any_box_of_any_level_is_a_cut_of_the_file(
    pyramid: TiffReader, data: st.DataObject
) -> None:
    level = data.draw(st.integers(0, 2))
    expected = (noise(600, 800), noise(401, 534, 1), noise(150, 200, 2))[level]
    box = box_in(data, expected.shape[:2])
    cut = expected[box.within(whole(pyramid, level))]
    np.testing.assert_array_equal(pyramid.read(level, box), cut)


def test_levels_below_an_image_are_found_as_its_parts(tmp_path: Path) -> None:
    path, rgb = tmp_path / "a.tif", noise(400, 600)
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(rgb, subifds=2, **TILES)
        for small in (halved(rgb), halved(halved(rgb))):
            tiff.write(small, subfiletype=1, **TILES)
    with closing(open_tiff(str(path))) as reader:
        assert [level.shape for level in reader.metadata.levels] == [
            (400, 600),
            (200, 300),
            (100, 150),
        ]
        np.testing.assert_array_equal(reader.read(2, whole(reader, 2)), halved(halved(rgb)))


def test_the_levels_of_a_long_narrow_slide_are_found(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(noise(300, 5000), **TILES)
        tiff.write(noise(18, 312), subfiletype=1, **TILES)
    with closing(open_tiff(str(path))) as reader:
        assert [level.downsample for level in reader.metadata.levels] == [(1, 1), (16, 16)]


def test_a_picture_of_another_shape_is_no_level(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(noise(400, 600), **TILES)
        tiff.write(noise(300, 300), subfiletype=1, **TILES)
    with closing(open_tiff(str(path))) as reader:
        assert len(reader.metadata.levels) == 1


def _ome(path: Path, image: Pixels, axes: str, **how: Any) -> Path:
    metadata = {
        "axes": axes,
        "PhysicalSizeX": 0.25,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": 500,
        "PhysicalSizeYUnit": "nm",
    }
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(image, tile=(128, 112), metadata=metadata, compression="zlib", **how)
    return path


@pytest.mark.parametrize(
    ("axes", "how"),
    [
        ("YXS", {"photometric": "rgb"}),
        ("SYX", {"photometric": "rgb", "planarconfig": "separate"}),
        ("CYX", {"photometric": "minisblack"}),
    ],
    ids=["interleaved", "planar", "an image per channel"],
)
def test_ome_tiff_is_read_however_its_channels_lie(
    tmp_path: Path, axes: str, how: dict[str, Any]
) -> None:
    rgb = noise(300, 410)
    image = rgb if axes == "YXS" else rgb.transpose(2, 0, 1)
    path = _ome(tmp_path / "a.ome.tif", image, axes, **how)
    with closing(open_tiff(str(path))) as reader:
        check_reader(reader)
        assert reader.metadata.vendor == "ome-tiff"
        assert reader.metadata.mpp == Mpp(y=0.5, x=0.25, source="header")
        np.testing.assert_array_equal(reader.read(0, whole(reader, 0)), rgb)


def test_of_several_ome_images_the_largest_is_the_slide(tmp_path: Path) -> None:
    path, rgb = tmp_path / "a.ome.tif", noise(300, 400)
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(noise(90, 80, 1), photometric="rgb", metadata={"axes": "YXS", "Name": "label"})
        tiff.write(
            rgb,
            photometric="rgb",
            subifds=1,
            tile=(128, 128),
            metadata={"axes": "YXS", "Name": "slide"},
        )
        tiff.write(halved(rgb), photometric="rgb", subfiletype=1, tile=(128, 128))
    with closing(open_tiff(str(path))) as reader:
        assert [level.shape for level in reader.metadata.levels] == [(300, 400), (150, 200)]
        np.testing.assert_array_equal(reader.read(1, whole(reader, 1)), halved(rgb))
        assert reader.metadata.associated == ("label",)
        np.testing.assert_array_equal(reader.associated_image("label"), noise(90, 80, 1))


@pytest.mark.parametrize(
    ("image", "axes", "said"),
    [
        (np.zeros((5, 64, 64), np.uint8), "CYX", "5 channels"),
        (np.zeros((64, 64, 3), np.uint16), "YXS", "uint16"),
        (np.zeros((4, 64, 64), np.uint8), "ZYX", "4 focal planes"),
    ],
)
def test_ome_images_that_are_no_slide_are_refused_by_what_they_are(
    tmp_path: Path, image: Any, axes: str, said: str
) -> None:
    path = tmp_path / "a.ome.tif"
    photometric = "rgb" if axes == "YXS" else "minisblack"
    tifffile.imwrite(path, image, ome=True, photometric=photometric, metadata={"axes": axes})
    with pytest.raises(SlideError, match=rf"a\.ome\.tif: no 8-bit RGB.*{said}"):
        open_tiff(str(path))


def _qptiff_text(kind: str) -> str:
    return (
        '<?xml version="1.0"?><PerkinElmer-QPI-ImageDescription><ImageType>'
        f"{kind}</ImageType><Objective>20x</Objective></PerkinElmer-QPI-ImageDescription>"
    )


def _write_qptiff(path: Path, kinds: dict[str, Pixels]) -> Path:
    with tifffile.TiffWriter(path) as tiff:
        for kind, image in kinds.items():
            tiff.write(
                image,
                description=_qptiff_text(kind.split()[0]),
                resolution=(2e4, 2e4),
                resolutionunit="CENTIMETER",
                **TILES,
            )
    return path


def test_qptiff_of_brightfield_is_a_slide(tmp_path: Path) -> None:
    rgb = noise(400, 600)
    path = _write_qptiff(
        tmp_path / "a.qptiff",
        {
            "FullResolution": rgb,
            "Thumbnail": noise(50, 75, 1),
            "ReducedResolution": halved(rgb),
            "Label": noise(60, 60, 2),
        },
    )
    with closing(open_tiff(str(path))) as reader:
        meta = reader.metadata
        assert [level.shape for level in meta.levels] == [(400, 600), (200, 300)]
        assert (meta.vendor, meta.objective) == ("qptiff", 20)
        assert meta.mpp == Mpp(0.5, 0.5, "header")
        assert meta.associated == ("label", "thumbnail")
        np.testing.assert_array_equal(reader.read(1, whole(reader, 1)), halved(rgb))


def test_qptiff_of_fluorescence_is_refused(tmp_path: Path) -> None:
    path = _write_qptiff(
        tmp_path / "a.qptiff", {f"FullResolution {i}": noise(50, 50) for i in "ab"}
    )
    with pytest.raises(SlideError, match="QPTIFF of 2 full images"):
        open_tiff(str(path))


def test_tiles_that_a_file_leaves_out_are_background(tmp_path: Path) -> None:
    rgb, path = noise(256, 336), tmp_path / "a.tif"
    grid = [rgb[y : y + 128, x : x + 112] for y in (0, 128) for x in (0, 112, 224)]
    tiles = [None if i == 4 else tile for i, tile in enumerate(grid)]
    tifffile.imwrite(path, iter(tiles), shape=rgb.shape, dtype="u1", **TILES)
    expected = rgb.copy()
    expected[128:, 112:224] = 255
    np.testing.assert_array_equal(read_all(path), expected)
    with closing(open_tiff(str(path))) as reader:
        assert list(reader.missing(0)) == [Box(128, 112, 128, 112)]


def test_the_demo_is_read_as_openslide_does(demo_slide: Path) -> None:
    with (
        closing(open_tiff(str(demo_slide))) as direct,
        closing(open_record(str(demo_slide))) as record,
    ):
        ours, theirs = direct.metadata, record.metadata
        assert (ours.vendor, ours.levels, ours.mpp) == (theirs.vendor, theirs.levels, theirs.mpp)
        assert (ours.objective, ours.associated) == (theirs.objective, theirs.associated)
        for number in range(len(ours.levels)):
            box = whole(direct, number)
            np.testing.assert_array_equal(direct.read(number, box), record.read(number, box))
        for name in ours.associated:
            np.testing.assert_array_equal(
                direct.associated_image(name), record.associated_image(name)
            )
        check_reader(direct)


SLIDES = [
    "CMU-1-Small-Region.svs",
    "TCGA-CR-7395-01A-01-TS1.svs",
    "erosion-HE.svs",
    "OS-1-detail.ome.tif",
    "fixtures/boxes.tiff",
    "grid/XYC-compressionJPEG-2000-tilex128-tiley128-pyramid-scale2-merge.ome.tiff",
    "grid/XYC-half-mpp.tiff",
]


@pytest.mark.parametrize("name", SLIDES)
def test_real_slides_are_the_same_for_any_blocks(name: str, shared_data: Path) -> None:
    with closing(open_tiff(str(shared_data / "slides" / name))) as reader:
        for number, info in enumerate(reader.metadata.levels):
            corner = Box(0, 0, *(min(length, 6000) for length in info.shape))
            together = reader.read(number, corner)
            for cell in (512, 1000, 2048):
                grid = Grid(corner.shape, cell)
                for index in grid:
                    box = grid.box(index)
                    part = together[box.within(corner)]
                    assert np.array_equal(reader.read(number, box), part), (number, cell, index)


@pytest.mark.parametrize("name", SLIDES)
def test_real_slides_are_what_tifffile_reads(name: str, shared_data: Path) -> None:
    path = shared_data / "slides" / name
    with closing(open_tiff(str(path))) as reader, tifffile.TiffFile(path) as tiff:
        pages: list[Any] = list(tiff.pages)
        pages = [page for page in pages if page.is_tiled or len(pages) == 1]
        for number, page in zip(range(len(reader.metadata.levels)), pages, strict=True):
            if page.imagelength * page.imagewidth > 2**26:
                continue  # as its coarser levels, only a gigabyte of it
            expected = page.asarray()
            np.testing.assert_array_equal(reader.read(number, whole(reader, number)), expected)


def test_threads_share_a_reader_and_not_its_buffers(pyramid: TiffReader) -> None:
    expected = noise(600, 800)
    places = np.random.default_rng(0).integers(0, (500, 700), (200, 2)).tolist()

    def right(place: list[int]) -> bool:
        box = Box(place[0], place[1], 100, 100)
        return np.array_equal(pyramid.read(0, box), expected[box.within(Box(0, 0, 600, 800))])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(right, places))


def test_a_closed_reader_holds_no_descriptor(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", noise(200, 200))
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(20):
        open_tiff(str(path)).close()
        with pytest.raises(SlideError):
            open_tiff(str(path.with_name("none.tif")))
    broken = tmp_path / "b.tif"
    broken.write_bytes(path.read_bytes()[:40])
    with pytest.raises(SlideError):
        open_tiff(str(broken))
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_tile_that_cannot_be_decoded_is_an_error_that_says_where(tmp_path: Path) -> None:
    path = spoil_first_tile(write_tiff(tmp_path / "a.tif", noise(300, 400)))
    with closing(open_tiff(str(path))) as reader:
        with pytest.raises(
            SlideError, match=rf"{path}: cannot read level 0, rows 0:128, columns 0:128.*;"
        ):
            reader.read(0, Box(0, 0, 20, 20))
        np.testing.assert_array_equal(
            reader.read(0, Box(128, 0, 50, 50)), noise(300, 400)[128:178, :50]
        )


@pytest.mark.parametrize("cut", ["middle", "end"])
def test_a_jpeg_tile_that_ends_early_is_an_error_and_not_grey(tmp_path: Path, cut: str) -> None:
    """Libjpeg itself would fill the rest."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(128, 112), compression="jpeg", **TILES)
    with tifffile.TiffFile(path) as tiff:
        length = tiff.pages[0].databytecounts[0]
    patched(path, 0, "TileByteCounts", length // 2 if cut == "middle" else length - 2)
    with pytest.raises(
        SlideError, match="rows 0:128, columns 0:112: a JPEG stream that ends early"
    ):
        read_all(path)


def test_a_tile_past_the_end_of_the_file_is_an_error_that_says_where(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", noise(300, 400))
    patched(path, 0, "TileOffsets", 2**31 - 1, index=5)
    with closing(open_tiff(str(path))) as reader:
        with pytest.raises(
            SlideError, match=r"rows 128:256, columns 128:256: its .* bytes at 2147483647"
        ):
            reader.read(0, whole(reader, 0))
        np.testing.assert_array_equal(reader.read(0, Box(0, 0, 128, 400)), noise(300, 400)[:128])


def test_a_tile_of_another_size_than_its_page_says_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, smooth(128, 128), compression="jpeg", **{**TILES, "tile": (128, 128)})
    patched(path, 0, "TileWidth", 144)
    with pytest.raises(SlideError, match=r"rows 0:128, columns 0:128: JPEG: .*128.*144"):
        read_all(path)


def _bomb(tile: int) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        write_tiff(path, noise(100, 100))
        for tag in ("ImageWidth", "ImageLength"):
            patched(path, 0, tag, 10**6)
        for tag in ("TileWidth", "TileLength"):
            patched(path, 0, tag, tile)
        return path

    return make


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_bomb(128), "1000000 x 1000000 px needs 61042969 tiles and has 1"),
        (_bomb(2**16 - 16), "tiles or strips of 65520 x 65520 px"),
    ],
    ids=["too few tiles", "huge tiles"],
)
def test_a_bomb_is_refused_before_anything_is_allocated(
    tmp_path: Path, make: Callable[[Path], Path], said: str
) -> None:
    path = make(tmp_path / "bomb.tif")
    with pytest.raises(SlideError, match=said):
        read_all(path)


def test_a_tile_that_claims_more_pixels_than_its_page_is_not_decoded(tmp_path: Path) -> None:
    """OpenJPEG would take ten gigabytes for this one before it gave them back."""
    stream = bytearray(imagecodecs.jpeg2k_encode(noise(128, 112), level=0, codecformat="j2k"))
    stream[8:16] = stream[24:32] = (30_000).to_bytes(4, "big") * 2
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, iter([bytes(stream)]), shape=(128, 112, 3), dtype="u1", compression=34712, **TILES
    )
    with pytest.raises(
        SlideError, match=r"JPEG 2000 of .*\(30000, 30000, 3\), not \(128, 112, 3\)"
    ):
        read_all(path)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"dtype": np.uint16}, "16 bits per sample"),
        ({"dtype": np.int8}, "bits per sample"),
        ({"compression": "lzma"}, "compression 34925"),
    ],
)
def test_what_is_not_read_is_refused_by_what_it_is(
    tmp_path: Path, how: dict[str, Any], said: str
) -> None:
    path, given_ = tmp_path / "a.tif", dict(how)
    image = np.zeros((128, 112, 3), given_.pop("dtype", np.uint8))
    tifffile.imwrite(path, image, **TILES, **given_)
    with pytest.raises(SlideError, match=rf"{path}: .*{said}.*; convert"):
        open_tiff(str(path))


def test_directories_that_form_a_circle_are_refused(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", noise(100, 100))
    with tifffile.TiffFile(path) as tiff:
        first: Any = tiff.pages[0]
        entries = first.offset + 2 + 12 * len(first.tags)
        offset = first.offset
    data = bytearray(path.read_bytes())
    data[entries : entries + 4] = offset.to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(SlideError, match="directories form a circle"):
        open_tiff(str(path))


@pytest.mark.parametrize(
    ("software", "said"),
    [("Philips DP v1.0", "Philips"), ("MedScan 1", "Trestle")],
)
def test_layouts_that_only_openslide_knows_are_left_to_it(
    tmp_path: Path, software: str, said: str
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(128, 112), software=software, **TILES)
    with pytest.raises(SlideError, match=f"{said}.* whose tiles only OpenSlide places"):
        open_tiff(str(path))


def test_xml_that_defines_entities_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    text = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><OME>&b;</OME>'
    tifffile.imwrite(path, noise(128, 112), description=text, **TILES)
    with pytest.raises(SlideError, match="XML defines a document type"):
        open_tiff(str(path))


def test_identity_stays_with_the_content_and_changes_with_it(tmp_path: Path) -> None:
    one = write_tiff(tmp_path / "one.tif", noise(200, 200))
    copy, other = tmp_path / "copy.tif", write_tiff(tmp_path / "other.tif", noise(200, 200, 1))
    copy.write_bytes(one.read_bytes())
    identities = []
    for path in (one, copy, other):
        with closing(open_tiff(str(path))) as reader:
            identities.append(reader.metadata.identity)
    assert identities[0] == identities[1] != identities[2]


def test_the_icc_profile_is_given(shared_data: Path) -> None:
    path = str(shared_data / "slides" / "TCGA-CR-7395-01A-01-TS1.svs")
    with closing(open_tiff(path)) as direct, closing(open_record(path)) as record:
        profile = direct.icc_profile()
        assert profile is not None
        assert profile[36:40] == b"acsp"
        assert profile == record.icc_profile()


def test_what_is_no_tiff_keeps_the_contract_of_an_opener(tmp_path: Path) -> None:
    check_opener(partial(open_reader, reader="tiff"), tmp_path)
