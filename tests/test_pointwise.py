"""Graphs of 1 x 1 convolutions alone: how they are told, and run in their own layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.model import pointwise
from pipeline.model.pointwise import is_pointwise
from pipeline.model.runtime import open_graph

LAYERS = tuple[tuple[int, int], ...]
"""Channels given and side of the kernel, of each convolution."""


def graph(folder: Path, layers: LAYERS, *, constant: bool = False) -> Path:
    """Write a chain of convolutions of an image of three channels."""
    nodes, weights, last, channels = [], [], "image", 3
    for number, (given, side) in enumerate(layers):
        values = np.full((given, channels, side, side), 1 / 7, np.float32)
        name, to = f"w{number}", f"x{number}"
        if constant:
            tensor = numpy_helper.from_array(values, name)
            nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            weights.append(numpy_helper.from_array(values, name))
        nodes.append(helper.make_node("Conv", [last, name], [to], pads=[(side - 1) // 2] * 4))
        last, channels = to, given
    nodes.append(helper.make_node("Identity", [last], ["scores"]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, "H", "W"])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", channels, "H", "W"])
    made = helper.make_graph(nodes, "chain", [image], [scores], weights)
    path = folder / "chain.onnx"
    onnx.save(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path
    )
    return path


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (((1, 1),), True),
        (((16, 1), (1, 1)), True),
        (((17, 1), (1, 1)), False),
        (((1, 3),), False),
        (((8, 1), (1, 3)), False),
        ((), False),
    ],
)
def test_only_convolutions_of_single_pixels_to_few_channels_are(
    tmp_path: Path, layers: LAYERS, expected: bool
) -> None:
    assert is_pointwise(graph(tmp_path, layers)) is expected


def test_a_kernel_that_is_no_weight_counts_as_larger(tmp_path: Path) -> None:
    assert not is_pointwise(graph(tmp_path, ((1, 1),), constant=True))


def test_a_large_file_is_not_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = graph(tmp_path, ((1, 1),))
    monkeypatch.setattr(pointwise, "_MOST_BYTES", path.stat().st_size - 1)
    assert not is_pointwise(path)


@pytest.mark.parametrize(
    ("dims", "number"), [(b"\x08\x03\x08\xac\x02", 300), (b"\x0a\x03\x03\xac\x02", 300)]
)
def test_shapes_are_read_packed_and_one_by_one(dims: bytes, number: int) -> None:
    rest = b"\x10\x01\x42\x01w\x4d\0\0\0\0\x51" + bytes(8)
    assert pointwise._dims(memoryview(dims + rest)) == (3, number)


def test_it_gives_what_the_other_layout_gives(tmp_path: Path) -> None:
    import onnxruntime

    path = graph(tmp_path, ((16, 1), (2, 1)))
    batch = np.random.default_rng(0).random((2, 3, 64, 48), np.float32)
    ours = open_graph(str(path))
    assert ours.get_session_options().graph_optimization_level.name == "ORT_ENABLE_EXTENDED"
    usual = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for mine, its in zip(
        ours.run(None, {"image": batch}), usual.run(None, {"image": batch}), strict=True
    ):
        np.testing.assert_allclose(mine, its, rtol=1e-6)


def test_others_are_run_as_the_runtime_does(tmp_path: Path) -> None:
    opened = open_graph(str(graph(tmp_path, ((1, 3),))))
    assert opened.get_session_options().graph_optimization_level.name == "ORT_ENABLE_ALL"
