"""Models as zoos describe them: WSInfer's config.json, bioimage.io's rdf.yaml 0.4 and 0.5."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.errors import ModelError
from pipeline.model import Card, load_model
from pipeline.model.batches import _standardise
from pipeline.model.session import input_buffer, run_batch
from pipeline.model.written import card_of
from pipeline.model.zoo import bioimageio

ToyModel = Callable[..., Path]

# WSInfer

WSINFER: dict[str, Any] = {
    "spec_version": "1.0",
    "architecture": "resnet34",
    "num_classes": 3,
    "class_names": ["Background", "tumor", "grade4+5"],
    "patch_size_pixels": 50,
    "spacing_um_px": 0.25,
    "transform": [
        {"name": "Resize", "arguments": {"size": 32}},
        {"name": "ToTensor"},
        {
            "name": "Normalize",
            "arguments": {"mean": [0.7238, 0.5716, 0.6779], "std": [0.112, 0.1459, 0.1089]},
        },
    ],
}


def wsinfer(toy_model: ToyModel, **changes: Any) -> Path:
    """A WSInfer folder around a toy that gives three numbers per patch; None removes a key."""
    card = toy_model("per_patch")
    card.unlink()
    config = {key: value for key, value in {**WSINFER, **changes}.items() if value is not None}
    card.with_name("config.json").write_text(json.dumps(config, indent="\t"))
    return card.parent


def test_a_wsinfer_model_is_a_classifier_at_the_scale_of_its_resized_patch(
    toy_model: ToyModel,
) -> None:
    model = load_model(wsinfer(toy_model))
    assert model.card.mpp == pytest.approx(0.25 * 50 / 32)
    (made,), (output,) = model.ref.maps, model.ref.outputs
    assert (model.ref.patch, model.ref.step, model.ref.halo) == (32, 32, 0)
    assert (made.activation, made.channels, made.stride) == ("softmax", 3, 32)
    assert output.channels == ("Background", "tumor", "grade4+5")
    member = model.ref.members[0]
    assert (member.scale, member.mean) == (1 / 255, (0.7238, 0.5716, 0.6779))
    assert member.tensors == ("scores",)


def test_a_wsinfer_model_of_one_class_gives_its_sigmoid(toy_model: ToyModel) -> None:
    one = {"num_classes": 1, "class_names": ["tumor"]}
    with pytest.raises(ModelError, match=r"1 channels, .* the graph gives \(\d+, 3, 1, 1\)"):
        load_model(wsinfer(toy_model, **one))


def test_a_wsinfer_model_without_resize_sees_its_own_patch(toy_model: ToyModel) -> None:
    model = load_model(wsinfer(toy_model, transform=[{"name": "ToTensor"}], patch_size_pixels=40))
    assert (model.card.mpp, model.ref.patch, model.ref.members[0].mean) == (0.25, 40, (0.0,))


def step(name: str, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"spec_version": "2.0"}, r"spec_version 2\.0: only 1\.0 of WSInfer"),
        ({"num_classes": 2}, "num_classes 2, but class_names has 3"),
        ({"patch_size_pixels": "350"}, r"patch_size_pixels: not as WSInfer has it \(given '350'\)"),
        ({"class_names": None}, r"class_names: not as WSInfer has it \(given None\)"),
        ({"transform": [step("Resize", size=32)]}, "transform: without ToTensor"),
        ({"transform": [step("CenterCrop", size=3)]}, r"transform\.CenterCrop: not known"),
        ({"transform": [step("Resize", size=[32, 16])]}, r"size \[32, 16\]: patches are square"),
        ({"transform": [step("Resize", width=32)]}, r"arguments width; only size can be"),
        ({"transform": [step("Normalize", mean=1, std=1)]}, "Normalize: comes before ToTensor"),
        ({"transform": [step("ToTensor"), step("ToTensor")]}, "ToTensor: is given twice"),
        ({"transform": ["ToTensor"]}, "no step with a name and arguments: 'ToTensor'"),
    ],
)
def test_what_a_wsinfer_config_cannot_mean_is_refused(
    toy_model: ToyModel, changes: dict[str, Any], said: str
) -> None:
    folder = wsinfer(toy_model, **changes)
    with pytest.raises(ModelError, match=rf"^{folder}/config\.json: .*{said}"):
        load_model(folder)


def test_torchscript_is_not_run_and_the_remedy_is_said(toy_model: ToyModel) -> None:
    folder = wsinfer(toy_model)
    (folder / "toy.onnx").rename(folder / "torchscript_model.pt")
    with pytest.raises(ModelError, match=r"only torchscript_model\.pt; TorchScript is not .*onnx"):
        load_model(folder)


# bioimage.io

V05: dict[str, Any] = yaml.safe_load("""
name: UNet 2D Nuclei Broad
description: A 2d U-Net trained on the nuclei broad dataset.
license: MIT
format_version: 0.5.11
type: model
inputs:
  - id: raw
    axes:
      - {type: batch, size: 1}
      - {type: channel, channel_names: [raw_intensity]}
      - {type: space, id: y, size: 512}
      - {type: space, size: 512}
    preprocessing:
      - {id: ensure_dtype, kwargs: {dtype: float32}}
      - {id: zero_mean_unit_variance, kwargs: {axes: [x, y]}}
      - {id: ensure_dtype, kwargs: {dtype: float32}}
outputs:
  - id: probability
    axes:
      - {type: batch}
      - {type: channel, channel_names: [probability]}
      - {type: space, id: y, halo: 32, size: {tensor_id: raw, axis_id: y}}
      - {type: space, halo: 32, size: {tensor_id: raw, axis_id: x}}
    data: {range: [0.0, 1.0]}
    postprocessing:
      - {id: sigmoid}
      - {id: ensure_dtype, kwargs: {dtype: float32}}
weights:
  pytorch_state_dict: {source: weights.pt}
  onnx:
    source: weights.onnx
    sha256: 85f5ac80fa977fea3562ef97c8c5950288be2c4f4cdb5d994807df97008ce088
    opset_version: 20
""")
"""The format's own example, as it is published; a test tensor and its result come with it."""

V04: dict[str, Any] = yaml.safe_load("""
name: UNet 2D Nuclei Broad
format_version: 0.4.9
type: model
version: 0.1.3
inputs:
  - name: raw
    axes: bcyx
    data_type: float32
    data_range: [-.inf, .inf]
    shape: [1, 1, 512, 512]
    preprocessing: [{name: zero_mean_unit_variance, kwargs: {mode: per_sample, axes: yx}}]
outputs:
  - name: probability
    axes: bcyx
    data_type: float32
    data_range: [-.inf, .inf]
    halo: [0, 0, 32, 32]
    shape: {reference_tensor: raw, scale: [1.0, 0.0, 1.0, 1.0], offset: [0.0, 0.5, 0.0, 0.0]}
    postprocessing: [{name: sigmoid}]
weights: {onnx: {source: weights.onnx, opset_version: 20}}
""")


@pytest.mark.parametrize(("description", "name"), [(V05, "bioimageio.yaml"), (V04, "rdf.yaml")])
def test_the_example_of_bioimage_io_gives_its_stored_result(
    tmp_path: Path, shared_data: Path, description: dict[str, Any], name: str
) -> None:
    models = shared_data / "models"
    shutil.copy(models / "unet2d_nuclei_broad.onnx", tmp_path / "weights.onnx")
    (tmp_path / name).write_text("%YAML 1.2\n---\n" + yaml.safe_dump(description))
    (tmp_path / "environment.yaml").write_text("name: other\n")
    ref = load_model(tmp_path).ref
    (member,) = ref.members
    assert (ref.patch, ref.halo, ref.step) == (512, 32, 448)
    assert (member.order, member.zscore, member.scale, member.batch) == ("grey", "channel", 1.0, 1)
    batch = input_buffer(member)
    batch[:] = np.load(models / "unet2d_nuclei_broad_test_input.npy") * member.scale
    _standardise(batch[0, 0])
    (given,) = run_batch(member, ref.maps, batch, 1)
    expected = np.load(models / "unet2d_nuclei_broad_test_output.npy")
    np.testing.assert_allclose(given, expected, atol=1e-5)


def told(version: dict[str, Any], *changes: tuple[str, Any]) -> Card:
    """Give the card of a description in which dotted keys have other values."""
    description = copy.deepcopy(version)
    for key, value in changes:
        *parents, last = [int(part) if part.isdecimal() else part for part in key.split(".")]
        block: Any = description
        for part in parents:
            block = block[part]
        block[last] = value
    return card_of(bioimageio.translate(description, "rdf.yaml"), "rdf.yaml")


RGB05: list[dict[str, Any]] = [
    {"type": "batch"},
    {
        "type": "space",
        "id": "y",
        "size": {"min": 64, "step": 32},
        "unit": "nanometer",
        "scale": 500,
    },
    {
        "type": "space",
        "id": "x",
        "size": {"min": 64, "step": 32},
        "unit": "nanometer",
        "scale": 500,
    },
    {"type": "channel", "channel_names": ["r", "g", "b"]},
]


def test_axes_say_layout_colours_scale_and_the_largest_patch() -> None:
    scaled = [{**axis, "scale": 500} for axis in V05["outputs"][0]["axes"][2:]]
    axes = [*V05["outputs"][0]["axes"][:2], *scaled]
    card = told(
        V05, ("inputs.0.axes", RGB05), ("inputs.0.preprocessing", []), ("outputs.0.axes", axes)
    )
    assert (card.outputs[0].stride, card.stitch.halo) == (1, 32)
    assert (card.input.layout, card.input.channels, card.input.patch) == ("NHWC", "RGB", 512)
    assert card.mpp == 0.5
    assert (card.input.scale, card.input.zscore) == (1.0, "none")
    sizes = {"min": [1, 3, 96, 96], "step": [0, 0, 64, 64]}
    assert told(V04, ("inputs.0.shape", sizes)).input.patch == 480
    assert told(V04).mpp is None
    assert told(V05, ("inputs.0.axes.2.unit", "micrometer")).mpp is None  # x has none


def normalised(version: dict[str, Any], *steps: dict[str, Any]) -> tuple[Any, ...]:
    card = told(
        version,
        ("inputs.0.shape" if version is V04 else "inputs.0.axes.1.channel_names", _three(version)),
        ("inputs.0.preprocessing", list(steps)),
    )
    given = card.input
    return given.scale, given.mean, given.std, given.zscore


def _three(version: dict[str, Any]) -> list[Any]:
    return [1, 3, 512, 512] if version is V04 else ["r", "g", "b"]


def v04(name: str, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "kwargs": arguments}


def v05(name: str, **arguments: Any) -> dict[str, Any]:
    return {"id": name, "kwargs": arguments}


def test_linear_steps_become_scale_mean_and_std() -> None:
    half = v05("scale_linear", gain=0.5, offset=-3)
    assert normalised(V05, half) == (0.5, (3.0,), (1.0,), "none")
    assert normalised(V05, half, half) == (0.25, (4.5,), (1.0,), "none")
    fixed = v05("fixed_zero_mean_unit_variance", mean=[1, 2, 3], std=[2, 4, 8], axis="channel")
    scale, mean, std, _ = normalised(V05, fixed)
    assert (scale, mean, std) == (1.0, (1.0, 2.0, 3.0), (2.0, 4.0, 8.0))
    old = v04("zero_mean_unit_variance", mode="fixed", axes="xy", mean=[1, 2, 3], std=[2, 4, 8])
    scale, mean, std, _ = normalised(V04, old)
    assert (scale, mean) == (1.0, (1.0, 2.0, 3.0))
    assert std == pytest.approx((2.0, 4.0, 8.0))


def test_samples_are_standardised_by_channel_or_as_a_whole() -> None:
    by_channel = v05("zero_mean_unit_variance", axes=["x", "y"])
    assert normalised(V05, by_channel)[3] == "channel"
    whole = v05("zero_mean_unit_variance", axes=["channel", "x", "y"])
    assert (
        normalised(V05, whole)[3] == normalised(V05, v05("zero_mean_unit_variance"))[3] == "patch"
    )
    old = v04("zero_mean_unit_variance", mode="per_sample", axes="cyx")
    assert normalised(V04, old)[3] == "patch"


def test_an_input_from_0_to_1_is_scaled_to_that() -> None:
    clip = v05("clip", min=0, max=1)
    card = told(V05, ("inputs.0.data", {"range": [0, 1]}), ("inputs.0.preprocessing", [clip]))
    assert card.input.scale == 1 / 255
    with pytest.raises(ModelError, match=r"range: 0 to 4095, and slides are 0 to 255"):
        told(V04, ("inputs.0.data_range", [0, 4095]), ("inputs.0.preprocessing", []))
    assert told(V04, ("inputs.0.data_range", [0, 4095])).input.zscore == "channel"


def test_a_smaller_output_has_a_stride_and_a_cropped_one_a_halo() -> None:
    shape = {"reference_tensor": "raw", "scale": [1, 0, 0.5, 0.5], "offset": [0, 1, 0, 0]}
    card = told(V04, ("outputs.0.shape", shape))
    assert (card.outputs[0].stride, card.stitch.halo) == (2, 64)
    assert card.outputs[0].names == ("probability-0", "probability-1")
    cropped = {**shape, "scale": [1, 1, 1, 1], "offset": [0, 0, -14, -14]}
    card = told(V04, ("outputs.0.shape", cropped), ("outputs.0.halo", None))
    assert (card.outputs[0].stride, card.stitch.halo) == (1, 14)
    half = {"type": "space", "id": "y", "scale": 2, "size": {"tensor_id": "raw", "axis_id": "y"}}
    axes = [*V05["outputs"][0]["axes"][:2], half, {**half, "id": "x"}]
    axes[3] = {**axes[3], "size": {"tensor_id": "raw", "axis_id": "x"}}
    card = told(V05, ("outputs.0.axes", axes))
    assert (card.outputs[0].stride, card.stitch.halo) == (2, 0)


def test_a_vector_per_sample_is_one_score_per_patch() -> None:
    axes = [{"type": "batch"}, {"type": "channel", "channel_names": ["a", "b"]}]
    softmax = [v05("softmax", axis="channel")]
    card = told(V05, ("outputs.0.axes", axes), ("outputs.0.postprocessing", softmax))
    (output,) = card.outputs
    assert (output.stride, output.activation, output.names) == (512, "softmax", ("a", "b"))


Z = {"type": "space", "id": "z", "size": 4}


@pytest.mark.parametrize(
    ("version", "changes", "said"),
    [
        (V05, ("format_version", "0.6.0"), r"format_version 0\.6\.0, .*0\.4 and 0\.5 are read"),
        (V05, ("type", "dataset"), "type dataset: models of bioimage.io"),
        (V05, ("inputs", V05["inputs"] * 2), "a model here has one, this one has raw, raw"),
        (V05, ("weights", {"torchscript": {}}), "weights: onnx is needed, there is torchscript"),
        (V05, ("weights.onnx", {}), r"weights\.onnx: has no source"),
        (V05, ("inputs.0.axes", [*V05["inputs"][0]["axes"], Z]), "axes bcyxz: only bcyx and byxc"),
        (V04, ("inputs.0.shape", [1, 2, 512, 512]), r"2 channels: 1 \(grey\) or 3 \(RGB\)"),
        (V04, ("inputs.0.shape", [1, 1, 512, 256]), "patches are square, this is 512 x 256"),
        (V04, ("inputs.0.shape", 7), "axes and shape are not as bioimage.io has them"),
        (V04, ("outputs.0.axes", "byxc"), "axes byxc: only bcyx and bc can be"),
        (V04, ("outputs.0.halo", [0, 0, 32, 16]), r"halo \[16, 32\]: has to be the same both ways"),
        (
            V04,
            ("outputs.0.shape.offset", [0, 0.5, -2, -2]),
            "offset -4, halo 32: a margin that the model has cut off, or",
        ),
        (V04, ("outputs.0.shape.scale", [1, 0, 2, 2]), "0.5 pixels of the input for one"),
        (V05, ("inputs.0.preprocessing", [v05("scale_range")]), "scale_range: cannot be said"),
        (V05, ("inputs.0.preprocessing", [v05("clip", max=9)]), "clip: cannot be said"),
        (
            V05,
            ("inputs.0.preprocessing", [v05("ensure_dtype", dtype="uint8")]),
            "ensure_dtype: uint8; the model is given float32",
        ),
        (
            V04,
            ("inputs.0.preprocessing.0.kwargs.mode", "per_dataset"),
            "per_dataset: a patch does not know it",
        ),
        (
            V05,
            ("inputs.0.preprocessing", [v05("zero_mean_unit_variance", axes=["x"])]),
            "zero_mean_unit_variance: over x",
        ),
        (
            V05,
            ("inputs.0.preprocessing", [v05("zero_mean_unit_variance", eps=0.1)]),
            r"eps 0\.1, more than 1e-05",
        ),
        (
            V05,
            (
                "inputs.0.preprocessing",
                [v05("zero_mean_unit_variance"), v05("scale_linear", gain=2)],
            ),
            "scale_linear: comes after zero_mean_unit_variance",
        ),
        (V05, ("inputs.0.preprocessing", [v05("scale_linear", gain=-1)]), r"gains \(-1\.0,\)"),
        (V05, ("outputs.0.postprocessing", [v05("binarize", threshold=1)]), "binarize: cannot"),
        (
            V05,
            ("outputs.0.postprocessing", [v05("softmax", axis="x")]),
            "along x, not along channel",
        ),
    ],
)
def test_what_a_card_cannot_say_is_refused_by_its_name(
    version: dict[str, Any], changes: tuple[str, Any], said: str
) -> None:
    with pytest.raises(ModelError, match=rf"^rdf\.yaml: .*{said}"):
        told(version, changes)


def test_pixels_that_are_not_square_or_have_no_length_are_refused() -> None:
    oblong = [*RGB05[:2], {**RGB05[2], "scale": 250}, RGB05[3]]
    with pytest.raises(ModelError, match=r"pixels are square here, these are 0\.5 x 0\.25 um"):
        told(V05, ("inputs.0.axes", oblong))
    with pytest.raises(ModelError, match="unit second: not a length"):
        told(
            V05,
            ("inputs.0.axes", [RGB05[0], *({**a, "unit": "second"} for a in RGB05[1:3]), RGB05[3]]),
        )


def test_outputs_are_the_graphs_in_their_order(toy_model: ToyModel) -> None:
    card = toy_model("strided")
    card.unlink()
    two = told(V05)
    description = copy.deepcopy(V05)
    description["outputs"] *= 2
    description["outputs"][1] = {**description["outputs"][1], "id": "other"}
    description["weights"]["onnx"] = {"source": "toy.onnx"}
    (card.parent / "rdf.yaml").write_text(yaml.safe_dump(description))
    assert two.outputs[0].tensor is None
    with pytest.raises(ModelError, match="probability, other are described, the graph has scores"):
        load_model(card.parent)
