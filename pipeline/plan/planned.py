"""What a plan looks like to people: its facts, and the slide with what is left out faded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from dask.utils import format_bytes
from numpy.typing import NDArray

from pipeline.display.pictures import faded
from pipeline.files.urls import shown
from pipeline.slide.looks import preview_or_why

if TYPE_CHECKING:
    from pipeline.plan import Plan

__all__ = ["facts_of", "picture_of"]


def facts_of(plan: Plan) -> dict[str, str]:
    """Say what will be done, for people: name -> text."""
    (y, x), down = plan.layout.mpp, plan.level.downsample
    rows, columns = plan.level.plane
    stored = plan.level.stored
    done_as = f"level {stored.index}" if plan.level is stored else f"made of level {stored.index}"
    todo = len(plan.todo)
    facts = {
        "slide": shown(plan.slide.path),
        "into": shown(plan.path),
        "model": plan.model.card.name,
        "seen": f"{columns} x {rows} px at {x * down[1]:.4g} x {y * down[0]:.4g} um/px, {done_as}",
        "blocks": f"{todo} of {plan.grid.size}, of {plan.grid.cell} px; the others hold no tissue",
        "patches": f"{plan.patch_count:,} of {plan.wanted.size:,}",
        "memory": f"{format_bytes(plan.memory_bytes)} at the peak of a worker, predicted",
        "output": f"{format_bytes(plan.output_bytes)} before compression",
        "files": str(plan.output_files),
    }
    return facts | {f"note {i}": text for i, text in enumerate(plan.remarks, 1)}


def picture_of(plan: Plan) -> tuple[NDArray[np.uint8] | None, dict[str, str]]:
    """Give what the model sees, small, with the patches that are left out faded; or say why not."""
    picture, why = preview_or_why(plan.level)
    if picture is None:
        return None, why
    cells = [
        (np.arange(pixels) + 0.5) / pixels * size // plan.model.ref.step
        for pixels, size in zip(picture.shape[:2], plan.level.plane, strict=True)
    ]
    kept = plan.wanted[np.ix_(*(each.astype(np.intp) for each in cells))]
    return faded(picture, kept), {}
