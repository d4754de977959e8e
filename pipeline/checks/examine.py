"""Whether all that a store holds is there and as it was written: every block is read back.

Small things are looked at by `pipeline.store.survey`; the blocks are read on the scheduler in
force, a chunk at a time, and nothing of them is kept.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.execute.schedulers import scheduler_in_force
from pipeline.execute.work import Watch, tell_nobody
from pipeline.geometry import Grid, Index
from pipeline.lazy import read_blocks
from pipeline.store.check import Damage, Part, ReadBack
from pipeline.store.survey import survey

__all__ = ["Examined", "examine"]

_AT_ONCE = 64
"""Blocks of a graph: one of all of them would cost more than the reading."""


@dataclass(frozen=True)
class Examined:
    """What came of it: blocks and table parts read, and what is torn or missing.

    ``checked`` says whether the blocks have checksums: without, a changed byte may pass.
    """

    blocks: int
    seconds: float
    damages: tuple[Damage, ...]
    checked: bool


def examine(path: str, watch: Watch | None = None) -> Examined:
    """Read the store at ``path`` back, finished or not, and say what is torn or missing.

    What is not there of a store that is not finished is not missing. Raises `StoreError` where
    it is not one of ours, `MissingExtraError` where it has tables and they cannot be read.
    """
    started, tell = time.monotonic(), watch or tell_nobody
    found = survey(path)
    total = sum(len(part.present) for part in found.parts)
    damages, finished = list(found.damages), 0
    for part in found.parts:
        damages += part.missing()
        blocks = sorted(part.present)
        for start in range(0, len(blocks), _AT_ONCE):
            some = tuple(blocks[start : start + _AT_ONCE])
            damages += _torn(part, some)
            finished += len(some)
            tell("blocks read back", finished, total)
    return Examined(total, time.monotonic() - started, tuple(damages), found.checked)


def _torn(part: Part, blocks: tuple[Index, ...]) -> Iterator[Damage]:
    problems = read_blocks(ReadBack(part.stored, blocks), Grid((1, len(blocks)), 1))
    found = scheduler_in_force().compute(problems)[0, 0]
    for index, problem in zip(blocks, found, strict=True):
        if problem is not None:
            yield part.broken(index, *problem)
