"""Patches classified without this package: as it is published, and as fast as such code goes.

Both are given the corners of the patches that are tissue, read one with OpenSlide, call the model
on it and give its scores back. Those of all patches are kept, as a user would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.contenders import Contender, Run, Setting
from tests.benchmarks.pools import Here, Place, pool_of, read_place, scaled
from tests.benchmarks.predictions import pixels_of, plan_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.plan import Plan

__all__ = ["SCORES", "classifies_as_published", "openslide_classifies"]

SCORES = "scores.npy"
"""What both keep: ``(n, classes)`` scores of the patches, row by row."""


def classifies_as_published(name: str) -> Contender:
    """Give a contender that opens the slide, and a session, for every patch.

    A `ProcessPoolExecutor` over the corners of patches. The session has one thread, which is the
    fastest where there are as many processes as cores.
    """

    @contextmanager
    def contender(at: Setting) -> Iterator[Run]:
        plan = plan_of(at, name, "none.zarr", tissue="otsu")
        classify = partial(_open_and_classify, at.slide, _onnx(at, name))
        with pool_of(at, classify, model=_onnx(at, name)) as pool:  # all is imported now
            yield partial(_kept, partial(pool.map, classify), plan, at.folder)

    return contender


def openslide_classifies(name: str) -> Contender:
    """Give a contender whose processes have one handle and one session each."""

    @contextmanager
    def contender(at: Setting) -> Iterator[Run]:
        plan = plan_of(at, name, "none.zarr", tissue="otsu")
        with pool_of(at, _classify, model=_onnx(at, name)) as pool:
            yield partial(_kept, partial(pool.map, _classify, chunksize=4), plan, at.folder)

    return contender


def _onnx(at: Setting, name: str) -> str:
    return str(Path(at.folder, f"{name}.onnx"))


def _kept(over: Callable[[list[Place]], Any], plan: Plan, folder: str) -> int:
    import numpy as np

    side = plan.model.ref.step
    places = [(int(x) * side, int(y) * side, side, side) for y, x in np.argwhere(plan.wanted)]
    np.save(Path(folder, SCORES), np.stack(list(over(places))))
    return pixels_of(plan)


def _open_and_classify(slide: str, model: str, place: Place) -> NDArray[np.float32]:
    import openslide

    from tests.benchmarks.pools import open_session

    with openslide.OpenSlide(slide) as opened:
        return _scores(open_session(model), read_place(opened, place))


def _classify(place: Place) -> NDArray[np.float32]:
    return _scores(Here.session, read_place(Here.slide, place))


def _scores(session: Any, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    scores: NDArray[np.float32] = session.run(None, {"image": scaled(pixels)})[0][0]
    return scores
