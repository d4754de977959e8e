"""The slide of results, found again: the one they were made of, or none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import pipeline
from pipeline.config import RunConfig
from pipeline.errors import SlideError, StoreError
from pipeline.results.analysed import analysed_slide
from pipeline.results.stored import StoredSlide
from pipeline.view.shown import slide_or_why
from tests.toys import noise, write_tiff


@pytest.fixture(params=["auto", "openslide", "tiff"])
def made(
    request: pytest.FixtureRequest, tmp_path: Path, toy_model: Callable[..., Path]
) -> StoredSlide:
    """Results of ``slide.tiff``, read as a run was told to."""
    write_tiff(tmp_path / "slide.tiff", noise(256, 256), mpp=None)
    config = RunConfig.model_validate(
        {
            "slides": str(tmp_path / "slide.tiff"),
            "model": str(toy_model("per_patch")),
            "reader": request.param,
            "output": {"directory": str(tmp_path / "results"), "block": 128},
            "resolution": {"missing": "assume", "assume_mpp": 0.5},
            "tissue": {"method": "none"},
            "cluster": {"kind": "threads", "dashboard": "none"},
        }
    )
    assert pipeline.run(config).complete
    return pipeline.open_results(tmp_path / "results")["slide"]


def test_it_is_the_same_slide_however_it_was_read_with_the_scale_that_was_assumed(
    made: StoredSlide, tmp_path: Path
) -> None:
    slide = analysed_slide(made)
    assert slide.mpp is not None
    assert (slide.mpp.y, slide.mpp.x) == (0.5, 0.5)
    assert np.array_equal(slide.levels[0].compute(), noise(256, 256))
    assert pipeline.show(made).axes  # a reader of its own is no other slide


def test_where_it_was_moved_to_may_be_said(made: StoredSlide, tmp_path: Path) -> None:
    moved = (tmp_path / "slide.tiff").rename(tmp_path / "moved.tiff")
    with pytest.raises(SlideError, match=r"slide\.tiff: no such file"):
        analysed_slide(made)
    assert analysed_slide(made, str(moved)).path == str(moved)


def test_another_one_of_the_same_size_in_its_place_is_none(
    made: StoredSlide, tmp_path: Path
) -> None:
    write_tiff(tmp_path / "slide.tiff", noise(256, 256, seed=1), mpp=None)
    told = "is another slide than the one it was made of"
    with pytest.raises(StoreError, match=told):
        analysed_slide(made)
    slide, why = slide_or_why(made)
    assert slide is None
    assert told in why
