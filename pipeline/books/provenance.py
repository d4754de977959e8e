"""What made a store, and what its reader should know."""

from __future__ import annotations

import platform
import socket
import time
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import version
from typing import Any

from pipeline import __version__
from pipeline.files.urls import shown
from pipeline.model.session import runtime_version
from pipeline.plan import Plan

__all__ = ["notes", "provenance", "surroundings"]

_VERSIONED = (
    *("dask", "distributed", "imagecodecs", "numpy", "openslide-python", "openslide-bin", "zarr"),
)

_MPP_TOLERANCE = 0.05
"""Part by which a scale may miss the model's before it is worth saying."""

_EXACT = 1e-4
"""Part by which two scales may differ and be called the same: headers round."""


def surroundings() -> dict[str, Any]:
    """Say where this process runs, and on which versions."""
    return {
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "versions": {
            "wsi-pipeline": __version__,
            "onnxruntime": runtime_version(),
            **{name: _version(name) for name in _VERSIONED},
        },
    }


@cache
def _version(name: str) -> str:
    """Give a distribution's version, looked up once: that reads files, and slides are many."""
    return version(name)


def provenance(plan: Plan, columns: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Say what made a store: versions, host, slide and model; ``columns`` are of its manifest."""
    slide, card = plan.slide, plan.model.card
    mpp, file_mpp, crop = slide.mpp, slide.file_mpp, slide.crop
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **surroundings(),
        "slide": {
            "path": shown(slide.path),
            "reader": slide.ref.reader,
            "reader_reason": slide.reason,
            "vendor": slide.metadata.vendor,
            "shape": list(slide.shape),
            "mpp_source": mpp.source if mpp else "unknown",
            "file_mpp": [file_mpp.y, file_mpp.x] if file_mpp else None,
            "level": plan.level.stored.index,
            "colours": plan.level.settings.get("slide.colours", "as stored"),
            "stain": dict(_stain(plan)),
            "seen_mpp": list(_seen_mpp(plan)),
            # The part of the file's level 0 that is the slide: y, x, height, width.
            "crop": None if crop is None else [crop.y, crop.x, *crop.shape],
        },
        "model": {
            "name": card.name,
            "version": card.version,
            "licence": card.licence,
            "card": plan.model.path,
            "mpp": card.mpp,
            "members": [each.name for each in (card, *plan.model.others)],
            "provider": plan.model.ref.members[0].provider,
            "tta": plan.model.ref.tta,
        },
        "manifest": dict(columns or {}),
        "notes": list(notes(plan)),
    }


def _stain(plan: Plan) -> Iterator[tuple[str, Any]]:
    """Give how the slide is normalised, and what was fitted; nothing where it is not."""
    for key, value in plan.level.settings.items():
        if key.startswith("slide.stain"):
            yield key.removeprefix("slide."), value


def notes(plan: Plan) -> Iterator[str]:
    """Say what a user should know before trusting a slide's scores."""
    yield from plan.tissue.remarks
    yield from plan.remarks
    if not plan.todo:
        yield (
            "no tissue was found, so that nothing is analysed; look at tissue.method and "
            "tissue.min_area_um2"
        )
    yield from _scale_notes(plan)
    mpp, file_mpp = plan.slide.mpp, plan.slide.file_mpp
    if mpp is not None and mpp.source != "header":
        also = f"; the file says {_said((file_mpp.y, file_mpp.x))}" if file_mpp else ""
        yield f"its um per pixel are {mpp.source}: {_said((mpp.y, mpp.x))}{also}"


def _scale_notes(plan: Plan) -> Iterator[str]:
    """Say how what the model sees was made, and where it is not what the model was made for."""
    stored, made_for = plan.level.stored, plan.model.card.mpp
    seen, own = _seen_mpp(plan), _um(plan, stored.downsample)
    level = f"level {stored.index} has {_said(own)} um/px"
    if plan.level.downsample != stored.downsample:
        if min(seen) < min(own) * (1 - _EXACT):
            yield f"{level}: enlarged to {_said(seen)}, which adds no detail"
        else:
            yield f"{level}: resampled to {_said(seen)}"
    if made_for is None:
        return
    off = max(abs(each / made_for - 1) for each in seen)
    if off > _MPP_TOLERANCE:
        yield (
            f"the model was made for {made_for:g} um/px and is run at {_said(seen)}, "
            "as resolution.mpp asks"
        )
    elif off > _EXACT:
        yield f"{level} and {made_for:g} is wanted: read as it is, not resampled"


def _seen_mpp(plan: Plan) -> tuple[float, float]:
    return _um(plan, plan.level.downsample)


def _um(plan: Plan, downsample: tuple[float, float]) -> tuple[float, float]:
    return (plan.layout.mpp[0] * downsample[0], plan.layout.mpp[1] * downsample[1])


def _said(mpp: tuple[float, float]) -> str:
    """Give um per pixel ``(y, x)`` as people read them: one number, or width before height."""
    y, x = (f"{each:.4g}" for each in mpp)
    return y if y == x else f"{x} x {y}"
