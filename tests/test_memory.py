"""What a run takes, and the refusal when that is more than there is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import MemoryBudgetError
from pipeline.model import (
    Card,
    Footprint,
    MapRef,
    Model,
    ModelRef,
    ObjectsRef,
    OutputRef,
    SessionRef,
)
from pipeline.model.card import InputSpec, OutputSpec
from pipeline.plan import memory
from pipeline.plan.memory import Worker, check_budget, predicted_bytes, reader_bytes, worker_bytes
from pipeline.slide import open_slide

MIB = 2**20


@pytest.fixture
def model() -> Model:
    member = SessionRef(
        onnx="model.onnx",
        digest="0",
        layout="NCHW",
        order="RGB",
        scale=1 / 255,
        mean=(0.0,),
        std=(1.0,),
        zscore="none",
        tensors=("scores",),
        patch=512,
        batch=1,
    )
    scores = OutputRef("scores", "scores", 0, ("a", "b"), (), (0.0, 1.0), "", 0.5)
    ref = ModelRef(
        members=(member,),
        patch=512,
        step=384,
        halo=64,
        method="crop",
        maps=(MapRef(0, "none", 2, 1),),
        outputs=(scores,),
    )
    card = Card(
        name="m",
        onnx=member.onnx,
        input=InputSpec(patch=512),
        outputs=(OutputSpec(name="scores", channels=("a", "b")),),
    )
    return Model("m.yaml", card, ref, Footprint(session_bytes=MIB, running_bytes=5 * MIB))


def with_map(model: Model, **changes: Any) -> Model:
    (map_,) = model.ref.maps
    return replace(model, ref=replace(model.ref, maps=(replace(map_, **changes),)))


def with_batch(model: Model, batch: int) -> Model:
    (member,) = model.ref.members
    return replace(model, ref=replace(model.ref, members=(replace(member, batch=batch),)))


def test_a_plan_that_needs_too_much_is_refused_with_both_numbers_and_the_setting() -> None:
    with pytest.raises(MemoryBudgetError) as refused:
        check_budget(3000 * MIB, 2000 * MIB, slide="/slides/a.svs", block=8192)
    message = str(refused.value)
    for part in ("/slides/a.svs", "3000 MiB", "2000 MiB", "output.block", "8192"):
        assert part in message
    assert "cluster.threads_per_worker" in message
    assert "cluster.workers" in message


def test_a_plan_that_just_fits_is_accepted() -> None:
    check_budget(2000 * MIB, 2000 * MIB, slide="a.svs", block=2048)


def test_every_thread_of_a_worker_adds_a_block_but_no_second_model(model: Model) -> None:
    one, two, three = (worker_bytes(model, 2048, "uint8", Worker(n)) for n in (1, 2, 3))
    assert one == predicted_bytes(model, 2048, "uint8")
    assert two - one == three - two
    assert 2048**2 * 3 < two - one < one - memory.BASE_BYTES


@pytest.mark.parametrize("threads", [1, 4])
def test_a_larger_block_needs_more(model: Model, threads: int) -> None:
    # Multiples of the core of a patch: a block that cuts patches reads more than one that fits.
    needed = [
        worker_bytes(model, model.ref.step * n, "uint8", Worker(threads)) for n in (2, 3, 6, 12, 24)
    ]
    assert needed == sorted(set(needed))
    # In the end it is pixels that count.
    growth = (needed[4] - needed[3]) / (needed[3] - needed[2])
    assert growth == pytest.approx(4, rel=0.1)


def test_a_block_that_cuts_patches_needs_more_than_one_that_fits(model: Model) -> None:
    # With few scores to hold it is what is read that counts.
    strided = with_map(model, stride=64)
    fits = predicted_bytes(strided, 9 * model.ref.step, "uint8")
    assert predicted_bytes(strided, 9 * model.ref.step - 64, "uint8") > fits


def test_what_the_model_holds_counts(model: Model) -> None:
    least = predicted_bytes(model, 2048, "uint8")
    assert predicted_bytes(with_batch(model, 64), 2048, "uint8") > least
    assert predicted_bytes(with_map(model, channels=20), 2048, "uint8") > least
    assert predicted_bytes(with_map(model, reach=512), 2048, "uint8") > least


def test_wider_stored_values_count(model: Model) -> None:
    many = with_map(model, channels=20)
    sizes = [predicted_bytes(many, 2048, dtype) for dtype in ("uint8", "float16", "float32")]
    assert sizes == sorted(set(sizes))


def test_a_strided_output_needs_less(model: Model) -> None:
    many = with_map(model, channels=20)
    strided = with_map(many, stride=16)
    assert predicted_bytes(strided, 2048, "uint8") < predicted_bytes(many, 2048, "uint8")


def test_the_session_counts_once_and_a_running_batch_for_every_thread(model: Model) -> None:
    larger = replace(model, footprint=Footprint(session_bytes=9 * MIB, running_bytes=55 * MIB))
    for threads in (1, 3):
        least = worker_bytes(model, 2048, "uint8", Worker(threads))
        grown = worker_bytes(larger, 2048, "uint8", Worker(threads))
        assert grown - least == (8 + 50 * threads) * MIB


def test_what_a_process_has_in_use_before_its_first_block_counts(model: Model) -> None:
    here = Worker(base_bytes=memory.BASE_BYTES + 100 * MIB)
    least = worker_bytes(model, 2048, "uint8", Worker())
    assert worker_bytes(model, 2048, "uint8", here) - least == 100 * MIB


def test_what_finding_objects_takes_counts(model: Model) -> None:
    (scores,) = model.ref.outputs
    found = ObjectsRef("peaks", 0, None, None, (), 0.5, 3.0, 10.0, 20.0)
    sizes = [predicted_bytes(model, 2048, "uint8")]
    for method in ("peaks", "watershed"):
        objects = replace(scores, kind="objects", objects=replace(found, method=method))
        ref = replace(model.ref, outputs=(objects,))
        sizes.append(predicted_bytes(replace(model, ref=ref), 2048, "uint8"))
    assert sizes == sorted(set(sizes))


def test_the_tiles_that_openslide_keeps_count(model: Model, demo_slide: Path) -> None:
    levels = [open_slide(demo_slide, reader=reader).level(0) for reader in ("tiff", "openslide")]
    tiff, openslide = (predicted_bytes(model, 512, "uint8", level) for level in levels)
    assert openslide - tiff >= 32 * MIB
    assert reader_bytes(levels[0]) == 0


def test_a_slide_that_is_smaller_than_a_block_needs_no_more_than_itself(
    model: Model, demo_slide: Path
) -> None:
    level = open_slide(demo_slide).level(0)
    whole, larger = (predicted_bytes(model, model.ref.step * n, "uint8", level) for n in (4, 40))
    assert whole == larger < predicted_bytes(model, model.ref.step * 40, "uint8")


def test_a_worker_of_whose_memory_nothing_is_known_is_not_refused() -> None:
    check_budget(2**60, None, slide="a.svs", block=2048)


def test_what_cuda_takes_of_a_process_s_own_memory_counts_once(model: Model) -> None:
    on_gpu = model.running("cuda")
    for threads in (1, 4):
        worker = Worker(threads)
        extra = worker_bytes(on_gpu, 1024, "uint8", worker) - worker_bytes(
            model, 1024, "uint8", worker
        )
        assert extra == 950 * MIB
