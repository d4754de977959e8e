"""What a store has already of what is planned for it; it is looked at, and not touched."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.geometry import Index
from pipeline.plan import Plan
from pipeline.store import StoredTable, done, look, table_done
from pipeline.store.group import begun

__all__ = ["Standing", "kept_block", "standing", "stored_blocks"]


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a slide's store is, in blocks that hold tissue.

    ``failed`` are those of ``left`` that could not be computed the last time.
    """

    begun: bool
    committed: bool
    stored: int
    left: int
    failed: int

    @property
    def state(self) -> str:
        """One of `pipeline.books.outcomes.STATES`."""
        if not self.begun:
            return "pending"
        return "done" if self.committed and not self.left else "partial"


def standing(plan: Plan) -> Standing:
    """Say how far a plan's store is.

    Raises `StaleStoreError` where it was begun with other settings, `StoreError` where there is
    something else in its place.
    """
    if not begun(plan.path, plan.settings):
        return Standing(begun=False, committed=False, stored=0, left=len(plan.todo), failed=0)
    seen = look(plan.path)
    attributes = {} if seen is None else seen.attributes
    left = set(plan.todo) - stored_blocks(plan)
    failed = {tuple(each["block"]) for each in attributes.get("failures", ())}
    return Standing(
        begun=True,
        committed=seen is not None and seen.committed,
        stored=len(plan.todo) - len(left),
        left=len(left),
        failed=len(left & failed),
    )


def stored_blocks(plan: Plan) -> set[Index]:
    """Give the blocks of which every output is stored."""
    return set.intersection(
        *(
            table_done(target) if isinstance(target, StoredTable) else done(target)
            for target in plan.targets
        )
    )


def kept_block(path: str) -> int | None:
    """Give the side of the blocks in a store, None where none was begun.

    Raises `StoreError` where there is something else in its place.
    """
    seen = look(path)
    if seen is None or seen.settings is None:
        return None
    kept = seen.settings.get("output.block")
    return kept if isinstance(kept, int) else None
