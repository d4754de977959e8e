"""Exports as a whole: the table of kinds, the command, and what happens where one cannot be."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import get_args

import pytest
import yaml
from PIL import Image

import pipeline
from pipeline.config import RunConfig
from pipeline.demo import write_demo
from pipeline.errors import MissingExtraError, SlideError, StoreError
from pipeline.export import EXPORTS, OF_RUNS, export
from pipeline.files import places
from tests.test_results_commands import Command, command

__all__ = ["command"]

OK, INCOMPLETE, REFUSED = 0, 1, 2


@pytest.fixture
def copy(demo_results: Path, tmp_path: Path) -> Path:
    """Results that may be spoilt."""
    return Path(shutil.copytree(demo_results, tmp_path / "copy"))


def test_a_run_file_knows_the_kinds_that_the_command_knows() -> None:
    (kinds,) = get_args(RunConfig.model_fields["export"].annotation)
    assert get_args(kinds) == (*EXPORTS, *OF_RUNS)


def test_the_help_lists_every_kind_with_what_it_gives(command: Command) -> None:
    code, lines = command("export", "--help")
    said = " ".join(" ".join(lines).split())
    assert code == OK
    for name, kind in EXPORTS.items():
        assert f"{name} {kind.gives}" in said


def test_a_kind_that_is_none_is_refused_with_those_there_are(
    command: Command, demo_results: Path
) -> None:
    code, lines = command("export", "svg", demo_results)
    assert code == REFUSED
    assert "'svg' is not one of 'overview'" in lines[-1]


def test_a_run_exports_what_its_file_asks_for(demo_slide: Path, tmp_path: Path) -> None:
    settings = {
        "slides": str(demo_slide),
        "model": "builtin:nuclei-objects",
        "export": ["geojson", "csv"],
        "cluster": {"kind": "threads"},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    (outcome,) = pipeline.run(tmp_path / "run.yaml").outcomes
    assert outcome.state == "done"
    made = [Path(path).name for path in outcome.made]
    assert made == ["demo.zarr", "demo.geojson", "demo.objects.csv"]
    assert all(Path(path).exists() for path in outcome.made)


def test_files_go_where_they_are_asked_to_and_nothing_else_does(
    command: Command, demo_results: Path, tmp_path: Path
) -> None:
    before = sorted(path.name for path in demo_results.iterdir())
    code, lines = command("export", "csv", demo_results, "--output", tmp_path / "new" / "here")
    file = tmp_path / "new" / "here" / "demo.objects.csv"
    assert (code, lines[0]) == (OK, f"demo: {file}")
    assert re.fullmatch(r"1 of 1 slides exported as csv in \d+\.\d s", lines[1])
    assert list(file.parent.iterdir()) == [file]
    assert sorted(path.name for path in demo_results.iterdir()) == before


def test_a_slide_that_cannot_be_exported_is_named_and_the_others_go_on(
    command: Command, copy: Path
) -> None:
    shutil.copytree(copy / "demo.zarr", copy / "a.zarr")
    metadata = copy / "a.zarr" / "zarr.json"
    metadata.write_text(metadata.read_text().replace('"ome"', '"omitted"'))
    shutil.copytree(copy / "demo.zarr", copy / "b.zarr")
    torn = next((copy / "b.zarr" / "objects" / "nuclei").glob("*.parquet"))
    torn.write_bytes(torn.read_bytes()[:-40])
    code, lines = command("export", "geojson", copy)
    assert code == INCOMPLETE
    assert lines[0] == (
        f"a: not exported: {copy}/a.zarr: is not finished; run again before exporting"
    )
    assert lines[1].startswith(f"b: not exported: {copy}/b.zarr/nuclei: damaged")
    assert lines[2] == f"demo: {copy}/demo.geojson"
    assert lines[3].startswith("1 of 3 slides exported as geojson")
    assert [path.name for path in copy.glob("*geojson*")] == ["demo.geojson"]
    assert not list(copy.glob(".*partial"))


def test_only_the_slides_that_are_named_are_exported(command: Command, copy: Path) -> None:
    shutil.copytree(copy / "demo.zarr", copy / "a.zarr")
    code, lines = command("export", "csv", copy, "--slide", "a")
    assert (code, len(lines)) == (OK, 2)
    assert [path.name for path in copy.glob("*.csv") if "objects" in path.name] == ["a.objects.csv"]
    code, lines = command("export", "csv", copy, "--slide", "c")
    assert (code, lines) == (REFUSED, [f"error: --slide c: not in {copy}; there is a, demo"])


def test_a_model_that_gives_nothing_of_a_kind_is_a_reason(
    command: Command, demo_results: Path, tmp_path: Path
) -> None:
    code, lines = command("export", "hdf5", demo_results, "--output", tmp_path)
    assert code == INCOMPLETE
    assert lines[0] == (
        f"demo: not exported: {demo_results}/demo.zarr: no features to export as hdf5; "
        "there is nucleus (scores), nuclei (objects)"
    )
    assert not list(tmp_path.iterdir())


def test_the_overview_opens_the_slide_by_itself(
    demo_results: Path, demo_slide: Path, tmp_path: Path
) -> None:
    (path,) = export("overview", str(demo_results / "demo.zarr"), output=str(tmp_path))
    with Image.open(path) as picture:
        assert picture.width > picture.height / 2 > 100


def test_where_the_slide_is_gone_only_the_overview_cannot_be(
    demo_slide: Path, tmp_path: Path
) -> None:
    moved = Path(shutil.copy(demo_slide, tmp_path / "gone.svs"))
    settings = {
        "slides": str(moved),
        "model": "builtin:nuclei-objects",
        "cluster": {"kind": "threads"},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    assert pipeline.run(tmp_path / "run.yaml").complete
    store = str(tmp_path / "results" / "gone.zarr")
    assert export("overview", store)
    write_demo(moved, 1500, 1200, seed=1)
    with pytest.raises(StoreError, match="is another slide than the one it was made of"):
        export("overview", store)
    moved.unlink()
    with pytest.raises(SlideError, match=r"gone\.svs"):
        export("overview", store)
    for kind in ("geojson", "csv", "parquet", "anndata", "ome-tiff"):
        assert export(kind, store)


@pytest.mark.parametrize("kind", ["geojson", "geojson.zip", "csv", "parquet"])
def test_what_is_there_stays_whole_where_an_export_fails_halfway(
    kind: str, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = str(copy / "demo.zarr")
    (path,) = export(kind, store)
    whole = Path(path).read_bytes()
    names = sorted(file.name for file in copy.iterdir())
    parts = sorted((copy / "demo.zarr" / "objects" / "nuclei").glob("*.parquet"))
    parts[-1].write_bytes(parts[-1].read_bytes()[:-40])
    with pytest.raises(StoreError, match="damaged"):
        export(kind, store)
    assert Path(path).read_bytes() == whole
    assert sorted(file.name for file in copy.iterdir()) == names


def test_a_place_that_cannot_be_written_is_named(copy: Path) -> None:
    (copy / "taken").write_text("a file")
    with pytest.raises(StoreError, match=r"taken/demo\.geojson: cannot be written: File exists"):
        export("geojson", str(copy / "demo.zarr"), output=str(copy / "taken"))


@pytest.mark.parametrize("kind", ["csv", "parquet", "geojson"])
def test_without_pyarrow_the_extra_is_named(
    kind: str, demo_results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'wsi-pipeline\[export\]'"):
        export(kind, str(demo_results / "demo.zarr"), output=str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_results_in_a_bucket_are_exported_into_a_bucket(
    bucket: str, demo_results: Path, tmp_path: Path
) -> None:
    for path in demo_results.rglob("*"):
        if path.is_file():
            name = path.relative_to(demo_results).as_posix()
            places.write_whole(f"{bucket}/{name}", path.read_bytes())
    (here,) = export("geojson", str(demo_results / "demo.zarr"), output=str(tmp_path))
    (there,) = export("geojson", f"{bucket}/demo.zarr")
    assert there == f"{bucket}/demo.geojson"
    assert places.read(there) == Path(here).read_bytes()
    (elsewhere,) = export("parquet", f"{bucket}/demo.zarr", output=f"{bucket}/exports")
    assert places.names(f"{bucket}/exports") == ["demo.objects.parquet"]
    assert places.read(elsewhere)[-4:] == b"PAR1"


def test_the_readme_says_of_every_kind_what_it_is_and_who_reads_it() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    table = readme.split("## Exports")[1].split("| kind |")[1].split("\n\n")[0]
    assert sorted(re.findall(r"^\| `([\w.-]+)` \|", table, re.MULTILINE)) == sorted(EXPORTS)
