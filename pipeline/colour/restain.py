"""Pixels of one stain as those of another. Pure, pixel by pixel.

What a pixel becomes depends on nothing but the pixel and what was fitted before
(`pipeline.colour.stain`), so that blocks have no seams. Macenko's method leaves glass as bright as
the target's; Reinhard's shift would tint it, and so fades out towards glass.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.colour.stain import BETA, TO_LAB, TO_LMS, Colours, Stains
from pipeline.geometry import ceil_div

__all__ = ["normaliser"]

Pixels = NDArray[np.uint8]
Plane = NDArray[np.float32]
Floats = NDArray[np.floating[Any]]
Convert = Callable[[Pixels], Pixels]

_CLEAR = 0.05
"""Optical density up to which a pixel surely is glass, its noise included."""

_STRIP = 2**15
"""Pixels converted at once, so that all of their planes stay in a core's cache."""


def normaliser(source: Stains | Colours, target: Stains | Colours) -> Convert:
    """Give what turns ``(y, x, 3)`` uint8 stained as ``source`` into the same as ``target``.

    Both are of one method. It may be called by several threads at once.
    """
    if isinstance(source, Stains) and isinstance(target, Stains):
        return _macenko(source, target)
    if isinstance(source, Colours) and isinstance(target, Colours):
        return _reinhard(source, target)
    raise TypeError(f"{source.method} cannot be normalised to {target.method}")


@lru_cache(16)
def _macenko(source: Stains, target: Stains) -> Convert:
    own, wanted = (np.array([each.haematoxylin, each.eosin]).T for each in (source, target))
    mix = wanted @ np.diag(np.array(target.most) / source.most) @ np.linalg.pinv(own)
    offset = np.log(target.light) - mix @ np.log(source.light)

    def strip(pixels: Pixels, converted: Pixels) -> None:
        lit = _planes(pixels)
        for plane in lit:
            np.log(np.add(plane, 1, out=plane), out=plane)
        for channel, plane in enumerate(_mixed(lit, mix, offset)):
            np.exp(plane, out=plane)
            np.subtract(plane, 0.5, out=plane)  # one less, and half more to be rounded
            converted[..., channel] = np.clip(plane, 0, 255, out=plane)

    return _in_strips(strip)


@lru_cache(16)
def _reinhard(source: Colours, target: Colours) -> Convert:
    back = np.linalg.inv(TO_LAB)
    scale = np.diag(np.array(target.std) / source.std)
    mix = back @ scale @ TO_LAB
    offset = back @ (np.array(target.mean) - scale @ np.array(source.mean))
    to_rgb = np.linalg.inv(TO_LMS)
    # How much a pixel is changed: 0 to 1 between two values of its darkest channel.
    glass, tissue = (np.array(source.light) * np.exp(-density) for density in (_CLEAR, BETA))
    slope = np.diag(1 / (tissue - glass))
    fade = -slope @ glass

    def strip(pixels: Pixels, converted: Pixels) -> None:
        given = _planes(pixels)
        weight, *others = _mixed(given, slope, fade)
        for other in others:
            np.maximum(weight, other, out=weight)
        np.clip(weight, 0, 1, out=weight)
        cones = _mixed(given, TO_LMS)
        for plane in cones:
            np.log(np.maximum(plane, 1, out=plane), out=plane)
        cones = _mixed(cones, mix, offset)
        for plane in cones:
            np.exp(plane, out=plane)
        for channel, plane in enumerate(_mixed(cones, to_rgb)):
            np.clip(plane, 0, 255, out=plane)
            np.subtract(plane, given[channel], out=plane)
            np.multiply(plane, weight, out=plane)
            np.add(plane, given[channel], out=plane)
            converted[..., channel] = np.add(plane, 0.5, out=plane)

    return _in_strips(strip)


def _planes(pixels: Pixels) -> list[Plane]:
    return [pixels[..., channel].astype(np.float32) for channel in range(3)]


def _mixed(
    planes: list[Plane],
    matrix: Floats,
    offset: Floats | None = None,
) -> list[Plane]:
    """Give ``matrix @ planes + offset``, one product after another.

    Not BLAS's, which may add up in another order where a strip ends, so that a pixel would have
    another colour in another block.
    """
    mixed = []
    part = np.empty_like(planes[0])
    for number, row in enumerate(matrix.tolist()):  # numbers of Python's leave float32 as it is
        factors = [(plane, factor) for plane, factor in zip(planes, row, strict=True) if factor]
        total = np.multiply(*factors[0])
        for plane, factor in factors[1:]:
            np.add(total, np.multiply(plane, factor, out=part), out=total)
        if offset is not None:
            np.add(total, float(offset[number]), out=total)
        mixed.append(total)
    return mixed


def _in_strips(strip: Callable[[Pixels, Pixels], None]) -> Convert:
    def convert(pixels: Pixels) -> Pixels:
        converted = np.empty_like(pixels)
        rows = ceil_div(_STRIP, max(pixels.shape[1], 1))
        for y in range(0, pixels.shape[0] if pixels.size else 0, rows):
            strip(pixels[y : y + rows], converted[y : y + rows])
        return converted

    return convert
