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
