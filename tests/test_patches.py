"""Blocks predicted patch by patch: no seam, whatever the blocks, the batches and the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper

from pipeline.errors import ModelError
from pipeline.geometry import Box, Grid, Index
from pipeline.model import (
    MapRef,
    Model,
    ModelRef,
    SessionRef,
    load_model,
    load_models,
    map_boxes,
    patches,
    predict_block,
    session,
)
from tests.toys import (
    KERNEL,
    RED,
    SCALE,
    Pixels,
    Scores,
    expected_means,
    expected_neighbours,
    noise,
    write_graph,
    write_toy_model,
)

ToyModel = Callable[..., Path]
Turn = Callable[[NDArray[Any]], NDArray[Any]]


@pytest.fixture(autouse=True)
def no_session_stays() -> Iterator[None]:
    yield
    session.sessions.clear()


def cut(rgb: Pixels, box: Box) -> Pixels:
    """Give the pixels of a box, white outside, as `Level.read` does."""
    pixels = np.full((*box.shape, 3), 255, np.uint8)
    inside = box.clipped((rgb.shape[0], rgb.shape[1]))
    if inside.area:
        pixels[inside.within(box)] = rgb[inside.within(Box(0, 0, *rgb.shape[:2]))]
    return pixels


def predict_at(
    ref: ModelRef, rgb: Pixels, block: int, index: Index, wanted: bytes | None = None
) -> Scores:
    grid = Grid((rgb.shape[0], rgb.shape[1]), block)
    pixels = cut(rgb, ref.frame.around(grid.box(index)))
    return predict_block(pixels, index, wanted, model=ref, level_grid=grid)[0]


def predict_whole(ref: ModelRef, rgb: Pixels, block: int) -> Scores:
    rows, columns = Grid((rgb.shape[0], rgb.shape[1]), block).counts
    blocks = [[predict_at(ref, rgb, block, (i, j)) for j in range(columns)] for i in range(rows)]
    return np.concatenate([np.concatenate(row, axis=2) for row in blocks], axis=1)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Collects the shape of every batch the model is run on."""
    shapes: list[tuple[int, ...]] = []
    run = session.run_batch

    def collecting(
        ref: SessionRef, maps: tuple[MapRef, ...], batch: NDArray[np.float32], count: int
    ) -> list[NDArray[np.float32]]:
        shapes.append(batch.shape)
        return run(ref, maps, batch, count)

    monkeypatch.setattr(patches, "run_batch", collecting)
    return shapes


@pytest.fixture(scope="module")
def neighbours(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(write_toy_model(tmp_path_factory.mktemp("model"), "neighbours"))


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    block=st.integers(30, 160),
)
def test_a_blocks_border_is_never_a_seam(
    neighbours: Model, height: int, width: int, block: int
) -> None:
    """A value depends on its neighbours, and is exact whatever block or patch it is in."""
    rgb = noise(height, width)
    np.testing.assert_array_equal(
        predict_whole(neighbours.ref, rgb, block), expected_neighbours(rgb)
    )


def test_patches_lie_on_one_grid_whatever_the_blocks(
    toy_model: ToyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that is not local shows it: a pixel says which patch it was predicted in."""
    ref = load_model(toy_model("nan", batch=1)).ref

    def mean_everywhere(
        _: SessionRef, __: tuple[MapRef, ...], batch: NDArray[np.float32], ___: int
    ) -> list[NDArray[np.float32]]:
        return [np.broadcast_to(batch.mean((1, 2, 3), keepdims=True), (1, 1, 32, 32))]

    monkeypatch.setattr(patches, "run_batch", mean_everywhere)
    rgb = noise(200, 170)
    together = predict_whole(ref, rgb, 256)
    for block in (32, 50, 96, 113):
        np.testing.assert_array_equal(predict_whole(ref, rgb, block), together)
    assert len(np.unique(together)) == 7 * 6


@pytest.mark.parametrize(
    ("kind", "cell", "blocks"), [("per_patch", 32, (32, 96, 160)), ("strided", 4, (40, 96, 256))]
)
def test_a_coarse_output_has_one_value_for_every_stride(
    toy_model: ToyModel, kind: str, cell: int, blocks: tuple[int, ...]
) -> None:
    ref, rgb = load_model(toy_model(kind)).ref, noise(150, 130)
    for block in blocks:
        np.testing.assert_array_equal(predict_whole(ref, rgb, block), expected_means(rgb, cell))


def test_a_classifier_with_overlapping_patches_gives_its_value_to_their_middles(
    toy_model: ToyModel,
) -> None:
    """Patches of 32 pixels, one every 16: each covers 8 pixels around what it stands for."""
    card = toy_model("per_patch", outputs={"stride": 16}, stitch={"halo": 8})
    ref, rgb = load_model(card).ref, noise(70, 90)
    scores = predict_whole(ref, rgb, 64)
    assert scores.shape == (3, 5, 6)
    for row, column in np.ndindex(5, 6):
        patch = cut(rgb, Box(16 * row - 8, 16 * column - 8, 32, 32))
        expected = patch.astype(np.float64).mean((0, 1)) * SCALE
        np.testing.assert_array_equal(scores[:, row, column], expected.astype(np.float32))


def test_unwanted_patches_are_not_run_and_are_no_numbers(
    toy_model: ToyModel, batches: list[tuple[int, ...]]
) -> None:
    card = toy_model("neighbours", batch=1)
    ref, rgb = load_model(card).ref, noise(96, 96)
    wanted = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0]], np.bool_)
    scores = predict_at(ref, rgb, 96, (0, 0), np.packbits(wanted).tobytes())
    assert len(batches) == 3
    kept = np.repeat(np.repeat(wanted, 32, axis=0), 32, axis=1)
    np.testing.assert_array_equal(scores[0], np.where(kept, expected_neighbours(rgb)[0], np.nan))


def test_a_block_without_wanted_patches_runs_nothing(
    neighbours: Model, batches: list[tuple[int, ...]]
) -> None:
    scores = predict_at(neighbours.ref, noise(64, 64), 64, (0, 0), b"\0")
    assert batches == []
    assert np.isnan(scores).all()


@pytest.mark.parametrize("batch", [1, 5, 9, 32])
def test_batches_are_always_full_and_do_not_change_values(
    toy_model: ToyModel, batches: list[tuple[int, ...]], batch: int
) -> None:
    rgb = noise(90, 90)
    ref = load_model(toy_model("neighbours", batch=batch)).ref
    np.testing.assert_array_equal(predict_whole(ref, rgb, 96), expected_neighbours(rgb))
    assert batches == [(batch, 3, 34, 34)] * -(-9 // batch)


def test_a_static_graph_gives_the_same_as_a_free_one(toy_model: ToyModel) -> None:
    rgb = noise(100, 70)
    ref = load_model(toy_model("static")).ref
    np.testing.assert_array_equal(predict_whole(ref, rgb, 64), expected_neighbours(rgb))


def test_the_model_is_given_the_layout_and_order_of_colours_it_asks_for(
    toy_model: ToyModel, batches: list[tuple[int, ...]]
) -> None:
    rgb = noise(40, 50)
    nhwc = load_model(toy_model("neighbours", input={"layout": "NHWC"})).ref
    np.testing.assert_array_equal(predict_whole(nhwc, rgb, 64), expected_neighbours(rgb))
    assert set(batches) == {(4, 34, 34, 3)}
    swapped = expected_neighbours(rgb[..., ::-1])
    assert (swapped != expected_neighbours(rgb)).any()
    for layout in ("NCHW", "NHWC"):
        bgr = load_model(toy_model("neighbours", input={"layout": layout, "channels": "BGR"})).ref
        np.testing.assert_array_equal(predict_whole(bgr, rgb, 64), swapped)


def test_the_input_is_scaled_then_centred_then_divided(toy_model: ToyModel) -> None:
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    changes = {"scale": 1 / 255, "mean": mean.tolist(), "std": std.tolist()}
    ref, rgb = load_model(toy_model("per_patch", input=changes)).ref, noise(64, 96)
    means = expected_means(rgb, 32).astype(np.float64) / SCALE / 255
    expected = (means - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(predict_whole(ref, rgb, 64), expected, rtol=1e-5, atol=1e-6)


def test_mean_and_std_follow_the_order_of_channels(toy_model: ToyModel) -> None:
    """They are given per RGB channel; a BGR model gets them swapped with its colours."""
    mean = [0.5, 0.25, 0.125]
    ref = load_model(toy_model("per_patch", input={"mean": mean, "channels": "BGR"})).ref
    rgb = noise(32, 32)
    expected = expected_means(rgb, 32) - np.array(mean, np.float32)[:, None, None]
    np.testing.assert_array_equal(predict_whole(ref, rgb, 64), expected[::-1])


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_activations_agree_with_float64_and_never_overflow(
    toy_model: ToyModel, activation: str
) -> None:
    """Raw values from -1280 to 1270, whose exponentials no float holds."""
    changes = {"scale": 10, "mean": [1280, 1280, 1280]}
    card = toy_model("per_patch", input=changes, outputs={"activation": activation})
    rgb = np.full((32, 32 * 32, 3), 128, np.uint8)
    steps = np.random.default_rng(0).integers(0, 256, (32, 3))
    steps[0], steps[1], steps[2:20] = 0, (255, 0, 0), 128 + steps[2:20] // 100
    rgb[:] = np.repeat(steps, 32, axis=0)[None]
    raw = 10.0 * steps.T - 1280
    with np.errstate(over="ignore"):
        shares = 1 / (1 + np.exp(-raw))
    if activation == "softmax":
        powers = np.exp(raw - raw.max(0))
        shares = powers / powers.sum(0)
    given_ = predict_whole(load_model(card).ref, rgb, 1024)[:, 0]
    np.testing.assert_allclose(given_, shares, rtol=1e-5, atol=1e-30)


def test_what_fills_a_batch_up_may_be_no_number(toy_model: ToyModel) -> None:
    """A graph that divides by the patch's mean gives NaN for the black patches of the filler."""
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3]),
        helper.make_node("ReduceMean", ["image"], ["grey"], axes=[1]),
        helper.make_node("Div", ["grey", "mean"], ["scores"]),
    ]
    ref = load_model(write_graph(toy_model("nan", outputs={"range": [0, 9]}), nodes)).ref
    assert ref.members[0].batch == 4
    scores = predict_whole(
        ref, np.maximum(noise(96, 96), 1), 96
    )  # nine patches: three more fill it up
    assert np.isfinite(scores).all()
    assert 0.9 < scores.mean() < 1.1


def test_a_score_that_is_not_a_number_is_an_error(toy_model: ToyModel) -> None:
    ref, rgb = load_model(toy_model("nan")).ref, noise(64, 64)
    rgb[..., 0] = np.minimum(rgb[..., 0], 250)
    assert np.isfinite(predict_whole(ref, rgb, 64)).all()
    rgb[40, 10] = RED
    with pytest.raises(
        ModelError, match=r"scores is NaN or infinite in the patch around x 16, y 48"
    ):
        predict_whole(ref, rgb, 64)


# Averages of overlapping patches


def maps_at(
    ref: ModelRef, rgb: Pixels, block: int, index: Index, wanted: bytes | None = None
) -> tuple[Scores, ...]:
    grid = Grid((rgb.shape[0], rgb.shape[1]), block)
    pixels = cut(rgb, ref.frame.around(grid.box(index)))
    return predict_block(pixels, index, wanted, model=ref, level_grid=grid)


def position_dependent(monkeypatch: pytest.MonkeyPatch, side: int) -> None:
    """Make every model give the mean of its patch, times a ramp: no patch agrees with another."""
    ramp = np.linspace(0.1, 1, side * side, dtype=np.float32).reshape(side, side)

    def ramped(
        _: SessionRef, __: tuple[MapRef, ...], batch: NDArray[np.float32], count: int
    ) -> list[NDArray[np.float32]]:
        return [batch[:count].mean((1, 2, 3), keepdims=True) * ramp]

    monkeypatch.setattr(patches, "run_batch", ramped)


@pytest.mark.parametrize("method", ["gaussian", "mean"])
@pytest.mark.parametrize("overlap", [16, 8, 30])
def test_averages_do_not_depend_on_the_blocks(
    toy_model: ToyModel, monkeypatch: pytest.MonkeyPatch, method: str, overlap: int
) -> None:
    stitch = {"method": method, "overlap": overlap}
    ref = load_model(toy_model("nan", batch=3, stitch=stitch)).ref
    position_dependent(monkeypatch, 32)
    rgb = noise(150, 130)
    whole = predict_whole(ref, rgb, 256)
    assert np.isfinite(whole).all()
    for block in (37, 64, 96):
        np.testing.assert_array_equal(predict_whole(ref, rgb, block), whole)


@pytest.mark.parametrize("method", ["gaussian", "mean"])
def test_an_average_is_that_of_all_patches_over_a_pixel(
    toy_model: ToyModel, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The same, straight from the definition: patches of 32, one every 16, from -8 on."""
    ref = load_model(toy_model("nan", batch=1, stitch={"method": method})).ref
    assert (ref.step, ref.halo) == (16, 8)
    position_dependent(monkeypatch, 32)
    rgb = noise(70, 50)
    ramp = np.linspace(0.1, 1, 32 * 32).reshape(32, 32)
    distance = (np.arange(32) - 15.5) / 4
    bell = np.maximum(np.exp(-0.5 * distance**2)[:, None] * np.exp(-0.5 * distance**2), 1e-3)
    weight = bell if method == "gaussian" else np.ones((32, 32))
    total, weights = np.zeros((96, 80)), np.zeros((96, 80))  # from -8 on, and as much beyond
    for row, column in np.ndindex(5, 4):
        patch = cut(rgb, Box(16 * row - 8, 16 * column - 8, 32, 32))
        here = (slice(16 * row, 16 * row + 32), slice(16 * column, 16 * column + 32))
        total[here] += patch.mean() * SCALE * ramp * weight
        weights[here] += weight
    expected = (total / np.maximum(weights, 1e-9))[8:78, 8:58]
    np.testing.assert_allclose(predict_whole(ref, rgb, 64)[0], expected, rtol=1e-5)


def test_of_patches_that_are_not_wanted_nothing_is_in_an_average(
    toy_model: ToyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = load_model(toy_model("nan", batch=1, stitch={"method": "mean"})).ref
    position_dependent(monkeypatch, 32)
    wanted = np.zeros((4, 4), np.bool_)
    wanted[0, 0] = True
    scores = predict_at(ref, noise(64, 64), 64, (0, 0), np.packbits(wanted).tobytes())
    assert np.isfinite(scores[0, :24, :24]).all()
    assert np.isnan(scores[0, 24:]).all()
    assert np.isnan(scores[0, :, 24:]).all()


def test_a_local_model_is_the_same_averaged_or_not(toy_model: ToyModel) -> None:
    """But for the border of a patch, which a crop leaves out and an average does not."""
    ref = load_model(toy_model("strided", stitch={"method": "mean", "halo": None})).ref
    rgb = noise(150, 130)
    np.testing.assert_allclose(predict_whole(ref, rgb, 96), expected_means(rgb, 4), rtol=1e-6)


# Several outputs, how far they reach, and what is averaged over models and turns


def test_maps_reach_around_a_block_as_far_as_they_are_asked_to(neighbours: Model) -> None:
    rgb, (map_,) = noise(150, 130), neighbours.ref.maps
    ref = replace(neighbours.ref, maps=(replace(map_, reach=20),))
    expected = expected_neighbours(rgb)
    for index in Grid((150, 130), 64):
        l_box = Grid((150, 130), 64).box(index)
        (o_box,) = map_boxes(ref, l_box, (150, 130))
        assert o_box == l_box.expanded(20).clipped((150, 130))
        (values,) = maps_at(ref, rgb, 64, index)
        inside = o_box.within(Box(0, 0, 150, 130))
        np.testing.assert_array_equal(values, expected[(slice(None), *inside)])


def test_maps_of_one_value_per_patch_reach_as_far_as_each_is_asked_to(toy_model: ToyModel) -> None:
    """The patches are those of the map that reaches furthest; the other one takes its own."""
    ref, rgb = load_model(toy_model("per_patch")).ref, noise(150, 130)
    (map_,) = ref.maps
    ref = replace(ref, maps=(map_, replace(map_, reach=64)))
    expected = expected_means(rgb, 32)
    for index in Grid((150, 130), 64):
        l_box = Grid((150, 130), 64).box(index)
        for o_box, values in zip(
            map_boxes(ref, l_box, (150, 130)), maps_at(ref, rgb, 64, index), strict=True
        ):
            inside = o_box.within(Box(0, 0, 5, 5))
            np.testing.assert_array_equal(values, expected[(slice(None), *inside)])


@pytest.mark.parametrize("tta", ["flips", "rotations", "all"])
def test_an_augmented_prediction_is_the_mean_over_turned_patches(
    toy_model: ToyModel, tta: str
) -> None:
    model = load_model(toy_model("neighbours"))
    rgb = noise(64, 64)
    flips: list[Turn] = [
        lambda a: a,
        np.fliplr,
        np.flipud,
        lambda a: np.flipud(np.fliplr(a)),
    ]
    quarters: list[Turn] = [partial(np.rot90, k=k) for k in range(4)]
    mirrored: list[Turn] = [lambda a, k=k: np.rot90(np.fliplr(a), k) for k in range(4)]  # type: ignore[misc]
    ways = {"flips": flips, "rotations": quarters, "all": quarters + mirrored}[tta]
    expected = np.zeros((64, 64))
    for way in ways:
        # Where a pixel went is found by turning the numbers of all pixels.
        numbers = way(np.arange(64 * 64).reshape(64, 64))
        scores = expected_neighbours(np.ascontiguousarray(way(rgb)))[0]
        back = np.empty(64 * 64)
        back[numbers.ravel()] = scores.ravel()
        expected += back.reshape(64, 64) / len(ways)
    for block in (32, 64):
        given_ = predict_whole(model.running(tta=tta).ref, rgb, block)[0]
        np.testing.assert_allclose(given_, expected, rtol=1e-6)


def test_a_turned_patch_is_turned_back(toy_model: ToyModel) -> None:
    """A constant model's mean is itself; one that is not the same for all turns is not."""
    model = load_model(toy_model("neighbours"))
    rgb = noise(64, 64)
    plain, all_ = (predict_whole(model.running(tta=tta).ref, rgb, 64) for tta in ("none", "all"))
    assert np.abs(plain - all_).max() > 0.01
    grey = np.full((64, 64, 3), 128, np.uint8)
    inner = (slice(None), slice(2, -2), slice(2, -2))
    for tta in ("none", "all"):
        values = predict_whole(model.running(tta=tta).ref, grey, 64)[inner]
        np.testing.assert_allclose(values, values[0, 0, 0], rtol=1e-6)


def test_an_ensemble_is_the_mean_of_its_models(toy_model: ToyModel, tmp_path: Path) -> None:
    first = write_toy_model(tmp_path / "a", "neighbours", batch=2)
    second = write_toy_model(tmp_path / "b", "neighbours", batch=5, input={"channels": "BGR"})
    rgb = noise(100, 70)
    both = load_models([first, second]).ref
    assert len(both.members) == 2
    assert both.digest not in {member.digest for member in both.members}
    expected = (expected_neighbours(rgb) + expected_neighbours(rgb[..., ::-1])) / 2
    for block in (40, 128):
        np.testing.assert_array_equal(predict_whole(both, rgb, block), expected)


@pytest.mark.parametrize("zscore", ["patch", "channel"])
def test_a_patch_is_standardised_by_itself(toy_model: ToyModel, zscore: str) -> None:
    card = toy_model("neighbours", batch=1, stitch={"halo": 1}, input={"zscore": zscore})
    rgb = noise(32, 32)
    patch = cut(rgb, Box(-1, -1, 34, 34)).astype(np.float64)
    axes = (0, 1, 2) if zscore == "patch" else (0, 1)
    standard = (patch - patch.mean(axes)) / patch.std(axes)
    expected = np.zeros((32, 32))
    for dy, dx in np.ndindex(3, 3):
        expected += standard[dy : dy + 32, dx : dx + 32] @ KERNEL[:, dy, dx]
    np.testing.assert_allclose(predict_whole(load_model(card).ref, rgb, 32)[0], expected, atol=1e-3)


@pytest.mark.parametrize("border", ["edge", "reflect"])
@pytest.mark.parametrize("block", [32, 64, 256])
def test_what_a_patch_holds_beyond_the_slide_may_be_made_of_the_slide(
    toy_model: ToyModel, border: str, block: int
) -> None:
    """By the patch alone: its value is the same in whatever block it is predicted."""
    card = toy_model(
        "per_patch", outputs={"stride": 16}, stitch={"halo": 8}, input={"border": border}
    )
    rgb = noise(70, 90)
    scores = predict_whole(load_model(card).ref, rgb, block)
    for row, column in np.ndindex(5, 6):
        box = Box(16 * row - 8, 16 * column - 8, 32, 32)
        inside = box.clipped((70, 90))
        margins = [
            (inside.y - box.y, box.y_stop - inside.y_stop),
            (inside.x - box.x, box.x_stop - inside.x_stop),
            (0, 0),
        ]
        patch = np.pad(cut(rgb, inside), margins, mode=border)  # type: ignore[call-overload]
        expected = patch.astype(np.float64).mean((0, 1)) * SCALE
        np.testing.assert_array_equal(scores[:, row, column], expected.astype(np.float32))


def test_a_dark_slide_is_dark_beyond_its_border_too(toy_model: ToyModel) -> None:
    """White around fluorescence would be all that a z-score sees."""
    card = toy_model("neighbours", input={"zscore": "patch", "border": "reflect"})
    rgb = noise(40, 40) // 16
    assert np.ptp(predict_whole(load_model(card).ref, rgb, 64)[0, :, :4]) > 0.05
    white = toy_model("neighbours", input={"zscore": "patch"})
    assert np.ptp(predict_whole(load_model(white).ref, rgb, 64)[0, 5:30, 34:38]) < 0.05
