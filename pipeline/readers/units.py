"""Units of length that files give their scales in."""

from __future__ import annotations

import math

__all__ = ["micrometres"]

MICROMETRES = {
    "angstrom": 1e-4,
    "picometer": 1e-6,
    "nanometer": 1e-3,
    "micrometer": 1.0,
    "millimeter": 1e3,
    "centimeter": 1e4,
    "decimeter": 1e5,
    "meter": 1e6,
    "inch": 25400.0,
}
"""Micrometres in the units of length that a slide may be measured in."""

_SYNONYMS = {
    "pm": "picometer",
    "nm": "nanometer",
    "um": "micrometer",
    "\u00b5m": "micrometer",  # the micro sign
    "\u03bcm": "micrometer",  # the Greek letter
    "micron": "micrometer",
    "mm": "millimeter",
    "cm": "centimeter",
    "dm": "decimeter",
    "m": "meter",
    "in": "inch",
    "\u00e5": "angstrom",
}


def micrometres(unit: str) -> float:
    """Give the micrometres in a unit of length, NaN for one that is not known.

    >>> micrometres("nanometer"), micrometres("Microns"), micrometres("pixel")
    (0.001, 1.0, nan)
    """
    name = unit.strip().lower()
    for spelt in (name, name.removesuffix("s"), name.removesuffix("s").replace("metre", "meter")):
        known = _SYNONYMS.get(spelt, spelt)
        if known in MICROMETRES:
            return MICROMETRES[known]
    return math.nan
