"""Which DICOM files are one slide."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.errors import SlideError
from pipeline.readers.series import any_file, is_dicom, series


def header(study: str, uid: str, *, implicit: bool = False, before: bytes = b"") -> bytes:
    """Give the beginning of a DICOM file: preamble, something, study and series."""

    def element(number: int, value: str) -> bytes:
        padded = value.encode() + b"\0" * (len(value) % 2)
        size = len(padded).to_bytes(4 if implicit else 2, "little")
        return b"\x20\0" + bytes([number, 0]) + (b"" if implicit else b"UI") + size + padded

    return bytes(128) + b"DICM" + before + element(0x0D, study) + element(0x0E, uid) + bytes(500)


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("uid", ["1.2.34", "1.2.345"])
def test_a_series_is_told_from_the_header(tmp_path: Path, uid: str, implicit: bool) -> None:
    path = write(tmp_path / "a.dcm", header("1.9.8", uid, implicit=implicit))
    assert is_dicom(str(path))
    assert series(str(path)) == uid


def test_the_series_of_a_reference_is_not_the_files(tmp_path: Path) -> None:
    """Within a reference the series comes without its study before it."""
    other = b"\x20\0\x0e\0UI\x06\0" + b"9.9.9\0"
    path = write(tmp_path / "a.dcm", header("1.9.8", "1.2.34", before=other))
    assert series(str(path)) == "1.2.34"


def test_what_is_no_dicom_has_no_series(tmp_path: Path) -> None:
    for name, content in (("a", b""), ("b", b"II*\0" * 100), ("c", header("1", "2")[1:])):
        path = write(tmp_path / name, content)
        assert not is_dicom(str(path))
        assert series(str(path)) is None
    assert series(str(write(tmp_path / "d", bytes(128) + b"DICM"))) is None


def test_what_cannot_be_read_is_left_for_its_opener_to_report(tmp_path: Path) -> None:
    assert not is_dicom(str(tmp_path / "none.dcm"))
    assert series(str(tmp_path / "none.dcm")) is None


def test_a_folder_is_dicom_where_a_file_in_it_is(tmp_path: Path) -> None:
    write(tmp_path / "a.dcm", b"not really")
    assert not is_dicom(str(tmp_path))
    write(tmp_path / "b.dcm", header("1.9.8", "1.2.34"))
    assert is_dicom(str(tmp_path))


def test_any_file_of_a_folder_stands_for_its_slide(tmp_path: Path) -> None:
    for name in ("b.dcm", "a.DCM", "c.dcm"):
        write(tmp_path / name, header("1.9.8", "1.2.34"))
    write(tmp_path / "._a.dcm", b"left by macOS")
    write(tmp_path / "notes.txt", b"")
    assert any_file(str(tmp_path)) == str(tmp_path / "a.DCM")


def test_a_folder_of_two_slides_is_refused_with_a_file_of_each(tmp_path: Path) -> None:
    for name, uid in (("a.dcm", "1.1"), ("b.dcm", "1.1"), ("c.dcm", "1.2")):
        write(tmp_path / name, header("1.9.8", uid))
    with pytest.raises(SlideError, match=rf"{tmp_path}: holds .* 2 slides; .*such as a.dcm, c.dcm"):
        any_file(str(tmp_path))


def test_a_folder_without_dicom_files_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", b"")
    with pytest.raises(SlideError, match=r"is a directory without DICOM files .* file inside it"):
        any_file(str(tmp_path))


def test_real_files_of_a_slide_are_one_series(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "slides" / "CMU-1-Small-Region-dicom"
    uids = {series(str(path)) for path in folder.glob("*.dcm")}
    assert uids == {"1.2.826.0.1.3680043.8.498.21577574112843936045397065457192622591"}
    fixtures = shared_data / "slides" / "fixtures"
    assert series(str(fixtures / "boxes_0.dcm")) == series(str(fixtures / "boxes_1.dcm"))
    shutil.copy(fixtures / "sm_image.dcm", tmp_path / "a.dcm")
    assert any_file(str(tmp_path)) == str(tmp_path / "a.dcm")
