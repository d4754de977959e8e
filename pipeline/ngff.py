"""What OME-Zarr 0.5 says of an image, as plain values: axes, scales, labels, channels.

The specification is at https://ngff.openmicroscopy.org/0.5/; nothing is read or written here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["VERSION", "Placement", "image_metadata", "label_metadata"]

VERSION = "0.5"

_TISSUE_COLOUR = [0, 158, 115, 255]  # Okabe and Ito's bluish green: told apart by all eyes


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an array lies: pixel size and centre of the first pixel, um, ``(y, x)``."""

    scale: tuple[float, float]
    origin: tuple[float, float]

    @classmethod
    def of(cls, mpp: tuple[float, float], step: tuple[float, float]) -> Placement:
        """Place pixels that are ``step`` level-0 pixels of ``mpp`` um large.

        OME-Zarr gives the centre of a pixel. The centre of level 0's first pixel is 0, so a
        pixel covering 4 of them is centred on 1.5.

        >>> Placement.of((0.5, 0.5), (4, 4))
        Placement(scale=(2.0, 2.0), origin=(0.75, 0.75))
        """
        return cls(
            (mpp[0] * step[0], mpp[1] * step[1]),
            (mpp[0] * (step[0] - 1) / 2, mpp[1] * (step[1] - 1) / 2),
        )

    @classmethod
    def parse(cls, transformations: Sequence[Mapping[str, Any]]) -> Placement:
        """Read a dataset's ``coordinateTransformations`` back."""
        found = {each["type"]: each[each["type"]] for each in transformations}
        (*_, y, x), (*_, y0, x0) = found["scale"], found["translation"]
        return cls((y, x), (y0, x0))

    @classmethod
    def pyramid(
        cls, mpp: tuple[float, float], step: tuple[float, float], levels: int
    ) -> list[Placement]:
        """Place ``levels`` arrays, each with pixels twice as large as the one before."""
        return [cls.of(mpp, (step[0] * 2**i, step[1] * 2**i)) for i in range(levels)]


def image_metadata(
    name: str, levels: Sequence[Placement], channels: Sequence[str], window: tuple[float, float]
) -> dict[str, Any]:
    """Describe a ``(c, y, x)`` image whose values are shown from ``window[0]`` to ``[1]``."""
    shown = {"min": window[0], "max": window[1], "start": window[0], "end": window[1]}
    return {
        "version": VERSION,
        "multiscales": [_multiscales(name, "cyx", levels, "mean of 2 x 2")],
        "omero": {
            "channels": [
                {"label": channel, "color": "FFFFFF", "active": True, "window": shown}
                for channel in channels
            ]
        },
    }


def label_metadata(name: str, levels: Sequence[Placement]) -> dict[str, Any]:
    """Describe a ``(y, x)`` label image in which 1 means ``name``."""
    return {
        "version": VERSION,
        "multiscales": [_multiscales(name, "yx", levels, "maximum of 2 x 2")],
        "image-label": {
            "colors": [{"label-value": 1, "rgba": _TISSUE_COLOUR}],
            "properties": [{"label-value": 1, "name": name}],
            "source": {"image": "../../"},
        },
    }


def _multiscales(name: str, axes: str, levels: Sequence[Placement], method: str) -> dict[str, Any]:
    leading = len(axes) - 2
    return {
        "name": name,
        "type": method.split(maxsplit=1)[0],
        "metadata": {"description": f"each level is the {method} pixels of the one before"},
        "axes": [
            {"name": axis, "type": "channel"}
            if axis == "c"
            else {"name": axis, "type": "space", "unit": "micrometer"}
            for axis in axes
        ],
        "datasets": [
            {
                "path": str(i),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [*[1.0] * leading, *place.scale]},
                    {"type": "translation", "translation": [*[0.0] * leading, *place.origin]},
                ],
            }
            for i, place in enumerate(levels)
        ],
    }
