"""How a slide is to be analysed, as far as somebody says it."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.plan.memory import Worker
from pipeline.slide.restained import Stain

__all__ = ["Options"]


@dataclass(frozen=True)
class Options:
    """How a slide is analysed; None is decided here.

    ``level`` is the stored level that is read, or ``mpp`` the um per pixel the model sees; the
    model's own where neither is given. ``block`` is the side of a block in those pixels,
    ``chunk`` the side of a shard's inner chunk in output pixels, ``min_fraction`` the part of
    a patch that must be tissue. ``icc`` is ``apply`` where colours go by the slide's profile,
    ``stain`` how the slide is stained and is to look. ``worker`` is what a block is to fit in
    where its side is decided here, ``kept_block`` the side of the blocks in the store that is
    there already: it is gone on with.
    """

    level: int | None = None
    mpp: float | None = None
    block: int | None = None
    chunk: int | None = None
    dtype: str = "uint8"
    min_fraction: float = 0.0
    icc: str = "ignore"
    stain: Stain | None = None
    worker: Worker | None = None
    kept_block: int | None = None
