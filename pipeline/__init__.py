"""Whole-slide images as lazy Dask arrays, ONNX models over every block, OME-Zarr out.

Importing this package imports nothing else; each name loads its module when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.batch import run
    from pipeline.batch.converting import convert
    from pipeline.clusters import cluster
    from pipeline.execute.staining import fit_stain
    from pipeline.model import load_model, load_models
    from pipeline.plan import predict
    from pipeline.results import open_results
    from pipeline.results.showing import show
    from pipeline.slide import open_slide
    from pipeline.slide.restained import normalised
    from pipeline.view.widget import viewer

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "cluster",
    "convert",
    "fit_stain",
    "load_model",
    "load_models",
    "normalised",
    "open_results",
    "open_slide",
    "predict",
    "run",
    "show",
    "viewer",
]

_HOMES = {
    "cluster": "pipeline.clusters",
    "convert": "pipeline.batch.converting",
    "fit_stain": "pipeline.execute.staining",
    "load_model": "pipeline.model",
    "load_models": "pipeline.model",
    "normalised": "pipeline.slide.restained",
    "open_results": "pipeline.results",
    "open_slide": "pipeline.slide",
    "predict": "pipeline.plan",
    "run": "pipeline.batch",
    "viewer": "pipeline.view.widget",
    "show": "pipeline.results.showing",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
