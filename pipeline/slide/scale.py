"""Micrometres per pixel: which are believed, which can be wanted, and which are the same.

They are never guessed from a magnification. A slide that gives none, or none that can be, has to
be told them: by a manifest, by the run file, or by `pipeline.slide.Slide.assuming`.
"""

from __future__ import annotations

from pipeline.errors import ConfigError
from pipeline.readers import Mpp

__all__ = ["MOST_ANISOTROPIC", "PLAUSIBLE", "SAME", "problem_of", "wanted_mpp"]

PLAUSIBLE = (0.05, 20.0)
"""Micrometres per level-0 pixel that a file is believed.

Scanners have 0.1 to 1, an oil objective with a small sensor 0.05, an overview of a whole slide up
to 20. What lies outside is another unit or an editor's default, such as 352.8 for 72 dpi.
"""

MOST_ANISOTROPIC = 2.0
"""How much larger a file's pixels may be one way than the other and be believed."""

SAME = 0.02
"""Part by which a stored level may miss the resolution wanted and be read as it is.

Scanners of one nominal resolution differ by as much (0.4985 to 0.5055), and so did what a model
was trained on; resampling would blur for nothing.
"""

REMEDY = (
    "set resolution.missing: assume and resolution.assume_mpp to what the scanner's is, or name "
    "the slide in a manifest (CSV) with a column mpp"
)

_WANTED = (0.01, 100.0)


def problem_of(mpp: Mpp | None) -> str | None:
    """Say what is wrong with the um per pixel a slide gives; None where they can be believed.

    What a user said is believed.
    """
    if mpp is None:
        return "the file does not say its um per pixel"
    if mpp.source != "header":
        return None
    said = f"the file says {mpp.x:g} x {mpp.y:g} um per pixel"
    low, high = PLAUSIBLE
    if not (low <= min(mpp.y, mpp.x) and max(mpp.y, mpp.x) <= high):
        return f"{said}, which cannot be: a slide has {low:g} to {high:g}"
    if max(mpp.y, mpp.x) > MOST_ANISOTROPIC * min(mpp.y, mpp.x):
        return f"{said}, which cannot be: one is more than {MOST_ANISOTROPIC:g} times the other"
    return None


def wanted_mpp(mpp: float | tuple[float, float], name: str = "mpp") -> tuple[float, float]:
    """Give um per pixel ``(y, x)`` that somebody asks for; one number is for both.

    Raises `ConfigError` where it is no number between 0.01 and 100.
    """
    y, x = mpp if isinstance(mpp, tuple) else (mpp, mpp)
    low, high = _WANTED
    if not (low < y < high and low < x < high):
        raise ConfigError(f"{name}: {mpp} um per pixel cannot be meant; give {low:g} to {high:g}")
    return float(y), float(x)
