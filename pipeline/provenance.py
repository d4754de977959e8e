"""What made a store, and what its reader should know."""

from __future__ import annotations

import platform
import socket
import time
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from pipeline import __version__
from pipeline.model.session import runtime_version
from pipeline.plan import Plan

__all__ = ["notes", "provenance"]

_VERSIONED = ("dask", "distributed", "numpy", "openslide-python", "openslide-bin", "zarr")

_MPP_TOLERANCE = 0.05
"""Part by which a scale may miss the model's before it is worth saying."""


def provenance(plan: Plan) -> dict[str, Any]:
    """Say what made a store: versions, host, slide and model."""
    mpp, card = plan.slide.mpp, plan.model.card
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "versions": {
            "wsi-pipeline": __version__,
            "onnxruntime": runtime_version(),
            **{name: version(name) for name in _VERSIONED},
        },
        "slide": {
            "path": plan.slide.path,
            "vendor": plan.slide.metadata.vendor,
            "shape": list(plan.slide.shape),
            "mpp_source": mpp.source if mpp else "unknown",
            "level": plan.level.index,
        },
        "model": {
            "name": card.name,
            "version": card.version,
            "licence": card.licence,
            "card": plan.model.path,
            "mpp": card.mpp,
        },
        "notes": list(notes(plan)),
    }


def notes(plan: Plan) -> Iterator[str]:
    """Say what a user should know before trusting a slide's scores."""
    yield from plan.tissue.remarks
    if not plan.todo:
        yield (
            "no tissue was found, so that nothing is analysed; look at tissue.method and "
            "tissue.min_area_um2"
        )
    mpp, made_for = plan.slide.mpp, plan.model.card.mpp
    if mpp is None:
        return
    given = mpp.x * plan.level.downsample[1]
    if made_for is not None and abs(given / made_for - 1) > _MPP_TOLERANCE:
        yield (
            f"the model was made for {made_for:g} um/px and level {plan.level.index} has "
            f"{given:.4g}; it is run on that level as it is, not resampled"
        )
    if mpp.source != "header":
        yield f"its um per pixel are {mpp.source}: {mpp.x:g}"
