"""The viewer in a notebook: tiles come over its own connection, and no port is opened."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from functools import cache
from typing import Any

from pipeline.errors import ConfigError, MissingExtraError, SlideError, StoreError
from pipeline.results import Results, StoredSlide, open_stored
from pipeline.slide import Slide, open_slide
from pipeline.view.answers import UnknownQuestionError, answer
from pipeline.view.catalogue import Catalogue, Cohort, OneSlide, catalogue_of
from pipeline.view.page import page_file, widget_module
from pipeline.view.picture import still
from pipeline.view.planes import jpeg
from pipeline.view.shown import slide_or_why

__all__ = ["viewer"]

Looked = Slide | StoredSlide | Results | str | os.PathLike[str]


def viewer(slide: Looked, result: StoredSlide | str | None = None, *, height: int = 560) -> Any:
    """Give a widget to look at a slide, its results or those of a cohort, in a notebook.

    ``slide`` is a slide, what a run stored of one, a results directory, or the path of any of
    these. ``result`` is what a run stored of the slide. ``height`` is in pixels. Where nothing
    runs a stored notebook shows a picture of the whole slide in its place.

    Raises `MissingExtraError` without anywidget; `ConfigError` where the two do not fit.

    >>> viewer("a.svs", "results/a.zarr")  # doctest: +SKIP
    """
    kind = _widget_class()
    catalogue = _catalogue(slide, result)
    return kind(catalogue, height)


def _catalogue(slide: Looked, result: StoredSlide | str | None) -> Catalogue:
    if isinstance(slide, Results):
        return Cohort(slide.directory)
    if isinstance(slide, StoredSlide):
        opened, note = slide_or_why(slide)
        return OneSlide(opened, slide.path, note)
    if result is None:
        return OneSlide(slide) if isinstance(slide, Slide) else catalogue_of(slide)
    opened = slide if isinstance(slide, Slide) else open_slide(slide)
    stored = open_stored(result) if isinstance(result, str) else result
    if stored is None:
        raise ConfigError(f"{result}: no results of a slide; give what a run stored, a .zarr")
    shape = stored.provenance.get("slide", {}).get("shape")
    if shape != list(opened.shape):
        raise ConfigError(
            f"{stored.path}: results of {shape} rows and columns, and {opened.path} has "
            f"{list(opened.shape)}; give the slide they were made of"
        )
    return OneSlide(opened.assuming(stored.level0_mpp), stored.path)


@cache
def _widget_class() -> Any:
    """Make the class of the widget: its parent is there with an extra only."""
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise MissingExtraError(
            "a viewer in a notebook needs anywidget, which is not installed; "
            "pip install 'wsi-pipeline[jupyter]'"
        ) from error

    class Viewer(anywidget.AnyWidget):  # type: ignore[misc, unused-ignore]
        """A slide and its results to look at."""

        _esm = widget_module()
        _css = page_file("viewer.css")
        height = traitlets.Int(560).tag(sync=True)

        def __init__(self, catalogue: Catalogue, height: int) -> None:
            super().__init__(height=height)
            self._catalogue = catalogue
            self.on_msg(self._asked)

        def _asked(self, _widget: object, content: Mapping[str, Any], _buffers: object) -> None:
            reply, buffers = replied(self._catalogue, content)
            self.send(reply, buffers)

        def _repr_mimebundle_(self, **options: Any) -> Any:
            """Give the widget, and a picture for where nothing runs."""
            bundle = super()._repr_mimebundle_(**options)
            said = bundle[0] if isinstance(bundle, tuple) else bundle
            picture = _picture(self._catalogue)
            return {**(said or {}), **({} if picture is None else {"image/jpeg": picture})}

    return Viewer


def replied(catalogue: Catalogue, content: Mapping[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
    """Give the reply to a message of the page: its number, and the answer or why there is none."""
    number = content.get("number")
    try:
        found = answer(catalogue, str(content.get("question")))
    except (UnknownQuestionError, SlideError, StoreError) as error:
        return {"number": number, "error": str(error)}, []
    return {"number": number, "kind": found.kind}, [found.content]


def _picture(catalogue: Catalogue) -> str | None:
    """Give a picture of the first slide: a JPEG in base64; None where there is none yet."""
    for each in catalogue.listed():
        shown = catalogue.find(each["id"])
        if shown is not None:
            return base64.b64encode(jpeg(still(shown))).decode()
    return None
