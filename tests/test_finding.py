"""A slide's tissue by every method, and what spoils it, on slides whose truth is painted."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from pipeline.config import TissueConfig
from pipeline.errors import ConfigError, ModelError, SlideError
from pipeline.execute import finding, run
from pipeline.execute.finding import find_tissue, finder
from pipeline.geometry import Grid
from pipeline.model import load_model
from pipeline.plan import Options, plan_slide
from pipeline.plan.seen import Tissue, wanted_patches
from pipeline.results import open_results
from pipeline.slide import Slide, open_slide
from pipeline.tissue import TissueSettings, tidied
from pipeline.tissue.quality import CODES
from tests.toys import noise, spoil_first_tile, write_tiff

pytestmark = pytest.mark.usefixtures("in_threads")

SHAPE = (1200, 1600)
MPP = 2.0
TISSUE = (slice(200, 1000), slice(300, 1300))


def painted() -> NDArray[np.uint8]:
    """Give a slide of 2 um per pixel: glass, and a rectangle of pink with nuclei in it."""
    rng = np.random.default_rng(2)
    rgb = rng.normal((243, 241, 244), 2, (*SHAPE, 3))
    stroma = rng.normal((212, 130, 185), 6, (800, 1000, 3))
    coarse = rng.random((200, 250)).repeat(4, axis=0).repeat(4, axis=1) < 0.25
    stroma[coarse] = rng.normal((95, 70, 140), 6, (int(coarse.sum()), 3))
    rgb[TISSUE] = stroma
    return rgb.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Slide:
    return open_slide(write_tiff(tmp_path_factory.mktemp("slide") / "a.tiff", painted(), mpp=MPP))


def test_the_picture_is_let_go_before_what_is_small_is_looked_for(
    slide: Slide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What labels pieces and holes takes as much as the picture did: not both at once."""
    held: list[int] = []

    def watched(*given: Any) -> NDArray[np.bool_]:
        held.append(tracemalloc.get_traced_memory()[0])
        return tidied(*given)

    monkeypatch.setattr(finding, "tidied", watched)
    for quality in ((), ("pen",)):
        tracemalloc.start()
        try:
            found = find_tissue(slide, TissueSettings(quality=quality), MPP)
        finally:
            tracemalloc.stop()
        assert found.mask.shape == SHAPE
    alone, with_pen = held
    assert with_pen - alone > 3 * np.prod(SHAPE)


def truth(tissue: Tissue) -> NDArray[np.bool_]:
    """Give which pixels of a mask have their centre in the painted tissue."""
    y, x = (
        tissue.origin[axis] + tissue.step[axis] * (np.arange(tissue.mask.shape[axis]) + 0.5)
        for axis in (0, 1)
    )
    rows, columns = TISSUE
    inside: NDArray[np.bool_] = ((y >= rows.start) & (y < rows.stop))[:, None] & (
        (x >= columns.start) & (x < columns.stop)
    )
    return inside


def iou(found: NDArray[np.bool_], expected: NDArray[np.bool_]) -> float:
    return float((found & expected).sum() / (found | expected).sum())


def drawn(folder: Path) -> str:
    rows, columns = TISSUE
    ring = [
        [columns.start, rows.start],
        [columns.stop, rows.start],
        [columns.stop, rows.stop],
        [columns.start, rows.stop],
    ]
    path = folder / "a.geojson"
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    return str(path)


def reddish(toy_model: Callable[..., Path]) -> Path:
    """A toy that gives the mean of 4 x 4 pixels of each colour: green is low where tissue is."""
    channels = ["background", "Background2", "b"]
    return toy_model("strided", mpp=MPP, outputs={"channels": channels})


@pytest.mark.parametrize("method", ["otsu", "hsv", "density", "entropy"])
def test_every_method_that_looks_at_pixels_finds_the_tissue(slide: Slide, method: Any) -> None:
    tissue = find_tissue(slide, TissueSettings(method=method), 8.0)
    assert tissue.step == (4.0, 4.0)
    assert tissue.settings["method"] == method
    assert iou(tissue.mask, truth(tissue)) > 0.93


def test_a_mask_is_laid_over_the_whole_slide_and_its_content_is_a_setting(
    slide: Slide, tmp_path: Path
) -> None:
    tissue = find_tissue(slide, TissueSettings(method="mask"), 8.0, drawn(tmp_path))
    np.testing.assert_array_equal(tissue.mask, truth(tissue))
    image = tmp_path / "a.png"
    Image.fromarray(tissue.mask).save(image)
    same = find_tissue(slide, TissueSettings(method="mask"), 8.0, str(image))
    assert same.settings == tissue.settings
    Image.fromarray(~tissue.mask).save(image)
    other = find_tissue(slide, TissueSettings(method="mask"), 8.0, str(image))
    assert other.settings["mask"] != tissue.settings["mask"]


def test_the_tissue_of_an_earlier_result_is_a_mask(
    slide: Slide, toy_model: Callable[..., Path], tmp_path: Path
) -> None:
    earlier = find_tissue(slide, TissueSettings(), 8.0)
    path = str(tmp_path / "a.zarr")
    card = load_model(toy_model("per_patch", mpp=MPP))
    run(plan_slide(slide, card, earlier, Options(), path=path))
    for place in (path, f"{path}/labels/tissue"):
        again = find_tissue(slide, TissueSettings(method="mask"), 8.0, place)
        np.testing.assert_array_equal(again.mask, earlier.mask)
    coarse = find_tissue(slide, TissueSettings(method="mask"), 20.0, path)
    assert coarse.mask.shape == (120, 160)
    assert iou(coarse.mask, truth(coarse)) > 0.95


def test_a_method_that_lacks_its_file_is_refused(slide: Slide) -> None:
    with pytest.raises(ConfigError, match=r"tissue\.mask: missing"):
        find_tissue(slide, TissueSettings(method="mask"), 8.0)
    with pytest.raises(ConfigError, match=r"tissue\.model: missing"):
        find_tissue(slide, TissueSettings(method="model"), 8.0)


def test_a_slide_without_a_scale_takes_no_placed_mask_and_no_blur(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tiff", noise(200, 300), mpp=None)
    zarr_mask = tmp_path / "m.zarr"
    zarr_mask.mkdir()
    (zarr_mask / "zarr.json").write_text("{}")
    with pytest.raises(ConfigError, match="placed in micrometres"):
        find_tissue(open_slide(path), TissueSettings(method="mask"), 8.0, str(zarr_mask))
    with pytest.raises(SlideError, match="um per pixel"):
        find_tissue(open_slide(path), TissueSettings(quality=("blur",)), 8.0)


# -- what spoils it -----------------------------------------------------------------------

PEN = (slice(60, 160), slice(200, 1400))
BLURRED = (slice(600, 1000), slice(700, 1300))


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Slide:
    image = Image.fromarray(painted())
    box = (BLURRED[1].start, BLURRED[0].start, BLURRED[1].stop, BLURRED[0].stop)
    image.paste(image.filter(ImageFilter.GaussianBlur(2)).crop(box), box[:2])
    rgb = np.asarray(image).copy()
    rgb[PEN] = (35, 70, 170)
    return open_slide(write_tiff(tmp_path_factory.mktemp("slide") / "a.tiff", rgb, mpp=MPP))


def placed(tissue: Tissue, area: tuple[slice, slice]) -> NDArray[np.bool_]:
    step = int(tissue.step[0])
    mask = np.zeros(tissue.mask.shape, np.bool_)
    mask[tuple(slice(each.start // step, each.stop // step) for each in area)] = True
    return mask


def test_pen_and_blur_are_flagged_where_they_are(spoilt: Slide) -> None:
    tissue = find_tissue(spoilt, TissueSettings(quality=("pen", "blur")), 8.0)
    assert tissue.quality is not None
    assert tissue.quality.shape == tissue.mask.shape
    assert iou(tissue.quality == CODES["pen"], placed(tissue, PEN)) > 0.9
    assert iou(tissue.quality == CODES["blur"], placed(tissue, BLURRED)) > 0.85
    assert tissue.mask[placed(tissue, BLURRED)].all()


def test_only_what_is_asked_for_is_flagged_and_taken_out(spoilt: Slide) -> None:
    plain = find_tissue(spoilt, TissueSettings(), 8.0)
    assert plain.quality is None
    assert plain.mask[placed(plain, PEN)].all()  # ink has colour
    how = TissueSettings(quality=("blur", "pen"), exclude=("pen",))
    tissue = find_tissue(spoilt, how, 8.0)
    assert not tissue.mask[placed(tissue, PEN)].any()
    assert tissue.mask[placed(tissue, BLURRED)].all()
    assert tissue.settings == {**plain.settings, "quality": ["blur", "pen"], "exclude": ["pen"]}
    only = find_tissue(spoilt, TissueSettings(quality=("blur",), exclude=("blur",)), 8.0)
    assert only.quality is not None
    assert set(np.unique(only.quality)) == {0, CODES["blur"]}
    assert (only.mask & placed(only, BLURRED)).sum() < 0.1 * placed(only, BLURRED).sum()


@pytest.mark.parametrize("method", ["none", "mask", "model"])
def test_flags_lie_where_the_mask_does_whatever_the_method(
    spoilt: Slide, method: Any, tmp_path: Path, toy_model: Callable[..., Path]
) -> None:
    mask = drawn(tmp_path) if method == "mask" else None
    model = load_model(toy_model("strided", mpp=MPP)) if method == "model" else None
    how = TissueSettings(method=method, quality=("pen", "blur"), threshold=0.1)
    tissue = find_tissue(spoilt, how, 12.0, mask, model=model)
    assert tissue.quality is not None
    step = tissue.step
    assert tissue.quality.shape == tissue.mask.shape
    for area, name in ((PEN, "pen"), (BLURRED, "blur")):
        y, x = ((each.start + each.stop) / 2 for each in area)
        assert tissue.quality[int(y / step[0]), int(x / step[1])] == CODES[name]
        assert tissue.quality[int(y / step[0]), int((area[1].stop + 60) / step[1])] == 0


def test_a_slide_too_coarse_to_judge_its_focus_is_refused(tmp_path: Path) -> None:
    coarse = open_slide(write_tiff(tmp_path / "a.tiff", noise(200, 300), mpp=4.0))
    with pytest.raises(ConfigError, match=r"blur is told at 2 um per pixel, .* has only 4"):
        find_tissue(coarse, TissueSettings(quality=("blur",)), 8.0)


def test_what_cannot_be_read_is_tissue_and_not_blurred(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tiff", painted()[:512, :512], mpp=MPP)
    broken = open_slide(spoil_first_tile(path), reader="tiff")
    tissue = find_tissue(broken, TissueSettings(quality=("pen", "blur")), 8.0)
    assert tissue.mask.all()
    assert tissue.quality is not None
    assert not tissue.quality.any()
    assert "cannot be read" in tissue.remarks[0]


def test_a_stored_slide_holds_the_flags_as_a_label(
    spoilt: Slide, toy_model: Callable[..., Path], tmp_path: Path
) -> None:
    tissue = find_tissue(spoilt, TissueSettings(quality=("pen", "blur")), 8.0)
    model = load_model(toy_model("per_patch", mpp=MPP))
    run(plan_slide(spoilt, model, tissue, Options(), path=str(tmp_path / "a.zarr")))
    stored = open_results(tmp_path)["a"]
    assert stored.quality is not None
    np.testing.assert_array_equal(stored.quality, tissue.quality)
    plain = plan_slide(
        spoilt, model, replace(tissue, quality=None), Options(), path=str(tmp_path / "b.zarr")
    )
    run(plain)
    assert open_results(tmp_path)["b"].quality is None


@pytest.mark.parametrize("name", ["erosion-HE.svs", "CMU-1-Small-Region.svs"])
def test_a_real_slide_in_focus_and_without_ink_has_no_flags(shared_data: Path, name: str) -> None:
    real = open_slide(shared_data / "slides" / name)
    tissue = find_tissue(real, TissueSettings(quality=("pen", "blur")), 8.0)
    assert tissue.quality is not None
    assert (tissue.quality == CODES["pen"]).mean() < 0.001
    assert (tissue.quality == CODES["blur"]).mean() < 0.001


# -- patches ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["otsu", "hsv", "density", "entropy", "mask", "model", "none"])
@pytest.mark.parametrize("min_fraction", [0.0, 0.3, 1.0])
def test_a_patch_is_wanted_by_its_share_of_tissue_whatever_the_method(
    slide: Slide,
    toy_model: Callable[..., Path],
    tmp_path: Path,
    method: Any,
    min_fraction: float,
) -> None:
    mask = drawn(tmp_path) if method == "mask" else None
    model = load_model(toy_model("strided", mpp=MPP)) if method == "model" else None
    how = TissueSettings(method=method, threshold=0.9)
    tissue = find_tissue(slide, how, 10.0, mask, model=model)
    level = slide.level(0)
    patches = Grid(level.plane, 112)
    wanted = wanted_patches(patches, level, slide.shape, tissue, min_fraction)
    # Every level-0 pixel by the pixel of the mask it lies in; here all steps are whole.
    y, x = (
        (np.arange(SHAPE[axis]) // tissue.step[axis]).astype(int).clip(max=len_ - 1)
        for axis, len_ in enumerate(tissue.mask.shape)
    )
    fine = tissue.mask[y[:, None], x]
    for index in patches:
        box = patches.box(index)
        share = fine[box.y : box.y_stop, box.x : box.x_stop].mean()
        assert wanted[index] == (share > 0 and share >= min_fraction), index


# -- from a run file ----------------------------------------------------------------------


def test_a_run_file_says_how_tissue_is_found(slide: Slide, tmp_path: Path) -> None:
    drawn(tmp_path)
    config = TissueConfig(
        method="mask",
        mask=f"{tmp_path}/{{slide_id}}.geojson",
        mpp=16.0,
        quality=["pen"],
        exclude=["pen"],
    )
    tissue = finder(config)(slide, "a", None)
    assert tissue.mask.shape == (150, 200)
    assert tissue.settings["exclude"] == ["pen"]
    with pytest.raises(ConfigError, match=r"b\.geojson"):
        finder(config)(slide, "b", None)


@pytest.mark.parametrize("method", ["otsu", "mask", "none"])
def test_a_mask_of_a_slides_own_counts_before_what_the_run_file_says(
    slide: Slide, tmp_path: Path, method: Literal["otsu", "mask", "none"]
) -> None:
    elsewhere = f"{tmp_path}/{{slide_id}}.png" if method == "mask" else None
    find = finder(TissueConfig(method=method, mask=elsewhere, quality=["pen"]))
    tissue = find(slide, "b", drawn(tmp_path))
    np.testing.assert_array_equal(tissue.mask, truth(tissue))
    assert (tissue.settings["method"], tissue.settings["quality"]) == ("mask", ["pen"])


def test_a_tissue_model_that_is_none_is_refused_before_any_slide(tmp_path: Path) -> None:
    config = TissueConfig(method="model", model=str(tmp_path / "none.yaml"))
    with pytest.raises(ModelError, match=r"none\.yaml: no such model card"):
        finder(config)
