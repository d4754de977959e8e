"""The whole way from slide to store, under every scheduler, against whole-image computation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from numpy.typing import NDArray

import pipeline
from pipeline.errors import ConfigError, MemoryBudgetError, StaleStoreError
from pipeline.execute import run
from pipeline.execute.distributing import Distributed
from pipeline.execute.finding import find_tissue
from pipeline.execute.schedulers import Local, Synchronous, scheduler_in_force
from pipeline.geometry import Box
from pipeline.model import load_model
from pipeline.plan import Options, Plan, Tissue, plan_slide
from pipeline.plan.finish import quantise
from pipeline.results import StoredSlide, open_results
from pipeline.slide import Slide, open_slide
from pipeline.store import Coverage
from pipeline.tissue import TissueSettings
from tests.toys import RED, Pixels, expected_means, expected_neighbours, noise, write_tiff

KINDS = {"synchronous": Synchronous, "threads": Local, "local": Distributed}


@pytest.fixture(scope="module")  # or what other modules compute would go there
def _two_processes() -> Iterator[None]:
    with pipeline.cluster("local", workers=2, threads_per_worker=1, dashboard="none"):
        yield


@pytest.fixture(params=KINDS)
def scheduler(request: pytest.FixtureRequest) -> Iterator[str]:
    """Put each scheduler in force in turn; the two processes are started once."""
    if request.param == "local":
        request.getfixturevalue("_two_processes")
        named: dict[str, Any] = {"scheduler": "dask.distributed"}
    else:
        named = {"scheduler": request.param, "num_workers": 2}
    with dask.config.set(named):
        assert isinstance(scheduler_in_force(), KINDS[request.param])
        yield request.param


@pytest.fixture
def slide(tmp_path: Path, write_tiff: Callable[..., Path]) -> Slide:
    return open_slide(write_tiff(tmp_path / "noise.tiff", noise(700, 900)))


def everything(slide: Slide) -> Tissue:
    return find_tissue(slide, TissueSettings(method="none"), 8.0, None)


def planned(slide: Slide, card: Path, path: Path, **options: Any) -> Plan:
    tissue = options.pop("tissue", None) or everything(slide)
    return plan_slide(slide, load_model(card), tissue, Options(**options), path=str(path))


def stored(path: Path) -> StoredSlide:
    return open_results(path.parent)[path.name.removesuffix(".zarr")]


def values(path: Path, level: int = 0) -> NDArray[Any]:
    array: NDArray[Any] = stored(path).levels[level].compute(scheduler="synchronous")
    return array


def quantised(scores: NDArray[np.float32]) -> NDArray[Any]:
    return quantise(scores, "uint8", (0.0, 1.0), "scores")


@pytest.mark.parametrize("block", [128, 256, 1024])
def test_stored_scores_equal_the_model_run_on_the_whole_image(
    scheduler: str, block: int, slide: Slide, toy_model: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "out.zarr"
    plan = planned(
        slide,
        toy_model("neighbours", outputs={"range": [0, 128]}),
        out,
        block=block,
        dtype="float32",
    )
    outcome = run(plan)
    assert outcome.complete
    assert outcome.computed == plan.grid.size
    np.testing.assert_array_equal(values(out), expected_neighbours(slide.levels[0].compute()))


@pytest.mark.parametrize(("kind", "cell"), [("per_patch", 32), ("strided", 4)])
def test_a_classifier_and_a_strided_model_run_through_the_same_code(
    scheduler: str,
    kind: str,
    cell: int,
    slide: Slide,
    toy_model: Callable[..., Path],
    tmp_path: Path,
) -> None:
    out = tmp_path / "out.zarr"
    run(planned(slide, toy_model(kind), out, block=256, dtype="float32"))
    np.testing.assert_array_equal(values(out), expected_means(slide.levels[0].compute(), cell))


def test_stored_bytes_are_the_same_under_every_scheduler_and_block_size(
    demo_slide: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue("_two_processes")
    slide, model = open_slide(demo_slide), load_model("builtin:nuclei")
    arrays = {}
    for name in KINDS:
        named = "dask.distributed" if name == "local" else name
        for block in (512, 1024):
            with dask.config.set(scheduler=named, num_workers=2):
                tissue = find_tissue(slide, TissueSettings(), 8.0, None)
                out = tmp_path / f"{name}-{block}.zarr"
                run(plan_slide(slide, model, tissue, Options(block=block), path=str(out)))
            arrays[name, block] = [values(out, i) for i in range(len(stored(out).levels))]
    first = arrays["synchronous", 512]
    assert first[0].any()
    for others in arrays.values():
        for one, other in zip(first, others, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.usefixtures("in_threads")
def test_each_coarser_level_is_the_average_of_the_stored_finer_one(
    slide: Slide, toy_model: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "out.zarr"
    run(planned(slide, toy_model("per_patch", stitch={"halo": 0}), out, block=64))
    run(planned(slide, toy_model("strided"), tmp_path / "deep.zarr", block=128))
    wide = tmp_path / "wide.zarr"
    run(planned(slide, toy_model("neighbours", outputs={"range": [0, 128]}), wide, block=128))
    fine, coarse = values(wide), values(wide, 1)
    assert fine.shape == (1, 700, 900)
    assert coarse.shape == (1, 350, 450)
    sums = fine.reshape(1, 350, 2, 450, 2).astype(np.uint32).sum(axis=(2, 4))
    np.testing.assert_array_equal(coarse, (sums + 2) // 4)
    assert len(stored(wide).levels) == 2  # 450 is at most 512
    assert len(stored(out).levels) == 1


def half_tissue(slide: Slide, shape: tuple[int, int] = (70, 90)) -> Tissue:
    mask = np.zeros(shape, np.bool_)
    mask[:30, :40] = True  # level-0 rows below 300, columns below 400
    step = (slide.shape[0] / shape[0], slide.shape[1] / shape[1])
    return Tissue(mask, step, {"method": "test"})


def test_what_holds_no_tissue_is_neither_read_nor_predicted(
    scheduler: str, slide: Slide, toy_model: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "out.zarr"
    plan = planned(
        slide, toy_model("per_patch"), out, block=256, dtype="float32", tissue=half_tissue(slide)
    )
    outcome = run(plan)
    truth = expected_means(slide.levels[0].compute(), 32)
    # Patches of 32 px: rows 0..9 touch rows below 300, columns 0..12 those below 400.
    truth[:, 10:] = 0
    truth[:, :, 13:] = 0
    np.testing.assert_array_equal(values(out), truth)
    assert outcome.count(Coverage.ANALYSED) == 4
    assert outcome.count(Coverage.BACKGROUND) == 8
    assert plan.patch_count == 130
    np.testing.assert_array_equal(stored(out).coverage, [[1, 1, 2, 2], [1, 1, 2, 2], [2, 2, 2, 2]])


@pytest.mark.usefixtures("in_threads")
def test_only_the_wanted_patches_with_their_halo_are_read(
    slide: Slide,
    toy_model: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pipeline.readers.tiff import TiffReader

    boxes: list[Box] = []
    read = TiffReader.read

    def noted(self: TiffReader, level: int, box: Box) -> Pixels:
        boxes.append(box)
        return read(self, level, box)

    monkeypatch.setattr(TiffReader, "read", noted)
    plan = planned(
        slide,
        toy_model("neighbours", outputs={"range": [0, 128]}),
        tmp_path / "out.zarr",
        block=256,
        tissue=half_tissue(slide),
    )
    run(plan)
    # 32 px are kept of a patch: rows up to 320 and columns up to 416, a halo of 1 beyond.
    assert max(box.y_stop for box in boxes) == 321
    assert max(box.x_stop for box in boxes) == 417
    assert len(boxes) == 4


def with_red(height: int, width: int) -> Pixels:
    pixels = noise(height, width)
    pixels[300, 500] = RED
    return pixels


def test_a_failing_block_is_recorded_with_its_reason_and_the_rest_is_done(
    scheduler: str, toy_model: Callable[..., Path], write_tiff: Callable[..., Path], tmp_path: Path
) -> None:
    slide = open_slide(write_tiff(tmp_path / "red.tiff", with_red(512, 768)))
    out = tmp_path / "out.zarr"
    plan = planned(slide, toy_model("nan", outputs={"range": [0, 32]}), out, block=256)
    outcome = run(plan)
    assert not outcome.complete
    assert list(outcome.failures) == [(1, 1)]
    assert "NaN" in outcome.failures[1, 1]
    seen = stored(out)
    assert seen.state == "partial"
    assert seen.failures[0]["block"] == [1, 1]
    np.testing.assert_array_equal(seen.coverage, [[1, 1, 1], [1, 3, 1]])
    assert values(out)[0, :256].mean() > 3
    assert not values(out)[0, 256:, 256:512].any()


@pytest.mark.usefixtures("in_threads")
def test_a_failed_block_is_tried_again_by_the_next_run_and_mends_the_pyramid(
    toy_model: Callable[..., Path],
    write_tiff: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pipeline.errors import SlideError
    from pipeline.readers.tiff import TiffReader

    slide = open_slide(write_tiff(tmp_path / "noise.tiff", noise(600, 1300)))
    card = toy_model("neighbours", outputs={"range": [0, 128]})
    whole, broken = tmp_path / "whole.zarr", tmp_path / "broken.zarr"
    run(planned(slide, card, whole, block=256))
    read = TiffReader.read

    def fail_far_right(self: TiffReader, level: int, box: Box) -> Pixels:
        if box.x_stop > 1200 and box.y < 10:
            raise SlideError(f"{slide.path}: a tile of {box} is broken")
        return read(self, level, box)

    with monkeypatch.context() as patch:
        patch.setattr(TiffReader, "read", fail_far_right)
        first = run(planned(slide, card, broken, block=256))
    assert set(first.failures) == {(0, 4), (0, 5)}
    again = run(planned(slide, card, broken, block=256))
    assert again.computed == 2
    assert again.complete
    for level in range(3):
        np.testing.assert_array_equal(values(broken, level), values(whole, level))


@pytest.mark.usefixtures("in_threads")
def test_a_finished_store_is_left_alone(
    slide: Slide, toy_model: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "out.zarr"
    plan = planned(slide, toy_model("per_patch"), out, block=256)
    assert run(plan).computed == 12
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert run(plan).computed == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


@pytest.mark.usefixtures("in_threads")
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"block": 512}, "output.block = 256, now output.block = 512"),
        ({"dtype": "float32"}, "output.dtype = 'uint8', now output.dtype = 'float32'"),
        ({"min_fraction": 0.5}, "tissue.min_fraction = 0.0, now tissue.min_fraction = 0.5"),
    ],
)
def test_other_settings_are_refused_by_name_with_both_values(
    change: dict[str, Any],
    named: str,
    slide: Slide,
    toy_model: Callable[..., Path],
    tmp_path: Path,
) -> None:
    card, out = toy_model("per_patch"), tmp_path / "out.zarr"
    run(planned(slide, card, out, block=256))
    before = values(out)
    with pytest.raises(StaleStoreError, match="was begun with") as refusal:
        run(planned(slide, card, out, **{"block": 256, **change}))
    assert named in str(refusal.value)
    np.testing.assert_array_equal(values(out), before)


@pytest.mark.usefixtures("in_threads")
def test_another_model_and_another_slide_are_refused(
    slide: Slide, toy_model: Callable[..., Path], write_tiff: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "out.zarr"
    run(planned(slide, toy_model("per_patch"), out, block=256))
    with pytest.raises(StaleStoreError, match=r"model\.digest"):
        run(planned(slide, toy_model("per_patch", input={"layout": "NHWC"}), out, block=256))
    other = open_slide(write_tiff(tmp_path / "other.tiff", noise(700, 900, seed=1)))
    with pytest.raises(StaleStoreError, match=r"slide\.identity"):
        run(planned(other, toy_model("per_patch"), out, block=256))


def test_a_run_that_needs_more_memory_than_there_is_is_refused_with_both_numbers(
    slide: Slide, toy_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.execute.schedulers.available_bytes", lambda: 200 * 2**20)
    out = tmp_path / "out.zarr"
    with (
        dask.config.set(scheduler="threads", num_workers=1),
        pytest.raises(MemoryBudgetError, match=r"need \d+ MiB and may use 200 MiB; .*output.block"),
    ):
        run(planned(slide, toy_model("per_patch"), out, block=256))
    assert not out.exists()


def test_predict_is_lazy_and_slices_to_the_same_scores(
    slide: Slide, toy_model: Callable[..., Path]
) -> None:
    scores = pipeline.predict(slide, load_model(toy_model("neighbours")), block=256)
    truth = expected_neighbours(slide.levels[0].compute())
    assert scores.shape == truth.shape
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores[:, 250:300, 500:520].compute(), truth[:, 250:300, 500:520])


@pytest.mark.parametrize("block", [0, 20, 33, 100])
def test_a_block_that_is_no_multiple_of_the_stride_is_refused(
    block: int, slide: Slide, toy_model: Callable[..., Path]
) -> None:
    with pytest.raises(ConfigError, match=f"block: {block} is not a multiple of .* stride 32"):
        pipeline.predict(slide, load_model(toy_model("per_patch")), block=block)


@pytest.mark.usefixtures("in_threads")
def test_tissue_is_looked_for_at_the_resolution_asked_for(demo_slide: Path) -> None:
    tissue = find_tissue(open_slide(demo_slide), TissueSettings(), 8.0, None)
    assert tissue.step == (16.0, 16.0)  # of 0.5 um
    assert tissue.mask.shape == (75, 94)


@pytest.mark.usefixtures("in_threads")
def test_the_picture_of_the_tissue_stays_small_whatever_scale_a_slide_claims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.execute.finding.PICTURE_PIXELS", 10_000)
    slide = open_slide(write_tiff(tmp_path / "a.tiff", noise(500, 700), mpp=90.0))
    assert find_tissue(slide, TissueSettings(), 8.0, None).mask.size <= 10_000


def test_planning_opens_no_output_and_reads_no_pixel(
    slide: Slide, toy_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.readers.tiff import TiffReader

    tissue = everything(slide)
    card = toy_model("per_patch")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(TiffReader, "read", None)
    plan = planned(slide, card, tmp_path / "none" / "out.zarr", block=256, tissue=tissue)
    assert plan.blocks.shape == (1, 3, 4)
    assert plan.settings["output.block"] == 256
    assert sorted(tmp_path.rglob("*")) == before
