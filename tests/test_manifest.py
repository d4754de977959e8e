"""Which slides a run has, and what their results are called."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import pipeline
from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from pipeline.files.urls import private, shown
from pipeline.manifest.jobs import Job, jobs, manifest_text, missing
from pipeline.manifest.shards import parse_shard, shard_of
from tests.dicoms import write_dicom
from tests.toys import noise, write_tiff


def jobs_of(*slides: Path | str) -> tuple[Job, ...]:
    given = [str(slide) for slide in slides]
    return jobs(RunConfig(slides=given if len(given) > 1 else given[0], model="builtin:nuclei"))


def made(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return [folder / name for name in names]


def manifest_of(folder: Path, text: str, name: str = "slides.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8", newline="")
    return path


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


@pytest.mark.parametrize(
    ("name", "slide_id"),
    [("日本.svs", "slide-cf2abf0c"), ("é.svs", "e"), ("a  b.svs", "a_b"), ("AUX.svs", "slide-AUX")],
)
def test_weird_names_have_ids(tmp_path: Path, name: str, slide_id: str) -> None:
    (path,) = made(tmp_path, name)
    assert jobs_of(path) == (Job(slide_id, str(path)),)


def test_slides_whose_names_say_nothing_still_get_different_ids(tmp_path: Path) -> None:
    made(tmp_path, "日本.svs", "中国.svs", "x/日本.svs")
    found = ids(jobs_of(tmp_path / "**" / "*.svs"))
    assert len(set(found)) == 3
    assert all(slide_id.startswith("slide-") for slide_id in found)


def test_what_macos_leaves_beside_a_slide_is_no_slide(tmp_path: Path) -> None:
    made(tmp_path, "a.svs", "._a.svs")
    assert ids(jobs_of(tmp_path)) == ["a"]


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


def test_all_jobs_of_a_run_have_all_columns_of_its_manifests(tmp_path: Path) -> None:
    (alone,) = made(tmp_path, "alone.svs")
    one = manifest_of(tmp_path, "label,image_path,mask_path\n1,a.svs,a.png\n", "one.csv")
    other = manifest_of(tmp_path, "image_path,fold,label\nb.svs,x,\n", "other.csv")
    assert jobs_of(alone, one, other) == (
        Job("alone", str(alone), columns={"label": "", "fold": ""}),
        Job(
            "a",
            f"{tmp_path}/a.svs",
            mask=f"{tmp_path}/a.png",
            columns={"label": "1", "fold": ""},
        ),
        Job("b", f"{tmp_path}/b.svs", columns={"label": "", "fold": "x"}),
    )


def test_jobs_may_be_told_apart_by_sets_whatever_their_columns(tmp_path: Path) -> None:
    path = manifest_of(tmp_path, "image_path,label\na.svs,1\nb.svs,1\n")
    assert len({*jobs_of(path), *jobs_of(path)}) == 2


def test_everything_wrong_with_the_slides_is_said_at_once(tmp_path: Path) -> None:
    first = manifest_of(
        tmp_path, "image_path,slide_id,mpp\na.svs,x,1\nb.svs,X,no\nc.svs,X,1\na.svs,y,\n", "m.csv"
    )
    second = manifest_of(tmp_path, "image_path,slide_id\nc.svs,z\nd.svs,x\ne.svs,new\n", "n.csv")
    with pytest.raises(ConfigError) as refused:
        jobs_of(first, tmp_path / "*.ndpi", second, tmp_path / "none.csv")
    once = "name each slide and each slide_id once"
    assert str(refused.value).splitlines() == [
        f"{first}: line 3: mpp: 'no' is no number; give um per pixel",
        f"slides: {tmp_path}/*.ndpi: no file matches; check the pattern",
        f"{tmp_path}/none.csv: No such file or directory; name a manifest (CSV or Parquet)",
        f"{first}: line 3: X is there already, in line 2; {once}",
        f"{first}: line 4: X is there already, in line 2; {once}",
        f"{first}: line 5: {tmp_path}/a.svs is there already, in line 2; {once}",
        f"{second}: line 2: {tmp_path}/c.svs is there already, in {first}: line 4; {once}",
        f"{second}: line 3: x is there already, in {first}: line 2; {once}",
    ]


def test_no_more_than_twenty_problems_are_told_one_by_one(tmp_path: Path) -> None:
    rows = "".join(f"{number}.svs,no\n" for number in range(23))
    with pytest.raises(ConfigError) as refused:
        jobs_of(manifest_of(tmp_path, f"image_path,mpp\n{rows}"))
    lines = str(refused.value).splitlines()
    assert len(lines) == 21
    assert lines[19].startswith(f"{tmp_path}/slides.csv: line 21: ")
    assert lines[20] == "and 3 more"


def test_an_id_with_a_digest_yields_to_another_slide_of_that_name(tmp_path: Path) -> None:
    one, other = made(tmp_path, "x/a.svs", "y/a.svs")
    taken = ids(jobs_of(one, other))[0]
    path = manifest_of(tmp_path, f"image_path,slide_id\nb.svs,{taken}\n")
    (usurper,) = made(tmp_path, f"z/{taken.upper()}.svs")
    found = ids(jobs_of(one, other, path, usurper))
    assert found[2] == taken
    assert len({each.lower() for each in found}) == 4
    assert ids(jobs_of(usurper, path, other, one)) == found[::-1]


def test_slides_that_differ_in_what_a_url_hides_have_ids_of_their_own() -> None:
    found = jobs_of("https://host/a.svs?n=1", "https://host/a.svs?n=2", "https://host/b.svs?n=1")
    assert len({job.slide_id for job in found}) == 3
    assert ids(found)[2] == "b"


def test_what_is_not_there_is_told_before_anything_starts(tmp_path: Path) -> None:
    made(tmp_path, "a.svs", "b.svs", "b.png", "c.svs")
    path = manifest_of(
        tmp_path,
        "image_path,mask_path\na.svs,\nb.svs,b.png\nc.svs,c.png\nd.svs,d.png\n"
        f"s3://bucket/e.svs,s3://bucket/e.geojson\n{'f' * 300}.svs,\n",
    )
    told = [(job.slide_id[:3], reason) for job, reason in missing(jobs_of(path))]
    gone = "no such file; check the path"
    assert told == [
        ("c", f"{tmp_path}/c.png: tissue mask: {gone}"),
        (
            "d",
            f"{tmp_path}/d.svs: {gone}; {tmp_path}/d.png: tissue mask: {gone}",
        ),
        ("fff", f"{tmp_path}/{'f' * 300}.svs: File name too long"),
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 12])
def test_shards_are_every_slide_once_and_equally_many(count: int) -> None:
    todo = [Job(str(number), f"/{number}.svs") for number in range(10)]
    shards = [shard_of(todo, (index, count)) for index in range(1, count + 1)]
    assert sorted((job for shard in shards for job in shard), key=todo.index) == todo
    assert {len(shard) for shard in shards} <= {10 // count, 10 // count + 1}
    assert all(todo.index(job) % count == n for n, shard in enumerate(shards) for job in shard)


@pytest.mark.parametrize(
    "shard",
    ["3/2", "0/2", "1/0", "0/0", "-1/2", "1", "", "1/2/3", "a/b", " 1/2", "1/2\n", "\u0661/2"],
)
def test_a_shard_that_is_none_is_refused(shard: str) -> None:
    with pytest.raises(ConfigError, match=r"(?s)^--shard .*: no part of a whole; give I/N"):
        parse_shard(shard)


words = st.text(
    st.one_of(st.sampled_from(",\"'\n\r;\t\0é "), st.characters(exclude_categories=["Cs"])),
    max_size=8,
).map(lambda word: shown(word).strip())
names = st.text("ab ,\"'\n.é-", min_size=1, max_size=6).map(lambda name: f"/slides/{name}.svs")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(names, st.none() | st.floats(0.011, 99), st.none() | names, words, words),
        min_size=1,
        max_size=6,
        unique_by=lambda each: each[0],
    )
)
@example([("/slides/a.svs", 0.1 + 0.2, None, "two\r\nlines\rthree", '"')])
@example([("/slides/a.svs", None, None, "HTTP://", "http://[a\tb")])
@example([("/slides/a.svs", None, None, "see http://a?b", "s3://a?b")])
def test_a_manifest_that_was_written_reads_back_as_the_same_jobs(
    tmp_path: Path, said: Sequence[tuple[Any, ...]]
) -> None:
    todo = [
        Job(f"id-{number}", path, mpp, mask, {"patient_id": one, 'la,b"el': other})
        for number, (path, mpp, mask, one, other) in enumerate(said)
    ]
    path = manifest_of(tmp_path, manifest_text(todo))
    assert jobs_of(path) == tuple(todo)
    assert [list(job.columns) for job in jobs_of(path)] == [["patient_id", 'la,b"el']] * len(todo)


def test_a_manifest_that_was_written_keeps_the_ids_that_names_were_given(tmp_path: Path) -> None:
    names = ("x/a.svs", "y/A.svs", "日本.svs", "con.svs", f"{'n' * 200}.svs", "x/b.svs")
    made(tmp_path, *names)
    made(tmp_path, f"y/{'n' * 200}.svs")
    found = jobs_of(tmp_path / "**" / "*.svs")
    assert len({job.slide_id.lower() for job in found}) == 7
    assert jobs_of(manifest_of(tmp_path, manifest_text(found))) == found
    assert jobs_of(manifest_of(tmp_path, manifest_text(found[::2]))) == found[::2]


def test_a_manifest_that_was_written_holds_no_secret_and_is_text() -> None:
    signed = private("https://me:secret@host/a.svs?key=secret")
    text = manifest_text([Job("a", signed, mask=signed), Job("b", "/slides/\udce9.svs")])
    assert text == (
        "slide_id,image_path,mpp,mask_path\n"
        "a,https://host/a.svs,,https://host/a.svs\n"
        "b,/slides/\\udce9.svs,,\n"
    )


def test_a_run_takes_masks_and_columns_from_its_manifest(
    tmp_path: Path, toy_model: Callable[..., Path]
) -> None:
    write_tiff(tmp_path / "a.tiff", noise(256, 256))
    write_tiff(tmp_path / "b.tiff", noise(256, 256))
    square = [[0, 0], [128, 0], [128, 256], [0, 256]]
    (tmp_path / "a.json").write_text(f'{{"type": "Polygon", "coordinates": [{square}]}}')
    path = manifest_of(
        tmp_path, "image_path,mask_path,label,patient_id\na.tiff,a.json,tumour,\nb.tiff,no.json,,\n"
    )
    config = RunConfig(slides=str(path), model=str(toy_model("per_patch")))
    config = config.model_copy(
        update={
            "output": replaced(config.output, directory=str(tmp_path / "results"), block=128),
            "cluster": replaced(config.cluster, kind="threads", dashboard="none"),
        }
    )
    done, failed = pipeline.run(config).outcomes
    assert (done.analysed, done.background) == (2, 2)
    assert failed.state == "failed"
    assert "no.json: tissue mask cannot be read" in failed.reason
    stored = pipeline.open_results(tmp_path / "results")["a"]
    assert stored.provenance["manifest"] == {"label": "tumour", "patient_id": ""}


def replaced(values: Any, **changes: Any) -> Any:
    return values.model_copy(update=changes)


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
