"""Model cards against their graphs, and blocks predicted patch by patch."""

from __future__ import annotations

import hashlib
import pickle
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import MissingExtraError, ModelError
from pipeline.geometry import Box, Grid, Index
from pipeline.model import Model, ModelRef, load_model, patches, predict_block, quantise, session
from tests.toys import (
    RED,
    SCALE,
    Pixels,
    Scores,
    expected_means,
    expected_neighbours,
    noise,
    write_toy_model,
)

ToyModel = Callable[..., Path]


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
    return predict_block(pixels, index, wanted, model=ref, level_grid=grid)


def predict_whole(ref: ModelRef, rgb: Pixels, block: int) -> Scores:
    rows, columns = Grid((rgb.shape[0], rgb.shape[1]), block).counts
    blocks = [[predict_at(ref, rgb, block, (i, j)) for j in range(columns)] for i in range(rows)]
    return np.concatenate([np.concatenate(row, axis=2) for row in blocks], axis=1)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Collects the shape of every batch the model is run on."""
    shapes: list[tuple[int, ...]] = []
    run = session.run_batch

    def collecting(ref: ModelRef, batch: NDArray[np.float32], count: int) -> NDArray[np.float32]:
        shapes.append(batch.shape)
        return run(ref, batch, count)

    monkeypatch.setattr(patches, "run_batch", collecting)
    return shapes


def write_graph(
    card: Path,
    nodes: list[onnx.NodeProto],
    *,
    shape: tuple[int | str, ...] = ("N", 3, "H", "W"),
    rank: int = 4,
    kind: int = TensorProto.FLOAT,
    inputs: tuple[str, ...] = ("image",),
) -> Path:
    """Put another graph, from ``image`` to ``scores``, in the place of a card's."""
    graph = helper.make_graph(
        nodes,
        "other",
        [helper.make_tensor_value_info(name, kind, list(shape)) for name in inputs],
        [helper.make_tensor_value_info("scores", kind, [f"d{i}" for i in range(rank)])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (card.parent / "toy.onnx").write_bytes(model.SerializeToString())
    return card


# Loading


def test_a_model_is_loaded_by_its_card_its_folder_or_its_onnx_file(toy_model: ToyModel) -> None:
    card = toy_model("neighbours")
    from_card, from_folder = load_model(card), load_model(card.parent)
    shutil.copy(card, card.with_name("toy.yaml"))
    from_onnx = load_model(card.with_name("toy.onnx"))
    assert from_card.ref == from_folder.ref == from_onnx.ref
    assert from_card.path == from_folder.path == str(card)
    assert from_card.channels == ("sum",)


def test_a_builtin_is_loaded_by_its_name() -> None:
    model = load_model("builtin:nuclei")
    assert model.card.name == "nuclei"
    assert model.ref.core == 512


def test_the_token_is_what_the_card_says(toy_model: ToyModel) -> None:
    card = toy_model("strided", batch=3, outputs={"range": [-1, 1]})
    ref = load_model(card).ref
    assert (ref.patch, ref.halo, ref.core, ref.stride, ref.channels, ref.batch) == (
        *(64, 8, 48),
        *(4, 3, 3),
    )
    assert ref.value_range == (-1, 1)
    assert ref.onnx == str(card.parent / "toy.onnx")
    assert ref.digest == hashlib.sha256(Path(ref.onnx).read_bytes()).hexdigest()


def test_the_token_travels_as_less_than_a_kilobyte(toy_model: ToyModel) -> None:
    for ref in (load_model(toy_model("strided")).ref, load_model("builtin:nuclei").ref):
        assert len(pickle.dumps(ref)) < 1000
        assert pickle.loads(pickle.dumps(ref)) == ref


def test_the_automatic_batch_fills_a_number_of_pixels(toy_model: ToyModel) -> None:
    def batch(side: int) -> int:
        return load_model(toy_model("nan", batch="auto", input={"patch": side})).ref.batch

    assert [batch(side) for side in (32, 128, 256, 512, 600)] == [32, 16, 4, 1, 1]


def test_a_static_graph_fixes_the_batch(toy_model: ToyModel) -> None:
    assert load_model(toy_model("static")).ref.batch == 2
    assert load_model(toy_model("static", batch=2)).ref.batch == 2


def test_facts_and_repr_say_what_the_model_is(toy_model: ToyModel) -> None:
    model = load_model(toy_model("strided", name="<b>", licence="MIT"))
    facts = model.facts()
    assert facts["licence"] == "MIT"
    assert facts["patch"] == "64 px, of which 48 are kept (halo 8)"
    assert facts["output"] == "red, green, blue; one value every 4 px"
    assert "Model <b>" in repr(model)
    assert "<b>Model &lt;b&gt;" in model._repr_html_()


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("neighbours", {"onnx": "other.onnx"}, r"onnx: no file .*other\.onnx; put it beside"),
        (
            "neighbours",
            {"colour": 3},
            r"card\.yaml: colour: unknown key; known keys: name, version",
        ),
        ("neighbours", {"input": {"pach": 7}}, r"input\.pach: unknown key; did you mean patch\?"),
        ("neighbours", {"name": None}, r"card\.yaml: name: missing"),
        ("neighbours", {"stitch": {"halo": 17}}, r"stitch\.halo 17 leaves nothing of .*patch 34"),
        (
            "neighbours",
            {"outputs": {"stride": 5}},
            r"stride 5 must divide input\.patch 34 less twice stitch\.halo 1; .* use halo 14",
        ),
        (
            "neighbours",
            {"outputs": {"stride": 5}, "stitch": {"halo": 5}},
            r"stride 5 must divide input\.patch 34 less twice stitch\.halo 5",
        ),
        ("strided", {"stitch": {"halo": 6}}, r"stride 4 must divide .*patch 64.*halo 6"),
        ("neighbours", {"input": {"std": [1, 0, 1]}}, r"input\.std .*1.*0.*1.* greater than 0"),
        ("neighbours", {"outputs": {"range": [1, 0]}}, r"range \[1, 0\] must rise"),
        ("neighbours", {"batch": 0}, r"batch.*: Input should be .*greater than or equal to 1"),
        ("neighbours", {"batch": True}, r"batch.*: Input should be a valid integer"),
        ("neighbours", {"stitch": {"halo": True}}, r"halo: Input should be a valid integer"),
        ("neighbours", {"input": {"patch": 10**6}}, r"patch: Input should be .* 16384"),
        ("neighbours", {"input": {"scale": float("nan")}}, r"scale: Input should be a finite"),
        ("neighbours", {"input": {"scale": 0}}, r"input\.scale 0 makes every pixel the same"),
        ("neighbours", {"input": {"std": [1, -1, 1]}}, r"input\.std .* must be greater than 0"),
        ("neighbours", {"outputs": {"range": [0, float("inf")]}}, r"range.*finite number"),
        ("neighbours", {"outputs": {"activation": "softmax"}}, r"softmax needs two channels"),
        (
            "neighbours",
            {"outputs": {"channels": ["a", "b"]}},
            r"2 channels, stride 1 and patch 34 ask .* \(batch, 2, 34, 34\); .* \(4, 1, 34, 34\)",
        ),
        (
            "strided",
            {"outputs": {"stride": 2}},
            r"shape \(batch, 3, 32, 32\); the graph gives \(4, 3, 16, 16\)",
        ),
        (
            "static",
            {"input": {"patch": 66}},
            r"layout NCHW and patch 66 give \(2, 3, 66, 66\), the graph takes \[2, 3, 34, 34\]",
        ),
        ("static", {"batch": 4}, r"batch: the card says 4, the graph 2"),
        ("neighbours", {"outputs": {"name": "x"}}, r"the card says x, the graph has \['scores'\]"),
    ],
)
def test_a_card_that_is_wrong_is_refused_with_both_values(
    toy_model: ToyModel, kind: str, changes: dict[str, Any], said: str
) -> None:
    card = toy_model(kind, **changes)
    with pytest.raises(ModelError, match=f"^{card.parent}/.*{said}"):
        load_model(card)


def test_what_is_wrong_inside_the_outputs_is_said_once(toy_model: ToyModel) -> None:
    with pytest.raises(ModelError) as caught:
        load_model(toy_model("neighbours", outputs={"stride": "one"}))
    assert str(caught.value).count("Input should be a valid integer") == 1
    assert "Tuple" not in str(caught.value)


def node(operation: str, source: str = "image", **attributes: Any) -> list[onnx.NodeProto]:
    return [helper.make_node(operation, [source], ["scores"], **attributes)]


def test_a_layout_that_is_not_the_graphs_is_refused_with_both_shapes(toy_model: ToyModel) -> None:
    card = write_graph(toy_model("nan"), node("Identity"), shape=("N", "H", "W", 3))
    said = r"NCHW and patch 32 give (4, 3, 32, 32), the graph takes ['N', 'H', 'W', 3]"
    with pytest.raises(ModelError, match=re.escape(said)):
        load_model(card)


def test_an_input_of_another_rank_is_refused_with_both_shapes(toy_model: ToyModel) -> None:
    card = write_graph(toy_model("nan"), node("Identity"), shape=("N", 3, "H"), rank=3)
    with pytest.raises(ModelError, match=r"give \(4, 3, 32, 32\), the graph takes \['N', 3, 'H'"):
        load_model(card)


def test_an_input_of_another_type_is_refused_with_both_types(toy_model: ToyModel) -> None:
    card = write_graph(toy_model("nan"), node("Identity"), kind=TensorProto.FLOAT16)
    with pytest.raises(ModelError, match=r"float32 is given, the graph takes tensor\(float16\)"):
        load_model(card)


def test_an_output_of_another_rank_is_refused_with_both_shapes(toy_model: ToyModel) -> None:
    card = write_graph(
        toy_model("strided"),
        node("ReduceMean", axes=[3], keepdims=0),
        shape=("N", 3, "H", "W"),
        rank=3,
    )
    with pytest.raises(ModelError, match=r"\(batch, 3, 16, 16\); the graph gives \(4, 3, 64\)"):
        load_model(card)


def test_a_strided_output_off_the_patchs_grid_is_refused(toy_model: ToyModel) -> None:
    """Stride 16 and halo 8: of two values a side, neither is that of the middle."""
    pool = node("AveragePool", kernel_shape=[16, 16], strides=[16, 16])
    card = toy_model("strided", input={"patch": 32}, outputs={"stride": 16}, stitch={"halo": 8})
    with pytest.raises(ModelError, match=r"the graph gives \(4, 3, 2, 2\)"):
        load_model(write_graph(card, pool))


def test_a_graph_without_input_is_refused(toy_model: ToyModel) -> None:
    constant = helper.make_node("Constant", [], ["scores"], value_float=1.0)
    card = write_graph(toy_model("nan"), [constant], inputs=(), rank=0)
    with pytest.raises(ModelError, match="describes one, the graph has none"):
        load_model(card)


def test_a_graph_of_two_inputs_is_refused_with_their_names(toy_model: ToyModel) -> None:
    add = [helper.make_node("Add", ["image", "prompt"], ["scores"])]
    card = write_graph(toy_model("nan"), add, inputs=("image", "prompt"))
    with pytest.raises(ModelError, match="describes one, the graph has image, prompt"):
        load_model(card)


def test_a_graph_that_fails_is_a_model_error(toy_model: ToyModel) -> None:
    nodes = [
        helper.make_node("Constant", [], ["shape"], value_ints=[4, 3, 7, 7]),
        helper.make_node("Reshape", ["image", "shape"], ["scores"]),
    ]
    card = write_graph(toy_model("nan"), nodes)
    with pytest.raises(ModelError, match=r"toy\.onnx: the model failed on a batch \(4, 3, 32, 32"):
        load_model(card)


def test_a_file_that_is_no_onnx_is_refused(toy_model: ToyModel) -> None:
    card = toy_model("neighbours")
    card.with_name("toy.onnx").write_text("hello")
    with pytest.raises(ModelError, match=r"toy\.onnx: not an ONNX model that can be run"):
        load_model(card)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"a: [1", "line 1: .*; a model card is a YAML"),
        (b"\xff\xfe\x00", "not UTF-8 text"),
        (b"- a\n- b\n", "not a model card: a mapping with name, onnx, input, outputs"),
        (b"", "not a model card: a mapping"),
    ],
)
def test_a_file_that_is_no_card_is_refused(tmp_path: Path, text: bytes, said: str) -> None:
    card = tmp_path / "card.yaml"
    card.write_bytes(text)
    with pytest.raises(ModelError, match=f"{card}: {said}"):
        load_model(card)


def test_what_is_not_there_is_named_with_what_is(tmp_path: Path, toy_model: ToyModel) -> None:
    with pytest.raises(ModelError, match=r"none\.yaml: no such model card; give a card, its fol"):
        load_model(tmp_path / "none.yaml")
    with pytest.raises(ModelError, match=r"one card \(\*\.yaml\); found none"):
        load_model(tmp_path)
    card = toy_model("neighbours")
    with pytest.raises(ModelError, match=r"needs a card; write toy\.yaml beside it"):
        load_model(card.with_name("toy.onnx"))
    shutil.copy(card, card.with_name("other.yml"))
    with pytest.raises(ModelError, match=r"found card\.yaml, other\.yml"):
        load_model(card.parent)
    with pytest.raises(ModelError, match=r"builtin:tea: no such .*there is .*builtin:nuclei"):
        load_model("builtin:tea")


def test_without_a_runtime_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'wsi-pipeline\[cpu\]'"):
        load_model("builtin:nuclei")


def test_two_runtimes_side_by_side_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    both = ("onnxruntime", "onnxruntime-gpu")
    monkeypatch.setattr(session, "_installed", lambda name: name in both)
    with pytest.warns(UserWarning, match="onnxruntime and onnxruntime-gpu are installed side by"):
        session.runtime_version()


# Predicting


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

    def mean_everywhere(_: ModelRef, batch: NDArray[np.float32], __: int) -> NDArray[np.float32]:
        return np.broadcast_to(batch.mean((1, 2, 3), keepdims=True), (1, 1, 32, 32))

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


def test_unwanted_patches_are_not_run_and_hold_the_least_value(
    toy_model: ToyModel, batches: list[tuple[int, ...]]
) -> None:
    card = toy_model("neighbours", batch=1, outputs={"range": [-0.5, 1]})
    ref, rgb = load_model(card).ref, noise(96, 96)
    wanted = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0]], np.bool_)
    scores = predict_at(ref, rgb, 96, (0, 0), np.packbits(wanted).tobytes())
    assert len(batches) == 3
    kept = np.repeat(np.repeat(wanted, 32, axis=0), 32, axis=1)
    np.testing.assert_array_equal(scores[0], np.where(kept, expected_neighbours(rgb)[0], -0.5))


def test_a_block_without_wanted_patches_runs_nothing(
    neighbours: Model, batches: list[tuple[int, ...]]
) -> None:
    scores = predict_at(neighbours.ref, noise(64, 64), 64, (0, 0), b"\0")
    assert batches == []
    assert (scores == 0).all()


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
    assert ref.batch == 4
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
    with pytest.raises(ModelError, match=r"toy\.onnx: output scores is NaN or infinite in patch 2"):
        predict_whole(ref, rgb, 64)


def external(card: Path, weights: float, location: str = "w.bin") -> Path:
    """Rewrite ``per_patch``'s graph: its means times a weight, which is in a file of its own."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Mul", ["flat", "weight"], ["scores"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, "H", "W"])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])
    weight = numpy_helper.from_array(np.full((1, 3), weights, np.float32), "weight")
    model = helper.make_model(
        helper.make_graph(nodes, "external", [image], [scores], [weight]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    path = card.parent / "toy.onnx"
    (card.parent / "w.bin").unlink(missing_ok=True)  # it would be appended to
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    path.write_bytes(path.read_bytes().replace(b"w.bin", location.encode()))
    return card


def test_weights_in_a_file_of_their_own_are_part_of_the_digest(toy_model: ToyModel) -> None:
    card = toy_model("per_patch")
    first = load_model(external(card, 0.25)).ref
    graph = (card.parent / "toy.onnx").read_bytes()
    second = load_model(external(card, 0.5)).ref
    assert (card.parent / "toy.onnx").read_bytes() == graph
    assert first.digest != second.digest
    white = np.full((32, 32, 3), 255, np.uint8)
    np.testing.assert_array_equal(predict_at(second, white, 32, (0, 0)), 0.5 * 255 / 256)


def test_weights_outside_the_models_folder_are_refused(toy_model: ToyModel) -> None:
    card = toy_model("per_patch")
    (card.parent.parent / "ww").write_bytes((external(card, 0.5).parent / "w.bin").read_bytes())
    # As long as the other name: lengths in the file stay right.
    card = external(card, 0.5, location="../ww")
    with pytest.raises(ModelError, match=r"weights in \.\./ww, outside the model's folder"):
        load_model(card)


def test_a_process_opens_a_model_once(toy_model: ToyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    ref, rgb = load_model(toy_model("neighbours")).ref, noise(128, 128)
    opened: list[str] = []
    open_ = session._open

    def counted(path: str) -> Any:
        opened.append(path)
        return open_(path)

    monkeypatch.setattr(session, "_open", counted)
    indices = [(i, j) for i in range(4) for j in range(4)] * 2
    with ThreadPoolExecutor(4) as pool:
        blocks = list(pool.map(lambda index: predict_at(ref, rgb, 32, index), indices))
    assert opened == [ref.onnx]
    expected = expected_neighbours(rgb)
    for (i, j), block in zip(indices, blocks, strict=True):
        square = expected[:, 32 * i : 32 * i + 32, 32 * j : 32 * j + 32]
        np.testing.assert_array_equal(block, square)


# Storing


def store(
    scores: list[float], stored_as: str = "uint8", low: float = 0.0, high: float = 1.0
) -> NDArray[Any]:
    block = np.array(scores, np.float32).reshape(1, 1, -1)
    stored = quantise(block, (3, 7), None, stored_as=stored_as, value_range=(low, high))
    assert stored.dtype == stored_as
    assert stored.shape == block.shape
    line: NDArray[Any] = stored[0, 0]
    return line


def test_bytes_span_the_range_and_are_rounded_to_nearest() -> None:
    assert store([0, 1, 0.4 / 255, 0.6 / 255, 99.49 / 255]).tolist() == [0, 255, 0, 1, 99]
    assert store([-4, 4, 0, 2], low=-4, high=4).tolist() == [0, 255, 128, 191]


@settings(max_examples=50, deadline=None)
@given(st.floats(-10, 10, width=32), st.floats(0.125, 20, width=32), st.floats(0, 1, width=32))
def test_a_stored_byte_is_within_half_a_step_of_its_score(
    low: float, span: float, share: float
) -> None:
    score = low + share * span
    (stored,) = store([score], low=low, high=low + span)
    assert abs(low + int(stored) * span / 255 - score) <= 0.501 * span / 255 + 1e-5


def test_a_score_just_beyond_the_range_is_its_end() -> None:
    assert store([-0.4 / 255, 1 + 0.4 / 255]).tolist() == [0, 255]


@pytest.mark.parametrize("score", [-0.6 / 255, 1 + 0.6 / 255, 255.0, -7.0])
def test_a_score_that_cannot_be_stored_is_an_error(score: float) -> None:
    with pytest.raises(ModelError, match=r"^scores from .* do not fit 0 to 1; set .*float32"):
        store([0.5, score])


def test_floats_are_stored_as_they_are() -> None:
    scores = [-7.5, 0.1, 300.25]
    assert store(scores, "float32").tolist() == np.array(scores, np.float32).tolist()
    assert store(scores, "float16").tolist() == np.array(scores, np.float16).tolist()


def test_a_score_too_large_for_float16_is_an_error_and_not_infinity() -> None:
    with pytest.raises(ModelError, match=r"^scores .*1e\+06.* float16.*float32"):
        store([0.5, 1e6], "float16")


def test_an_empty_block_is_stored_as_nothing() -> None:
    assert store([]).shape == (0,)
