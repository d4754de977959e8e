"""Slides whose names were not meant for a file system: all the way through a run and its pages."""

from __future__ import annotations

import csv
import json
import unicodedata
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest

import pipeline
from pipeline.books.names import MANIFEST, STATUS
from pipeline.cli import main
from pipeline.errors import ConfigError
from pipeline.files.ids import safe_id
from pipeline.view.answers import answer
from pipeline.view.catalogue import catalogue_of
from tests.toys import noise, write_tiff, write_toy_model

MARKUP = "<img src=x onerror=alert(1)>"

NAMES = (
    *("CON", "NUL.txt", "aux", "-rf", "dot.", "two  spaces", " led", "x\ny", "tab\there"),
    *("quote\"it's", "back\\slash", "%2e%2e%2f", "$(touch pwned)", "`id`", "=1+1", MARKUP),
    *("a;b", "a,b", "\u202egnp", "\udce9", "病理", "😀", "café", "cafe\u0301"),
    *("CAFÉ", "n" * 240, "n" * 239 + "m", "ü" * 120, "config.yaml", "status", "logs", "report"),
)
"""Of the files, without their ending; what begins with a dot is hidden and not looked for."""


class Tags(HTMLParser):
    """What a page is made of."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def run_over(folder: Path, names: Sequence[str]) -> Path:
    """Run over slides of these names; no file but its results is new in the folder."""
    slides = folder / "slides"
    slides.mkdir()
    first = write_tiff(folder / "first", noise(64, 64))
    for name in names:
        (slides / f"{name}.tiff").write_bytes(first.read_bytes())
    card = write_toy_model(folder / "model", "per_patch")
    (folder / "run.yaml").write_text(
        f"slides: slides\nmodel: {card}\noutput: {{block: 64}}\ntissue: {{method: none}}\n"
        "cluster: {kind: threads, workers: 2}\n"
    )
    assert pipeline.run(folder / "run.yaml").complete
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a run over slides of all these names."""
    folder = run_over(tmp_path_factory.mktemp("named"), NAMES)
    yield folder
    inputs = {"slides", "model", "first", "run.yaml"}
    assert {path.name for path in folder.iterdir()} == {*inputs, "results"}
    assert len(list((folder / "slides").iterdir())) == len(NAMES)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def test_every_slide_has_results_of_its_own(place: Path) -> None:
    stores = {path.name for path in (place / "results").glob("*.zarr")}
    assert len(stores) == len(NAMES) == len(set(NAMES))
    assert len({name.lower() for name in stores}) == len(NAMES), "also where case does not count"
    for name in stores:
        assert safe_id(name.removesuffix(".zarr")) == name.removesuffix(".zarr")
    told = {row["slide_id"]: row["state"] for row in rows(place / "results" / STATUS)}
    assert told == {name.removesuffix(".zarr"): "done" for name in stores}


def test_tables_say_which_slide_is_which(place: Path) -> None:
    kept = rows(place / "results" / MANIFEST)
    assert {Path(row["image_path"]).name.removesuffix(".tiff") for row in kept} == {
        name.encode(errors="backslashreplace").decode() for name in NAMES
    }
    for row in kept:
        assert not row["slide_id"].startswith(("=", "+", "-", "@"))


def test_the_run_file_that_is_kept_finds_what_is_stored(place: Path) -> None:
    kept = pipeline.run(place / "results" / "config.yaml")
    assert [outcome.computed for outcome in kept.outcomes] == [0] * len(NAMES)


@pytest.mark.parametrize("arguments", [["status"], ["status", "--verify"]])
def test_commands_go_through_all_of_them(
    arguments: list[str], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *options = arguments
    with pytest.raises(SystemExit) as ended:
        main([command, str(place / "results"), *options])
    said = capsys.readouterr()
    assert ended.value.code == 0, said.err
    assert "\x1b" not in said.out
    assert "\u202e" not in said.out


@pytest.mark.parametrize("kind", ["csv", "geojson"])
def test_exports_lie_beside_their_stores(kind: str, place: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["export", kind, str(place / "results"), "--output", str(tmp_path / kind)])
    assert ended.value.code == 0
    made = list(tmp_path.rglob("*.*"))
    assert len(made) == len(NAMES)
    assert {path.parent for path in made} == {tmp_path / kind}


def test_no_name_is_markup_in_a_report(tmp_path: Path) -> None:
    names = (MARKUP, "quote\"it's", "\udce9")
    results = run_over(tmp_path, names) / "results"
    with pytest.raises(SystemExit) as ended:
        main(["report", str(results)])
    assert ended.value.code == 0
    page = Tags((results / "report.html").read_text(encoding="utf-8"))
    assert not [tag for tag, given in page.tags if any(key.startswith("on") for key in given)]
    for name in names:
        assert f"{name}.tiff".encode(errors="backslashreplace").decode() in "".join(page.words)
    for _, given in page.tags:
        assert (given.get("href") or "#").startswith(("#", "data:"))


def test_the_viewer_finds_each(place: Path) -> None:
    catalogue = catalogue_of(place / "results")
    listed = json.loads(answer(catalogue, "slides").content)
    assert len(listed) == len(NAMES)
    for each in listed[::5]:
        assert json.loads(answer(catalogue, f"slide/{each['id']}").content)


@pytest.mark.parametrize(
    ("slide_id", "instead"),
    [
        *(
            ("../../x", "x"),
            ("/etc/x", "etc_x"),
            ("CON", "slide-CON"),
            ("NUL.txt", "slide-NUL.txt"),
        ),
        *(("a b", "a_b"), ("-rf", "rf"), ("dot.", "dot"), ("café", "cafe"), ("a\"b'c", "a_b_c")),
        *(("n" * 300, "n" * 119), ("a\nb", "a_b"), ("=1+1", "1_1"), ("..", "slide-")),
        (unicodedata.normalize("NFD", "é"), "e"),
    ],
)
def test_an_id_of_a_manifest_that_is_no_file_name_is_refused_with_one_that_is(
    slide_id: str, instead: str, tmp_path: Path
) -> None:
    write_tiff(tmp_path / "a.tiff", noise(64, 64))
    with (tmp_path / "slides.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image_path", "slide_id"], ["a.tiff", slide_id]])
    card = write_toy_model(tmp_path / "model", "per_patch")
    run_file = tmp_path / "run.yaml"
    run_file.write_text(f"slides: slides.csv\nmodel: {card}\ncluster: {{kind: threads}}\n")
    with pytest.raises(ConfigError, match=r"slides\.csv: line \d") as refused:
        pipeline.run(run_file)
    assert instead in str(refused.value)
    assert not (tmp_path / "results").exists()
