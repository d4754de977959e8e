"""A model as the judge of what is tissue, held against its scores computed by numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.execute.finding import find_tissue
from pipeline.model import load_model
from pipeline.plan.detecting import detect
from pipeline.slide import Slide, open_slide
from pipeline.tissue import TissueSettings
from tests.toys import expected_means, noise, write_tiff

pytestmark = pytest.mark.usefixtures("in_threads")

RAW = TissueSettings(method="model", min_area_um2=0, min_hole_um2=0)


def coarse_noise(shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Give noise whose squares of 32 pixels differ from each other."""
    squares = noise(-(-shape[0] // 32), -(-shape[1] // 32), seed=4)
    return squares.repeat(32, axis=0).repeat(32, axis=1)[: shape[0], : shape[1]]


@pytest.fixture
def slide(tmp_path: Path) -> Slide:
    return open_slide(write_tiff(tmp_path / "a.tiff", coarse_noise((2300, 700)), mpp=0.5))


@pytest.mark.parametrize("kind", ["strided", "per_patch"])
@pytest.mark.parametrize(
    ("channels", "threshold"),
    [
        (["a", "b", "c"], 0.5),
        (["Background", "b", "c"], 0.5),
        (["a", "background", "c"], 0.55),
    ],
)
def test_tissue_is_where_the_averaged_scores_are_above_the_threshold(
    slide: Slide,
    toy_model: Callable[..., Path],
    kind: str,
    channels: list[str],
    threshold: float,
) -> None:
    # A block of `strided` is 516 scores, of which 6 are a whole part and 8 are not.
    stride, step = (4, 24) if kind == "strided" else (32, 32)
    model = load_model(toy_model(kind, outputs={"channels": channels}))
    detected = detect(slide, model, (32.0, 32.0), threshold)
    assert detected.raster.step == (step, step)
    scores = expected_means(coarse_noise((2300, 700)), stride)
    best = scores[0]
    if channels[0] == "Background":
        best, threshold = scores[1:].max(axis=0) - scores[0], 0.0
    elif channels[1] == "background":
        best, threshold = np.maximum(scores[0], scores[2]) - scores[1], 0.1
    n = step // stride
    padded = np.pad(best, [(0, -size % n) for size in best.shape], constant_values=np.nan)
    cells = padded.reshape(padded.shape[0] // n, n, padded.shape[1] // n, n)
    means = np.nanmean(cells, axis=(1, 3))
    found = detected.tissue.compute()[0]
    clear = np.abs(means - threshold) > 1e-5
    assert 0.2 < found.mean() < 0.8
    np.testing.assert_array_equal(found[clear], (means > threshold)[clear])


def test_with_two_classes_the_one_that_is_not_background_counts(
    slide: Slide, toy_model: Callable[..., Path]
) -> None:
    # The toy has three; of the first two, the second is what is asked for.
    plain = load_model(toy_model("strided", outputs={"channels": ["a", "b", "c"]}))
    other = load_model(toy_model("strided", outputs={"channels": ["b", "a", "c"]}))
    one = find_tissue(slide, RAW, 16.0, model=plain)
    same = find_tissue(slide, RAW, 16.0, model=other)
    np.testing.assert_array_equal(one.mask, same.mask)
    assert one.settings["model"] == same.settings["model"]  # the graph is the same
    assert one.settings["card"] != same.settings["card"]


def test_small_pieces_and_holes_are_tidied_as_with_any_other_method(
    slide: Slide, toy_model: Callable[..., Path]
) -> None:
    model = load_model(toy_model("strided"))
    raw = find_tissue(slide, RAW, 16.0, model=model)
    tidy = find_tissue(slide, TissueSettings(method="model", min_area_um2=2000), 16.0, model=model)
    assert tidy.mask.sum() != raw.mask.sum()


def test_the_threshold_and_the_card_are_settings(
    slide: Slide, toy_model: Callable[..., Path]
) -> None:
    model = load_model(toy_model("strided"))
    said = detect(slide, model, (32.0, 32.0), 0.5).settings
    assert said["model"] == model.ref.digest
    assert detect(slide, model, (32.0, 32.0), 0.6).settings != said
    renamed = load_model(toy_model("strided", name="other", description="the same in new words"))
    assert detect(slide, renamed, (32.0, 32.0), 0.5).settings == said
    scaled = load_model(toy_model("strided", input={"scale": 1 / 128}))
    assert detect(slide, scaled, (32.0, 32.0), 0.5).settings != said


def test_a_model_without_a_scale_detects_nothing(
    slide: Slide, toy_model: Callable[..., Path]
) -> None:
    model = load_model(toy_model("strided", mpp=None))
    with pytest.raises(ConfigError, match=r"card\.yaml: the card does not say .* needs mpp"):
        detect(slide, model, (32.0, 32.0), 0.5)


def test_planning_reads_no_pixel_and_a_block_leaves_its_mask_only(
    slide: Slide, toy_model: Callable[..., Path]
) -> None:
    model = load_model(toy_model("strided"))
    detected = detect(slide, model, (32.0, 32.0), 0.5)
    assert detected.tissue.dtype == np.uint8
    assert detected.raster.shape == (96, 30)
    assert detected.tissue.shape == (1, 96, 30)
    assert len(detected.tissue.chunks[1]) == 2
