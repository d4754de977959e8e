"""What OME-Zarr 0.5 says of an image, as plain values: axes, scales, labels, channels.

The specification is at https://ngff.openmicroscopy.org/0.5/; nothing is read or written here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "ATTRIBUTE",
    "FIRST",
    "LARGEST",
    "MEAN",
    "MICROMETER",
    "PALETTE",
    "VERSION",
    "Placement",
    "image_metadata",
    "label_metadata",
    "rgb_metadata",
]

ATTRIBUTE = "wsi_pipeline"
"""The attribute of a group, beside those of OME-Zarr, that is this package's own."""

VERSION = "0.5"

MICROMETER = "micrometer"

MEAN = "mean of 2 x 2"
"""How the levels of an image are made."""

LARGEST = "maximum of 2 x 2"
"""How the levels of a mask are made."""

FIRST = "first of 2 x 2"
"""How the levels of labels are made."""

_RGB = (("R", "FF0000"), ("G", "00FF00"), ("B", "0000FF"))

PALETTE = (
    *("#E69F00", "#56B4E9", "#009E73", "#F0E442"),
    *("#0072B2", "#D55E00", "#CC79A7", "#999999"),
)
"""Okabe and Ito's colours, told apart by all eyes: for labels that have none of their own."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an array lies: pixel size and centre of the first pixel, um, ``(y, x)``."""

    scale: tuple[float, float]
    origin: tuple[float, float]

    @classmethod
    def of(
        cls,
        mpp: tuple[float, float],
        step: tuple[float, float],
        origin: tuple[float, float] = (0.0, 0.0),
    ) -> Placement:
        """Place pixels that are ``step`` level-0 pixels of ``mpp`` um large.

        The first one's corner is ``origin`` level-0 pixels from that of level 0.

        OME-Zarr gives the centre of a pixel. The centre of level 0's first pixel is 0, so a
        pixel covering 4 of them is centred on 1.5.

        >>> Placement.of((0.5, 0.5), (4, 4))
        Placement(scale=(2.0, 2.0), origin=(0.75, 0.75))
        """
        return cls(
            (mpp[0] * step[0], mpp[1] * step[1]),
            (
                mpp[0] * (origin[0] + (step[0] - 1) / 2),
                mpp[1] * (origin[1] + (step[1] - 1) / 2),
            ),
        )

    def corner(self, mpp: tuple[float, float]) -> tuple[float, float]:
        """Give where the corner of the first pixel lies from that of level 0, um, ``(y, x)``.

        ``mpp`` is level 0's.

        >>> Placement.of((0.5, 0.5), (4, 4), (-1, 0)).corner((0.5, 0.5))
        (-0.5, 0.0)
        """
        (y, x), (height, width) = self.origin, self.scale
        return (y - (height - mpp[0]) / 2, x - (width - mpp[1]) / 2)

    @classmethod
    def parse(cls, transformations: Sequence[Mapping[str, Any]]) -> Placement:
        """Read a dataset's ``coordinateTransformations`` back.

        Raises `ValueError` where they place nothing; others where they are of another kind.
        """
        found = {each["type"]: each[each["type"]] for each in transformations}
        y, x, y0, x0 = (float(n) for kind in ("scale", "translation") for n in found[kind][-2:])
        if not (0 < y < math.inf and 0 < x < math.inf and math.isfinite(y0 + x0)):
            raise ValueError(f"pixels of {y:g} x {x:g} at {y0:g}, {x0:g}")
        return cls((y, x), (y0, x0))

    @classmethod
    def pyramid(
        cls,
        mpp: tuple[float, float],
        step: tuple[float, float],
        levels: int,
        origin: tuple[float, float] = (0.0, 0.0),
    ) -> list[Placement]:
        """Place ``levels`` arrays, each with pixels twice as large as the one before.

        All begin at ``origin``: a pixel of each is exactly two by two of the one before.
        """
        return [cls.of(mpp, (step[0] * 2**i, step[1] * 2**i), origin) for i in range(levels)]


def image_metadata(
    name: str,
    levels: Sequence[Placement],
    channels: Sequence[str],
    window: tuple[float, float],
    colours: Sequence[str] = (),
) -> dict[str, Any]:
    """Describe a ``(c, y, x)`` image whose values are shown from ``window[0]`` to ``[1]``.

    ``colours`` are those of the channels, as #rrggbb; white by default.
    """
    shown = colours or ["#FFFFFF"] * len(channels)
    return {
        "version": VERSION,
        "multiscales": [_multiscales(name, "cyx", levels, MEAN)],
        "omero": {
            "channels": [
                _channel(channel, colour[1:].upper(), window)
                for channel, colour in zip(channels, shown, strict=True)
            ]
        },
    }


def rgb_metadata(
    name: str, levels: Sequence[Placement], *, unit: str | None, method: str | None
) -> dict[str, Any]:
    """Describe a ``(c, y, x)`` image of red, green and blue, 0 to 255 each.

    ``unit`` is that of the placements, None where only pixels are known; ``method`` says how
    each level is made of the one before, None where the levels are as the slide has them.
    """
    return {
        "version": VERSION,
        "multiscales": [_multiscales(name, "cyx", levels, method, unit)],
        "omero": {
            "channels": [_channel(label, colour, (0, 255)) for label, colour in _RGB],
            "rdefs": {"model": "color"},
        },
    }


def label_metadata(
    name: str,
    levels: Sequence[Placement],
    meanings: Mapping[int, tuple[str, str]],
    method: str,
) -> dict[str, Any]:
    """Describe a ``(y, x)`` label image; ``meanings`` are value -> name, colour as #rrggbb."""
    return {
        "version": VERSION,
        "multiscales": [_multiscales(name, "yx", levels, method)],
        "image-label": {
            "colors": [
                {"label-value": value, "rgba": [*bytes.fromhex(colour[1:]), 255]}
                for value, (_, colour) in meanings.items()
            ],
            "properties": [
                {"label-value": value, "name": meant} for value, (meant, _) in meanings.items()
            ],
            "source": {"image": "../../"},
        },
    }


def _channel(label: str, colour: str, window: tuple[float, float]) -> dict[str, Any]:
    shown = {"min": window[0], "max": window[1], "start": window[0], "end": window[1]}
    return {"label": label, "color": colour, "active": True, "window": shown}


def _multiscales(
    name: str,
    axes: str,
    levels: Sequence[Placement],
    method: str | None,
    unit: str | None = MICROMETER,
) -> dict[str, Any]:
    leading = len(axes) - 2
    space = {"type": "space"} if unit is None else {"type": "space", "unit": unit}
    made = (
        {
            "type": method.split(maxsplit=1)[0],
            "metadata": {"description": f"each level is the {method} pixels of the one before"},
        }
        if method
        else {"metadata": {"description": "the levels of the slide as they were"}}
    )
    return {
        "name": name,
        **made,
        "axes": [
            {"name": axis, "type": "channel"} if axis == "c" else {"name": axis, **space}
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
