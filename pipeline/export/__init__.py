"""What is made of a committed store, one file per kind.

A new kind is a file here that offers ``export(stored, slide, stem) -> path`` and one line in
`EXPORTS`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from pipeline.errors import StoreError
from pipeline.results import ENDING, StoredSlide, open_stored
from pipeline.slide import Slide

__all__ = ["EXPORTS", "export"]

EXPORTS = {
    "overview": "pipeline.export.overview",
}
"""Kind -> module; imported when first asked for."""


def export(kind: str, store: str, slide: Slide) -> str:
    """Make one kind of file beside the store at a path and give the file's path.

    Raises `StoreError` where the store is not committed.
    """
    stored = open_stored(store)
    if stored is None or not stored.seen.committed:
        raise StoreError(f"{store}: is not finished; run again before exporting")
    make: Callable[[StoredSlide, Slide, str], str] = import_module(EXPORTS[kind]).export
    return make(stored, slide, stored.path.removesuffix(ENDING))
