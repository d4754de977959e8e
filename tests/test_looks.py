"""What a notebook shows of slides, levels and plans: in bounded time, escaped, never an error."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.batch import dry_run
from pipeline.config.runfile import load_config
from pipeline.execute.staining import fit_stain
from pipeline.geometry import Box
from pipeline.plan import Plan
from pipeline.readers.tiff import TiffReader
from pipeline.slide import Slide, looks, open_slide
from pipeline.slide.level import slides
from pipeline.slide.looks import MOST_PIXELS, NO_PICTURE, preview
from pipeline.slide.restained import Normalised, normalised
from tests.toys import noise

HOSTILE = "<img src=x onerror=alert(1)>&'\".tif"


@pytest.fixture(autouse=True)
def in_this_thread() -> Iterator[None]:
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def boxes_read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Box]]:
    """Collects every (level, box) asked of the direct reader."""
    asked: list[tuple[int, Box]] = []
    read = TiffReader.read

    def collecting(reader: TiffReader, level: int, box: Box) -> NDArray[np.uint8]:
        asked.append((level, box))
        return read(reader, level, box)

    monkeypatch.setattr(TiffReader, "read", collecting)
    return asked


@pytest.fixture
def demo(demo_slide: Path) -> Slide:
    return open_slide(demo_slide)


@pytest.fixture
def plan(demo_slide: Path, tmp_path: Path) -> Plan:
    config = tmp_path / "run.yaml"
    config.write_text(
        f"slides: {demo_slide}\nmodel: builtin:nuclei\noutput: {{directory: {tmp_path}/results}}\n"
    )
    ((_, planned),) = dry_run(load_config(config))
    assert isinstance(planned, Plan)
    return planned


def pictures(html: str) -> list[NDArray[np.uint8]]:
    """Give the pictures that a piece of HTML carries."""
    found = re.findall(r"src='data:image/png;base64,([^']*)'", html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(each)))) for each in found]


def html_of(shown: Any) -> str:
    return str(shown._repr_html_())


class Tags(HTMLParser):
    """The tags of a piece of HTML and their attributes, as a browser reads them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += [name for name, _ in attrs]


def gradient(height: int, width: int) -> NDArray[np.uint8]:
    """Give pixels that tell where they are: red rises downwards, green to the right."""
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[..., 0] = np.linspace(0, 255, height)[:, None]
    rgb[..., 1] = np.linspace(0, 255, width)
    return rgb


def test_levels_say_what_they_are_and_what_they_are_made_of(demo: Slide) -> None:
    assert repr(demo.level(1)).startswith("Level 1 of demo\n")
    assert "375 x 300 px" in repr(demo.level(1))
    virtual = repr(demo.at(0.7))
    assert "1072 x 858 px" in virtual
    assert re.search(r"made of +level 0, downsample 1\n", virtual)
    assert re.search(r"resampled +bicubic", virtual)
    stained = repr(normalised(demo.level(0), fit_stain(demo, "macenko")))
    assert stained.startswith("Normalised level of demo\n")
    assert re.search(r"stained as +macenko", stained)


def test_every_level_is_a_row_for_a_notebook(demo: Slide) -> None:
    html = demo.levels._repr_html_()
    assert html.count("<tr>") == 1 + len(demo.levels)
    assert ">375 x 300</span></td>" in html


def test_a_hostile_name_is_escaped_everywhere(
    tmp_path: Path, write_tiff: Callable[..., Path]
) -> None:
    slide = open_slide(write_tiff(tmp_path / HOSTILE, noise(64, 96)))
    for shown in (slide, slide.level(0), slide.at(0.7)):
        html = html_of(shown)
        tags = Tags(html)
        assert set(tags.names) <= {"div", "b", "table", "tr", "th", "td", "span", "img"}
        assert set(tags.attributes) <= {"style", "alt", "src"}
        assert tags.names.count("img") == 1
        assert "&lt;img src=x onerror=alert(1)&gt;&amp;" in html


def test_a_slide_that_is_gone_is_said_and_not_raised(
    tmp_path: Path, write_tiff: Callable[..., Path]
) -> None:
    path = write_tiff(tmp_path / "a.tif", noise(64, 96))
    slide = open_slide(path)
    assert len(pictures(slide._repr_html_())) == 1
    slides.clear()
    path.unlink()
    for shown in (slide, slide.level(0), slide.at(0.7)):
        assert "a.tif" in repr(shown)
        html = html_of(shown)
        assert "64" in html
        assert not pictures(html)
        assert "a.tif: no such file" in html


def test_a_look_reads_the_coarse_level_only(demo: Slide, boxes_read: list[tuple[int, Box]]) -> None:
    """Its levels are 1, 4 and 16 times coarser; a picture has 256 pixels."""
    for shown in (demo, demo.level(0), demo.at(0.7)):
        boxes_read.clear()
        (picture,) = pictures(html_of(shown))
        assert picture.shape == (205, 256, 3)
        assert boxes_read == [(1, Box(0, 0, 300, 375))]


def test_without_a_coarse_level_nothing_is_read(
    tmp_path: Path,
    write_tiff: Callable[..., Path],
    boxes_read: list[tuple[int, Box]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slide = open_slide(write_tiff(tmp_path / "a.tif", noise(300, 400)))
    monkeypatch.setattr(looks, "MOST_PIXELS", 300 * 400)
    boxes_read.clear()
    assert len(pictures(slide._repr_html_())) == 1
    assert sum(box.area for _, box in boxes_read) == 300 * 400
    boxes_read.clear()
    monkeypatch.setattr(looks, "MOST_PIXELS", 300 * 400 - 1)
    html = slide._repr_html_()
    assert not boxes_read
    assert not pictures(html)
    assert NO_PICTURE in html
    assert MOST_PIXELS <= 2**24  # a screenful of screens, whatever the slide


def test_the_thumbnail_of_the_file_is_shown_where_every_level_is_large(
    demo: Slide, boxes_read: list[tuple[int, Box]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (expected,) = pictures(demo._repr_html_())
    monkeypatch.setattr(looks, "MOST_PIXELS", 1000)
    boxes_read.clear()
    (picture,) = pictures(demo._repr_html_())
    assert not boxes_read
    assert picture.shape == expected.shape
    assert np.abs(picture.astype(int) - expected).mean() < 4
    # A crop is not what the thumbnail shows.
    assert preview(replace(demo, crop=Box(0, 0, 600, 900)).level(0)) is None


@pytest.mark.parametrize(
    ("crop", "size"),
    [
        (None, 64),
        (Box(37, 81, 230, 150), 64),
        (Box(0, 200, 300, 100), 64),
        (Box(39, 8, 230, 99), 14),
    ],
)
def test_a_picture_shows_each_place_where_it_is(
    crop: Box | None, size: int, tmp_path: Path, write_tiff: Callable[..., Path]
) -> None:
    """Grey levels tell the place; nothing is stretched, and parts of coarse pixels count."""
    rgb = gradient(304, 400)
    slide = replace(open_slide(write_tiff(tmp_path / "a.tif", rgb, levels=5)), crop=crop)
    picture = preview(slide.level(0), size)
    assert picture is not None
    height, width = slide.shape
    ratio = size / max(height, width)
    assert picture.shape == (round(height * ratio), round(width * ratio), 3)
    top, left = (0, 0) if crop is None else (crop.y, crop.x)
    rows = (top + (np.arange(picture.shape[0]) + 0.5) / ratio) / 304 * 255
    columns = (left + (np.arange(picture.shape[1]) + 0.5) / ratio) / 400 * 255
    assert np.abs(picture[..., 0] - rows[:, None]).max() < 2 + 0.25 / ratio
    assert np.abs(picture[..., 1] - columns).max() < 2 + 0.25 / ratio


def test_changed_colours_are_shown(demo: Slide) -> None:
    level = normalised(demo.level(0), fit_stain(demo, "macenko"))
    picture, plain = preview(level), preview(demo.level(0))
    assert picture is not None
    assert plain is not None
    assert isinstance(level, Normalised)
    again = level.converted(plain)
    assert np.abs(picture.astype(int) - again).mean() < 3
    assert np.abs(picture.astype(int) - plain).mean() > 3


def test_a_plan_says_what_it_would_do_and_fades_what_it_leaves_out(plan: Plan) -> None:
    text = repr(plan)
    assert text.startswith("Plan of demo\n")
    assert f"{len(plan.todo)} of {plan.grid.size}, of {plan.grid.cell} px" in text
    assert f"{plan.patch_count} of {plan.wanted.size}" in text
    assert 0 < plan.patch_count < plan.wanted.size
    (picture,) = pictures(plan._repr_html_())
    plain = preview(plan.level)
    assert plain is not None
    step = plan.model.ref.step * 256 / 1500
    for (row, column), wanted in np.ndenumerate(plan.wanted):
        y, x = int((row + 0.5) * step), int((column + 0.5) * step)
        if y >= picture.shape[0] or x >= picture.shape[1]:
            continue
        spot = (slice(y - 3, y + 4), slice(x - 3, x + 4))
        assert np.array_equal(picture[spot], plain[spot]) == bool(wanted), (row, column)
        assert wanted or (picture[spot].min() > 160 and np.ptp(picture[spot], axis=2).max() == 0)
