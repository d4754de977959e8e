from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from skimage.color import rgb2lab

from pipeline.clusters import cluster
from pipeline.errors import StoreError
from pipeline.execute import run
from pipeline.execute.finding import find_tissue
from pipeline.export import export, overview
from pipeline.export.overview import (
    OverviewImage,
    draw_overview,
    heat_colours,
    save_overview,
    scale_bar_um,
)
from pipeline.model import load_model
from pipeline.plan import Options, plan_slide
from pipeline.results import open_stored
from pipeline.slide import open_slide
from pipeline.tissue import TissueSettings
from tests.toys import noise, write_tiff

SHAPES = {"wide": (50_000.0, 10_000.0), "tall": (3_000.0, 15_000.0), "square": (812.0, 812.0)}
by_shape = pytest.mark.parametrize("extent", SHAPES.values(), ids=SHAPES)


def example(extent: tuple[float, float] = (900.0, 1200.0)) -> OverviewImage:
    """A red slide: nothing else in the figure is red."""
    thumbnail = np.zeros((40, 50, 3), dtype=np.uint8)
    thumbnail[..., 0] = 255
    return OverviewImage(thumbnail, None, None, *extent, title="slide.svs", channel="tumour")


def full_example(extent: tuple[float, float] = (900.0, 1200.0)) -> OverviewImage:
    rng = np.random.default_rng(5)
    tissue = np.zeros((70, 90), dtype=np.bool_)
    tissue[10:60, 5:] = True
    heat = rng.random((11, 13)).astype(np.float32)
    return replace(example(extent), heat=heat, tissue=tissue, subtitle="nuclei 1, 0.5 um/px")


def pixels(figure: Figure) -> NDArray[np.float64]:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(float)  # type: ignore[attr-defined]  # Agg's own


def red_extent(rgb: NDArray[np.float64]) -> tuple[float, float]:
    """Give height and width of what is red, counting blended pixels in part."""
    red = (rgb[..., 0] > 128) & (rgb[..., 1] < 128)
    return float(red.any(axis=1).sum()), float(red.any(axis=0).sum())


@by_shape
def test_the_scale_bar_is_as_long_as_it_says(extent: tuple[float, float]) -> None:
    figure = draw_overview(example(extent))
    rgb = pixels(figure)
    (bar,) = figure.findobj(lambda artist: artist.get_gid() == "scale bar")
    box = bar.get_window_extent()
    row = round(len(rgb) - (box.y0 + box.y1) / 2)
    around = rgb[row, round(box.x0) - 5 : round(box.x1) + 5].mean(axis=1)
    ink = rgb[row, round((box.x0 + box.x1) / 2)].mean()
    drawn = ((255 - around) / (255 - ink)).sum()
    slide = figure.axes[0].get_window_extent().width
    assert drawn / slide * extent[0] == pytest.approx(scale_bar_um(extent[0]), rel=0.01)
    assert red_extent(rgb)[1] == pytest.approx(slide, abs=2)


@by_shape
def test_the_slide_is_drawn_in_its_own_proportions(extent: tuple[float, float]) -> None:
    height, width = red_extent(pixels(draw_overview(example(extent))))
    assert width / height == pytest.approx(extent[0] / extent[1], rel=0.02)


def test_a_scale_bar_is_round_and_a_tenth_to_a_quarter_of_the_width() -> None:
    for width_um in [*np.geomspace(0.3, 3e5, 400), 4e-1, 4.0, 40.0, 400.0, 8e3, 2e4, 4e5]:
        length = scale_bar_um(width_um)
        assert 0.1 * width_um < length <= 0.25 * width_um
        assert f"{length:e}".split("e")[0] in ("1.000000", "2.000000", "5.000000")


@by_shape
@pytest.mark.parametrize("words", ["", "a name with $a$ and _b_\n" + 30 * "very long " + ".svs"])
def test_nothing_lies_outside_the_canvas_or_on_a_panel(
    extent: tuple[float, float], words: str
) -> None:
    image = replace(full_example(extent), title=words, subtitle=words, channel=words or "tumour")
    figure = draw_overview(image)
    figure.canvas.draw()
    tight = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert tight.x0 >= 0
    assert tight.y0 >= 0
    assert tight.x1 <= width
    assert tight.y1 <= height
    panels = [axes.get_window_extent() for axes in figure.axes]
    texts = [text.get_window_extent() for text in figure.texts if text.get_text()]
    assert not any(text.overlaps(panel) for text in texts for panel in panels)
    assert not any(a.overlaps(b) for a in panels for b in panels if a is not b)


def test_a_long_name_keeps_both_its_ends() -> None:
    figure = draw_overview(replace(example(), title="TCGA-" + 200 * "0" + "-end.svs"))
    title = figure.texts[0].get_text()
    assert title.startswith("TCGA-")
    assert title.endswith("-end.svs")
    assert "\u2026" in title


def test_dollars_in_a_name_are_dollars() -> None:
    figure = draw_overview(replace(example(), title="$\\alpha_1$.svs", subtitle=r"$\frac$"))
    figure.canvas.draw()  # as mathematics, the subtitle is an error
    assert not figure.texts[0].get_parse_math()


def test_a_slide_without_scores_has_one_panel_and_with_scores_three_axes() -> None:
    assert len(draw_overview(example()).axes) == 1
    assert len(draw_overview(full_example()).axes) == 3  # slide, overlay, colour bar


def test_the_colour_bar_carries_the_name_of_the_channel() -> None:
    bar = draw_overview(full_example()).axes[2]
    assert bar.get_ylabel() == "tumour"
    assert [label.get_text() for label in bar.get_yticklabels()] == ["0", "0.5", "1"]


def test_higher_scores_are_lighter_and_more_opaque() -> None:
    colours = heat_colours()(np.linspace(0, 1, 256))
    assert (np.diff(rgb2lab(colours[:, :3])[:, 0]) > 0).all()
    assert (np.diff(colours[:, 3]) > 0).all()
    assert colours[0, 3] == 0  # what scores nothing looks like the slide
    assert colours[-1, 3] < 1  # tissue shows through everywhere


def test_scores_are_drawn_only_where_there_are_some() -> None:
    image = full_example((1000.0, 1000.0))
    white = np.full((8, 8, 3), 255, dtype=np.uint8)
    analysed = np.zeros((40, 40), dtype=np.bool_)
    analysed[:, :20] = True
    heat = np.ones((10, 10), dtype=np.float32)
    heat[5:] = np.nan
    figure = draw_overview(
        replace(image, thumbnail=white, heat=heat, tissue=None, analysed=analysed)
    )
    rgb = pixels(figure)
    box = figure.axes[1].get_window_extent()

    def at(x: float, y: float) -> list[float]:
        column, row = round(box.x0 + x * box.width), round(len(rgb) - box.y1 + y * box.height)
        return [float(value) for value in rgb[row, column]]

    assert at(0.25, 0.25) == pytest.approx(
        [0.1 * 255 + 0.9 * each for each in (253, 231, 37)], abs=3
    )
    assert at(0.75, 0.25) == at(0.25, 0.75) == at(0.75, 0.75) == [255, 255, 255]


def test_the_outline_runs_along_the_tissue() -> None:
    tissue = np.zeros((100, 100), dtype=np.bool_)
    tissue[20:, 40:] = True  # reaches two edges of the slide
    figure = draw_overview(replace(example((1000.0, 1000.0)), tissue=tissue))
    (outline,) = figure.axes[0].collections
    points = np.concatenate([path.vertices for path in outline.get_paths()])
    np.testing.assert_allclose(points.min(axis=0), [400, 200], atol=6)
    np.testing.assert_allclose(points.max(axis=0), [1000, 1000], atol=6)


@pytest.mark.parametrize("value", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (30, 30)])
def test_a_mask_of_one_value_is_drawn_without_complaint(
    shape: tuple[int, int], *, value: bool
) -> None:
    draw_overview(replace(full_example(), tissue=np.full(shape, value))).canvas.draw()


def test_the_file_is_a_picture_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "overview.png"
    path.write_text("an older one")
    save_overview(full_example(), path)
    assert [file.name for file in tmp_path.iterdir()] == ["overview.png"]
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        assert image.width > image.height


def test_a_failed_drawing_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "overview.png"
    path.write_text("an older one")

    def fill_the_disk(self: Path, content: bytes) -> None:
        self.write_text("half a pict")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill_the_disk)
    with pytest.raises(StoreError, match=r"overview\.png: cannot be written: No space left"):
        save_overview(example(), path)
    assert path.read_text() == "an older one"
    assert [file.name for file in tmp_path.iterdir()] == ["overview.png"]


def test_threads_draw_the_same_picture_at_the_same_time(tmp_path: Path) -> None:
    names = [tmp_path / f"{i}.png" for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: save_overview(full_example(), name), names))
    assert len({name.read_bytes() for name in names}) == 1


def test_pyplot_is_never_imported(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np\n"
        "from pipeline.export.overview import OverviewImage, save_overview\n"
        "one = np.ones((4, 4), np.float32)\n"
        "rgb = np.zeros((4, 4, 3), np.uint8)\n"
        "save_overview(OverviewImage(rgb, one, one > 0, 9, 9, 'a', 'b'), sys.argv[1])\n"
        "sys.exit('matplotlib.pyplot' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.png")], check=True)


def test_the_colours_span_the_limits_and_the_bar_says_them() -> None:
    image = full_example((1000.0, 1000.0))
    heat = np.full((10, 10), 0.3, dtype=np.float32)
    white = np.full((8, 8, 3), 255, dtype=np.uint8)
    image = replace(image, thumbnail=white, heat=heat, tissue=None, limits=(0.1, 0.3))
    figure = draw_overview(image)
    box = figure.axes[1].get_window_extent()
    middle = pixels(figure)[round((box.y0 + box.y1) / 2), round((box.x0 + box.x1) / 2)]
    assert middle == pytest.approx([0.1 * 255 + 0.9 * each for each in (253, 231, 37)], abs=3)
    labels = [text.get_text() for text in figure.axes[2].get_yticklabels()]
    assert labels == ["0.1", "0.2", "0.3"]


def test_scores_lie_where_the_store_says(
    tmp_path: Path, toy_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """300 x 500 px in patches of 32: the scores go on beyond the slide; no two rows are alike."""
    rgb = np.full((300, 500, 3), 255, np.uint8)
    rgb[:150, :250] = noise(150, 250)
    rgb[280, 400] = noise(1, 1)[0, 0]
    slide = open_slide(write_tiff(tmp_path / "a.tiff", rgb, mpp=(0.5, 0.25)))
    everywhere = find_tissue(slide, TissueSettings(method="none"), 8.0, None)
    mask = everywhere.mask.copy()
    mask[len(mask) // 2 :] = False  # the lower blocks are background
    plan = plan_slide(
        slide,
        load_model(toy_model("per_patch")),
        replace(everywhere, mask=mask),
        Options(level=0, block=128, dtype="float32"),
        path=str(tmp_path / "a.zarr"),
    )
    with cluster("threads"):
        run(plan)
    drawn: list[OverviewImage] = []
    monkeypatch.setattr(overview, "save_overview", lambda image, _: drawn.append(image))
    export("overview", plan.path, slide)
    (image,) = drawn
    stored = open_stored(plan.path)
    assert stored is not None
    assert image.heat is not None
    np.testing.assert_array_equal(image.heat, stored.levels[0][0].compute())
    assert not np.array_equal(image.heat, image.heat[::-1])
    assert (image.height_um, image.width_um) == (150.0, 125.0)
    assert image.heat_um == (0, 0, 10 * 32 * 0.5, 16 * 32 * 0.25)
    assert image.analysed is not None
    np.testing.assert_array_equal(image.analysed[:, 0], [True] * 8 + [False] * 2)
    figure = draw_overview(image)
    panel = figure.axes[1]
    assert tuple(panel.images[1].get_extent()) == (0, 128.0, 160.0, 0)
    assert panel.get_xlim() == (0, 125.0)
    assert panel.get_ylim() == (150.0, 0)
