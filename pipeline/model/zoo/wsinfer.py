"""Models of the WSInfer zoo: ``config.json``, specification 1.0, told as a card.

https://github.com/SBU-BMI/wsinfer-zoo, ``schemas/model-config.schema.json``. WSInfer reads a patch
of ``patch_size_pixels`` at ``spacing_um_px``, resizes it as the transform says, and takes the
softmax of what the model gives, or the sigmoid of a single class. Here the slide is resampled
to the um per pixel that the resized patch has, which comes to the same scale and extent.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import ModelError
from pipeline.files.urls import is_url

__all__ = ["translate"]

_NEEDED: Mapping[str, type | tuple[type, ...]] = {
    "architecture": str,
    "num_classes": int,
    "class_names": list,
    "patch_size_pixels": int,
    "spacing_um_px": (int, float),
    "transform": list,
}

_EXPORT = (
    "TorchScript is not run here; export the model (torch.onnx.export, with a dynamic batch) to a "
    "file *.onnx beside it"
)


def translate(raw: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Give the card of a WSInfer model whose ONNX file is beside its ``config.json``."""
    if raw["spec_version"] != "1.0":
        raise ModelError(f"{path}: spec_version {raw['spec_version']}: only 1.0 of WSInfer is read")
    for key, kind in _NEEDED.items():
        if not isinstance(raw.get(key), kind) or isinstance(raw[key], bool):
            raise ModelError(f"{path}: {key}: not as WSInfer has it (given {raw.get(key)!r:.60})")
    names, count = raw["class_names"], raw["num_classes"]
    if len(names) != count:
        raise ModelError(f"{path}: num_classes {count}, but class_names has {len(names)}")
    patch, spacing = raw["patch_size_pixels"], raw["spacing_um_px"]
    side, normalise = _transform(raw["transform"], patch, path)
    return {
        "name": Path(path).parent.name or raw["architecture"],
        "description": f"{raw['architecture']} (WSInfer)",
        "onnx": _onnx_beside(path),
        "input": {"patch": side, **normalise},
        "mpp": spacing * patch / side,
        "outputs": [
            {
                "name": "probability",
                "channels": names,
                "activation": "softmax" if count > 1 else "sigmoid",
                "stride": side,
            }
        ],
    }


def _transform(steps: list[Any], patch: int, path: str) -> tuple[int, dict[str, Any]]:
    """Give the side of what the model sees, and how that is normalised."""
    side, normalise = patch, {}
    done: list[str] = []
    for step in steps:
        name, arguments = _step(step, path)
        where = f"{path}: transform.{name}"
        if name in done:
            raise ModelError(f"{where}: is given twice")
        if name == "Resize":
            side = _arguments(arguments, where, {"size": None})["size"]
            side = side[0] if isinstance(side, list) and len(set(side)) == 1 else side
            if not isinstance(side, int) or side < 1:
                raise ModelError(f"{where}: size {side}: patches are square, of whole pixels")
        elif name == "Normalize":
            if "ToTensor" not in done:
                raise ModelError(f"{where}: comes before ToTensor")
            normalise = _arguments(arguments, where, {"mean": None, "std": None})
        elif name != "ToTensor":
            raise ModelError(f"{where}: not known; there is Resize, ToTensor and Normalize")
        done.append(name)
    if "ToTensor" not in done:
        raise ModelError(f"{path}: transform: without ToTensor the model is given no numbers")
    return side, normalise


def _step(step: Any, path: str) -> tuple[str, Mapping[str, Any]]:
    name = step.get("name") if isinstance(step, dict) else None
    arguments = (step.get("arguments") or {}) if isinstance(step, dict) else None
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise ModelError(f"{path}: transform: no step with a name and arguments: {step!r:.60}")
    return name, arguments


def _arguments(given: Mapping[str, Any], where: str, needed: Mapping[str, Any]) -> dict[str, Any]:
    if given.keys() != needed.keys():
        listed = ", ".join(given) or "none"
        raise ModelError(f"{where}: arguments {listed}; only {', '.join(needed)} can be")
    return dict(given)


def _onnx_beside(path: str) -> str:
    if is_url(path):
        raise ModelError(
            f"{path}: WSInfer's config.json does not name an ONNX file; download it, and put the "
            "file *.onnx beside it"
        )
    folder = Path(path).parent
    found = sorted(each.name for each in folder.glob("*.onnx"))
    if len(found) == 1:
        return found[0]
    if found:
        raise ModelError(
            f"{path}: one ONNX file can be beside a WSInfer model; found {', '.join(found)}"
        )
    scripts = ", ".join(sorted(each.name for each in folder.glob("*.pt")))
    raise ModelError(
        f"{path}: no *.onnx beside it{f', only {scripts}' if scripts else ''}; {_EXPORT}"
    )
