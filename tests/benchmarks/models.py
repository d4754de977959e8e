"""Models to be measured: graphs of a usual size with random weights, and their cards."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper

__all__ = ["SHARED", "model_card", "shared_model"]

SHARED = "WSI_PIPELINE_TEST_DATA"
"""Names the folder with real models, for the rows that need one."""


class _Graph:
    """A graph that grows from ``image``, layer by layer; its weights keep values small."""

    def __init__(self, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def node(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{kind.lower()}{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def constant(self, values: np.ndarray[Any, Any]) -> str:
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def conv(self, x: str, n: int, m: int, side: int = 3, stride: int = 1) -> str:
        """Convolve ``n`` channels to ``m``; batch norm is folded in, as exporters do."""
        weights = self._random.normal(0, np.sqrt(2 / (n * side**2)), (m, n, side, side))
        margin = [(side - 1) // 2] * 4
        inputs = [x, self.constant(weights), self.constant(np.zeros(m))]
        return self.node("Conv", inputs, pads=margin, strides=[stride, stride])

    def relu(self, x: str) -> str:
        return self.node("Relu", [x])

    def save(self, path: Path, last: str, shape: list[Any]) -> None:
        self._nodes.append(helper.make_node("Identity", [last], ["scores"]))
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, "H", "W"])
        scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, shape)
        graph = helper.make_graph(self._nodes, path.stem, [image], [scores], self._weights)
        opset = [helper.make_opsetid("", 17)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)


def _resnet_18(path: Path) -> None:
    """Write ResNet-18's graph (He et al. 2016, table 1) with two classes."""
    graph = _Graph()
    x = graph.relu(graph.conv("image", 3, 64, side=7, stride=2))
    x = graph.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for width in (64, 128, 256, 512):
        for first in (True, False):
            stride = 2 if first and width > 64 else 1
            y = graph.relu(graph.conv(x, channels, width, stride=stride))
            y = graph.conv(y, width, width)
            if channels != width:
                x = graph.conv(x, channels, width, side=1, stride=stride)
            x, channels = graph.relu(graph.node("Add", [x, y])), width
    x = graph.node("Flatten", [graph.node("GlobalAveragePool", [x])])
    weights = graph.constant(np.random.default_rng(1).normal(0, 0.004, (512, 2)))
    x = graph.node("Softmax", [graph.node("MatMul", [x, weights])], axis=1)
    graph.save(path, x, ["N", 2])


def _unet(path: Path) -> None:
    """Write a small U-Net (Ronneberger et al. 2015): three levels of 16, 32 and 64 channels."""
    graph = _Graph()
    x, n, kept = "image", 3, []
    for width in (16, 32):
        x = graph.relu(graph.conv(graph.relu(graph.conv(x, n, width)), width, width))
        kept.append((x, width))
        x, n = graph.node("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2]), width
    x = graph.relu(graph.conv(graph.relu(graph.conv(x, n, 64)), 64, 64))
    n = 64
    scales = graph.constant(np.array([1, 1, 2, 2]))
    for skipped, width in reversed(kept):
        x = graph.node("Resize", [x, "", scales], mode="nearest")
        x = graph.node("Concat", [x, skipped], axis=1)
        x = graph.relu(graph.conv(graph.relu(graph.conv(x, n + width, width)), width, width))
        n = width
    x = graph.node("Sigmoid", [graph.conv(x, n, 1, side=1)])
    graph.save(path, x, ["N", 1, "H", "W"])


def _means(path: Path) -> None:
    """Write a graph that is nearly free: the mean of each colour."""
    graph = _Graph()
    x = graph.node("Flatten", [graph.node("GlobalAveragePool", ["image"])])
    graph.save(path, x, ["N", 3])


def _pointwise(path: Path) -> None:
    """Write one convolution of 1 x 1: what is left of a dense run where the model costs nothing."""
    graph = _Graph()
    graph.save(path, graph.node("Sigmoid", [graph.conv("image", 3, 1, side=1)]), ["N", 1, "H", "W"])


_PER_PATCH = {"input": {"patch": 256}}
_MADE: dict[str, tuple[Callable[[Path], None], dict[str, Any]]] = {
    "resnet-18": (
        _resnet_18,
        {
            **_PER_PATCH,
            "outputs": [{"name": "scores", "channels": ["normal", "tumour"], "stride": 256}],
        },
    ),
    "means": (
        _means,
        {
            **_PER_PATCH,
            "outputs": [{"name": "scores", "channels": ["red", "green", "blue"], "stride": 256}],
        },
    ),
    "1x1": (
        _pointwise,
        {"input": {"patch": 512}, "outputs": [{"name": "scores", "channels": ["tissue"]}]},
    ),
    "u-net": (
        _unet,
        {
            "input": {"patch": 512},
            "outputs": [{"name": "scores", "channels": ["tissue"]}],
            "stitch": {"halo": 32},
        },
    ),
}

_SHARED: dict[str, tuple[str, dict[str, Any]]] = {
    "instanseg": (
        "instanseg_brightfield_seed.onnx",
        {
            "input": {"patch": 512},
            "outputs": [{"name": "seed", "channels": ["nucleus"], "range": [-0.1, 1.1]}],
            "stitch": {"halo": 96},
        },
    ),
    "focuslitenn": (
        "focuslitenn_2kernel.onnx",
        {
            **_PER_PATCH,
            "outputs": [
                {"name": "score", "channels": ["focus"], "stride": 256, "range": [-50, 50]}
            ],
        },
    ),
}


def shared_model(name: str) -> Path | None:
    """Give the ONNX file of a real model; None where it is not at hand."""
    folder = os.environ.get(SHARED)
    path = Path(folder or ".", "models", _SHARED[name][0])
    return path if folder and path.is_file() else None


def model_card(name: str, folder: Path) -> Path:
    """Write a model's card, and its ONNX file where we make that, and give the card's path."""
    path = folder / f"{name}.yaml"
    if name in _MADE:
        write, card = _MADE[name]
        onnx_file = folder / f"{name}.onnx"
        write(onnx_file)
        tensors: Iterator[str] = iter(())
    else:
        onnx_file_or_none = shared_model(name)
        if onnx_file_or_none is None:
            raise FileNotFoundError(f"{name}: not in the models of the folder {SHARED} names")
        onnx_file, card = onnx_file_or_none, _SHARED[name][1]
        tensors = iter(
            each.name for each in onnx.load(onnx_file, load_external_data=False).graph.output
        )
    outputs = [{**each, "tensor": next(tensors, each["name"])} for each in card["outputs"]]
    whole = {"name": name, "onnx": str(onnx_file), "mpp": 0.5, **card, "outputs": outputs}
    path.write_text(yaml.safe_dump(whole, sort_keys=False), encoding="utf-8")
    return path
