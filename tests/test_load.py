"""Models loaded: found by path, held against their graphs, several of them as one."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import MissingExtraError, ModelError
from pipeline.model import load_model, load_models
from pipeline.model.refs import CLASSES, MapRef
from pipeline.model.weights import names_in
from tests.toys import write_graph

ToyModel = Callable[..., Path]


def node(operation: str, source: str = "image", **attributes: Any) -> list[onnx.NodeProto]:
    return [helper.make_node(operation, [source], ["scores"], **attributes)]


# Finding


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
    assert model.ref.step == 512


def test_what_is_not_there_is_named_with_what_is(tmp_path: Path, toy_model: ToyModel) -> None:
    with pytest.raises(ModelError, match=r"none\.yaml: no such model card; give a card, its fol"):
        load_model(tmp_path / "none.yaml")
    with pytest.raises(ModelError, match=r"one card \(\*\.yaml, or rdf\.yaml.*\); found none"):
        load_model(tmp_path)
    card = toy_model("neighbours")
    with pytest.raises(ModelError, match=r"needs a card; write toy\.yaml beside it"):
        load_model(card.with_name("toy.onnx"))
    shutil.copy(card, card.with_name("other.yml"))
    with pytest.raises(ModelError, match=r"found card\.yaml, other\.yml"):
        load_model(card.parent)
    with pytest.raises(ModelError, match=r"builtin:tea: no such .*there is .*builtin:nuclei"):
        load_model("builtin:tea")
    with pytest.raises(ModelError, match=r"onnx: no file .*other\.onnx; put it beside"):
        load_model(toy_model("neighbours", onnx="other.onnx"))


@pytest.mark.parametrize("name", ["x" * 5000, "circle.onnx"])
def test_a_name_that_no_file_can_have_is_named(name: str, toy_model: Callable[..., Path]) -> None:
    card = toy_model("per_patch")
    (card.parent / "circle.onnx").symlink_to("circle.onnx")
    card.write_text(card.read_text().replace("toy.onnx", json.dumps(name)))
    with pytest.raises(ModelError, match=r"yaml: onnx: .*; (name the file beside it|put it)"):
        load_model(card)


def test_without_a_runtime_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'wsi-pipeline\[cpu\]'"):
        load_model("builtin:nuclei")


# The token


def test_the_token_is_what_the_card_says(toy_model: ToyModel) -> None:
    card = toy_model("strided", batch=3, outputs={"range": [-1, 1]})
    ref = load_model(card).ref
    (member,), (output,) = ref.members, ref.outputs
    assert (ref.patch, ref.halo, ref.step, ref.stride, member.batch) == (64, 8, 48, 4, 3)
    assert ref.maps == (MapRef(tensor=0, activation="none", channels=3, stride=4),)
    assert output.value_range == (-1, 1)
    assert member.onnx == str(card.parent / "toy.onnx")
    assert member.digest == hashlib.sha256(Path(member.onnx).read_bytes()).hexdigest()


def test_the_token_travels_as_less_than_a_kilobyte(toy_model: ToyModel) -> None:
    for ref in (load_model(toy_model("strided")).ref, load_model("builtin:nuclei").ref):
        assert len(pickle.dumps(ref)) < 1000
        assert pickle.loads(pickle.dumps(ref)) == ref


def three_ways(toy_model: ToyModel, **changes: Any) -> Path:
    """One tensor of three channels as scores, as labels of the same scores, and as other labels."""
    base = {"tensor": "scores", "channels": ["Background", "red", "blue"], "stride": 4}
    outputs = [
        {**base, "name": "a", "activation": "softmax"},
        {**base, "name": "b", "activation": "softmax", "kind": "labels"},
        {**base, "name": "c", "activation": "argmax", "kind": "labels"},
    ]
    card = toy_model("strided", **changes)
    text = card.read_text().partition("outputs:")[0]
    stitch = "stitch: {halo: 8}\n"
    card.write_text(f"{text}outputs: {outputs}\n{stitch}")
    return card


def test_outputs_that_are_the_same_values_share_a_map(toy_model: ToyModel) -> None:
    ref = load_model(three_ways(toy_model)).ref
    assert [each.activation for each in ref.maps] == ["softmax", "none"]
    assert [output.map for output in ref.outputs] == [0, 0, 1]
    assert ref.members[0].tensors == ("scores",)


def test_a_label_is_the_place_of_its_channel_and_background_is_none(toy_model: ToyModel) -> None:
    scores, labels, _ = load_model(three_ways(toy_model)).ref.outputs
    assert (scores.values, labels.values) == ((), (0, 2, 3))
    one = toy_model("neighbours", outputs={"kind": "labels", "threshold": 0.25})
    (output,) = load_model(one).ref.outputs
    assert (output.values, output.threshold) == ((1,), 0.25)


def test_objects_know_their_channels_by_number(toy_model: ToyModel) -> None:
    objects = {"method": "watershed", "seeds": "blue", "classes": ["red", "green"]}
    card = toy_model("strided", outputs={"kind": "objects", "objects": objects})
    found = load_model(card).ref.outputs[0].objects
    assert found is not None
    assert (found.foreground, found.seeds, found.boundary) == (0, 2, None)
    assert found.classes == ((0, "red"), (1, "green"))


def test_features_are_stored_as_the_card_says(toy_model: ToyModel) -> None:
    card = toy_model("per_patch", outputs={"kind": "features", "channels": 3, "dtype": "float32"})
    assert load_model(card).ref.outputs[0].dtype == "float32"
    assert load_model(toy_model("per_patch")).ref.outputs[0].dtype == ""


def test_overlapping_patches_keep_what_half_the_overlap_leaves(toy_model: ToyModel) -> None:
    card = toy_model("strided", stitch={"method": "gaussian", "overlap": 16, "halo": None})
    ref = load_model(card).ref
    assert (ref.method, ref.halo, ref.step, ref.used) == ("gaussian", 8, 48, 8)


def test_an_automatic_patch_is_the_graphs_or_512(toy_model: ToyModel) -> None:
    assert load_model(toy_model("static", input={"patch": None})).ref.patch == 34
    assert load_model(toy_model("strided", input={"patch": "auto"})).ref.patch == 512
    with pytest.raises(ModelError, match=r"stride 7 must divide input\.patch 512 .*use halo 252"):
        load_model(toy_model("strided", input={"patch": "auto"}, outputs={"stride": 7}))
    oblong = write_graph(
        toy_model("nan", input={"patch": "auto"}), node("Identity"), shape=("N", 3, 32, 64)
    )
    with pytest.raises(ModelError, match=r"input\.patch: patches are square, the graph .* 32 x 64"):
        load_model(oblong)


def test_the_automatic_batch_fills_a_number_of_pixels(toy_model: ToyModel) -> None:
    def batch(side: int) -> tuple[int, bool]:
        member = load_model(toy_model("nan", batch="auto", input={"patch": side})).ref.members[0]
        return member.batch, member.batch_auto

    assert [batch(side) for side in (32, 128, 256, 600)] == [
        *((32, True), (16, True), (4, True)),
        (1, True),
    ]


def test_a_static_graph_fixes_the_batch(toy_model: ToyModel) -> None:
    for card in (toy_model("static"), toy_model("static", batch=2)):
        member = load_model(card).ref.members[0]
        assert (member.batch, member.batch_auto) == (2, False)


def classes(toy_model: ToyModel, *, keepdims: int, **changes: Any) -> Path:
    """A graph that ends with its argmax, and a card that names the three classes."""
    card = toy_model(
        "strided", input={"patch": 32}, outputs={"kind": "labels", "stride": 1}, **changes
    )
    graph = helper.make_graph(
        [helper.make_node("ArgMax", ["image"], ["scores"], axis=1, keepdims=keepdims)],
        "classes",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [
            helper.make_tensor_value_info(
                "scores", TensorProto.INT64, ["N", *([1] if keepdims else []), "H", "W"]
            )
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (card.parent / "toy.onnx").write_bytes(made.SerializeToString())
    return card


@pytest.mark.parametrize("keepdims", [0, 1])
def test_integers_without_an_axis_of_classes_are_numbers_of_classes(
    toy_model: ToyModel, keepdims: int
) -> None:
    ref = load_model(classes(toy_model, keepdims=keepdims, stitch={"halo": 0})).ref
    assert ref.maps == (MapRef(tensor=0, activation=CLASSES, channels=1, stride=1),)
    assert ref.outputs[0].values == (1, 2, 3)


def test_numbers_of_classes_are_never_averaged(toy_model: ToyModel) -> None:
    overlapping = classes(toy_model, keepdims=0, stitch={"method": "mean", "halo": None})
    with pytest.raises(ModelError, match="numbers of classes, which have no average; use crop"):
        load_model(overlapping)
    card = classes(toy_model, keepdims=0, stitch={"halo": 0})
    with pytest.raises(ModelError, match="numbers of classes, which have no mean"):
        load_models([card, card])
    with pytest.raises(ModelError, match=rf"^{card}: tta flips: .* have no mean"):
        load_model(card).running(tta="flips")


# Card against graph


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        (
            "neighbours",
            {"outputs": {"channels": ["a", "b"]}},
            r"2 channels, stride 1 and patch 34 ask .*; the graph gives \(4, 1, 34, 34\)",
        ),
        ("strided", {"outputs": {"stride": 2}}, r"the graph gives \(4, 3, 16, 16\)"),
        ("static", {"input": {"patch": 66}}, r"patch 66 give \(2, 3, 66, 66\), the graph takes"),
        ("static", {"batch": 4}, r"batch: the card says 4, the graph 2"),
        ("neighbours", {"outputs": {"tensor": "x"}}, r"the card says x, the graph has scores"),
        (
            "neighbours",
            {"input": {"channels": "grey"}},
            r"grey .*\(4, 1, 34, 34\), the graph takes",
        ),
        ("neighbours", {"sha256": "0" * 64}, r"sha256: the card says 0000.*toy\.onnx has [1-9a-f]"),
    ],
)
def test_a_card_that_disagrees_is_refused_with_both_values(
    toy_model: ToyModel, kind: str, changes: dict[str, Any], said: str
) -> None:
    card = toy_model(kind, **changes)
    with pytest.raises(ModelError, match=f"^{card}: .*{said}"):
        load_model(card)


def test_a_layout_that_is_not_the_graphs_is_refused_with_both_shapes(toy_model: ToyModel) -> None:
    card = write_graph(toy_model("nan"), node("Identity"), shape=("N", "H", "W", 3))
    with pytest.raises(ModelError, match=r"\(4, 3, 32, 32\), the graph takes .*N.*H.*W.*3"):
        load_model(card)


def test_an_input_of_another_rank_is_refused_with_both_shapes(toy_model: ToyModel) -> None:
    card = write_graph(toy_model("nan"), node("Identity"), shape=("N", 3, "H"), rank=3)
    with pytest.raises(ModelError, match=r"give \(4, 3, 32, 32\), the graph takes .*N.*3.*H"):
        load_model(card)


def test_an_output_of_another_rank_is_refused_with_both_shapes(toy_model: ToyModel) -> None:
    card = write_graph(toy_model("strided"), node("ReduceMean", axes=[3], keepdims=0), rank=3)
    with pytest.raises(ModelError, match=r"16, 16\).*; the graph gives \(4, 3, 64\)"):
        load_model(card)


def test_a_strided_output_off_the_patchs_grid_is_refused(toy_model: ToyModel) -> None:
    """Stride 16 and halo 8: of two values a side, neither is that of the middle."""
    pool = node("AveragePool", kernel_shape=[16, 16], strides=[16, 16])
    card = toy_model("strided", input={"patch": 32}, outputs={"stride": 16}, stitch={"halo": 8})
    with pytest.raises(ModelError, match=r"the graph gives \(4, 3, 2, 2\)"):
        load_model(write_graph(card, pool))


def test_a_graph_without_input_or_with_two_is_refused(toy_model: ToyModel) -> None:
    constant = helper.make_node("Constant", [], ["scores"], value_float=1.0)
    card = write_graph(toy_model("nan"), [constant], inputs=(), rank=0)
    with pytest.raises(ModelError, match="describes one, the graph has none"):
        load_model(card)
    add = [helper.make_node("Add", ["image", "prompt"], ["scores"])]
    card = write_graph(toy_model("nan"), add, inputs=("image", "prompt"))
    with pytest.raises(ModelError, match="describes one, the graph has image, prompt"):
        load_model(card)


def test_a_graph_that_fails_and_a_file_that_is_none_are_model_errors(toy_model: ToyModel) -> None:
    nodes = [
        helper.make_node("Constant", [], ["shape"], value_ints=[4, 3, 7, 7]),
        helper.make_node("Reshape", ["image", "shape"], ["scores"]),
    ]
    card = write_graph(toy_model("nan"), nodes)
    with pytest.raises(ModelError, match=r"toy\.onnx: the model failed on a batch \(4, 3, 32, 32"):
        load_model(card)
    card.with_name("toy.onnx").write_text("hello")
    with pytest.raises(ModelError, match=r"toy\.onnx: not an ONNX model that can be run"):
        load_model(card)


# Weights in files of their own


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


def test_the_cards_digest_is_that_of_the_onnx_file_alone(toy_model: ToyModel) -> None:
    card = external(toy_model("per_patch"), 0.25)
    alone = hashlib.sha256((card.parent / "toy.onnx").read_bytes()).hexdigest()
    card.write_text(f"{card.read_text()}sha256: '{alone}'\n")
    assert load_model(card).ref.digest != alone


def test_weights_outside_the_models_folder_are_refused(toy_model: ToyModel) -> None:
    card = toy_model("per_patch")
    (card.parent.parent / "ww").write_bytes((external(card, 0.5).parent / "w.bin").read_bytes())
    # As long as the other name: lengths in the file stay right.
    card = external(card, 0.5, location="../ww")
    with pytest.raises(ModelError, match=r"weights in \.\./ww, outside the model's folder"):
        load_model(card)


def elsewhere(card: Path, entry: bytes) -> Path:
    """Have the weights of `external` in what an entry names, as it is written."""
    onnx_file = external(card, 0.5).with_name("toy.onnx")
    model = onnx.load(onnx_file, load_external_data=False)
    (weights,) = model.graph.initializer
    del weights.external_data[:]
    tensor = weights.SerializeToString() + field(13, entry)
    del model.graph.initializer[:]
    # A message that is there twice is merged.
    onnx_file.write_bytes(model.SerializeToString() + field(7, field(5, tensor)))
    (read,) = onnx.load(onnx_file, load_external_data=False).graph.initializer
    assert read.external_data
    return card


def field(number: int, content: bytes) -> bytes:
    """Write a field of bytes, both of its numbers in two bytes."""
    numbers = (number << 3 | 2, len(content))
    return bytes(b for n in numbers for b in (n & 0x7F | 0x80, n >> 7)) + content


@pytest.mark.parametrize(
    "written",
    [
        lambda key, name: field(1, key) + field(2, name),
        lambda key, name: field(2, name) + field(1, key),
        lambda key, name: field(1, b"length") + field(2, b"x") + field(1, key) + field(2, name),
        lambda key, name: b"\x18\x07" + field(1, key) + field(2, b"w.bin") + field(2, name),
    ],
)
def test_weights_outside_are_refused_however_that_is_written(
    written: Callable[[bytes, bytes], bytes], toy_model: ToyModel
) -> None:
    for name in ("../ww", "/etc/passwd", "x/../../../etc/passwd", "w.bin\0/../../ww"):
        card = elsewhere(toy_model("per_patch"), written(b"location", name.encode()))
        with pytest.raises(ModelError, match=r"weights in .*, outside the model's folder"):
            load_model(card)


def test_weights_behind_a_link_out_of_the_folder_are_refused(toy_model: ToyModel) -> None:
    card = external(toy_model("per_patch"), 0.5)
    weights = card.with_name("w.bin")
    weights.rename(card.parent.parent / "ww")
    weights.symlink_to(card.parent.parent / "ww")
    with pytest.raises(ModelError, match=r"weights in w\.bin, outside the model's folder"):
        load_model(card)


def test_weights_of_inner_graphs_and_functions_are_found(toy_model: ToyModel) -> None:
    entry = field(1, b"location") + field(2, b"inner.bin")
    tensor = field(13, entry)
    in_attribute = field(5, field(5, tensor))  # of a node: its attribute, the tensor of that
    for content in (
        field(7, field(15, field(1, tensor))),
        field(7, field(1, in_attribute)),
        field(7, field(1, field(5, field(6, field(5, tensor))))),
        field(7, field(1, field(5, field(22, field(2, tensor))))),
        field(25, field(7, in_attribute)),
        field(25, field(11, field(5, tensor))),
        field(20, field(1, field(5, tensor))),
    ):
        assert names_in("toy.onnx", b"\x08\x08" + content) == ["inner.bin"]


@pytest.mark.parametrize("content", [b"\x3a\x05ab", b"\x3b", b"\x08", b"\xff" * 12, b"\x09abc"])
def test_what_is_no_message_is_no_model(content: bytes) -> None:
    with pytest.raises(ModelError, match=r"^toy\.onnx: not an ONNX model .*: a "):
        names_in("toy.onnx", content)


# Ensembles


def test_an_ensemble_has_all_members_and_the_first_ones_outputs(toy_model: ToyModel) -> None:
    cards = [toy_model("neighbours"), toy_model("static", name="other")]
    apart, together = [load_model(card) for card in cards], load_models(cards)
    assert together.ref.members == tuple(model.ref.members[0] for model in apart)
    assert together.ref.outputs == apart[0].ref.outputs
    assert (together.card.name, [card.name for card in together.others]) == (
        "toy-neighbours",
        ["other"],
    )
    assert together.ref.digest not in {model.ref.digest for model in apart}


def test_an_ensemble_of_one_is_the_model_itself(toy_model: ToyModel) -> None:
    card = toy_model("neighbours")
    assert load_models([card]).ref == load_model(card).ref
    with pytest.raises(ModelError, match="an empty list; name a card"):
        load_models([])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mpp": 0.25}, r"mpp 0\.25, but .* has 0\.5"),
        ({"input": {"patch": 36}}, r"input\.patch 36, but .* has 34"),
        ({"stitch": {"halo": 2}}, r"stitch\.halo 2, but .* has 1"),
        (
            {"stitch": {"method": "mean", "overlap": 2, "halo": None}},
            r"method mean, but .* has crop",
        ),
        ({"outputs": {"channels": ["x"]}}, r"scores: x\), but .* has .*scores: sum\)"),
        ({"outputs": {"activation": "sigmoid"}}, r"scores\.activation sigmoid, but .* has none"),
        ({"outputs": {"range": [0, 2]}}, r"value_range \(0\.0, 2\.0\), but .* has \(0\.0, 1\.0\)"),
    ],
)
def test_an_ensemble_that_disagrees_is_refused_with_both_values(
    toy_model: ToyModel, changes: dict[str, Any], said: str
) -> None:
    first, second = toy_model("neighbours"), toy_model("neighbours", **changes)
    with pytest.raises(ModelError, match=f"^{re.escape(str(second))}: .*{said}"):
        load_models([first, second])


# What is said of it


def test_facts_and_repr_say_what_the_model_is(toy_model: ToyModel) -> None:
    model = load_model(toy_model("strided", name="<b>", licence="MIT"))
    facts = model.facts()
    assert facts["licence"] == "MIT"
    assert facts["patch"] == "64 px, of which 48 are kept (halo 8)"
    assert facts["output scores"] == "scores: red, green, blue; one value every 4 px"
    assert "Model <b>" in repr(model)
    assert "<b>Model &lt;b&gt;" in model._repr_html_()
