"""Which builds of ONNX Runtime are installed: there are several, and they exclude each other."""

from __future__ import annotations

from importlib import metadata

__all__ = ["runtime_builds"]

_BUILDS = (
    *("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml"),
    "onnxruntime-migraphx",
)


def runtime_builds() -> dict[str, str]:
    """Give the installed builds and their versions; more than one overwrite each other's files."""
    found: dict[str, str] = {}
    for name in _BUILDS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
