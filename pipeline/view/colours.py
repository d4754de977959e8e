"""The colour maps of the page: perceptually uniform, and told apart by all eyes."""

from __future__ import annotations

import base64
from functools import cache

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

__all__ = ["MAPS", "colour_maps", "ramp"]

MAPS = ("viridis", "magma", "inferno", "cividis")

OPACITY = 0.7
"""Of the highest score, before anybody moves a slider."""


@cache
def colour_maps() -> dict[str, str]:
    """Give the 256 colours of each map: RGB, 768 bytes in base64."""
    levels = np.arange(256)
    return {
        name: base64.b64encode(mpl.colormaps[name](levels, bytes=True)[:, :3].tobytes()).decode()
        for name in MAPS
    }


@cache
def ramp() -> NDArray[np.uint8]:
    """Give viridis as ``(256, 4)``: the higher a score the less is seen of what lies under it.

    The page does the same: a score near 0 is clear, for what a model says everywhere must not
    tint the slide.
    """
    colours = np.asarray(mpl.colormaps[MAPS[0]](np.linspace(0, 1, 256)))
    colours[:, 3] = OPACITY * np.sin(np.pi / 2 * np.linspace(0, 1, 256)) ** 2
    table: NDArray[np.uint8] = np.rint(colours * 255).astype(np.uint8)
    return table
