"""What stored results look like at a glance: one small picture of a slide, from its store alone.

The slide itself may be elsewhere by now, and to open one takes longer than to look at a variable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.display.describe import SIDE
from pipeline.display.pictures import laid_over, limits_of
from pipeline.geometry import Box
from pipeline.ngff import Placement
from pipeline.store import Coverage, StoredArray, placed_outputs
from pipeline.store.labels import read_colours

if TYPE_CHECKING:
    from pipeline.results.stored import StoredSlide

__all__ = ["facts_of", "picture_of", "picture_or_why"]

_MOST_PIXELS = 2**22  # of an array that are read at once: the coarsest level is no larger
_GLASS, _TISSUE = 255, 224
_MOST_NAMES = 8


def facts_of(stored: StoredSlide) -> dict[str, str]:
    """Say what there is to know, for people: name -> text; from metadata that are read already."""
    model = stored.seen.attributes.get("provenance", {}).get("model", {})
    blocks = ", ".join(f"{count} {state}" for state, count in stored.blocks.items() if count)
    facts = {
        "path": stored.path,
        "state": stored.state,
        "blocks": blocks or "not known until it is committed",
        "model": " ".join(str(model.get(key, "")) for key in ("name", "version")) or "unknown",
        **{f"output {name}": _said(stored, name, kind) for name, kind in stored.kinds.items()},
    }
    seconds = stored.seen.attributes.get("seconds")
    if seconds is not None:
        facts["took"] = f"{seconds} s"
    for number, failure in enumerate(stored.failures[:3], 1):
        facts[f"failure {number}"] = f"block {failure.get('block')}: {failure.get('reason')}"
    return facts


def picture_or_why(
    stored: StoredSlide, side: int = SIDE
) -> tuple[NDArray[np.uint8] | None, dict[str, str]]:
    """Give the small picture of a stored slide; where there is none, a fact that says why."""
    if not stored.seen.committed:
        return None, {"picture": "none: it is not finished"}
    try:
        return picture_of(stored, side), {}
    except OSError as error:  # gone, or broken: what is known of it can still be said
        return None, {"picture": f"none: {error}"}


def picture_of(stored: StoredSlide, side: int = SIDE) -> NDArray[np.uint8]:
    """Give tissue with the first scores over it, or else the first labels: ``(y, x, 3)`` uint8.

    The longer side has ``side`` pixels. Raises `StoreError` where it cannot be read.
    """
    sight = _Sight.of(stored, side)
    tissue = sight.of_array(stored.tissue, stored.tissue_placement)
    grey = np.where(tissue, _TISSUE, _GLASS).astype(np.uint8)
    picture = np.repeat(grey[..., None], 3, axis=2)
    labels = next((name for name, kind in stored.kinds.items() if kind == "labels"), None)
    if stored.channels:
        return laid_over(picture, _heat(stored, sight))
    return picture if labels is None else laid_over(picture, _classes(stored, sight, labels))


@dataclass(frozen=True)
class _Sight:
    """A picture of ``shape`` whose pixels are ``step`` um, on a slide of ``mpp`` um a pixel."""

    shape: tuple[int, int]
    step: tuple[float, float]
    mpp: tuple[float, float]

    @classmethod
    def of(cls, stored: StoredSlide, side: int) -> _Sight:
        shape, scale = stored.provenance.get("slide", {}).get("shape"), stored.level0_mpp
        if shape is None:  # the mask covers all of it, and less than a pixel more
            shape, scale = stored.tissue.shape, stored.tissue_placement.scale
        height, width = (n * um for n, um in zip(shape, scale, strict=True))
        ratio = side / max(height, width)
        rows, columns = (max(round(um * ratio), 1) for um in (height, width))
        return cls((rows, columns), (height / rows, width / columns), stored.level0_mpp)

    def of_array(self, values: NDArray[Any], place: Placement, size: int = 1) -> NDArray[Any]:
        """Give what lies under the centre of each pixel; a value of ``values`` is ``size`` wide."""
        rows, columns = (
            (((np.arange(n) + 0.5) * step - start) / (scale * size)).astype(int).clip(0, there - 1)
            for n, step, start, scale, there in zip(
                *(self.shape, self.step, place.corner(self.mpp), place.scale),
                values.shape,
                strict=True,
            )
        )
        sampled: NDArray[Any] = values[np.ix_(rows, columns)]
        return sampled


def _heat(stored: StoredSlide, sight: _Sight) -> NDArray[np.float64]:
    """Give the colours of the first channel, clear where nothing was analysed."""
    # Loaded when there is a heat map to be drawn: it brings matplotlib.
    from pipeline.results.drawing import heat_colours

    outputs, placements = stored.outputs, stored.placements
    level = _small(outputs, sight)
    values = outputs[level].read(Box(0, 0, *outputs[level].plane))[0]
    heat = sight.of_array(stored.as_scores(values), placements[level])
    analysed = sight.of_array(stored.coverage == Coverage.ANALYSED, placements[0], outputs[0].block)
    low, high = limits_of(heat[analysed], stored.score_range)
    colours = np.asarray(heat_colours()(np.clip((heat - low) / (high - low), 0, 1)), np.float64)
    colours[~analysed, 3] = 0
    return colours


def _classes(stored: StoredSlide, sight: _Sight, name: str) -> NDArray[np.float64]:
    """Give the colours of labels, clear where there is none."""
    levels = placed_outputs(stored.path, stored.folder_of(name))
    array, place = levels[_small([each for each, _ in levels], sight)]
    labels = sight.of_array(array.read(Box(0, 0, *array.plane))[0], place)
    table = np.zeros((256, 4))
    for value, colour in read_colours(stored.path, name).items():
        table[value] = (*(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)), 0.8)
    colours: NDArray[np.float64] = table[labels]
    return colours


def _small(outputs: Sequence[StoredArray], sight: _Sight) -> int:
    """Give the coarsest level that is as fine as the picture, and small enough to be read whole."""
    small = [i for i, each in enumerate(outputs) if np.prod(each.plane) <= _MOST_PIXELS]
    fine = [i for i in small if max(outputs[i].plane) >= max(sight.shape)]
    return max(fine) if fine else min(small, default=len(outputs) - 1)


def _said(stored: StoredSlide, name: str, kind: str) -> str:
    if kind == "objects":
        return "objects, a table"
    names = stored.channels_of(name)
    listed = ", ".join(names) if len(names) <= _MOST_NAMES else f"{len(names)} channels"
    return f"{kind}: {listed}"
