"""What workers are asked to do: small functions that give small answers.

Little is imported: a worker's first answer must not wait for all that a run needs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from pipeline.files import places
from pipeline.files.urls import join

if TYPE_CHECKING:
    from pipeline.geometry import Box
    from pipeline.model import SessionRef
    from pipeline.slide.level import Level

__all__ = ["exchanged", "forgotten", "opened_model", "read_samples", "seen_by"]

_LOOK_S = 0.2

Sample: TypeAlias = "tuple[Level, Box]"


def read_samples(samples: Sequence[Sample]) -> int:
    """Read some boxes of a slide's levels; give the pixels. Raises `SlideError` as reading does."""
    return sum(level.read(box).size // 3 for level, box in samples)


def opened_model(members: Sequence[SessionRef]) -> list[str]:
    """Open a model's sessions; give the provider of each. Raises `ModelError` as that does."""
    from pipeline.model import facts

    return [str(facts(each)["provider"]) for each in members]


def exchanged(folder: str, names: tuple[str, str], content: bytes, patience_s: float) -> str:
    """Look for a file that another machine has written, then write one; give what is wrong.

    ``names`` are that of theirs and that of the own one; both have the same ``content``.
    """
    theirs, own = names
    wrong = seen_by(time.monotonic() + patience_s, join(folder, theirs), content)
    if wrong:  # a folder of the same name on another disk is not written to
        return wrong
    try:
        places.write_whole(join(folder, own), content)
    except OSError as error:
        return f"{error.strerror} when a file is written"
    return ""


def forgotten(folder: str, own: str) -> None:
    """Remove the file that was written."""
    places.remove(join(folder, own))


def seen_by(until: float, path: str, content: bytes) -> str:
    """Look for a file until it has the right content, or it is too late; give what is wrong."""
    while True:
        wrong = _wrong(path, content)
        if not wrong or time.monotonic() > until:
            return wrong
        time.sleep(_LOOK_S)


def _wrong(path: str, content: bytes) -> str:
    try:
        found = places.read(path)
    except OSError as error:
        return str(error.strerror)
    return "" if found == content else f"another content ({len(found)} bytes)"
