"""Which slides a run has, and what their results are called."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from pipeline.manifest import Job, jobs
from pipeline.results import ENDING, safe_id
from tests.dicoms import write_dicom
from tests.toys import noise


def jobs_of(*slides: Path | str) -> tuple[Job, ...]:
    given = [str(slide) for slide in slides]
    return jobs(RunConfig(slides=given if len(given) > 1 else given[0], model="builtin:nuclei"))


def made(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return [folder / name for name in names]


def ids(given: tuple[Job, ...]) -> list[str]:
    return [job.slide_id for job in given]


def test_a_slide_is_called_by_its_name_without_the_ending(tmp_path: Path) -> None:
    (path,) = made(tmp_path, "TCGA-CR-7395.01A.svs")
    assert jobs_of(path) == (Job("TCGA-CR-7395.01A", str(path)),)


def test_a_pattern_gives_its_files_in_order(tmp_path: Path) -> None:
    made(tmp_path, "c.svs", "a.svs", "b.svs", "d.txt")
    assert ids(jobs_of(tmp_path / "*.svs")) == ["a", "b", "c"]


def test_a_pattern_may_go_into_folders(tmp_path: Path) -> None:
    made(tmp_path, "x/a.svs", "x/y/b.svs", "c.svs")
    assert ids(jobs_of(tmp_path / "**" / "*.svs")) == ["c", "a", "b"]


def test_a_list_keeps_its_order_and_a_slide_is_done_once(tmp_path: Path) -> None:
    a, b, c = made(tmp_path, "a.svs", "b.svs", "c.svs")
    assert ids(jobs_of(c, tmp_path / "*.svs", a, b)) == ["c", "a", "b"]


def test_a_folder_means_the_slides_in_it(tmp_path: Path) -> None:
    made(tmp_path, "b.SVS", "a.ndpi", "c.tiff", "notes.txt", "a.truth.npz", "x/d.svs")
    assert ids(jobs_of(tmp_path)) == ["a", "b", "c"]


def test_a_folder_without_slides_is_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    made(tmp_path, "notes.txt")
    with pytest.raises(ConfigError, match=rf"{tmp_path}: no slide in this folder; .*\.svs .*\.tif"):
        jobs_of(tmp_path)


def test_a_pattern_that_finds_nothing_is_refused(tmp_path: Path) -> None:
    (path,) = made(tmp_path, "a.svs")
    with pytest.raises(ConfigError, match=rf"{tmp_path}/\*\.tif: no file matches; check the pat"):
        jobs_of(path, tmp_path / "*.tif")


def test_a_named_slide_that_is_not_there_is_left_for_the_run_to_report(tmp_path: Path) -> None:
    assert ids(jobs_of(tmp_path / "none.svs")) == ["none"]


@pytest.mark.parametrize("name", ["a[1].svs", "a[b-c].svs", "what?.svs", "all*.svs"])
def test_a_name_may_look_like_a_pattern(tmp_path: Path, name: str) -> None:
    path, _ = made(tmp_path, name, "a1.svs")
    assert [job.path for job in jobs_of(path)] == [str(path)]


def test_names_with_brackets_are_found_by_patterns_too(tmp_path: Path) -> None:
    made(tmp_path, "test3-DAPI-2-(387).ndpi", "b[1].ndpi")
    assert ids(jobs_of(tmp_path / "*.ndpi")) == ["b_1", "test3-DAPI-2-_387"]


def test_slides_of_one_name_get_different_ids_that_stay(tmp_path: Path) -> None:
    one, other, alone = made(tmp_path, "x/a.svs", "y/a.svs", "y/b.svs")
    first = jobs_of(one, other, alone)
    digests = [hashlib.sha256(str(path).encode()).hexdigest()[:8] for path in (one, other)]
    assert ids(first) == [f"a-{digests[0]}", f"a-{digests[1]}", "b"]
    assert jobs_of(alone, other, one) == first[::-1]


@pytest.mark.parametrize(("one", "other"), [("a.svs", "A.svs"), ("a b.svs", "a_b.svs")])
def test_names_that_would_share_a_store_get_different_ids(
    tmp_path: Path, one: str, other: str
) -> None:
    """A file system may ignore case, and what is unsafe in a name is replaced."""
    made(tmp_path, f"x/{one}", f"y/{other}")
    found = ids(jobs_of(tmp_path / "*" / "*.svs"))
    assert len({slide_id.lower() for slide_id in found}) == 2


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
@example("..")
@example("../../etc/passwd")
@example("/etc/passwd")
@example("~root")
@example("a\nb")
@example("a\0b")
@example("C:\\x")
@example("...hidden")
@example("-rf")
def test_no_name_leaves_the_results_folder(name: str) -> None:
    slide_id = safe_id(name)
    store = Path("/results") / f"{slide_id}{ENDING}"
    assert slide_id
    assert store.parent == Path("/results")
    assert store.name == f"{slide_id}{ENDING}"
    assert slide_id.isascii()
    assert not slide_id.startswith(".")
    assert slide_id.replace("-", "").replace(".", "").replace("_", "").isalnum() or set(
        slide_id
    ) <= set("-._")


@pytest.mark.parametrize(
    ("name", "slide_id"),
    [("日本.svs", "slide"), ("é.svs", "slide"), ("a  b.svs", "a_b"), ("-.svs", "-")],
)
def test_weird_names_have_ids(tmp_path: Path, name: str, slide_id: str) -> None:
    (path,) = made(tmp_path, name)
    assert jobs_of(path) == (Job(slide_id, str(path)),)


def test_slides_whose_names_say_nothing_still_get_different_ids(tmp_path: Path) -> None:
    made(tmp_path, "日本.svs", "中国.svs")
    found = ids(jobs_of(tmp_path / "*.svs"))
    assert len(set(found)) == 2
    assert all(slide_id.startswith("slide-") for slide_id in found)


def test_what_macos_leaves_beside_a_slide_is_no_slide(tmp_path: Path) -> None:
    made(tmp_path, "a.svs", "._a.svs")
    assert ids(jobs_of(tmp_path)) == ["a"]


def manifest_of(folder: Path, text: str) -> Path:
    path = folder / "slides.csv"
    path.write_bytes(text.encode())
    return path


def test_a_manifest_names_slides_ids_and_scales(tmp_path: Path) -> None:
    (tmp_path / "cohort").mkdir()
    path = manifest_of(
        tmp_path / "cohort",
        "slide_id,stain, image_path ,mpp\r\n"
        "first,HE,a.svs,0.25\r\n"
        ",IHC,../b.svs,\r\n"
        ' ,"H, E","s3://bucket/c,1.svs", 5e-1 \r\n'
        "\r\n"
        "last,,/slides/a.svs,\r\n",
    )
    assert jobs_of(path) == (
        Job("first", f"{tmp_path}/cohort/a.svs", 0.25),
        Job("b", f"{tmp_path}/b.svs"),
        Job("c_1", "s3://bucket/c,1.svs", 0.5),
        Job("last", "/slides/a.svs"),
    )


def test_image_path_is_enough_and_excels_mark_is_no_part_of_it(tmp_path: Path) -> None:
    assert jobs_of(manifest_of(tmp_path, "\ufeffimage_path\na.svs\n")) == (
        Job("a", f"{tmp_path}/a.svs"),
    )


def test_what_a_manifest_says_of_a_slide_counts_wherever_else_it_is_named(tmp_path: Path) -> None:
    made(tmp_path, "a.svs", "b.svs")
    path = manifest_of(tmp_path, "image_path,slide_id,mpp\nb.svs,second,0.25\n")
    expected = (Job("a", f"{tmp_path}/a.svs"), Job("second", f"{tmp_path}/b.svs", 0.25))
    assert jobs_of(tmp_path / "*.svs", path) == expected
    assert jobs_of(path, tmp_path / "*.svs") == expected[::-1]


def test_an_id_that_a_manifest_gives_is_kept_and_others_yield(tmp_path: Path) -> None:
    made(tmp_path, "x/a.svs", "b.svs")
    path = manifest_of(tmp_path, "image_path,slide_id\nb.svs,A\n")
    (other, named) = ids(jobs_of(tmp_path / "x" / "a.svs", path))
    assert named == "A"
    assert other.startswith("a-")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: no column image_path; it has: none"),
        ("slide,mpp\na.svs,1\n", "line 1: no column image_path; it has: slide, mpp"),
        ("image_path;mpp\na.svs;1\n", "line 1: no column image_path; it has: image_path;mpp"),
        ("image_path\n", "names no slide; give one a line"),
        ("image_path,mpp\na.svs,0.5\nb.svs,fine\n", "line 3: mpp: 'fine' is no number"),
        ("image_path,mpp\na.svs,nan\n", "line 2: mpp: nan um per pixel cannot be meant; give 0.01"),
        ("image_path,mpp\na.svs,0\n", "line 2: mpp: 0.0 um per pixel cannot be meant; give 0.01"),
        ("image_path,mpp\na.svs,896\n", "line 2: mpp: 896.0 um per pixel cannot be meant"),
        ("image_path,mpp\n,0.5\n", "line 2: no image_path; name the slide"),
        ("image_path,mpp\na.svs\n", "line 2: not as many cells as there are columns"),
        ("image_path\nb.svs\na,1.svs\n", "line 3: not as many cells as there are columns; quote"),
        ("image_path\na.svs\nb.svs\na.svs\n", "line 4: .*a.svs is there already, in line 2"),
        ("image_path,slide_id\na.svs,x\nb.svs,X\n", "line 3: x is there already, in line 2"),
        ("image_path,slide_id\na.svs,../x\n", r"line 2: slide_id '\.\./x' cannot .*; use x"),
        ('image_path\n"a.svs\n', "line 1: unexpected end of data"),
    ],
)
def test_what_is_wrong_with_a_manifest_is_said_with_its_line(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=rf"slides\.csv: {said}"):
        jobs_of(manifest_of(tmp_path, text))


def test_a_manifest_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    latin = tmp_path / "latin.csv"
    latin.write_bytes("image_path\né.svs\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.csv: not UTF-8 text; save .* as CSV UTF-8"):
        jobs_of(latin)
    with pytest.raises(ConfigError, match=r"none\.csv: No such file or directory; name a manifest"):
        jobs_of(tmp_path / "none.csv")


def test_the_files_of_a_dicom_slide_are_one_slide_named_after_their_folder(tmp_path: Path) -> None:
    """However they are named; a name that is a UID keeps its last number."""
    slide = tmp_path / "1.2.840.17"
    write_dicom(slide, [noise(40, 40), noise(20, 20)])
    write_dicom(slide, [noise(9, 9)], kind="LABEL")
    expected = (Job("1.2.840.17", str(slide)),)
    assert jobs_of(slide) == jobs_of(tmp_path) == jobs_of(slide / "*.dcm") == expected
    assert jobs_of(tmp_path / "*" / "*.dcm") == expected
    assert jobs_of(min(slide.iterdir())) == (Job("label-0-0", str(min(slide.iterdir()))),)


def test_dicom_slides_lie_among_others(tmp_path: Path) -> None:
    made(tmp_path, "b.svs", "._x.dcm", "empty/notes.txt")
    write_dicom(tmp_path / "a", [noise(20, 20)])
    write_dicom(tmp_path / "c", [noise(20, 20)])
    assert ids(jobs_of(tmp_path)) == ["a", "b", "c"]


def test_dicom_slides_of_one_folder_are_told_apart_by_their_series(tmp_path: Path) -> None:
    for name in ("x", "y"):
        files = write_dicom(
            tmp_path / name, [noise(40, 40), noise(20, 20)], series=f"1.2.{ord(name)}"
        )
        for number, file in enumerate(files):
            file.rename(tmp_path / f"{name}{number}.dcm")
        (tmp_path / name).rmdir()
    assert ids(jobs_of(tmp_path)) == ids(jobs_of(tmp_path / "*.dcm")) == ["x0", "y0"]
