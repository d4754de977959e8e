"""`pipeline.show`: what is drawn lies where it is, measured in the rendered picture."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray

import pipeline
from pipeline.demo import DemoTruth, read_truth
from pipeline.errors import ConfigError, SlideError
from pipeline.geometry import Box
from pipeline.readers.tiff import TiffReader
from pipeline.results import Results, open_results
from pipeline.results.showing import show
from pipeline.results.stored import StoredSlide
from pipeline.results.within import objects_in
from pipeline.slide import Slide, open_slide
from pipeline.slide import crop as cropping
from pipeline.slide.crop import Region, crop
from pipeline.slide.level import slides
from pipeline.store import StoredTable, tables
from tests.test_looks import pictures
from tests.toys import noise, write_tiff

MPP = 0.5


@pytest.fixture(scope="module")
def slide(demo_slide: Path) -> Slide:
    return open_slide(demo_slide)


@pytest.fixture(scope="module")
def truth(demo_slide: Path) -> DemoTruth:
    return read_truth(demo_slide)


@pytest.fixture(scope="module")
def results(demo_slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Scores and outlines of the demo slide's nuclei, in four blocks of which one has no tissue."""
    folder = tmp_path_factory.mktemp("shown")
    config = folder / "run.yaml"
    config.write_text(
        f"slides: {demo_slide}\nmodel: builtin:nuclei-objects\ncluster: {{kind: threads}}\n"
        f"output: {{directory: {folder}/results, block: 512}}\n"
    )
    assert pipeline.run(config).complete
    return open_results(folder / "results")


@pytest.fixture(scope="module")
def stored(results: Results) -> StoredSlide:
    return results["demo"]


@pytest.fixture(scope="module")
def lonely(truth: DemoTruth) -> NDArray[np.float64]:
    """Give x and y of a nucleus that has no other within 40 px, away from the border."""
    far = np.linalg.norm(truth.nuclei[:, None] - truth.nuclei[None], axis=2)
    np.fill_diagonal(far, np.inf)
    x, y = truth.nuclei.T
    inner = (x > 100) & (x < truth.width - 100) & (y > 100) & (y < truth.height - 100)
    chosen = np.flatnonzero(inner & (far.min(axis=1) > 40))
    assert len(chosen), "the demo slide has no lonely nucleus"
    centre: NDArray[np.float64] = truth.nuclei[chosen[0]]
    return centre


def around(centre: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Give a region of 50 x 40 px in which a nucleus is not in the middle."""
    return (float(centre[0]) - 17.3, float(centre[1]) - 14.6, 50.0, 40.0)


def rendered(figure: Figure) -> NDArray[np.int64]:
    figure.canvas.draw()
    rgba = np.asarray(figure.canvas.buffer_rgba())  # type: ignore[attr-defined]  # Agg's own
    return rgba[..., :3].astype(np.int64)


def middle_um(figure: Figure, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Give the middle, on the axes, of chosen pixels of the rendered picture."""
    rows, columns = np.nonzero(chosen)
    assert len(rows), "nothing of that colour was drawn"
    at = (columns.mean() + 0.5, chosen.shape[0] - rows.mean() - 0.5)
    place: NDArray[np.float64] = figure.axes[0].transData.inverted().transform(at)
    return place


def inside(figure: Figure, rgb: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Give the pixels inside of the axes, above the scale bar."""
    box = figure.axes[0].get_window_extent()
    mask = np.zeros(rgb.shape[:2], np.bool_)
    height = box.height * 0.85
    top = rgb.shape[0] - box.y1
    mask[round(top) + 4 : round(top + height), round(box.x0) + 4 : round(box.x1) - 4] = True
    return mask


def test_a_nucleus_is_drawn_at_its_um(slide: Slide, lonely: NDArray[np.float64]) -> None:
    figure = show(slide, around(lonely))
    rgb = rendered(figure)
    dark = inside(figure, rgb) & (rgb[..., 0] < 120)
    assert np.abs(middle_um(figure, dark) - lonely * MPP).max() < 0.5


def test_a_region_may_be_given_in_um(slide: Slide, lonely: NDArray[np.float64]) -> None:
    region = [each * MPP for each in around(lonely)]
    figure = show(slide, region, unit="um")
    rgb = rendered(figure)
    np.testing.assert_array_equal(rgb, rendered(show(slide, around(lonely))))
    assert figure.axes[0].get_xlabel() == "x (\u00b5m)"


def test_outlines_are_drawn_around_the_nucleus(
    stored: StoredSlide, lonely: NDArray[np.float64]
) -> None:
    figure = show(stored, around(lonely), layers=["nuclei"])
    rgb = rendered(figure)
    orange = (rgb[..., 0] > 200) & (abs(rgb[..., 1] - 159) < 30) & (rgb[..., 2] < 60)
    assert np.abs(middle_um(figure, inside(figure, rgb) & orange) - lonely * MPP).max() < 1.0


def test_scores_are_drawn_over_the_nucleus(
    stored: StoredSlide, lonely: NDArray[np.float64]
) -> None:
    figure = show(stored, around(lonely), layers=["nucleus"])
    rgb = rendered(figure)
    high = (rgb[..., 1] - rgb[..., 2] > 60) & inside(figure, rgb)
    assert np.abs(middle_um(figure, high) - lonely * MPP).max() < 1.0
    assert figure.axes[1].get_ylabel() == "nucleus"


def test_a_heat_map_of_ones_own_covers_the_region(slide: Slide) -> None:
    heat = np.zeros((8, 10), np.float32)
    heat[2, 7] = 1
    figure = show(slide, (400, 300, 500, 400), heat=heat)
    rgb = rendered(figure)
    high = (rgb[..., 1] - rgb[..., 2] > 60) & inside(figure, rgb)
    expected = np.array([400 + 7.5 * 50, 300 + 2.5 * 50]) * MPP
    assert np.abs(middle_um(figure, high) - expected).max() < 1.0


def test_the_scale_bar_is_as_long_as_it_says(slide: Slide) -> None:
    figure = show(slide, (0, 0, 1000, 800))
    rgb = rendered(figure)
    box = figure.axes[0].get_window_extent()
    (bar,) = figure.findobj(lambda artist: artist.get_gid() == "scale bar")
    extent = bar.get_window_extent()
    row = rgb[round(rgb.shape[0] - (extent.y0 + extent.y1) / 2)]
    dark = (row.max(axis=1) < 60)[round(box.x0) + 3 : round(box.x1) - 3].sum()
    assert dark / box.width * 500 == pytest.approx(100, abs=1.5)
    assert [text.get_text() for text in figure.axes[0].texts] == ["100 \u00b5m"]


def test_the_level_is_chosen_by_the_size_of_the_figure(
    slide: Slide, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, Box]] = []
    read = TiffReader.read

    def collecting(reader: TiffReader, level: int, box: Box) -> NDArray[np.uint8]:
        asked.append((level, box))
        return read(reader, level, box)

    monkeypatch.setattr(TiffReader, "read", collecting)
    show(slide, size=3)
    assert asked == [(1, Box(0, 0, 300, 375))]
    asked.clear()
    show(slide, (200, 300, 100, 80))
    assert asked == [(0, Box(300, 200, 80, 100))]


def test_a_crop_says_what_it_covers_to_the_pixel_of_its_level(slide: Slide) -> None:
    pixels, covered, level = crop(slide, Region(405, 307, 400, 320), 100)
    assert level.index == 1
    assert covered == Region(404, 304, 404, 324)
    np.testing.assert_array_equal(pixels, level.read(Box(76, 101, 81, 101)))


def test_a_level_that_is_too_fine_is_read_strip_by_strip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb = noise(600, 401)
    slide = open_slide(write_tiff(tmp_path / "a.tif", rgb))
    whole, covered, _ = crop(slide, Region(0, 0, 401, 600), 150)
    assert whole.shape == (150, 101, 3)
    assert covered == Region(0, 0, 404, 600)
    means = rgb[:, :400].reshape(150, 4, 100, 4, 3).mean(axis=(1, 3))
    assert np.abs(whole[:, :100] - means).max() <= 1
    asked: list[int] = []
    read = TiffReader.read

    def collecting(reader: TiffReader, level: int, box: Box) -> NDArray[np.uint8]:
        asked.append(box.area)
        return read(reader, level, box)

    monkeypatch.setattr(TiffReader, "read", collecting)
    monkeypatch.setattr(cropping, "_STRIP_PIXELS", 404 * 100)
    np.testing.assert_array_equal(crop(slide, Region(0, 0, 401, 600), 150)[0], whole)
    assert len(asked) == 6
    assert max(asked) <= 404 * 100


def test_only_parts_that_can_hold_objects_of_a_region_are_read(
    stored: StoredSlide, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[int, int]] = []
    read_part = tables.read_part

    def collecting(table: StoredTable, index: tuple[int, int]) -> Any:
        read.append(index)
        return read_part(table, index)

    monkeypatch.setattr(tables, "read_part", collecting)
    everything = objects_in(stored, "nuclei", Region(0, 0, 1500, 1200))
    assert sum(each.count for each in everything) == stored.objects("nuclei").num_rows
    read.clear()
    few = objects_in(stored, "nuclei", Region(0, 0, 1500, 100))
    assert {row for row, _ in read} <= {0, 1}
    y = stored.objects("nuclei")["y"].to_numpy()
    assert sum(each.count for each in few) == (y < 100).sum()
    read.clear()
    objects_in(stored, "nuclei", Region(0, 1100, 1500, 100))
    assert {row for row, _ in read} <= {1, 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"region": (2000, 0, 10, 10)}, r"region: \(2000, 0, 10, 10\) px lies outside of demo"),
        ({"region": (0, 0, 0, 10)}, "give x, y, width and height"),
        ({"region": (0, 0, float("nan"), 10)}, "give x, y, width and height"),
        ({"region": (0, 0, 10)}, "give x, y, width and height"),
        ({"region": (0, 0, 9, 9), "unit": "mm"}, "unit: mm: give px, or um"),
        ({"layers": ["tumour"]}, r"layers: tumour: nothing .* there is tissue, nucleus \(scores\)"),
        ({"layers": ["nucleus/tumour"]}, "layers: nucleus/tumour: nothing"),
        ({"heat": np.zeros((1, 4, 4))}, r"heat: has the shape \(1, 4, 4\)"),
        ({"size": 200}, "size: 200 inches"),
    ],
)
def test_what_cannot_be_meant_is_named(
    stored: StoredSlide, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        show(stored, **arguments)


def test_layers_are_for_results(slide: Slide) -> None:
    with pytest.raises(ConfigError, match="layers: tissue: a slide has none; show results"):
        show(slide, layers=["tissue"])


def test_results_are_drawn_without_their_slide_and_say_so(
    demo_slide: Path, stored: StoredSlide, lonely: NDArray[np.float64], tmp_path: Path
) -> None:
    moved = tmp_path / "moved.svs"
    try:
        demo_slide.rename(moved)
        slides.clear()
        figure = show(stored, around(lonely), layers=["nuclei"])
        assert f"the slide is not at {demo_slide}" in figure.axes[0].get_title()
        rgb = rendered(figure)
        orange = (rgb[..., 0] > 200) & (abs(rgb[..., 1] - 159) < 30) & (rgb[..., 2] < 60)
        assert np.abs(middle_um(figure, inside(figure, rgb) & orange) - lonely * MPP).max() < 1.0
        elsewhere = show(stored, around(lonely), slide=open_slide(moved))
        assert "not at" not in elsewhere.axes[0].get_title()
    finally:
        moved.rename(demo_slide)
    other = open_slide(write_tiff(tmp_path / "other.tif", noise(1200, 1500)))
    with pytest.raises(SlideError, match="is not the slide that"):
        show(stored, slide=other)


def test_a_slide_of_unknown_scale_is_drawn_in_its_pixels(tmp_path: Path) -> None:
    figure = show(open_slide(write_tiff(tmp_path / r"a_$\x$.tif", noise(64, 96), mpp=None)))
    axes = figure.axes[0]
    assert axes.get_xlabel() == "x (level-0 px)"
    assert axes.get_xlim() == (0, 96)
    assert axes.get_ylim() == (64, 0)
    assert not figure.findobj(lambda artist: artist.get_gid() == "scale bar")
    rendered(figure)  # a name is no formula


def test_a_figure_shows_itself_and_needs_no_pyplot(demo_slide: Path) -> None:
    code = (
        "import sys, pipeline\n"
        f"figure = pipeline.show(pipeline.open_slide({str(demo_slide)!r}), size=2)\n"
        "assert figure._repr_png_().startswith(b'\\x89PNG')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_results_show_their_scores_where_the_nuclei_are(
    stored: StoredSlide, truth: DemoTruth
) -> None:
    (picture,) = pictures(stored._repr_html_())
    assert picture.shape == (205, 256, 3)
    coloured = np.ptp(picture.astype(int), axis=2)
    x, y = (truth.nuclei * 256 / 1500).astype(int).T
    there = coloured[y.clip(0, 204), x.clip(0, 255)].mean()
    assert there > 2 * coloured[y.clip(0, 204), 255 - x.clip(0, 255)].mean()
    assert "outputs" not in repr(stored)
    assert repr(stored).startswith("Results of demo\n")


def test_many_results_are_shown_in_part(results: Results, stored: StoredSlide) -> None:
    names = [f"slide-{i:03d}" for i in range(60)]
    many = Results(results.directory, {name: replace(stored, slide_id=name) for name in names})
    html = many._repr_html_()
    assert html.count("<tr>") == 2 + 50
    assert "10 slides; table() has all" in html
    assert len(pictures(html)) == 12
    assert max(picture.shape[1] for picture in pictures(html)) == 64


def test_results_that_are_gone_are_said_and_not_raised(
    results: Results, stored: StoredSlide, tmp_path: Path
) -> None:
    folder = Path(stored.path)
    moved = tmp_path / "gone.zarr"
    try:
        folder.rename(moved)
        assert "demo" in repr(results)
        assert not pictures(results._repr_html_())
        html = stored._repr_html_()
        assert not pictures(html)
        assert "none: " in html
    finally:
        moved.rename(folder)


def test_a_reason_is_escaped(stored: StoredSlide) -> None:
    failed = replace(
        stored.seen,
        attributes={
            **stored.seen.attributes,
            "failures": [{"block": [0, 1], "reason": "<script>alert(1)</script>"}],
        },
    )
    html = replace(stored, seen=failed)._repr_html_()
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)" in html
