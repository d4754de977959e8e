"""DICOM slides that OpenSlide refuses, through wsidicom."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import open_slide
from pipeline.errors import SlideError
from pipeline.geometry import Box
from pipeline.readers import LevelInfo, Mpp, Reader, open_reader
from pipeline.readers.dicom import is_dicom
from tests.contracts import check_opener, check_reader
from tests.dicoms import PLAIN, REFUSED, write_dicom
from tests.profiles import profile
from tests.toys import halved, noise

LEVELS = [noise(300, 401), halved(noise(300, 401))]
LABEL = noise(50, 60, 1)


def opened(folder: Path, **changes: Any) -> Reader:
    write_dicom(folder, LEVELS, **changes)
    return open_reader(str(folder), "dicom")


def whole(reader: Reader, level: int) -> np.ndarray:
    return reader.read(level, Box(0, 0, *reader.metadata.levels[level].shape))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dicom") / "slide"
    write_dicom(folder, LEVELS, icc=profile())
    write_dicom(folder, [LABEL], kind="LABEL")
    write_dicom(folder, [noise(70, 200, 2)], kind="OVERVIEW")
    write_dicom(folder, [noise(90, 120, 3)], kind="THUMBNAIL")
    return folder


@pytest.fixture(scope="module")
def reader(folder: Path) -> Reader:
    return open_reader(str(folder), "dicom")


def test_openslide_refuses_what_these_tests_are_about(folder: Path) -> None:
    with pytest.raises(SlideError, match="Unsupported transfer syntax"):
        open_reader(str(folder), "openslide")


def test_every_level_has_the_files_own_pixels(reader: Reader) -> None:
    for number, pixels in enumerate(LEVELS):
        np.testing.assert_array_equal(whole(reader, number), pixels)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_a_box_is_a_cut_of_the_level(reader: Reader, data: st.DataObject) -> None:
    level = data.draw(st.integers(0, 1))
    height, width = reader.metadata.levels[level].shape
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    box = Box(y, x, data.draw(st.integers(1, height - y)), data.draw(st.integers(1, width - x)))
    expected = LEVELS[level][y : box.y_stop, x : box.x_stop]
    np.testing.assert_array_equal(reader.read(level, box), expected)


def test_it_keeps_the_contract_of_a_reader(reader: Reader) -> None:
    check_reader(reader)


def test_it_keeps_the_contract_of_an_opener(tmp_path: Path) -> None:
    check_opener(lambda path: open_reader(path, "dicom"), tmp_path)


def test_metadata_are_what_the_files_say(reader: Reader) -> None:
    meta = reader.metadata
    assert meta.vendor == "dicom"
    assert meta.levels == (
        LevelInfo((300, 401), (128, 128), (1.0, 1.0)),
        LevelInfo((150, 200), (128, 128), (2.0, 2.0)),
    )
    assert meta.mpp == Mpp(0.5, 0.5, "header")
    assert meta.objective == 20
    assert meta.background == (255, 255, 255)
    assert meta.associated == ("label", "macro", "thumbnail")
    assert dict(meta.properties)["dicom.Manufacturer"] == "wsi-pipeline"
    assert not any("Patient" in name for name, _ in meta.properties)


def test_associated_images_are_the_files_own(reader: Reader) -> None:
    np.testing.assert_array_equal(reader.associated_image("label"), LABEL)
    np.testing.assert_array_equal(reader.associated_image("macro"), noise(70, 200, 2))
    np.testing.assert_array_equal(reader.associated_image("thumbnail"), noise(90, 120, 3))


def test_the_icc_profile_is_the_files_own(reader: Reader, tmp_path: Path) -> None:
    assert (reader.icc_profile() or b"").rstrip(b"\0") == profile().rstrip(b"\0")
    assert opened(tmp_path / "none").icc_profile() is None


def test_any_file_of_the_series_is_the_slide(folder: Path, reader: Reader) -> None:
    for path in folder.iterdir():
        assert is_dicom(str(path))
        by_file = open_reader(str(path), "dicom")
        assert by_file.metadata == reader.metadata
        by_file.close()


def test_files_of_another_series_beside_it_are_left_alone(tmp_path: Path) -> None:
    (first, *_), other = write_dicom(tmp_path, LEVELS), "1.2.3"
    write_dicom(tmp_path / "other", [noise(99, 99)], series=other)[0].rename(tmp_path / "z.dcm")
    one = open_reader(str(first), "dicom")
    assert [level.shape for level in one.metadata.levels] == [(300, 401), (150, 200)]
    assert open_reader(str(tmp_path / "z.dcm"), "dicom").metadata.levels[0].shape == (99, 99)


def test_openslide_and_wsidicom_read_the_same(tmp_path: Path) -> None:
    by_wsidicom = opened(tmp_path, syntax=PLAIN, left_out=[(1, 1)])
    by_openslide = open_reader(str(tmp_path), "openslide")
    for name in ("levels", "mpp", "objective", "background", "associated"):
        assert getattr(by_openslide.metadata, name) == getattr(by_wsidicom.metadata, name), name
    for level in range(2):
        np.testing.assert_array_equal(whole(by_openslide, level), whole(by_wsidicom, level))


def test_tiles_that_a_sparse_series_leaves_out_are_background(tmp_path: Path) -> None:
    pixels = whole(opened(tmp_path, left_out=[(1, 1), (0, 0)]), 0)
    assert (pixels[:128, :128] == 255).all()
    assert (pixels[128:256, 128:256] == 255).all()
    np.testing.assert_array_equal(pixels[:128, 128:], LEVELS[0][:128, 128:])


def test_a_level_may_be_in_several_files(tmp_path: Path) -> None:
    reader = opened(tmp_path, parts=3)
    assert len(list(tmp_path.iterdir())) == 5
    np.testing.assert_array_equal(whole(reader, 0), LEVELS[0])
    np.testing.assert_array_equal(whole(reader, 1), LEVELS[1])


def test_a_level_may_be_of_any_downsample(tmp_path: Path) -> None:
    third = LEVELS[0][:100, :133]
    write_dicom(tmp_path, [LEVELS[0], third])
    reader = open_reader(str(tmp_path), "dicom")
    assert reader.metadata.levels[1].downsample == (3.0, 3.0)
    np.testing.assert_array_equal(whole(reader, 1), third)


def test_levels_may_have_tiles_of_other_sizes(tmp_path: Path) -> None:
    reader = opened(tmp_path, tile=(128, 64))
    assert [level.tile for level in reader.metadata.levels] == [(128, 128), (64, 64)]
    np.testing.assert_array_equal(whole(reader, 1), LEVELS[1])


def test_grey_slides_are_read_as_grey_on_black(tmp_path: Path) -> None:
    grey = LEVELS[0][..., :1]
    write_dicom(tmp_path, [grey], left_out=[(0, 0)])
    reader = open_reader(str(tmp_path), "dicom")
    assert reader.metadata.background == (0, 0, 0)
    pixels = whole(reader, 0)
    np.testing.assert_array_equal(pixels[128:], np.repeat(grey[128:], 3, axis=2))
    assert (pixels[:128, :128] == 0).all()


def test_the_chooser_takes_wsidicom_where_openslide_refuses(folder: Path, tmp_path: Path) -> None:
    for path in (folder, min(folder.iterdir())):
        slide = open_slide(path)
        assert slide.ref.reader == "dicom"
        assert slide.shape == (300, 401)
        region = slide.levels[0][250:350, 100:200].compute(scheduler="synchronous")
        np.testing.assert_array_equal(region, LEVELS[0][250:, 100:200])
    write_dicom(tmp_path, LEVELS, syntax=PLAIN)
    assert open_slide(tmp_path).ref.reader == "openslide"


def test_without_the_extra_it_is_said_how_to_get_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "pipeline.readers.wsidicom", raising=False)
    monkeypatch.setitem(sys.modules, "wsidicom", None)
    with pytest.raises(SlideError, match=rf"{folder}: .*pip install 'wsi-pipeline\[dicom\]'"):
        open_reader(str(folder), "dicom")
    with pytest.raises(SlideError, match=r"pip install 'wsi-pipeline\[dicom\]'"):
        open_slide(folder)


def test_a_missing_finest_level_is_an_error(tmp_path: Path) -> None:
    for name, syntax in (("dicom", REFUSED), ("openslide", PLAIN)):
        finest, _ = write_dicom(tmp_path / name, LEVELS, syntax=syntax)
        finest.unlink()
        with pytest.raises(SlideError, match=rf"{name}: .*whose file is not there .* copy all"):
            open_reader(str(tmp_path / name), name)


def test_a_missing_part_of_a_level_is_an_error(tmp_path: Path) -> None:
    files = write_dicom(tmp_path, LEVELS, parts=3)
    files[1].unlink()
    with pytest.raises(SlideError, match=rf"{tmp_path}: its level of 401 x 300 px has 8 of 12 til"):
        open_reader(str(tmp_path), "dicom")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.005, 0.01, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("level", [0, 1])
def test_a_truncated_file_is_an_error_wherever_it_ends(
    tmp_path: Path, share: float, level: int
) -> None:
    path = write_dicom(tmp_path, LEVELS)[level]
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(SlideError, match=str(tmp_path)):
        whole(open_reader(str(path), "dicom"), level)


def test_a_tile_that_cannot_be_decoded_is_an_error_that_says_where(tmp_path: Path) -> None:
    path, _ = write_dicom(tmp_path, LEVELS)
    spoilt = bytearray(path.read_bytes())
    at = spoilt.index(b"\xff\xd8\xff")  # where the first tile begins
    spoilt[at + 100 : at + 1100] = bytes(1000)
    path.write_bytes(spoilt)
    reader = open_reader(str(tmp_path), "dicom")
    with pytest.raises(SlideError, match=rf"{tmp_path}: cannot read level 0, rows 0:9.*; check"):
        reader.read(0, Box(0, 0, 9, 9))
    np.testing.assert_array_equal(reader.read(0, Box(0, 200, 9, 9)), LEVELS[0][:9, 200:209])


def test_a_tile_that_says_it_is_larger_than_a_tile_is_refused_before_it_is_decoded(
    tmp_path: Path,
) -> None:
    path, _ = write_dicom(tmp_path, LEVELS)
    spoilt = bytearray(path.read_bytes())
    at = spoilt.index(b"\xff\xf7") + 5  # the first frame's rows and columns
    assert spoilt[at : at + 4] == b"\0\x80\0\x80"
    spoilt[at : at + 4] = b"\xff\xff" * 2  # 12 GB
    path.write_bytes(spoilt)
    reader = open_reader(str(tmp_path), "dicom")
    with pytest.raises(SlideError, match="it is 65535 x 65535 px, where 128 x 128 are; check"):
        reader.read(0, Box(0, 0, 9, 9))
    np.testing.assert_array_equal(reader.read(0, Box(0, 200, 9, 9)), LEVELS[0][:9, 200:209])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"BitsStored": 16, "BitsAllocated": 16}, "16 bits per sample; 8 can be read"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colours are PALETTE COLOR"),
        ({"Rows": 60_000, "Columns": 60_000}, "in tiles of 60000 x 60000 px"),
        ({"TotalPixelMatrixRows": 10**6, "TotalPixelMatrixColumns": 10**6}, "has 12 of 61042969"),
        ({"TotalPixelMatrixRows": 0}, "a level of 401 x 0 px"),
        ({"TotalPixelMatrixColumns": None}, "is no DICOM file that can be read"),
    ],
)
def test_headers_that_cannot_be_meant_are_refused(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    write_dicom(tmp_path, LEVELS[:1], **changes)
    with pytest.raises(SlideError, match=f"{tmp_path}.*{said}"):
        open_reader(str(tmp_path), "dicom")


def test_a_label_alone_is_no_slide(tmp_path: Path) -> None:
    write_dicom(tmp_path, [LABEL], kind="LABEL")
    with pytest.raises(SlideError, match=f"{tmp_path}: no DICOM slide; name a file of its series"):
        open_reader(str(tmp_path), "dicom")


@pytest.mark.parametrize("spacing", [None, [0, 0]])
def test_no_scale_is_made_up(tmp_path: Path, spacing: list[float] | None) -> None:
    """wsidicom itself needs one, and says so."""
    import pydicom

    (path,) = write_dicom(tmp_path, LEVELS[:1])
    dataset = pydicom.dcmread(path)
    dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = spacing
    dataset.save_as(path)
    with pytest.raises(SlideError, match=str(tmp_path)):
        open_reader(str(tmp_path), "dicom")


def test_identity_stays_with_the_series_and_differs_from_others(tmp_path: Path) -> None:
    one = opened(tmp_path / "one").metadata.identity
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    assert open_reader(str(tmp_path / "copy"), "dicom").metadata.identity == one
    assert opened(tmp_path / "other", series="1.2.3").metadata.identity != one


def test_a_real_series_is_as_openslide_has_it(shared_data: Path) -> None:
    folder = shared_data / "slides" / "CMU-1-Small-Region-dicom"
    by_wsidicom, by_openslide = (open_reader(str(folder), name) for name in ("dicom", "openslide"))
    ours, theirs = by_wsidicom.metadata, by_openslide.metadata
    for name in ("levels", "mpp", "objective", "background", "associated", "bounds"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert by_wsidicom.icc_profile() == by_openslide.icc_profile()
    difference = np.abs(whole(by_wsidicom, 0).astype(int) - whole(by_openslide, 0))
    assert difference.max() <= 3  # each has a libjpeg of its own
    for name in ours.associated:
        given_, expected = (r.associated_image(name) for r in (by_wsidicom, by_openslide))
        assert given_.shape == expected.shape
        assert np.abs(given_.astype(int) - expected).max() <= 3
    check_reader(by_wsidicom)
    for reader in (by_wsidicom, by_openslide):
        reader.close()
