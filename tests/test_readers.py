"""The OpenSlide reader against files whose every pixel is known."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pipeline.slide.level
from pipeline import open_slide
from pipeline.errors import SlideError
from pipeline.geometry import Box
from pipeline.readers import Mpp, Reader, open_reader
from pipeline.readers.openslide import OpenSlideReader, _describe
from pipeline.slide.level import slides
from tests.contracts import check_opener, check_reader, check_source
from tests.toys import halved, noise, read_directly, spoil_first_tile, write_tiff

CUT = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def box_in(data: st.DataObject, shape: tuple[int, int]) -> Box:
    """Draw a box inside ``shape``."""
    (y, height), (x, width) = (
        (at, data.draw(st.integers(1, n - at)))
        for n in shape
        for at in [data.draw(st.integers(0, n - 1))]
    )
    return Box(y, x, height, width)


@pytest.fixture(scope="module")
def exact_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exact") / "exact.tif"
    return write_tiff(path, noise(600, 800), levels=3, mpp=(0.5, 0.25))


@pytest.fixture(scope="module")
def uneven_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Levels of 1 : 1.4995 and 1 : 3.34, the first wider than one anchor."""
    path = tmp_path_factory.mktemp("uneven") / "uneven.tif"
    return write_tiff(path, noise(700, 1600), levels=[noise(467, 1067, 1), noise(210, 479, 2)])


@pytest.fixture(scope="module")
def exact(exact_path: Path) -> Iterator[Reader]:
    reader = open_reader(str(exact_path), "openslide")
    yield reader
    reader.close()


@pytest.fixture(scope="module")
def uneven(uneven_path: Path) -> Iterator[Reader]:
    reader = open_reader(str(uneven_path), "openslide")
    yield reader
    reader.close()


def whole(reader: Reader, level: int) -> Box:
    return Box(0, 0, *reader.metadata.levels[level].shape)


def write_broken(path: Path) -> Path:
    """Write a slide of 3 x 4 tiles whose first tile cannot be decoded."""
    return spoil_first_tile(write_tiff(path, noise(300, 400)))


FIRST_TILE, LAST_TILE = Box(0, 0, 20, 20), Box(270, 390, 20, 10)


def test_every_level_has_the_files_own_pixels(exact: Reader) -> None:
    expected = noise(600, 800)
    for level in range(3):
        np.testing.assert_array_equal(exact.read(level, whole(exact, level)), expected)
        expected = halved(expected)


@CUT
@given(st.data())
def test_a_box_of_a_whole_numbered_level_is_a_cut_of_the_file(
    exact: Reader, data: st.DataObject
) -> None:
    level = data.draw(st.integers(0, 2))
    box = box_in(data, exact.metadata.levels[level].shape)
    expected = noise(600, 800)
    for _ in range(level):
        expected = halved(expected)
    np.testing.assert_array_equal(exact.read(level, box), expected[box.within(whole(exact, level))])


@CUT
@given(st.data())
def test_a_pixel_is_the_same_in_whatever_box_it_is_read(
    uneven: Reader, data: st.DataObject
) -> None:
    level = data.draw(st.integers(0, 2))
    box = box_in(data, uneven.metadata.levels[level].shape)
    everything = whole(uneven, level)
    together = uneven.read(level, everything)
    np.testing.assert_array_equal(uneven.read(level, box), together[box.within(everything)])


def test_openslide_itself_gives_other_pixels_for_other_cuts(uneven_path: Path) -> None:
    """What the test above guards against is real, and this file shows it."""
    columns = read_directly(uneven_path, 1)[:, 600:700]
    left = round(600 * 1600 / 1067)
    alone = read_directly(uneven_path, 1, (left, 0, 100, 467))
    assert (columns != alone).any()


def test_an_uneven_level_has_the_files_own_pixels(uneven: Reader) -> None:
    """Where its anchors reach, and they reach all of these."""
    for level, stored in ((1, noise(467, 1067, 1)), (2, noise(210, 479, 2))):
        np.testing.assert_array_equal(uneven.read(level, whole(uneven, level)), stored)


def test_an_empty_box_has_no_pixels(exact: Reader) -> None:
    assert exact.read(0, Box(5, 5, 0, 10)).shape == (0, 10, 3)


def test_what_was_not_scanned_shows_the_background(
    exact_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond its edge OpenSlide gives alpha 0, as it does where a scanner left tiles out."""
    given_ = openslide.OpenSlide(exact_path)
    coloured = {**given_.properties, "openslide.background-color": "0C80FF"}
    monkeypatch.setattr(openslide.OpenSlide, "properties", property(lambda _: coloured))
    reader = OpenSlideReader(str(exact_path), given_)
    region = reader.read(0, Box(590, 790, 20, 20))
    np.testing.assert_array_equal(region[:10, :10], noise(600, 800)[590:, 790:])
    assert (region[10:] == (12, 128, 255)).all()
    assert (region[:, 10:] == (12, 128, 255)).all()
    reader.close()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (Path.exists, "no such file; check the path"),
        (Path.mkdir, "is a directory without DICOM files .* name the slide's own file"),
        (lambda path: path.write_text("hello"), "not a slide .* check that the file is whole"),
        (lambda path: path.write_bytes(b""), "not a slide .* check that the file is whole"),
    ],
    ids=["missing", "directory", "text", "empty"],
)
def test_what_cannot_be_opened_is_named_with_a_remedy(
    tmp_path: Path, make: Callable[[Path], object], said: str
) -> None:
    path = tmp_path / "a.svs"
    make(path)
    with pytest.raises(SlideError, match=f"{path}: .*{said}"):
        open_reader(str(path), "openslide")


@pytest.mark.parametrize("share", [0.05, 0.5, 0.999])
def test_a_truncated_slide_is_an_error_wherever_it_ends(tmp_path: Path, share: float) -> None:
    path = write_tiff(tmp_path / "a.tif", noise(300, 400))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(SlideError, match=f"{path}: truncated: .*; copy the file again"):
        open_slide(path).levels[0].compute(scheduler="synchronous")


def test_an_unknown_reader_is_named_with_the_known_ones(exact_path: Path) -> None:
    with pytest.raises(SlideError, match=r"unknown reader 'tea'; known: openslide"):
        open_reader(str(exact_path), "tea")


def test_pixels_that_cannot_be_decoded_are_an_error_that_says_where(tmp_path: Path) -> None:
    path = write_broken(tmp_path / "a.tif")
    level = open_slide(path).level(0)
    with pytest.raises(SlideError, match=rf"{path}: cannot read level 0, rows 0:20.*;.*whole"):
        level.read(FIRST_TILE)


def test_after_an_error_the_next_read_gets_a_new_handle(tmp_path: Path) -> None:
    """OpenSlide's errors latch: the old handle could read nothing any more."""
    level = open_slide(write_broken(tmp_path / "a.tif")).level(0)
    np.testing.assert_array_equal(level.read(LAST_TILE), noise(300, 400)[270:290, 390:])
    for _ in range(2):
        with pytest.raises(SlideError):
            level.read(FIRST_TILE)
        assert level.slide not in list(slides)
        np.testing.assert_array_equal(level.read(LAST_TILE), noise(300, 400)[270:290, 390:])


def test_a_handle_that_has_failed_still_raises_slide_errors(tmp_path: Path) -> None:
    """Another thread may hold the handle while it fails; what it sees must be retried too."""
    reader = open_reader(str(write_broken(tmp_path / "a.tif")), "openslide")
    for box in (FIRST_TILE, LAST_TILE):
        with pytest.raises(SlideError):
            reader.read(0, box)
    reader.close()


def test_an_error_in_one_thread_does_not_fail_what_another_reads(tmp_path: Path) -> None:
    """Threads share a handle, and an error spoils it for all of them."""
    level = open_slide(write_broken(tmp_path / "a.tif")).level(0)
    with slides.using(level.slide) as shared:
        with pytest.raises(SlideError):
            shared.read(0, FIRST_TILE)
        np.testing.assert_array_equal(level.read(LAST_TILE), noise(300, 400)[270:290, 390:])


def test_metadata_is_what_the_file_says(exact: Reader) -> None:
    meta = exact.metadata
    assert meta.vendor == "generic-tiff"
    assert [level.shape for level in meta.levels] == [(600, 800), (300, 400), (150, 200)]
    assert [level.downsample for level in meta.levels] == [(1, 1), (2, 2), (4, 4)]
    assert [level.tile for level in meta.levels] == [(128, 128)] * 3
    assert meta.mpp == Mpp(y=0.5, x=0.25, source="header")
    assert meta.objective is None
    assert meta.bounds is None
    assert meta.background == (255, 255, 255)
    assert meta.associated == ()
    assert dict(meta.properties)["openslide.vendor"] == "generic-tiff"


def test_tiles_larger_than_a_level_are_cut_to_it(tmp_path: Path) -> None:
    reader = open_reader(str(write_tiff(tmp_path / "a.tif", noise(100, 300))), "openslide")
    assert reader.metadata.levels[0].tile == (100, 128)
    reader.close()


def test_the_demo_says_its_objective_and_its_pictures(demo_slide: Path) -> None:
    reader = open_reader(str(demo_slide), "openslide")
    assert reader.metadata.vendor == "aperio"
    assert reader.metadata.objective == 20
    assert reader.metadata.mpp == Mpp(0.5, 0.5, "header")
    # OpenSlide names the thumbnail of a DICOM since 4.0.1.
    assert {"label", "macro"} <= set(reader.metadata.associated)
    label = reader.associated_image("label")
    with openslide.OpenSlide(demo_slide) as slide:
        expected = np.asarray(slide.associated_images["label"].convert("RGB"))
    np.testing.assert_array_equal(label, expected)
    with pytest.raises(SlideError, match="no associated image 'mug'; it has: label, macro, thumb"):
        reader.associated_image("mug")
    reader.close()


def test_no_scale_is_made_up(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", noise(100, 100), mpp=None)
    reader = open_reader(str(path), "openslide")
    assert reader.metadata.mpp is None
    reader.close()


@pytest.mark.parametrize("name", ["exact_path", "uneven_path", "demo_slide"])
def test_openslide_keeps_the_contract_of_a_reader(
    name: str, request: pytest.FixtureRequest
) -> None:
    reader = open_reader(str(request.getfixturevalue(name)), "openslide")
    check_reader(reader)
    reader.close()


def test_what_is_no_slide_keeps_the_contract_of_an_opener(tmp_path: Path) -> None:
    check_opener(partial(open_reader, reader="openslide"), tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "CMU-1-Small-Region.svs",
        "CMU-1-Small-Region-dicom",
        "TCGA-CR-7395-01A-01-TS1.svs",
        "test3-DAPI-2-(387).ndpi",
        pytest.param("erosion-HE.svs", marks=pytest.mark.slow),
    ],
)
def test_real_slides_keep_the_contract_of_a_reader(name: str, shared_data: Path) -> None:
    path = shared_data / "slides" / name
    if path.is_dir():
        path = min(path.glob("*.dcm"))
    reader = open_reader(str(path), "openslide")
    check_reader(reader)
    reader.close()


def test_a_property_whose_name_is_not_utf_8_is_left_out_and_the_others_are_there(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.svs"
    said = b"Aperio Image Library v1\r\n300x200|MPP = 0.5|W\xe4rme = 1"  # as Latin-1 has it
    tifffile.imwrite(
        path,
        noise(200, 300),
        description=said,
        metadata=None,
        tile=(256, 256),
        photometric="rgb",
    )
    with openslide.OpenSlide(path) as slide:
        assert "aperio.W\N{REPLACEMENT CHARACTER}rme" in list(slide.properties)
    reader = open_reader(str(path), "openslide")
    told = dict(reader.metadata.properties)
    assert told["aperio.MPP"] == "0.5"
    assert not [name for name in told if "rme" in name]
    check_reader(reader)


@pytest.mark.parametrize("level", [0, 1])
def test_a_level_keeps_the_contract_of_a_source(level: int, demo_slide: Path) -> None:
    source = open_slide(demo_slide).level(level)
    check_source(source, background=source.background)


def test_slides_without_a_hash_of_openslides_differ_by_their_content(tmp_path: Path) -> None:
    identities = []
    for seed in (0, 1):
        path = tmp_path / f"{seed}.tif"
        tifffile.imwrite(path, noise(2048, 2048, seed), tile=(256, 256), photometric="rgb")
        with openslide.OpenSlide(path) as slide:
            assert openslide.PROPERTY_NAME_QUICKHASH1 not in slide.properties
            identities.append(_describe(str(path), slide).identity)
    assert identities[0] != identities[1]


def test_identity_stays_with_the_content_and_changes_with_it(tmp_path: Path) -> None:
    one = write_tiff(tmp_path / "one.tif", noise(200, 200))
    copy, other = tmp_path / "copy.tif", write_tiff(tmp_path / "other.tif", noise(200, 200, 1))
    copy.write_bytes(one.read_bytes())
    identities = []
    for path in (one, copy, other):
        with openslide.OpenSlide(path) as slide:
            identities.append(_describe(str(path), slide).identity)
    assert identities[0] == identities[1] != identities[2]


def test_threads_share_one_handle_and_get_right_pixels(
    exact_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slides.clear()
    opened: list[str] = []

    def counted(path: str, reader: str) -> Reader:
        opened.append(path)
        return open_reader(path, reader)

    monkeypatch.setattr(pipeline.slide.level, "open_reader", counted)
    level, expected = open_slide(exact_path).level(0), noise(600, 800)
    together = threading.Barrier(2)

    def read(seed: int) -> bool:
        rng = np.random.default_rng(seed)
        together.wait()
        for y, x in rng.integers(0, (500, 700), (60, 2)).tolist():
            if (level.read(Box(y, x, 100, 100)) != expected[y : y + 100, x : x + 100]).any():
                return False
        return True

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(read, range(2))) == [True, True]
    assert opened == [str(exact_path)]
    slides.clear()


def test_real_slides_are_the_same_however_they_are_cut(shared_data: Path) -> None:
    """TCGA's level 1 is 1 : 2.0005; read piece by piece OpenSlide changes a third of it."""
    path = shared_data / "slides" / "TCGA-CR-7395-01A-01-TS1.svs"
    reader = open_reader(str(path), "openslide")
    together = reader.read(1, Box(700, 900, 500, 500))
    pieces = [
        np.concatenate([reader.read(1, Box(y, x, 100, 250)) for x in (900, 1150)], axis=1)
        for y in range(700, 1200, 100)
    ]
    np.testing.assert_array_equal(np.concatenate(pieces), together)
    reader.close()


def test_a_real_unreadable_tile_is_an_error_and_not_white(shared_data: Path) -> None:
    path = shared_data / "slides" / "fixtures" / "unreadable.svs"
    with pytest.raises(SlideError, match=r"unreadable.svs: cannot read level 0"):
        open_slide(path).levels[0].compute(scheduler="synchronous")


def test_an_icc_profile_is_the_files_own(shared_data: Path, exact: Reader) -> None:
    assert exact.icc_profile() is None
    path = shared_data / "slides" / "TCGA-CR-7395-01A-01-TS1.svs"
    reader = open_reader(str(path), "openslide")
    with tifffile.TiffFile(path) as tiff:
        assert reader.icc_profile() == tiff.pages.first.tags["InterColorProfile"].value
    reader.close()


def test_a_folder_of_dicom_files_is_a_slide(shared_data: Path) -> None:
    folder = shared_data / "slides" / "CMU-1-Small-Region-dicom"
    reader = open_reader(str(folder), "openslide")
    # OpenSlide names the thumbnail of a DICOM since 4.0.1.
    assert {"label", "macro"} <= set(reader.metadata.associated)
    box = Box(0, 0, *reader.metadata.levels[0].shape)
    pixels = reader.read(0, box)
    reader.close()
    by_file = [open_reader(str(path), "openslide") for path in folder.glob("*.dcm")]
    assert {one.metadata for one in by_file} == {reader.metadata}
    for one in by_file:
        one.close()
    svs = open_reader(str(shared_data / "slides" / "CMU-1-Small-Region.svs"), "openslide")
    # Compressed a second time, and so not the same to the last bit; a pixel off is twice that.
    assert np.abs(pixels.astype(int) - svs.read(0, box)).mean() < 5
    svs.close()


def test_a_label_of_absurd_size_is_refused_before_it_is_allocated(
    demo_slide: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.svs"
    path.write_bytes(demo_slide.read_bytes())
    with tifffile.TiffFile(path, mode="r+") as tiff:
        label = next(page for page in tiff.pages if "label" in page.aspage().description)
        for name in ("ImageWidth", "ImageLength"):
            label.aspage().tags[name].overwrite(4_000_000, dtype="I")
    reader = open_reader(str(path), "openslide")
    with pytest.raises(SlideError, match=f"{path}: associated image 'label': 4000000 x 4000000 px"):
        reader.associated_image("label")
    reader.close()


def test_a_real_truncated_dicom_file_is_an_error(shared_data: Path, tmp_path: Path) -> None:
    given_ = max((shared_data / "slides" / "CMU-1-Small-Region-dicom").iterdir(), key=_bytes)
    path = tmp_path / "a.dcm"
    for share in (0.001, 0.01, 0.5, 0.99):
        path.write_bytes(given_.read_bytes()[: int(_bytes(given_) * share)])
        with pytest.raises(SlideError, match=str(path)):
            open_slide(path).levels[0].compute(scheduler="synchronous")


def _bytes(path: Path) -> int:
    return path.stat().st_size
