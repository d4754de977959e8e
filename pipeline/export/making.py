"""What an export is made of, and where it goes: one committed store, and files beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import MissingExtraError, SlideError, StoreError
from pipeline.files import places
from pipeline.files.urls import join
from pipeline.results import ENDING, StoredSlide, open_stored
from pipeline.results.analysed import analysed_slide
from pipeline.slide import Slide

__all__ = ["Exporting", "Tell", "exporting", "missing"]

Tell = Callable[[str, int, int], None]
"""Told how far an export is: stage, finished, total."""


@dataclass(frozen=True)
class Exporting:
    """An export under way: of what, to where, and who is told.

    ``stem`` is where its files are, without an ending; ``given`` the slide, if it is open already.
    """

    kind: str
    stored: StoredSlide
    stem: str
    tell: Tell
    given: Slide | None = None

    @property
    def slide(self) -> Slide:
        """The slide itself, opened as it was for the store where it was not given.

        Raises `StoreError` where the store does not say which it is or it was replaced since,
        `SlideError` where it cannot be opened.
        """
        return self.given or analysed_slide(self.stored)

    def path(self, ending: str) -> str:
        """Give the path of the file with an ending."""
        return f"{self.stem}.{ending}"

    @contextmanager
    def writing(self, ending: str) -> Iterator[Path]:
        """Give a file to write in a ``with`` block; it is there whole after it, or as it was.

        Raises `StoreError` where it cannot be written.
        """
        try:
            with places.written(self.path(ending)) as partial:
                yield partial
        except (StoreError, SlideError):
            raise
        except OSError as error:
            why = error.strerror or str(error)
            raise StoreError(
                f"{self.path(ending)}: cannot be written: {why}; look at the room and the rights "
                "there, then export again"
            ) from error

    def nothing(self, wanted: str) -> StoreError:
        """Give the error that there is nothing to export, which says what there is."""
        there = ", ".join(f"{name} ({kind})" for name, kind in self.stored.kinds.items())
        return StoreError(
            f"{self.stored.path}: no {wanted} to export as {self.kind}; there is "
            f"{there or 'nothing'}"
        )


def exporting(
    kind: str, store: str, slide: Slide | None, output: str | None, tell: Tell | None
) -> Exporting:
    """Open a store for an export; `StoreError` where it is not committed."""
    stored = open_stored(store)
    if stored is None or not stored.seen.committed:
        raise StoreError(f"{store}: is not finished; run again before exporting")
    stem = stored.path.removesuffix(ENDING)
    if output is not None:
        stem = join(places.absolute(output), stored.slide_id)
    return Exporting(kind, stored, stem, tell or _silent, slide)


def missing(engine: str, needs: str, extra: str = "export") -> MissingExtraError:
    """Give the error that something an export needs is not installed."""
    return MissingExtraError(
        f"{needs} needs {engine}, which is not installed; pip install 'wsi-pipeline[{extra}]'"
    )


def _silent(_stage: str, _finished: int, _total: int) -> None:
    pass
