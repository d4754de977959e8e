"""Slides whose every pixel is known and models whose every output numpy can compute.

All numbers are small multiples of a power of two, so that float32 sums are exact in any order
and tests can compare with ``==``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openslide
import tifffile
import yaml
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Pixels = NDArray[np.uint8]
Scores = NDArray[np.float32]

SCALE = 1 / 256
"""The toy models' input scale: exact in float32, and below 1 for white."""

KERNEL = (
    np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.float32)
    * np.array([1, 2, 3], np.float32)[:, None, None]
    / 512
)
"""What ``neighbours`` weighs ``(rgb, y, x)`` with: no flip, shift or swap leaves it the same."""

RED = (255, 0, 0)
"""The colour for which ``nan`` gives NaN."""


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    """Give ``(y, x, 3)`` noise: no two places look alike."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_tiff(
    path: Path,
    rgb: Pixels,
    mpp: float | tuple[float, float] | None = 0.5,
    tile: int = 128,
    levels: int | Sequence[Pixels] = 1,
) -> Path:
    """Write ``rgb`` as a deflated, tiled TIFF that OpenSlide gives back exactly, and check that.

    ``mpp`` is um per pixel, or ``(y, x)``, or None for a file that does not say. ``levels`` is
    the number of levels, each the average of 2 x 2 pixels of the one before (an odd last row
    or column is left out), or the levels below level 0 themselves, of any size.
    """
    pyramid = [rgb]
    if isinstance(levels, int):
        while len(pyramid) < levels:
            pyramid.append(halved(pyramid[-1]))
    else:
        pyramid.extend(levels)
    y, x = mpp if isinstance(mpp, tuple) else (mpp, mpp)
    scale: dict[str, Any] = {"resolutionunit": "NONE"}
    if x and y:
        scale = {"resolution": (1e4 / x, 1e4 / y), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as tiff:
        for number, pixels in enumerate(pyramid):
            tiff.write(
                pixels,
                tile=(tile, tile),
                photometric="rgb",
                compression="zlib",
                subfiletype=1 if number else 0,
                metadata=None,
                software=False,
                **scale,
            )
    for number, pixels in enumerate(pyramid):
        np.testing.assert_array_equal(read_directly(path, number), pixels)
    return path


def spoil_first_tile(path: Path) -> Path:
    """Make the first tile of a TIFF one that cannot be decoded."""
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages[0].dataoffsets[0]
    spoilt = bytearray(path.read_bytes())
    spoilt[at : at + 200] = bytes(200)
    path.write_bytes(spoilt)
    return path


def halved(rgb: Pixels) -> Pixels:
    """Give the average of 2 x 2 pixels, rounded down."""
    height, width = rgb.shape[0] // 2, rgb.shape[1] // 2
    squares = rgb[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3)
    means: Pixels = (squares.astype(np.uint32).sum(axis=(1, 3)) // 4).astype(np.uint8)
    return means


def read_directly(
    path: Path, level: int = 0, region: tuple[int, int, int, int] | None = None
) -> Pixels:
    """Give a level's pixels straight from OpenSlide; ``region`` is level-0 x, y and width, height.

    For opaque slides.
    """
    with openslide.OpenSlide(path) as slide:
        x, y, width, height = region or (0, 0, *slide.level_dimensions[level])
        rgba = np.asarray(slide.read_region((x, y), level, (width, height)))
    assert (rgba[..., 3] == 255).all()
    return rgba[..., :3]


def expected_neighbours(rgb: Pixels) -> Scores:
    """Give what ``neighbours`` gives on a whole level: ``(1, y, x)``, white all around it."""
    height, width = rgb.shape[:2]
    padded = np.pad(rgb.astype(np.float64), ((1, 1), (1, 1), (0, 0)), constant_values=255)
    scores = np.zeros((1, height, width))
    for dy in range(3):
        for dx in range(3):
            weights = KERNEL[:, dy, dx].astype(np.float64)
            scores[0] += padded[dy : dy + height, dx : dx + width] @ weights * SCALE
    return scores.astype(np.float32)


def expected_means(rgb: Pixels, cell: int) -> Scores:
    """Give the mean colour of every ``cell`` x ``cell`` pixels: ``(3, y, x)``, white beyond.

    What ``per_patch`` (cell 32) and ``strided`` (cell 4) give on a whole level.
    """
    padding = [(0, -n % cell) for n in rgb.shape[:2]]
    padded = np.pad(rgb.astype(np.float64), (*padding, (0, 0)), constant_values=255)
    rows, columns = padded.shape[0] // cell, padded.shape[1] // cell
    cells = padded.reshape(rows, cell, columns, cell, 3).mean(axis=(1, 3)) * SCALE
    means: Scores = cells.transpose(2, 0, 1).astype(np.float32)
    return means


def write_toy_model(folder: Path, kind: str, **overrides: Any) -> Path:
    """Write an ONNX file and its card into ``folder`` and give the card's path.

    ================  ===================================================  =====================
    ``neighbours``    `KERNEL` over 3 x 3 pixels, dense                    patch 34, halo 1
    ``static``        the same, its batch fixed to 2 and its patch to 34   patch 34, halo 1
    ``strided``       mean of 4 x 4 pixels of each colour, stride 4        patch 64, halo 8
    ``per_patch``     mean of the patch of each colour, (N, 3)             patch 32, stride 32
    ``nan``           NaN where a pixel is `RED`, dense                    patch 32
    ================  ===================================================  =====================

    ``overrides`` are card fields; a mapping changes only the keys it names, also in ``outputs``
    where it changes the only one. None removes a field. They change the card, not the graph,
    except that the graph follows ``input.layout``: whatever it is, the model means the same.
    """
    nodes, card = _KINDS[kind]
    changes = dict(overrides)
    if isinstance(changes.get("outputs"), Mapping):
        changes["outputs"] = [_merged(card["outputs"][0], changes["outputs"])]
    card = _merged({"name": f"toy-{kind}", "onnx": "toy.onnx", "batch": 4, **card}, changes)
    fixed = (2, 34, 34) if kind == "static" else ("N", "H", "W")
    graph = _graph(nodes(), card.get("input", {}).get("layout", "NCHW"), fixed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "toy.onnx").write_bytes(graph.SerializeToString(deterministic=True))
    path = folder / "card.yaml"
    path.write_text(yaml.safe_dump(card, sort_keys=False), encoding="utf-8")
    return path


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


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(base.get(key), Mapping):
            merged[key] = _merged(base[key], value)
        else:
            merged[key] = value
    return merged


def _graph(
    nodes: Sequence[onnx.NodeProto], layout: str, fixed: tuple[int | str, int | str, int | str]
) -> onnx.ModelProto:
    """Give a model from ``image`` to ``scores`` whose nodes start from ``pixels``, NCHW."""
    n, height, width = fixed
    shape = [n, 3, height, width] if layout == "NCHW" else [n, height, width, 3]
    order = [0, 1, 2, 3] if layout == "NCHW" else [0, 3, 1, 2]
    constants: dict[str, NDArray[Any]] = {
        "kernel": KERNEL[None],
        "red": np.array([1, -1, -1], np.float32).reshape(1, 3, 1, 1),
        "limit": np.array(254.5 * SCALE, np.float32),
        "half": np.array(0.5, np.float32),
    }
    given = ["N", "C"] if nodes[-1].op_type == "Flatten" else ["N", "C", "OH", "OW"]
    used = {name for node in nodes for name in node.input}
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Transpose", ["image"], ["pixels"], perm=order), *nodes],
            "toy",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, given)],
            [numpy_helper.from_array(v, name) for name, v in constants.items() if name in used],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    return model


def _neighbours() -> list[onnx.NodeProto]:
    return [helper.make_node("Conv", ["pixels", "kernel"], ["scores"], pads=[1, 1, 1, 1])]


def _strided() -> list[onnx.NodeProto]:
    return [
        helper.make_node("AveragePool", ["pixels"], ["scores"], kernel_shape=[4, 4], strides=[4, 4])
    ]


def _per_patch() -> list[onnx.NodeProto]:
    return [
        helper.make_node("GlobalAveragePool", ["pixels"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["scores"]),
    ]


def _nan() -> list[onnx.NodeProto]:
    # 254.5 - (red - green - blue) is negative for pure red alone.
    return [
        helper.make_node("Conv", ["pixels", "red"], ["redness"]),
        helper.make_node("Sub", ["limit", "redness"], ["distance"]),
        helper.make_node("Sqrt", ["distance"], ["root"]),
        helper.make_node("Mul", ["root", "half"], ["scores"]),
    ]


def _card(patch: int, channels: Sequence[str], *, stride: int = 1, halo: int = 0) -> dict[str, Any]:
    return {
        "input": {"patch": patch, "scale": SCALE},
        "mpp": 0.5,
        "outputs": [{"name": "scores", "channels": list(channels), "stride": stride}],
        "stitch": {"halo": halo},
    }


_COLOURS = ("red", "green", "blue")
_KINDS: dict[str, tuple[Callable[[], list[onnx.NodeProto]], dict[str, Any]]] = {
    "neighbours": (_neighbours, _card(34, ["sum"], halo=1)),
    "static": (_neighbours, _card(34, ["sum"], halo=1) | {"batch": "auto"}),
    "strided": (_strided, _card(64, _COLOURS, stride=4, halo=8)),
    "per_patch": (_per_patch, _card(32, _COLOURS, stride=32)),
    "nan": (_nan, _card(32, ["distance"])),
}
