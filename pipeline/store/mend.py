"""A store without what is damaged in it: uncommitted, so that the next run makes it whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from pipeline.files import places
from pipeline.files.urls import is_url, join
from pipeline.store.check import Damage
from pipeline.store.damage import tells_the_store
from pipeline.store.group import withdraw

__all__ = ["Mended", "mend"]


@dataclass(frozen=True)
class Mended:
    """What was done: objects dropped, where the store was moved, damages that were left."""

    dropped: int = 0
    moved: str = ""
    left: int = 0


@tells_the_store
def mend(path: str, damages: Sequence[Damage]) -> Mended:
    """Drop what is torn and what was made of it; the next run redoes exactly that.

    A store whose own metadata are gone is moved aside, on a disk; in a bucket it is left. So is
    what could only not be read. Raises `StoreError` where something cannot be removed.
    """
    if any(each.kind == "lost" for each in damages):
        return Mended(left=1) if is_url(path) else Mended(moved=_moved_aside(Path(path)))
    known = [each for each in damages if each.kind != "unread"]
    left = len(damages) - len(known)
    if not known:
        return Mended(left=left)
    # First of all: killed after this, the store is unfinished and is looked at by the next run.
    withdraw(path)
    dropped = 0
    wanted = {name for each in known for name in each.drop}
    folders = tuple(name for name in wanted if name.endswith("/"))
    for name, _ in list(places.below(path)):
        if name in wanted or name.startswith(folders):
            places.remove(join(path, *name.split("/")))
            dropped += 1
    return Mended(dropped, left=left)


def _moved_aside(store: Path) -> str:
    for number in count(1):
        target = store.with_name(f"{store.name}.damaged-{number}")
        if not target.exists():
            store.rename(target)
            return str(target)
    raise AssertionError
