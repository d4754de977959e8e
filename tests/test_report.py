"""The report: every number is the store's, nothing comes from outside, nothing breaks out."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import dask
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

import pipeline
from pipeline.batch import run
from pipeline.books.outcomes import Silence, SlideOutcome
from pipeline.cli import cli
from pipeline.config.runfile import load_config
from pipeline.demo import read_truth
from pipeline.errors import StoreError
from pipeline.files import places
from pipeline.process.stopping import Interrupted, ask_to_stop
from pipeline.report import numbers, write_report, writing
from pipeline.results import StoredSlide, open_results
from pipeline.results.drawing import scale_bar_um
from pipeline.store import withdraw
from tests import servers
from tests.test_outputs import write_many
from tests.toys import noise, spoil_first_tile, write_tiff

HOSTILE = "<img src=x onerror=alert(1)>&\"'--><script>alert(2)"

VOID = {"meta", "img", "line", "rect", "link", "br", "input"}
"""Elements without an end: those of HTML that may stand in a page, and SVG's that we write so."""


@dataclass
class Element:
    """An element of a page: its attributes, and the text in it."""

    tag: str
    attributes: dict[str, str]
    text: str = ""
    inner: list[Element] = field(default_factory=list)

    def all(self, tag: str = "", **attributes: str) -> Iterator[Element]:
        """Give the elements in it of a tag, with these attributes (``class_`` holds one)."""
        for each in self.inner:
            wanted = not tag or each.tag == tag
            for name, value in attributes.items():
                there = each.attributes.get(name.rstrip("_"), "")
                wanted &= value in there.split() if name == "class_" else value == there
            if wanted:
                yield each
            yield from each.all(tag, **attributes)

    def cells(self) -> list[list[str]]:
        """Give the texts of a table, row by row."""
        return [
            [cell.text for cell in row.inner if cell.tag in ("td", "th")] for row in self.all("tr")
        ]


class Page(HTMLParser):
    """A page, parsed; its elements must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = Element("", {})
        self._open = [self.root]
        self.feed(text)
        self.close()
        assert self._open == [self.root], f"not closed: {[each.tag for each in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        assert len(element.attributes) == len(attrs), f"an attribute twice: {attrs}"
        self._open[-1].inner.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open[-1].inner.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for each in self._open:
            each.text += data


def parsed(path: Path | str) -> Element:
    return Page(places.read_text(str(path))).root


def section(page: Element, slide_id: str) -> Element:
    (found,) = page.all("section", id=f"slide-{slide_id}")
    return found


def table_under(part: Element, head: str) -> list[list[str]]:
    """Give the table of the figure whose title begins so."""
    for figure in part.all("figure"):
        title = next(figure.all("figcaption")).text
        if title.startswith(head):
            return next(figure.all("table")).cells()
    raise AssertionError(f"no figure {head} in {[f.text for f in part.all('figcaption')]}")


def cards(part: Element) -> dict[str, str]:
    return {
        next(each.all("dt")).text: next(each.all("dd")).text.split()[0]
        for each in next(part.all("dl")).inner
    }


def picture(part: Element, title: str) -> NDArray[np.uint8]:
    for figure in part.all("figure"):
        if next(figure.all("figcaption")).text.startswith(title):
            image = next(figure.all("img"))
            assert image.attributes["alt"]
            kind, _, data = image.attributes["src"].partition(",")
            assert kind == "data:image/webp;base64"
            with Image.open(io.BytesIO(base64.b64decode(data))) as opened:
                size = (int(image.attributes["width"]), int(image.attributes["height"]))
                assert opened.size == size
                return np.asarray(opened.convert("RGB"))
    raise AssertionError(f"no picture {title}")


def number(text: str) -> float:
    return float(text.replace(",", ""))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, demo_slide: Path) -> Path:
    """A run over a slide, one with a broken block, and one that is none, of a hostile name."""
    folder = tmp_path_factory.mktemp("cohort")
    shutil.copy(demo_slide, folder / "demo.svs")
    rgb = np.full((2100, 2100, 3), 243, np.uint8)
    rgb[:700, :900], rgb[1600:1900, 1100:1400] = noise(700, 900), noise(300, 300)
    rgb[..., 1] //= np.where(rgb[..., 0] == 243, 1, 3).astype(np.uint8)  # pink
    rgb[1700:1714, 1450:1464] = (90, 60, 140)  # as a nucleus, beside the tissue
    spoil_first_tile(write_tiff(folder / "torn.tiff", rgb, levels=2))
    (folder / f"{HOSTILE}.svs").write_text("no slide")
    (folder / "run.yaml").write_text(
        "slides: ['*.svs', '*.tiff']\nmodel: builtin:nuclei-objects\n"
        "output: {block: 512, directory: results}\nexport: [report]\n"
        "cluster: {kind: threads, workers: 2, dashboard: none}\n"
    )
    summary = pipeline.run(folder / "run.yaml", arguments=["run", "<b>run.yaml</b>"])
    states = {each.job.slide_id: each.state for each in summary.outcomes}
    assert sorted(states.values()) == ["done", "failed", "partial"]
    assert summary.made == (str(folder / "results" / "report.html"),)
    return folder / "results"


@pytest.fixture(scope="module")
def page(results: Path) -> Element:
    return parsed(results / "report.html")


@pytest.fixture
def copied(results: Path, tmp_path: Path) -> Path:
    """The same results, to be changed."""
    return Path(shutil.copytree(results, tmp_path / "results"))


def stored(results: Path, slide_id: str = "demo") -> StoredSlide:
    return open_results(results)[slide_id]


def whole(array: Any) -> Any:
    return array.compute(scheduler="synchronous")


def assert_nothing_from_outside(page: Element, *, pages: frozenset[str] = frozenset()) -> None:
    for element in page.all():
        for name, value in element.attributes.items():
            assert not name.startswith("on"), (element.tag, name)
            if name == "src":
                assert value.startswith("data:image/"), value[:80]
            elif name in ("href", "action", "srcset", "poster", "data", "formaction"):
                assert element.tag == "a", element.tag
                assert value.startswith("#") or unquote(value) in pages, value
            assert name == "http-equiv" or "url(" not in value
    assert "url(" not in next(page.all("style")).text
    assert "@import" not in next(page.all("style")).text
    (policy,) = (
        each.attributes["content"]
        for each in page.all("meta")
        if each.attributes.get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for tag in ("style", "script"):  # what is not ours does not count, were it there
        (own,) = page.all(tag)
        digest = base64.b64encode(hashlib.sha256(own.text.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"
        assert not any("style" in each.attributes for each in page.all())


def test_the_page_needs_nothing_from_outside_and_runs_no_script_but_its_own(page: Element) -> None:
    assert_nothing_from_outside(page)
    assert next(page.all("html")).attributes["lang"] == "en"


def test_links_lead_to_what_is_there(page: Element) -> None:
    ids = [each.attributes["id"] for each in page.all() if "id" in each.attributes]
    assert len(ids) == len(set(ids))
    links = [unquote(each.attributes["href"]) for each in page.all("a")]
    assert len(links) == 3
    assert {link.removeprefix("#") for link in links} <= set(ids)


def test_tables_have_heads_and_rows_of_one_length(page: Element) -> None:
    for table in page.all("table"):
        assert {len(row) for row in table.cells()} in ({2}, {3}, {4}, {10}), table.cells()[0]
        assert all(head.attributes["scope"] in ("col", "row") for head in table.all("th"))


def test_hostile_names_are_text(page: Element) -> None:
    name = f"{HOSTILE}.svs"
    rows = next(each for each in page.all("section") if each.text.strip().startswith("Not done"))
    assert name in rows.text  # in the reason
    assert "wsi-pipeline run <b>run.yaml</b>" in page.text
    assert not list(page.all("b"))
    assert all(each.attributes.get("src", "").startswith("data:") for each in page.all("img"))


def test_areas_are_those_of_the_store(results: Path, page: Element) -> None:
    found, slide = stored(results), cards(section(page, "demo"))
    mask, step = found.tissue, found.tissue_placement.scale
    rows, columns = (
        np.diff(np.minimum(np.arange(n + 1) * step[axis], (600.0, 750.0)[axis]))
        for axis, n in enumerate(mask.shape)
    )
    tissue = float((np.outer(rows, columns) * mask).sum()) / 1e6
    assert number(slide["tissue"]) == pytest.approx(tissue, rel=5e-3)
    assert number(slide["slide"]) == pytest.approx(0.75 * 0.6, rel=1e-9)


def test_the_tissue_area_is_near_the_truth(
    results: Path, page: Element, demo_slide: Path, tell: Callable[[str], None]
) -> None:
    truth = read_truth(demo_slide)
    area_px = sum(
        abs(np.dot(xy[:-1, 0], xy[1:, 1]) - np.dot(xy[1:, 0], xy[:-1, 1])) / 2
        for xy in truth.tissue
    )
    said = number(cards(section(page, "demo"))["tissue"])
    true = area_px * truth.mpp**2 / 1e6
    tell(f"report: tissue of the demo {said} mm2, in truth {true:.4g}")
    assert said == pytest.approx(true, rel=0.08)  # the mask has pixels of 8 um


def test_histograms_count_the_tissue_that_was_analysed(results: Path, page: Element) -> None:
    for slide_id in ("demo", "torn"):
        found = stored(results, slide_id)
        scores = whole(found.levels[0][0]).astype(np.float64) / 255
        analysed = np.kron(found.coverage == 1, np.ones((512, 512)))
        tissue, (step, _) = found.tissue, found.tissue_placement.scale
        rows, columns = (((np.arange(n) + 0.5) * 0.5 // step).astype(int) for n in scores.shape)
        inside = analysed[: scores.shape[0], : scores.shape[1]] == 1
        inside &= tissue[np.ix_(rows, columns)]
        head, *bars = table_under(section(page, slide_id), "Scores of nucleus in tissue")
        assert head == ["from", "to", "pixels"]
        counts = [int(number(row[2])) for row in bars]
        expected = np.histogram(scores[inside], numbers.BINS, (0, 1))[0]
        assert counts == expected.tolist()
        assert sum(counts) == inside.sum() > 10_000
        mean = f"mean {scores[inside].mean():.3g}"
        assert any(mean in each.text for each in section(page, slide_id).all("figcaption"))


@pytest.mark.parametrize("slide_id", ["demo", "torn"])
def test_objects_are_counted_with_their_density(
    results: Path, page: Element, slide_id: str
) -> None:
    found, part = stored(results, slide_id), section(page, slide_id)
    table = found.objects("nuclei")
    areas = cards(part)
    assert int(number(areas["nuclei"])) == table.num_rows > 100
    _, row = table_under(part, "nuclei")
    assert row[1] == f"{table.num_rows:,}"
    step = found.tissue_placement.scale[0] / 0.5
    x, y = (np.asarray(table[axis]) for axis in "xy")
    inside = int(found.tissue[(y // step).astype(int), (x // step).astype(int)].sum())
    assert int(number(row[2])) == inside
    assert (inside < table.num_rows) == (slide_id == "torn")  # whose patches reach beyond it
    assert number(row[3]) == pytest.approx(inside / number(areas["tissue analysed"]), rel=0.01)
    total = float(np.sum(table["area_um2"].to_numpy()))
    assert f"{total / table.num_rows:.3g} \u00b5m\u00b2 each" in part.text


def test_blocks_failures_time_and_memory_are_the_stores(results: Path, page: Element) -> None:
    found, part = stored(results, "torn"), section(page, "torn")
    counts = {
        name: int((found.coverage == value).sum())
        for value, name in enumerate(("pending", "analysed", "background", "failed"))
    }
    assert all(counts[name] for name in ("analysed", "background", "failed"))
    legend = [each.text.strip() for each in part.all("li")]
    for name in ("analysed", "background", "failed"):
        assert f"{name}: {counts[name]}" in legend
    (failed,) = (t.cells() for t in part.all("table") if t.cells()[0] == ["row", "column", "why"])
    assert [row[:2] for row in failed[1:]] == np.argwhere(found.coverage == 3).astype(str).tolist()
    assert [row[2] for row in failed[1:]] == [each["reason"] for each in found.failures]
    assert "torn.tiff" in failed[1][2]
    seconds = found.seen.attributes["stage_seconds"]
    stages = table_under(part, "Where the workers' time went")[1:]
    assert {row[0].strip(): row[1] for row in stages} == {
        name: f"{value:.2f}" for name, value in seconds.items()
    }
    assert sum(number(row[2]) for row in stages) == pytest.approx(100, abs=0.3)
    memory = found.seen.attributes["memory"]
    rows = table_under(part, "Memory of the largest worker")[1:]
    assert [number(row[1]) for row in rows] == [
        round(memory[name] / 2**20) for name in ("predicted_bytes", "peak_bytes")
    ]


def test_what_is_not_done_is_listed_with_its_reason(results: Path, page: Element) -> None:
    (listed,) = (t.cells() for t in page.all("table") if t.cells()[0] == ["slide", "state", "why"])
    assert sorted(row[1].strip() for row in listed[1:]) == ["failed", "partial"]
    reasons = " ".join(row[2] for row in listed[1:])
    assert "torn.tiff: cannot read level 0" in reasons
    assert "not a slide that OpenSlide" in reasons
    assert next(page.all("h1")).text == "1 of 3 slides done"
    assert "incomplete at" in page.text


def test_the_scale_bar_is_as_long_as_it_says(page: Element) -> None:
    part = section(page, "demo")
    for title in ("Slide", "Scores", "Objects", "Blocks"):
        pixels = picture(part, title)
        assert pixels.shape[1] == 1000
        assert pixels.shape[0] - 800 == pytest.approx(46, abs=1)  # 750 x 600 um, and a strip
        strip = pixels[805:].astype(int).mean(axis=2)
        row = strip[np.argmin(strip[:, 4:60].mean(axis=1))]
        bar = int(np.argmax(row[4:] > 128))
        assert bar / 1000 * 750 == pytest.approx(scale_bar_um(750), rel=0.02)


def test_colours_lie_where_the_scores_are(results: Path, page: Element) -> None:
    scores = whole(stored(results).levels[0][0]).astype(float)[:1200, :1500]
    cells = scores.reshape(60, 20, 75, 20).mean(axis=(1, 3))
    drawn = picture(section(page, "demo"), "Scores")[:800].astype(float)
    colour = (drawn.max(axis=2) - drawn.min(axis=2)).astype(np.uint8)  # the slide is grey
    small = np.asarray(Image.fromarray(colour).resize((75, 60))).astype(float)
    right = np.corrcoef(small.ravel(), cells.ravel())[0, 1]
    mirrored = np.corrcoef(small[:, ::-1].ravel(), cells.ravel())[0, 1]
    assert right > 0.8
    assert mirrored < 0.5


def test_failed_blocks_are_where_they_are_in_the_picture(results: Path, page: Element) -> None:
    coverage = stored(results, "torn").coverage
    drawn = picture(section(page, "torn"), "Blocks").astype(int)
    side = 1000 * 512 / 2100  # of a block
    for index in np.ndindex(*coverage.shape):
        y, x = (slice(int(i * side) + 10, min(int((i + 1) * side), 1000) - 10) for i in index)
        if min(y.stop - y.start, x.stop - x.start) > 20:  # the last ones are slivers
            red, _, blue = drawn[y, x].mean(axis=(0, 1))
            assert (red - blue > 60) == (coverage[index] == 3), index
            assert (blue - red > 10) == (coverage[index] == 1), index


def test_what_has_not_changed_is_not_drawn_again(copied: Path) -> None:
    assert write_report(str(copied)).drawn == 0
    before = parsed(copied / "report.html")
    found = stored(copied, "torn")
    withdraw(found.path)
    assert write_report(str(copied)).drawn == 1
    after = parsed(copied / "report.html")
    assert section(after, "demo").text == section(before, "demo").text
    assert section(after, "torn").text != section(before, "torn").text


def test_a_run_that_goes_on_shows_how_far_it_is(copied: Path) -> None:
    found = stored(copied)
    withdraw(found.path)
    done = int((found.coverage == 1).sum())
    (copied / "demo.zarr" / "0" / "c" / "0" / "1" / "1").unlink()  # a block
    write_report(str(copied))
    part = section(parsed(copied / "report.html"), "demo")
    legend = [each.text.strip() for each in part.all("li")]
    assert f"analysed: {done - 1}" in legend
    assert f"pending: {found.coverage.size - done + 1}" in legend
    assert not any(each.text.startswith("Scores") for each in part.all("figcaption"))


def test_where_the_slide_is_gone_its_results_are_shown(copied: Path, results: Path) -> None:
    slide = results.parent / "demo.svs"
    other = slide.with_name("away")
    (copied / "report.html").unlink()
    shutil.rmtree(copied / "torn.zarr")  # and the books still know of it
    slide.rename(other)
    try:
        assert write_report(str(copied)).drawn == 3
        part = section(parsed(copied / "report.html"), "demo")
        assert "the slide is not shown" in part.text
        assert number(cards(part)["tissue"]) > 0.1
        assert picture(part, "Scores").shape[1] == 1000
        write_tiff(slide, noise(300, 300))  # another one in its place
        assert write_report(str(copied)).drawn == 1
        part = section(parsed(copied / "report.html"), "demo")
        assert "is another slide than the one it was made of" in part.text
    finally:
        other.replace(slide)
    assert write_report(str(copied)).drawn == 1  # it is there again
    assert "not shown" not in section(parsed(copied / "report.html"), "demo").text


def test_many_slides_have_pages_of_their_own(
    copied: Path, monkeypatch: pytest.MonkeyPatch, page: Element
) -> None:
    monkeypatch.setattr(writing, "ON_ONE_PAGE", 2)
    (copied / "report.html").unlink()
    written = write_report(str(copied))
    assert (written.slides, written.drawn) == (3, 3)
    index = parsed(copied / "report.html")
    there = frozenset(f"report/{each.name}" for each in (copied / "report").iterdir())
    assert_nothing_from_outside(index, pages=there)
    assert {unquote(each.attributes["href"]) for each in index.all("a")} == there
    assert not list(index.all("section", class_="slide"))
    assert sum(1 for _ in index.all("img")) == 2  # a small picture of each that has one
    own = parsed(copied / "report" / "demo.html")
    assert_nothing_from_outside(own, pages=frozenset({"../report.html"}))
    assert section(own, "demo").text.split() == section(page, "demo").text.split()
    assert (copied / "report.html").stat().st_size < 40_000
    assert write_report(str(copied)).drawn == 0
    (copied / "report" / "torn.html").unlink()
    assert write_report(str(copied)).drawn == 1


def test_more_than_twenty_slides_are_many_and_none_can_leave_the_folder(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("slides: a\n")
    names = [f"s{i}" for i in range(19)]
    rows = [f"{name},failed,,,,,1.5,,,,no <i>slide</i>,2026-01-01T00:00:00Z" for name in names]

    def write(*more: str) -> None:
        lines = [*rows, *(f"{name},pending,,,,,,,,,," for name in more)]
        (tmp_path / "status.csv").write_text("\n".join([HEAD, *lines, ""]))

    write("last")
    assert write_report(str(tmp_path)).pages == ""
    write("last", "../../outside")
    out = tmp_path / "sub" / "r.html"
    written = write_report(str(tmp_path), str(out))
    assert written.pages == str(tmp_path / "sub" / "r")
    pages = sorted(each.name for each in (tmp_path / "sub" / "r").iterdir())
    assert len(pages) == 21
    assert not (tmp_path.parent / "outside.html").exists()
    index = parsed(out)
    assert_nothing_from_outside(index, pages=frozenset(f"r/{name}" for name in pages))
    assert next(index.all("h1")).text == "0 of 21 slides done"
    assert "no <i>slide</i>" in parsed(tmp_path / "sub" / "r" / "s3.html").text


HEAD = (
    "slide_id,state,blocks_done,blocks_background,blocks_failed,blocks_total,seconds,mpx_per_s,"
    "predicted_mib,peak_mib,reason,updated"
)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a model with outputs of all kinds, of a slide without glass."""
    folder = tmp_path_factory.mktemp("many")
    write_tiff(folder / "noise.tiff", noise(200, 270))
    config = {
        "slides": str(folder / "noise.tiff"),
        "model": str(write_many(folder / "model")),
        "output": {"block": 96, "chunk": 32, "directory": str(folder / "results")},
        "tissue": {"method": "none"},
        "cluster": {"kind": "threads", "workers": 1, "dashboard": "none"},
    }
    run_file = folder / "run.yaml"
    run_file.write_text(yaml.safe_dump(config))
    assert pipeline.run(run_file).complete
    return folder / "results"


def test_classes_have_their_areas_names_and_colours(many: Path) -> None:
    write_report(str(many))
    part = section(parsed(many / "report.html"), "noise")
    labels = whole(stored(many, "noise").levels_of("dominant")[0])
    head, *rows = table_under(part, "dominant")
    assert head == ["class", "mm\u00b2", "% of tissue analysed"]
    for value, row in zip((1, 3), rows, strict=True):
        mm2 = float((labels == value).sum()) * 0.25 / 1e6
        assert number(row[1]) == pytest.approx(mm2, rel=5e-3)
        assert number(row[2]) == pytest.approx(100 * (labels == value).mean(), abs=0.06)
    drawn = picture(part, "Classes: dominant")
    red, blue = ((drawn[:740, ..., i].astype(int) - drawn[:740, ..., 2 - i]) > 40 for i in (0, 2))
    assert red.mean() == pytest.approx((labels == 1).mean(), abs=0.05)
    assert blue.mean() == pytest.approx((labels == 3).mean(), abs=0.05)
    fills = {each.attributes["fill"] for each in part.all("rect") if "fill" in each.attributes}
    assert {"#ff0000", "#0000ff"} <= fills
    regions = stored(many, "noise").objects("dominant-regions").num_rows
    assert f"{regions:,}" in cards(part)["dominant-regions"]
    assert "63 patches with 3 features each" in part.text


def test_of_large_outputs_a_part_is_counted_and_said(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numbers, "MOST_PIXELS", 30_000)
    write_report(str(many), str(tmp_path / "r.html"))
    part = section(parsed(tmp_path / "r.html"), "noise")
    labels = whole(stored(many, "noise").levels_of("dominant")[0])
    rows = table_under(part, "dominant")[1:]
    for value, row in zip((1, 3), rows, strict=True):
        assert number(row[1]) == pytest.approx((labels == value).sum() * 0.25e-6, rel=0.05)
    share = re.search(r"estimated from ([\d.]+) % of the pixels", part.text)
    assert share is not None
    assert 45 < float(share[1]) < 60
    counted = sum(int(number(row[2])) for row in table_under(part, "Scores of sum")[1:])
    assert counted == pytest.approx(200 * 270 * float(share[1]) / 100, rel=0.01)


def test_the_command_makes_it_at_any_time(copied: Path) -> None:
    done = CliRunner().invoke(cli, ["report", str(copied)], standalone_mode=False)
    assert done.exit_code == 0
    assert f"{copied / 'report.html'}: 3 slides, 0 drawn anew" in done.output
    with pytest.raises(StoreError, match="no such directory"):
        write_report(str(copied / "other"))
    with pytest.raises(StoreError, match="cannot be written"):
        write_report(str(copied), str(copied / "status.csv" / "r.html"))


@pytest.fixture
def small_run(tmp_path: Path, toy_model: Callable[..., Path]) -> Path:
    write_tiff(tmp_path / "a.tiff", noise(200, 200))
    write_tiff(tmp_path / "b.tiff", noise(200, 200, seed=1))
    path = tmp_path / "run.yaml"
    path.write_text(
        f"slides: '*.tiff'\nmodel: {toy_model('neighbours', outputs={'range': [0, 128]})}\n"
        "output: {block: 128, directory: results}\ntissue: {method: none}\nexport: [report]\n"
        "cluster: {kind: threads, workers: 1, dashboard: none, slides_at_once: 1}\n"
    )
    return path


def test_a_report_that_cannot_be_made_is_said_and_loses_nothing(small_run: Path) -> None:
    results = small_run.parent / "results"
    (results / "report.html").mkdir(parents=True)
    summary = pipeline.run(small_run)
    assert [each.state for each in summary.outcomes] == ["done", "done"]
    assert not summary.complete
    assert "report.html" in summary.broken[0]
    done = CliRunner().invoke(cli, ["run", str(small_run)], standalone_mode=False)
    assert done.return_value == 1
    assert "note: export report: " in done.output
    (results / "report.html").rmdir()
    done = CliRunner().invoke(cli, ["run", str(small_run)], standalone_mode=False)
    assert done.return_value == 0
    assert f"  {results / 'report.html'}\n" in done.output


def test_a_run_that_is_interrupted_has_a_report_that_says_so(small_run: Path) -> None:
    class Stopping(Silence):
        def ended(self, outcome: SlideOutcome) -> None:  # noqa: ARG002
            ask_to_stop()

    with pytest.raises(Interrupted):
        run(load_config(small_run), report=Stopping())
    page = parsed(small_run.parent / "results" / "report.html")
    assert next(page.all("h1")).text == "1 of 2 slides done"
    assert "interrupted at" in page.text


def test_results_in_a_bucket_have_their_report_there(
    small_run: Path, moto: servers.S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in moto.environment.items():
        monkeypatch.setenv(name, value)
    directory = "s3://test/report-run"
    summary = pipeline.run(load_config(small_run, [f"output.directory={directory}"]))
    assert summary.made == (f"{directory}/report.html",)
    page = parsed(f"{directory}/report.html")
    assert next(page.all("h1")).text == "2 of 2 slides done"
    assert picture(section(page, "a"), "Scores").shape[1] == 1000
    with dask.config.set(scheduler="synchronous"):
        assert write_report(directory).drawn == 0
