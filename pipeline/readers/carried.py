"""What a converted slide keeps of the slide it was made from: JSON in its attributes, and back.

OME-Zarr has no place for it. It lies under ``slide`` in this package's own attribute, together
with the paths of arrays that OME-Zarr does not know either, and with what could not be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.geometry import Box
from pipeline.readers.base import Metadata

__all__ = ["IMAGE", "Carried", "described", "kept"]

IMAGE = "image"
"""The ``kind`` of a store that holds a slide's own pixels; results have none."""

_WHITE = (255, 255, 255)


@dataclass(frozen=True, slots=True)
class Carried:
    """What a store says of the slide it was converted from; of other stores, nothing.

    ``associated`` and ``icc_profile`` are paths in the store. ``unreadable`` are boxes, per
    level, that could not be read when it was converted.
    """

    vendor: str = "ome-zarr"
    mpp_source: str = "header"
    objective: float | None = None
    background: tuple[int, int, int] = _WHITE
    properties: tuple[tuple[str, str], ...] = ()
    associated: tuple[tuple[str, str], ...] = ()
    icc_profile: str | None = None
    unreadable: tuple[tuple[int, Box], ...] = ()


def described(metadata: Metadata) -> dict[str, Any]:
    """Say as JSON what a slide's metadata have that an OME-Zarr image has not."""
    return {
        "vendor": metadata.vendor,
        "mpp_source": metadata.mpp.source if metadata.mpp else None,
        "objective": metadata.objective,
        "background": list(metadata.background),
        "properties": dict(metadata.properties),
        "identity": metadata.identity,
    }


def kept(own: Mapping[str, Any]) -> Carried:
    """Read this package's attribute back.

    Raises `ValueError` where it is not as `described` made it.
    """
    try:
        slide = own["slide"]
        red, green, blue = (int(value) for value in slide["background"])
        objective = slide["objective"]
        return Carried(
            vendor=str(slide["vendor"]),
            mpp_source=str(slide["mpp_source"] or "header"),
            objective=None if objective is None else float(objective),
            background=(red, green, blue),
            properties=tuple(sorted((str(k), str(v)) for k, v in slide["properties"].items())),
            associated=tuple(sorted((str(k), str(v)) for k, v in own["associated"].items())),
            icc_profile=own["icc_profile"],
            unreadable=tuple(
                (int(level), Box(*(int(n) for n in box)))
                for level, *box in own.get("unreadable", ())
            ),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"what it says of the slide it was made from: {error!r}") from error
