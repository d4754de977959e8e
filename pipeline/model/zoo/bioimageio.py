"""Models of bioimage.io: ``rdf.yaml`` or ``bioimageio.yaml``, 0.4 and 0.5, told as a card.

https://bioimage.io/docs/#/bioimageio_model_spec. Two-dimensional models of one grey or RGB image
with ONNX weights. What a card cannot say is refused by its name. A sample is a patch: what is
normalised per sample is normalised per patch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.errors import ModelError
from pipeline.model.zoo.axes import Tensor, read_tensor
from pipeline.model.zoo.steps import Steps, activation_of, normalisation_of
from pipeline.readers.units import micrometres

__all__ = ["translate"]

VERSIONS = ("0.4", "0.5")

_LAYOUTS = {"bcyx": "NCHW", "byxc": "NHWC"}
_CHANNELS = {1: "grey", 3: "RGB"}

LARGE_PATCH = 512
"""Where a model takes patches of many sizes, the largest up to this one."""

MOST_CHANNELS = 2**16
"""As in a card."""

_SAME = 0.01
"""How much a pixel's sides may differ, of their length, to count as square."""


def translate(raw: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Give the card of a bioimage.io model."""
    version = str(raw["format_version"])
    if not version.startswith(tuple(f"{each}." for each in VERSIONS)) or raw.get("type") != "model":
        raise ModelError(
            f"{path}: format_version {version}, type {raw.get('type')}: models of bioimage.io "
            f"{' and '.join(VERSIONS)} are read"
        )
    inputs, outputs = _tensors(raw, "inputs", path), _tensors(raw, "outputs", path)
    if len(inputs) != 1:
        names = ", ".join(each.name for each in inputs)
        raise ModelError(f"{path}: inputs: a model here has one, this one has {names or 'none'}")
    (given,) = inputs
    patch = _patch(given)
    return {
        "name": str(raw.get("name", "")),
        "version": str(raw.get("version") or ""),
        "licence": str(raw.get("license") or ""),
        "description": str(raw.get("description") or ""),
        **_weights(raw, path),
        # Beyond an image its mirror image is what bioimage.io's own prediction goes on with.
        "input": {
            **_input(given),
            "patch": patch,
            "border": "reflect",
            **normalisation_of(_steps(given)),
        },
        "mpp": _mpp(given),
        "outputs": [_output(each, given, patch) for each in outputs],
        "stitch": {"halo": max((each.halo(given, patch) for each in outputs), default=0)},
    }


def _tensors(raw: Mapping[str, Any], key: str, path: str) -> list[Tensor]:
    listed = raw.get(key)
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise ModelError(f"{path}: {key}: no list of tensors (given {listed!r:.60})")
    return [read_tensor(each, f"{path}: {key}") for each in listed]


def _weights(raw: Mapping[str, Any], path: str) -> dict[str, Any]:
    weights = raw.get("weights")
    weights = weights if isinstance(weights, dict) else {}
    if "onnx" not in weights:
        known = ", ".join(map(str, weights)) or "none"
        raise ModelError(
            f"{path}: weights: onnx is needed, there is {known}; export it "
            "(bioimageio.core converts weights)"
        )
    onnx = weights["onnx"]
    if not isinstance(onnx, dict) or not isinstance(onnx.get("source"), str):
        raise ModelError(f"{path}: weights.onnx: has no source (given {onnx!r:.60})")
    return {"onnx": onnx["source"], "sha256": onnx.get("sha256")}


def _input(given: Tensor) -> dict[str, Any]:
    layout, count = _LAYOUTS.get(given.kinds), given.channels(None)
    if layout is None:
        raise ModelError(f"{given.where}: axes {given.kinds}: only bcyx and byxc can be")
    if count not in _CHANNELS:
        raise ModelError(f"{given.where}: {count} channels: 1 (grey) or 3 (RGB) can be")
    return {"layout": layout, "channels": _CHANNELS[count]}


def _patch(given: Tensor) -> int:
    sides = [given.side(kind, LARGE_PATCH) for kind in "yx"]
    if sides[0] != sides[1]:
        raise ModelError(f"{given.where}: patches are square, this is {sides[0]} x {sides[1]}")
    return sides[0]


def _steps(given: Tensor) -> Steps:
    return Steps(given.where, "preprocessing", given.processing("preprocessing"), given.range)


def _mpp(given: Tensor) -> float | None:
    """Give the um per pixel of its axes; None where they have no unit."""
    sizes = []
    for kind in "yx":
        axis = given.axis(kind)
        if not axis.unit:
            return None
        sizes.append(axis.scale * micrometres(axis.unit))
        if not sizes[-1] > 0:
            raise ModelError(f"{given.where}: unit {axis.unit}: not a length that pixels have")
    if abs(sizes[0] - sizes[1]) > _SAME * max(sizes):
        raise ModelError(
            f"{given.where}: pixels are square here, these are {sizes[0]:g} x {sizes[1]:g} um"
        )
    return sizes[1]


def _output(output: Tensor, given: Tensor, patch: int) -> dict[str, Any]:
    if output.kinds not in ("bcyx", "bc"):
        raise ModelError(f"{output.where}: axes {output.kinds}: only bcyx and bc can be")
    count = output.channels(given)
    if not 1 <= count <= MOST_CHANNELS:
        raise ModelError(f"{output.where}: {count} channels: 1 to {MOST_CHANNELS} can be")
    steps = Steps(output.where, "postprocessing", output.processing("postprocessing"), output.range)
    activation = activation_of(steps)
    names = output.channel_names or (
        [output.name] if count == 1 else [f"{output.name}-{number}" for number in range(count)]
    )
    said: dict[str, Any] = {
        "name": output.name,
        "channels": names,
        "activation": activation,
        "stride": output.stride(given, patch),
    }
    if activation == "none" and output.range is not None:
        said["range"] = output.range
    return said
