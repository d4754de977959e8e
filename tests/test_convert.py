"""A slide converted to OME-Zarr: the same pixels, to us and to the tools of others."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import ngff_zarr
import numpy as np
import ome_zarr_models.v05
import pytest
import tifffile
import zarr
from PIL import ImageCms

import pipeline
from pipeline.batch.converting import convert
from pipeline.cli import main
from pipeline.clusters import cluster
from pipeline.errors import ConfigError, MemoryBudgetError, SlideError, StaleStoreError, StoreError
from pipeline.geometry import Box
from pipeline.plan.conversion import plan_conversion
from pipeline.readers.ome_zarr import OmeZarrReader, open_reader
from pipeline.results import open_results
from pipeline.slide import Slide, open_slide
from pipeline.store import look
from pipeline.store.group import FORMAT
from tests.contracts import check_reader, check_source
from tests.toys import Pixels, halved, noise, read_directly, spoil_first_tile, write_tiff

RGB = noise(700, 901)

pytestmark = pytest.mark.usefixtures("in_threads")


@pytest.fixture
def slide(tmp_path: Path) -> Slide:
    """A slide of two levels, its sides no multiple of anything."""
    return open_slide(write_tiff(tmp_path / "a.tif", RGB, mpp=(0.5, 0.25), levels=2))


@pytest.fixture(scope="module")
def demo(demo_slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo slide, with its label and macro, converted in blocks of 512."""
    path = tmp_path_factory.mktemp("convert") / "demo.zarr"
    with cluster("threads"):
        pipeline.convert(demo_slide, path, block=512)
    return path


def levels(path: Path) -> list[Pixels]:
    reader = open_reader(str(path))
    return [
        reader.read(number, Box(0, 0, *info.shape))
        for number, info in enumerate(reader.metadata.levels)
    ]


def mean_of_four(rgb: Pixels) -> Pixels:
    """Give the rounded mean of 2 x 2 pixels, the border repeated where it is odd."""
    even = np.pad(rgb, [(0, rgb.shape[0] % 2), (0, rgb.shape[1] % 2), (0, 0)], mode="edge")
    squares = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2, 3).astype(int)
    means: Pixels = ((squares.sum(axis=(1, 3)) + 2) // 4).astype(np.uint8)
    return means


@pytest.mark.parametrize(("block", "chunk"), [(256, 64), (512, None), (100, 50), (None, None)])
def test_a_pyramid_is_made_from_the_finest_level(
    block: int | None, chunk: int | None, slide: Slide, tmp_path: Path
) -> None:
    made = convert(slide, tmp_path / "a.zarr", block=block, chunk=chunk)
    assert made.complete
    expected = RGB
    stored = levels(tmp_path / "a.zarr")
    assert len(stored) == made.levels == 2
    for pixels in stored:
        np.testing.assert_array_equal(pixels, expected)
        expected = mean_of_four(expected)


def test_stored_levels_are_copied_as_they_are(slide: Slide, tmp_path: Path) -> None:
    convert(slide, tmp_path / "a.zarr", levels="stored", block=256)
    one, two = levels(tmp_path / "a.zarr")
    np.testing.assert_array_equal(one, RGB)
    np.testing.assert_array_equal(two, halved(RGB))
    converted = open_slide(tmp_path / "a.zarr", reader="zarr")
    assert [info.downsample for info in converted.metadata.levels] == [
        info.downsample for info in slide.metadata.levels
    ]


def test_any_resolution_is_that_of_the_slide_resampled(slide: Slide, tmp_path: Path) -> None:
    convert(slide, tmp_path / "a.zarr", mpp=0.8, block=256)
    virtual = slide.at(0.8)
    np.testing.assert_array_equal(
        levels(tmp_path / "a.zarr")[0], virtual.read(Box(0, 0, *virtual.plane))
    )
    mpp = open_slide(tmp_path / "a.zarr", reader="zarr").mpp
    assert mpp is not None
    assert (mpp.y, mpp.x) == pytest.approx((0.8, 0.8))


def test_a_slide_that_is_cropped_is_converted_cropped(slide: Slide, tmp_path: Path) -> None:
    part = replace(slide, crop=Box(101, 203, 400, 500))
    convert(part, tmp_path / "a.zarr", block=256)
    np.testing.assert_array_equal(levels(tmp_path / "a.zarr")[0], RGB[101:501, 203:703])
    with pytest.raises(StaleStoreError, match=r"slide\.crop"):
        convert(slide, tmp_path / "a.zarr", block=256)
    convert(part, tmp_path / "b.zarr", levels="stored", block=256)
    np.testing.assert_array_equal(levels(tmp_path / "b.zarr")[1], halved(RGB)[50:251, 101:352])
    # It begins one level-0 pixel before the crop, so its first centre is half of one before.
    ome: Any = zarr.open_group(str(tmp_path / "b.zarr"), mode="r").attrs["ome"]
    _, moved = ome["multiscales"][0]["datasets"][1]["coordinateTransformations"]
    assert moved["translation"] == [0.0, -0.25, -0.125]


def test_scales_and_positions_are_exact_micrometres(slide: Slide, tmp_path: Path) -> None:
    convert(slide, tmp_path / "a.zarr")
    ome: Any = zarr.open_group(str(tmp_path / "a.zarr"), mode="r").attrs["ome"]
    (image,) = ome["multiscales"]
    assert [axis.get("unit") for axis in image["axes"]] == [None, "micrometer", "micrometer"]
    assert [each["coordinateTransformations"] for each in image["datasets"]] == [
        [
            {"type": "scale", "scale": [1.0, 0.5, 0.25]},
            {"type": "translation", "translation": [0.0, 0.0, 0.0]},
        ],
        [
            {"type": "scale", "scale": [1.0, 1.0, 0.5]},
            {"type": "translation", "translation": [0.0, 0.25, 0.125]},
        ],
    ]
    channels = ome["omero"]["channels"]
    assert [channel["color"] for channel in channels] == ["FF0000", "00FF00", "0000FF"]


def test_a_shard_is_a_block_with_all_colours_in_a_chunk(slide: Slide, tmp_path: Path) -> None:
    convert(slide, tmp_path / "a.zarr", block=256, chunk=64)
    array = zarr.open_array(str(tmp_path / "a.zarr"), path="0", mode="r")
    assert (array.shards, array.chunks) == ((3, 256, 256), (3, 64, 64))
    objects = [path for path in (tmp_path / "a.zarr" / "0" / "c").rglob("*") if path.is_file()]
    assert len(objects) == 3 * 4
    token = plan_conversion(slide, str(tmp_path / "a.zarr"), block=256, chunk=64).outputs[0]
    check_source(token, background=255)


@pytest.mark.parametrize(
    ("tile", "block", "chunk"), [(240, 2160, 240), (256, 2048, 256), (512, 2048, 256)]
)
def test_blocks_are_fitted_to_the_tiles_of_the_file(
    tile: int, block: int, chunk: int, tmp_path: Path
) -> None:
    path = write_tiff(tmp_path / "a.tif", noise(600, 600), tile=tile - tile % 16)
    layout = plan_conversion(open_slide(path), "a.zarr").layout
    assert (layout.grids[0].cell, layout.chunk) == (block, chunk)


def test_other_tools_read_the_same_image(demo: Path, demo_slide: Path) -> None:
    image = ome_zarr_models.v05.Image.from_zarr(zarr.open_group(str(demo), mode="r"))
    (multiscale,) = image.ome_attributes.multiscales
    assert [axis.name for axis in multiscale.axes] == ["c", "y", "x"]
    pyramid = ngff_zarr.from_ngff_zarr(str(demo), validate=True)
    finest = np.asarray(pyramid.images[0].data)
    np.testing.assert_array_equal(finest.transpose(1, 2, 0), read_directly(demo_slide))
    assert pyramid.images[1].scale == {"c": 1.0, "y": 1.0, "x": 1.0}
    for name in ("label", "macro"):
        group = zarr.open_group(str(demo), path=f"associated/{name}", mode="r")
        ome_zarr_models.v05.Image.from_zarr(group)


def test_what_is_known_of_the_slide_goes_along(demo: Path, demo_slide: Path) -> None:
    reader = open_reader(str(demo))
    check_reader(reader)
    was, now = open_slide(demo_slide), open_slide(demo, reader="zarr")
    assert now.mpp == was.mpp
    assert now.metadata.vendor == was.metadata.vendor == "aperio"
    assert now.metadata.objective == was.metadata.objective
    assert now.properties.items() > was.properties.items()
    assert set(now.metadata.associated) == set(was.metadata.associated) >= {"label", "macro"}
    for name in was.metadata.associated:
        np.testing.assert_array_equal(now.associated_image(name), was.associated_image(name))
    seen = look(str(demo))
    assert seen is not None
    assert seen.attributes["slide"]["identity"] == was.metadata.identity
    assert seen.attributes["provenance"]["source"] == str(demo_slide)


def test_the_colour_profile_goes_along(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tifffile.imwrite(
        tmp_path / "a.tif", RGB, tile=(128, 128), photometric="rgb", iccprofile=profile
    )
    convert(tmp_path / "a.tif", tmp_path / "a.zarr")
    assert open_reader(str(tmp_path / "a.zarr")).icc_profile() == profile
    write_tiff(tmp_path / "b.tif", RGB)
    convert(tmp_path / "b.tif", tmp_path / "b.zarr")
    assert open_reader(str(tmp_path / "b.zarr")).icc_profile() is None


def test_without_a_scale_sizes_are_in_pixels_and_remain_unknown(tmp_path: Path) -> None:
    slide = open_slide(write_tiff(tmp_path / "a.tif", RGB, mpp=None))
    made = convert(slide, tmp_path / "a.zarr")
    assert any("um per pixel are not known" in note for note in made.notes)
    ome: Any = zarr.open_group(str(tmp_path / "a.zarr"), mode="r").attrs["ome"]
    assert all("unit" not in axis for axis in ome["multiscales"][0]["axes"])
    assert open_slide(tmp_path / "a.zarr", reader="zarr").mpp is None
    ome_zarr_models.v05.Image.from_zarr(zarr.open_group(str(tmp_path / "a.zarr"), mode="r"))
    with pytest.raises(SlideError, match="does not say its um per pixel"):
        convert(slide, tmp_path / "b.zarr", mpp=1.0)
    convert(slide.assuming(0.25), tmp_path / "c.zarr")
    assert str(open_slide(tmp_path / "c.zarr", reader="zarr").mpp) == str(slide.assuming(0.25).mpp)


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_every_scheduler_gives_the_same_store(scheduler: str, slide: Slide, tmp_path: Path) -> None:
    convert(slide, tmp_path / "a.zarr", block=256)
    with dask.config.set(scheduler=scheduler):
        convert(slide, tmp_path / "b.zarr", block=128)
    for one, other in zip(levels(tmp_path / "a.zarr"), levels(tmp_path / "b.zarr"), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", ["x2", "stored"])
def test_a_block_that_cannot_be_read_is_known_and_mended(kind: str, tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", RGB, levels=2)
    good = path.read_bytes()
    spoil_first_tile(path)
    # By one reader: which is chosen depends on what can be read.
    slide = open_slide(path, reader="openslide")
    made = convert(slide, tmp_path / "a.zarr", levels=kind, block=256)
    assert not made.complete
    assert list(made.failures) == [(0, (0, 0))]
    assert "level 0, rows 0:256, columns 0:256" in made.failures[0, (0, 0)]
    reader = open_reader(str(tmp_path / "a.zarr"))
    with pytest.raises(SlideError, match=r"a\.zarr: level 0, rows 0:256, .* convert the slide"):
        reader.read(0, Box(255, 255, 9, 9))
    np.testing.assert_array_equal(reader.read(0, Box(256, 0, 9, 9)), RGB[256:265, :9])
    if kind == "x2":  # what was made of it is no better
        with pytest.raises(SlideError, match="level 1, rows 0:128"):
            reader.read(1, Box(100, 100, 9, 9))
    else:
        np.testing.assert_array_equal(reader.read(1, Box(0, 0, 9, 9)), halved(RGB)[:9, :9])
    path.write_bytes(good)
    slide = open_slide(path, reader="openslide")
    mended = convert(slide, tmp_path / "a.zarr", levels=kind, block=256)
    assert (mended.complete, mended.computed) == (True, 1)
    np.testing.assert_array_equal(levels(tmp_path / "a.zarr")[0], RGB)
    coarse = mean_of_four(RGB) if kind == "x2" else halved(RGB)
    np.testing.assert_array_equal(levels(tmp_path / "a.zarr")[1], coarse)


def test_an_associated_image_that_cannot_be_read_is_left_out_and_said(
    demo_slide: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.svs"
    data = bytearray(demo_slide.read_bytes())
    with tifffile.TiffFile(demo_slide) as tiff:
        label = next(page for page in tiff.pages if "label" in page.aspage().description)
        at = label.dataoffsets[0]
    data[at : at + 40] = bytes(40)
    path.write_bytes(data)
    made = convert(path, tmp_path / "a.zarr")
    assert made.complete
    assert any("associated image label is left out: " in note for note in made.notes)
    assert "label" not in open_reader(str(tmp_path / "a.zarr")).metadata.associated


def test_a_store_of_other_settings_or_another_slide_is_refused(
    slide: Slide, tmp_path: Path
) -> None:
    convert(slide, tmp_path / "a.zarr", block=256)
    for options, name in [
        ({"block": 512}, "image.block = 256, now image.block = 512"),
        ({"block": 256, "levels": "stored"}, "image.levels"),
        ({"block": 256, "chunk": 32}, "image.chunk"),
        ({"block": 256, "mpp": 2.0}, "image.scale"),
    ]:
        with pytest.raises(StaleStoreError, match=name):
            convert(slide, tmp_path / "a.zarr", **options)  # type: ignore[arg-type]
    other = open_slide(write_tiff(tmp_path / "b.tif", noise(700, 901, 1), mpp=(0.5, 0.25)))
    with pytest.raises(StaleStoreError, match=r"slide\.identity"):
        convert(other, tmp_path / "a.zarr", block=256)
    assert convert(slide, tmp_path / "a.zarr", block=256).computed == 0


@pytest.mark.parametrize("what", ["file", "folder", "zarr group", "slide", "results"])
def test_whatever_else_is_at_the_place_is_left_alone(
    what: str, slide: Slide, tmp_path: Path
) -> None:
    out = tmp_path / "out.zarr"
    if what == "file":
        out.write_text("mine")
    elif what == "folder":
        out.mkdir()
        (out / "mine.txt").write_text("mine")
    else:
        attributes: dict[str, dict[str, Any]] = {
            "zarr group": {},
            "slide": {"ome": {"multiscales": []}},
            "results": {"wsi_pipeline": {"format": FORMAT, "settings": {"a": 1}}},
        }
        zarr.open_group(str(out), mode="w", attributes=attributes[what])
    before = {path: path.read_bytes() for path in [out, *out.rglob("*")] if path.is_file()}
    with pytest.raises(StoreError, match=r"out\.zarr: .*move it away"):
        convert(slide, out)
    assert {p: p.read_bytes() for p in [out, *out.rglob("*")] if p.is_file()} == before


def test_a_converted_slide_among_results_is_no_result(slide: Slide, tmp_path: Path) -> None:
    convert(slide, tmp_path / "a.zarr")
    with pytest.raises(StoreError, match="holds no results"):
        open_results(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": "x3"}, "levels: 'x3'; it is x2 or stored"),
        ({"levels": "stored", "mpp": 1.0}, "the stored ones have no 1 um/px"),
        ({"block": 500, "chunk": 256}, "chunk: 256 does not divide a block of 500"),
        ({"block": 0}, "at least 1"),
        ({"mpp": -1.0}, "mpp"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(
    options: dict[str, Any], message: str, slide: Slide, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        convert(slide, tmp_path / "a.zarr", **options)
    assert not (tmp_path / "a.zarr").exists()


def test_blocks_too_large_for_a_worker_are_refused(slide: Slide, tmp_path: Path) -> None:
    with pytest.raises(MemoryBudgetError, match="predicted to need"):
        convert(slide, tmp_path / "a.zarr", block=2**17)
    assert not (tmp_path / "a.zarr").exists()


def test_no_more_memory_is_taken_than_is_predicted(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, noise(4200, 4200), tile=(512, 512), photometric="rgb")
    code = (
        "import re, sys, pipeline\n"
        "with pipeline.cluster('threads', workers=1):\n"
        "    pipeline.convert(sys.argv[1], sys.argv[2])\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "a.zarr")]
    peak_kib = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert peak_kib * 1024 <= plan_conversion(open_slide(path), "a.zarr").worker_bytes(threads=1)


def run_command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        main(["convert", *map(str, arguments)])
    return int(left.value.code or 0)


def test_it_says_where_the_image_is(
    demo_slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.zarr"
    assert run_command(demo_slide, out, "--cluster", "local", "--workers", 2) == 0
    assert f"{out}: done: 3 levels, 1 blocks read now, 0 failed" in capsys.readouterr().out
    np.testing.assert_array_equal(levels(out)[0], read_directly(demo_slide))
    assert run_command(demo_slide, out) == 0
    assert "0 blocks read now" in capsys.readouterr().out


def test_what_fails_is_named_and_the_exit_code_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil_first_tile(write_tiff(tmp_path / "a.tif", RGB, mpp=None))
    assert run_command(tmp_path / "a.tif", tmp_path / "a.zarr", "--block", 256) == 1
    said = capsys.readouterr().out
    assert "note: its um per pixel are not known" in said
    assert "partial: 2 levels, 12 blocks read now, 1 failed" in said
    assert "level 0, block (0, 0): " in said
    assert run_command(tmp_path / "a.tif", tmp_path / "a.zarr", "--block", 128) == 2
    assert "image.block = 256" in capsys.readouterr().err
    assert run_command(tmp_path / "a.tif", tmp_path / "b.zarr", "--assume-mpp", 0.5) == 1
    assert "not known" not in capsys.readouterr().out


def test_a_full_disk_ends_it_with_one_line_and_it_goes_on_later(
    demo_slide: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a.zarr"
    command = f"ulimit -f 200; exec {sys.executable} -m pipeline convert {demo_slide} {out}"
    full = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (full.returncode, full.stdout) == (2, "")
    (line,) = full.stderr.splitlines()
    assert f"error: {out}/0: cannot be read or written: " in line
    assert run_command(demo_slide, out) == 0
    np.testing.assert_array_equal(levels(out)[0], read_directly(demo_slide))


def test_real_slides_come_through_with_every_pixel(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "slides" / "CMU-1-Small-Region.svs"
    convert(path, tmp_path / "a.zarr")
    np.testing.assert_array_equal(levels(tmp_path / "a.zarr")[0], read_directly(path))
    path = shared_data / "slides" / "TCGA-CR-7395-01A-01-TS1.svs"
    convert(path, tmp_path / "b.zarr", levels="stored")
    was, now = open_slide(path), open_slide(tmp_path / "b.zarr", reader="zarr")
    assert [i.shape for i in now.metadata.levels] == [i.shape for i in was.metadata.levels]
    assert [i.downsample for i in now.metadata.levels] == [
        i.downsample for i in was.metadata.levels
    ]
    box = Box(700, 900, 600, 500)
    for number in range(2):
        np.testing.assert_array_equal(now.level(number).read(box), was.level(number).read(box))
    reader: OmeZarrReader = open_reader(str(tmp_path / "b.zarr"))
    assert len(reader.icc_profile() or b"") == 3144
