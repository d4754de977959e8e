"""One slide as it is looked at: its pixels, if they are there, and what a store has of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.errors import MissingExtraError, SlideError, StoreError
from pipeline.ngff import Placement
from pipeline.results.analysed import analysed_slide
from pipeline.results.stored import StoredSlide
from pipeline.slide import Slide
from pipeline.view.growing import Kept
from pipeline.view.layers import Layer, SlideLayer
from pipeline.view.planes import png
from pipeline.view.results import StoredLayers

__all__ = ["ShownSlide", "show", "slide_or_why"]


@dataclass(frozen=True)
class ShownSlide:
    """A slide and what lies over it; ``slide`` is None where its file is gone.

    ``exact`` gives the slide's tiles without loss.
    """

    slide_id: str
    slide: Slide | None
    stored: StoredSlide | None
    layers: tuple[Layer, ...]
    exact: SlideLayer | None
    stamp: str
    notes: tuple[str, ...]

    def layer(self, key: str) -> Layer | None:
        """Give a layer by its key; None where there is none."""
        if key == "exact":
            return self.exact
        return next((each for each in self.layers if each.describe()["key"] == key), None)

    @property
    def state(self) -> str:
        """The state of its store; ``slide`` where there is only the slide."""
        return "slide" if self.stored is None else self.stored.state

    def describe(self) -> dict[str, Any]:
        """Give what the page needs to know."""
        if self.slide is not None:
            shape = self.slide.shape
            mpp = None if self.slide.mpp is None else [self.slide.mpp.y, self.slide.mpp.x]
        else:
            assert self.stored is not None  # noqa: S101 - one of the two is there
            rows, columns = self.stored.provenance["slide"]["shape"]
            shape, mpp = (rows, columns), list(self.stored.level0_mpp)
        return {
            "id": self.slide_id,
            "state": self.state,
            "stamp": self.stamp,
            "shape": list(shape),
            "mpp": mpp,
            "notes": list(self.notes),
            "layers": [
                each.describe() | {"planes": [plane.as_json() for plane in each.planes]}
                for each in self.layers
            ],
        }


def show(
    slide_id: str, slide: Slide | None, stored: StoredSlide | None, kept: Kept, note: str = ""
) -> ShownSlide:
    """Put together what there is to see of a slide now; ``note`` says what is amiss with it."""
    layers: list[Layer] = []
    exact = None
    notes, stamp = [note] if note else [], "slide"
    if slide is not None:
        layers.append(SlideLayer(slide))
        exact = SlideLayer(slide, png)
        if slide.mpp is None or slide.mpp_problem is not None:
            notes.append(f"lengths are in pixels: {slide.mpp_problem}")
    if stored is not None and stored.seen.settings is not None:
        results = StoredLayers(stored, _origin(slide, stored), kept)
        layers += results.all()
        notes += results.notes
        stamp = results.stamp
    return ShownSlide(slide_id, slide, stored, tuple(layers), exact, stamp, tuple(notes))


def slide_or_why(stored: StoredSlide) -> tuple[Slide | None, str]:
    """Open the slide that a store was made of, as it was read then; or say why it is not shown."""
    if stored.provenance.get("slide") is None:
        return None, "nothing is known of the slide yet"
    try:
        return analysed_slide(stored), ""
    except (StoreError, SlideError, MissingExtraError) as error:
        return None, f"only the results are shown: {error}"


def _origin(slide: Slide | None, stored: StoredSlide) -> tuple[float, float]:
    """Give where what the model saw begins, in level-0 pixels."""
    if stored.seen.committed and stored.outputs:
        return _corner(stored.placements[0], stored.level0_mpp)
    settings = stored.provenance["settings"]
    if slide is None or "slide.resampled" in settings:
        return (0.0, 0.0)
    return slide.level(settings["slide.level"]).origin


def _corner(place: Placement, mpp: tuple[float, float]) -> tuple[float, float]:
    y, x = place.corner(mpp)
    return (y / mpp[0], x / mpp[1])
