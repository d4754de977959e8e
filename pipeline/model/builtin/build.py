"""Builds ``nuclei.onnx``: haematoxylin by colour deconvolution, then blobs of a nucleus's size.

The image becomes optical densities; the inverse of the stain vectors gives the concentration
of haematoxylin (Ruifrok and Johnston, Quantification of histochemical staining by color
deconvolution, Analytical and Quantitative Cytology and Histology 23:291-299, 2001; as
scikit-image's ``rgb2hed``); and a weighted difference of Gaussians at 0.5 um per pixel tells a
nucleus from blue surroundings. Nothing is learnt: five numbers were set by hand.

Run ``python -m pipeline.model.builtin.build`` after a change here, and commit what it writes.
Needs ``onnx``, which using the model does not.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = ["build_nuclei", "write_nuclei"]

_PATH = Path(__file__).with_name("nuclei.onnx")
_OPSET, _IR_VERSION = 17, 8  # what onnxruntime 1.16 and everything after it can read

# Red, green and blue optical density of haematoxylin, eosin and the residual (DAB).
_STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
_DARKEST = 1 / 255  # darker light is taken for this

# In pixels of 0.5 um: a nucleus's core, and its neighbourhood.
_CORE_SIGMA, _AROUND_SIGMA = 3.0, 8.0
_REACH = 24  # taps to either side, so that a value depends on pixels at most this far away
_GAIN, _AROUND_WEIGHT, _BIAS = 15.0, 0.85, -2.8

Floats = NDArray[np.float64]


def build_nuclei() -> onnx.ModelProto:
    """Build the model: ``image`` (N, 3, H, W) RGB in 0..1 to ``nucleus`` (N, 1, H, W) in 0..1.

    What lies beyond the image counts as glass. The same code gives the same bytes.
    """
    core, around = _gaussian(_CORE_SIGMA), _gaussian(_AROUND_SIGMA)
    across = np.stack([core, around])[:, None, None, :]
    down = _GAIN * np.stack([core, -_AROUND_WEIGHT * around])[None, :, :, None]
    constants = {
        "darkest": np.array(_DARKEST),
        "to_haematoxylin": _from_log_light()[None, :, None, None],
        "across": across,
        "down": down,
        "bias": np.array([_BIAS]),
    }
    nodes = [
        helper.make_node("Max", ["image", "darkest"], ["light"]),
        helper.make_node("Log", ["light"], ["log_light"]),
        helper.make_node("Conv", ["log_light", "to_haematoxylin"], ["signed"]),
        helper.make_node("Relu", ["signed"], ["haematoxylin"]),
        helper.make_node(
            "Conv", ["haematoxylin", "across"], ["smooth_across"], pads=[0, _REACH, 0, _REACH]
        ),
        helper.make_node(
            "Conv", ["smooth_across", "down", "bias"], ["response"], pads=[_REACH, 0, _REACH, 0]
        ),
        helper.make_node("Sigmoid", ["response"], ["nucleus"]),
    ]
    graph = helper.make_graph(
        nodes,
        "nuclei",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info("nucleus", TensorProto.FLOAT, ["N", 1, "H", "W"])],
        [numpy_helper.from_array(_tidy(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(
        graph,
        producer_name="wsi-pipeline",
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def write_nuclei(path: Path = _PATH) -> None:
    """Write the model where the package keeps it."""
    path.write_bytes(build_nuclei().SerializeToString(deterministic=True))


def _from_log_light() -> Floats:
    """Give what turns natural logarithms of light into a concentration of haematoxylin."""
    column: Floats = np.linalg.inv(np.array(_STAINS))[:, 0] / -np.log(10)
    return column


def _gaussian(sigma: float) -> Floats:
    taps: Floats = np.exp(-0.5 * (np.arange(-_REACH, _REACH + 1) / sigma) ** 2)
    taps /= taps.sum()
    return taps


def _tidy(value: Floats) -> NDArray[np.float32]:
    """Round, so that mathematical libraries that differ in the last bit give the same file."""
    return np.round(value, 7).astype(np.float32)


if __name__ == "__main__":
    write_nuclei()
