"""The slide that results were made of, opened again as it was read then."""

from __future__ import annotations

from pipeline.errors import StoreError
from pipeline.readers.choose import AUTO
from pipeline.results.stored import StoredSlide
from pipeline.slide import Slide, open_slide

__all__ = ["analysed_slide"]


def analysed_slide(stored: StoredSlide, path: str | None = None) -> Slide:
    """Open the slide that a store was made of, with the scale that it had then.

    ``path`` is where it is now; where the store says it was by default.

    Raises `StoreError` where the store does not say which slide it is, or another one lies there
    now, `SlideError` where it cannot be opened, `MissingExtraError` where what reads it is not
    installed.
    """
    said, settings = stored.provenance.get("slide", {}), stored.seen.settings or {}
    if "path" not in said or "slide.identity" not in settings:
        raise StoreError(f"{stored.path}: does not say of which slide it is; run again")
    where = path or said["path"]
    # A run was told the reader, or chose it: each names what it opens in a way of its own.
    for reader in dict.fromkeys((AUTO, settings.get("slide.reader", said.get("reader", AUTO)))):
        # No more of the file than the store was made of.
        slide = open_slide(where, reader=reader, crop="slide.crop" in settings)
        if slide.metadata.identity == settings["slide.identity"]:
            return slide.assuming(stored.level0_mpp, said.get("mpp_source", "as stored"))
    now, was = (f"{columns} x {rows}" for rows, columns in (slide.shape, said["shape"]))
    sizes = "" if now == was else f": {now} pixels now, and was {was}"
    raise StoreError(
        f"{stored.path}: {where} is another slide than the one it was made of{sizes}; put that "
        "back, or run again into another directory"
    )
