"""How a slide is stained, found on windows of it, and runs that normalise it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import dask
import numpy as np
import pytest
from PIL import Image

import pipeline
from pipeline import fit_stain, normalised, open_slide
from pipeline.cli import main
from pipeline.clusters import cluster
from pipeline.colour.stain import PUBLISHED, Colours, Stains
from pipeline.errors import ConfigError, SlideError
from pipeline.execute.finding import find_tissue
from pipeline.execute.staining import _KEPT, Method, _places, _Windows
from pipeline.geometry import Box
from pipeline.plan.seen import Tissue
from pipeline.tissue import TissueSettings
from tests.profiles import profile
from tests.test_coloured import write
from tests.test_stain import KNOWN, angle, tissue
from tests.toys import Pixels, expected_means, spoil_first_tile, write_tiff

METHODS: list[Method] = ["macenko", "reinhard"]

# What `pipeline.demo.scene` draws with.
HAEMATOXYLIN, EOSIN = (0.65, 0.70, 0.29), (0.205, 1.275, 0.5)


def picture(side: int = 600, seed: int = 0) -> Pixels:
    """Give a square of tissue on glass of ``KNOWN``'s light."""
    pixels = np.empty((side, side, 3), np.uint8)
    pixels[:] = (243, 242, 244)
    half = side // 2
    pixels[:half, :half] = tissue(n=half * half, seed=seed).reshape(half, half, 3)
    return pixels


def test_the_stains_of_the_demo_are_found(demo_slide: Path) -> None:
    found = fit_stain(open_slide(demo_slide), "macenko").source
    assert isinstance(found, Stains)
    assert angle(found.haematoxylin, HAEMATOXYLIN) < 3
    assert angle(found.eosin, EOSIN) < 3
    np.testing.assert_allclose(found.light, 244, atol=1)


@pytest.mark.parametrize("method", METHODS)
def test_a_fit_is_the_same_on_whatever_it_is_computed(demo_slide: Path, method: Method) -> None:
    slide = open_slide(demo_slide)
    with dask.config.set(scheduler="synchronous"):
        alone = fit_stain(slide, method)
    with cluster("threads"):
        assert fit_stain(slide, method) == alone
        known = find_tissue(slide, TissueSettings(), 8.0, None)
        assert fit_stain(slide, method, tissue=known) == alone


def test_windows_lie_in_the_middle_of_tissue_and_inside_the_slide(demo_slide: Path) -> None:
    level = open_slide(demo_slide).level(0)
    mask = np.zeros((12, 15), np.bool_)
    mask[6, 8] = mask[0, 14] = True
    seen = Tissue(mask, (100.0, 100.0), {})
    middle, corner = (650 - 128, 850 - 128), (0, 1500 - 256)
    assert _places(level, seen, mask, 64) == (corner, middle)
    assert _places(level, replace(seen, origin=(-20.0, -40.0)), mask, 64)[1] == (502, 682)
    assert len(_places(level, seen, np.ones((12, 15), np.bool_), 64)) == 64


def test_windows_travel_as_a_small_token(demo_slide: Path) -> None:
    windows = _Windows(open_slide(demo_slide).level(0), ((0, 0), (300, 900)))
    token = pickle.dumps(windows)
    assert len(token) < 2000
    second = Box(_KEPT, 0, _KEPT, _KEPT)
    np.testing.assert_array_equal(pickle.loads(token).read(second), windows.read(second))
    assert (windows.read(second) != windows.read(Box(0, 0, _KEPT, _KEPT))).any()


@pytest.mark.parametrize("method", METHODS)
def test_a_target_is_published_or_an_image_or_a_slide(
    demo_slide: Path, tmp_path: Path, method: Method
) -> None:
    slide = open_slide(demo_slide)
    assert fit_stain(slide, method).target == PUBLISHED[method]
    itself = fit_stain(slide, method, str(demo_slide))
    assert itself.target == itself.source
    pixels = slide.level(0).read(Box(0, 0, *slide.shape))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = fit_stain(slide, method, str(tmp_path / "a.png"))
    assert image.remarks == (f"its stain is normalised ({method}) to {tmp_path / 'a.png'}",)
    assert isinstance(image.target, Stains | Colours)
    own, theirs = (np.hstack(list(_values(each))) for each in (image.source, image.target))
    np.testing.assert_allclose(own, theirs, rtol=0.1, atol=0.05)


def _values(fitted: Stains | Colours) -> list[tuple[float, ...]]:
    if isinstance(fitted, Stains):
        return [fitted.haematoxylin, fitted.eosin, fitted.most]
    return [fitted.mean, fitted.std]


@pytest.mark.parametrize("method", METHODS)
def test_a_slide_normalised_to_itself_stays_as_it_is(demo_slide: Path, method: Method) -> None:
    slide = open_slide(demo_slide)
    level = slide.level(0)
    box = Box(0, 0, *level.plane)
    made = normalised(level, fit_stain(slide, method, str(demo_slide))).read(box)
    off = np.abs(made.astype(int) - level.read(box))
    assert off.mean() < 1.5
    assert np.quantile(off, 0.99) <= 8  # noise off the plane of the two stains is left out


def test_an_image_is_fitted_again_when_it_is_replaced(demo_slide: Path, tmp_path: Path) -> None:
    slide, path = open_slide(demo_slide), tmp_path / "a.png"
    Image.fromarray(picture()).save(path)
    first = fit_stain(slide, "macenko", str(path)).target
    Image.fromarray(picture() // 2 + 100).save(path)
    assert fit_stain(slide, "macenko", str(path)).target != first


def test_the_fit_is_of_the_corrected_colours_where_they_are_corrected(tmp_path: Path) -> None:
    pixels = picture()
    plain = open_slide(write_tiff(tmp_path / "plain.tif", pixels, levels=2))
    slide = open_slide(_with_profile(tmp_path / "a.tif", pixels))
    assert fit_stain(slide, "reinhard").source == fit_stain(plain, "reinhard").source
    corrected = fit_stain(slide, "reinhard", icc="apply").source
    assert corrected != fit_stain(slide, "reinhard").source
    image = Image.fromarray(pixels)
    image.save(tmp_path / "a.png", icc_profile=profile())
    path = str(tmp_path / "a.png")
    applied, ignored = (
        fit_stain(plain, "reinhard", path, icc=icc).target for icc in ("apply", "ignore")
    )
    assert applied != ignored


def _with_profile(path: Path, pixels: Pixels) -> Path:
    return write(path, profile(), pixels)


def test_windows_that_cannot_be_read_are_left_out_and_counted(tmp_path: Path) -> None:
    path = spoil_first_tile(write_tiff(tmp_path / "a.tif", picture(1000)))
    slide = open_slide(path)
    whole = find_tissue(slide, TissueSettings(method="none"), 8.0, None)
    found = fit_stain(slide, "macenko", tissue=whole)
    _, said = found.remarks
    assert "of the windows in which its stain was looked for cannot be read" in said
    assert isinstance(found.source, Stains)
    assert angle(found.source.haematoxylin, KNOWN.haematoxylin) < 2


def test_a_light_that_is_not_seen_is_said(tmp_path: Path) -> None:
    pixels = tissue(n=400 * 400).reshape(400, 400, 3)
    slide = open_slide(write_tiff(tmp_path / "a.tif", pixels))
    found = fit_stain(slide, "macenko")
    assert found.source.light == (240.0, 240.0, 240.0)
    assert found.remarks[1:] == ("no glass was seen, so that its light is taken for 239 of 255",)


@pytest.mark.parametrize("method", METHODS)
def test_a_slide_without_tissue_is_refused_by_name(tmp_path: Path, method: Method) -> None:
    path = write_tiff(tmp_path / "a.tif", np.full((500, 500, 3), 243, np.uint8))
    with pytest.raises(SlideError, match=f"{path}: too little stained tissue .*; set colour"):
        fit_stain(open_slide(path), method)


@pytest.mark.parametrize("kind", ["missing", "text", "grey", "16-bit", "folder", "no-slide"])
def test_a_target_that_cannot_be_meant_is_refused_before_anything_runs(
    kind: str, demo_slide: Path, tmp_path: Path, toy_model: Callable[..., Path]
) -> None:
    path = tmp_path / ("a.svs" if kind == "no-slide" else "a.png")
    if kind == "text":
        path.write_text("no image")
    elif kind == "grey":
        Image.fromarray(picture()).convert("L").save(path)
    elif kind == "16-bit":
        Image.fromarray(np.zeros((50, 50), np.uint16)).save(path)
    elif kind == "folder":
        path.mkdir()
    run_file = tmp_path / "run.yaml"
    run_file.write_text(
        f"slides: {demo_slide}\nmodel: {toy_model('per_patch')}\ncluster: {{kind: threads}}\n"
        f"colour: {{normalise: macenko, target: {path.name}}}\n"
    )
    with pytest.raises(ConfigError, match=f"colour.target: {path}: "):
        pipeline.run(run_file)
    assert not (tmp_path / "results").exists()


def test_an_unknown_method_is_refused(demo_slide: Path) -> None:
    with pytest.raises(ConfigError, match="vahadane is no method; use macenko, reinhard"):
        fit_stain(open_slide(demo_slide), "vahadane")  # type: ignore[arg-type]


def test_the_command_normalises_and_a_store_of_another_stain_is_stale(
    demo_slide: Path,
    tmp_path: Path,
    toy_model: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "250")

    def command(*arguments: str) -> tuple[object, str]:
        with pytest.raises(SystemExit) as ended:
            main(["run", str(run_file), *arguments])
        return ended.value.code, capsys.readouterr().out

    run_file = tmp_path / "run.yaml"
    run_file.write_text(
        f"slides: {demo_slide}\n"
        f"model: {toy_model('per_patch')}\n"
        f"output: {{block: 512, dtype: float32}}\n"
        f"tissue: {{method: none}}\n"
        f"colour: {{normalise: macenko}}\n"
        f"cluster: {{kind: threads}}\n"
    )
    code, out = command()
    assert code == 0
    assert "its stain is normalised (macenko) to published" in out

    slide = open_slide(demo_slide)
    whole = find_tissue(slide, TissueSettings(method="none"), 8.0, None)
    stain = fit_stain(slide, "macenko", tissue=whole)
    level = normalised(slide.level(0), stain)
    seen = level.read(Box(0, 0, *level.plane))
    stored = pipeline.open_results(tmp_path / "results")["demo"]
    np.testing.assert_array_equal(np.asarray(stored.levels[0]), expected_means(seen, 32))
    model = pipeline.load_model(toy_model("per_patch"))
    scores = pipeline.predict(slide, model, stain=stain).compute(scheduler="synchronous")
    np.testing.assert_array_equal(scores, expected_means(seen, 32))

    said = stored.provenance["slide"]["stain"]
    assert said["stain"] == "macenko"
    assert said["stain_source.most"] == list(_values(stain.source)[-1])
    assert said["stain_target.haematoxylin"] == [0.5626, 0.7201, 0.4062]
    assert "its stain is normalised (macenko) to published" in stored.provenance["notes"]

    for change in ("normalise=none", "normalise=reinhard", f"target={demo_slide}"):
        code, out = command("-o", f"colour.{change}")
        assert code == 1, change
        assert "slide.stain" in out, change
    code, out = command()
    assert code == 0
    assert "(0 computed now" in out


def test_a_biopsy_is_told_apart_into_two_stains(shared_data: Path) -> None:
    slide = open_slide(shared_data / "slides" / "CMU-1-Small-Region.svs")
    found = fit_stain(slide, "macenko").source
    assert isinstance(found, Stains)
    assert 30 < angle(found.haematoxylin, found.eosin) < 50
    assert found.light == (247.0, 244.0, 244.0)
