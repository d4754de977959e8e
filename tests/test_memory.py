"""What a run takes, and the refusal when that is more than there is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipeline import memory
from pipeline.errors import MemoryBudgetError
from pipeline.memory import check_budget, predicted_bytes, worker_bytes
from pipeline.model import Card, Model, ModelRef
from pipeline.model.card import Footprint, InputSpec, OutputSpec

MIB = 2**20


@pytest.fixture
def model() -> Model:
    ref = ModelRef(
        onnx="model.onnx",
        digest="0",
        patch=512,
        halo=64,
        stride=1,
        channels=2,
        batch=1,
        layout="NCHW",
        order="RGB",
        scale=1 / 255,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        output="scores",
        activation="none",
        value_range=(0, 1),
    )
    card = Card(
        name="m",
        onnx=ref.onnx,
        input=InputSpec(patch=512),
        outputs=(OutputSpec(name="scores", channels=("a", "b")),),
    )
    return Model("m.yaml", card, ref, Footprint(session_bytes=MIB, running_bytes=5 * MIB))


def with_ref(model: Model, **changes: Any) -> Model:
    return replace(model, ref=replace(model.ref, **changes))


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
    one, two, three = (worker_bytes(model, 2048, "uint8", threads=n) for n in (1, 2, 3))
    assert one == predicted_bytes(model, 2048, "uint8")
    assert two - one == three - two
    assert 2048**2 * 3 < two - one < one - memory.BASE_BYTES


@pytest.mark.parametrize("threads", [1, 4])
def test_a_larger_block_needs_more(model: Model, threads: int) -> None:
    # Multiples of the core of a patch: a block that cuts patches reads more than one that fits.
    needed = [
        worker_bytes(model, model.ref.core * n, "uint8", threads=threads) for n in (2, 3, 6, 12, 24)
    ]
    assert needed == sorted(set(needed))
    # In the end it is pixels that count.
    growth = (needed[4] - needed[3]) / (needed[3] - needed[2])
    assert growth == pytest.approx(4, rel=0.1)


def test_a_block_that_cuts_patches_needs_more_than_one_that_fits(model: Model) -> None:
    # With few scores to hold it is what is read that counts.
    strided = with_ref(model, stride=64)
    fits = predicted_bytes(strided, 9 * model.ref.core, "uint8")
    assert predicted_bytes(strided, 9 * model.ref.core - 64, "uint8") > fits


@pytest.mark.parametrize(
    "more", [{"batch": 64}, {"channels": 20}], ids=lambda more: next(iter(more))
)
def test_what_the_model_holds_counts(model: Model, more: dict[str, int]) -> None:
    larger = with_ref(model, **more)
    assert predicted_bytes(larger, 2048, "uint8") > predicted_bytes(model, 2048, "uint8")


def test_wider_stored_values_count(model: Model) -> None:
    many = with_ref(model, channels=20)
    sizes = [predicted_bytes(many, 2048, dtype) for dtype in ("uint8", "float16", "float32")]
    assert sizes == sorted(set(sizes))


def test_a_strided_output_needs_less(model: Model) -> None:
    many = with_ref(model, channels=20)
    strided = with_ref(many, stride=16)
    assert predicted_bytes(strided, 2048, "uint8") < predicted_bytes(many, 2048, "uint8")


def test_the_session_counts_once_and_a_running_batch_for_every_thread(model: Model) -> None:
    larger = replace(model, footprint=Footprint(session_bytes=9 * MIB, running_bytes=55 * MIB))
    for threads in (1, 3):
        grown = worker_bytes(larger, 2048, "uint8", threads=threads)
        assert (
            grown - worker_bytes(model, 2048, "uint8", threads=threads) == (8 + 50 * threads) * MIB
        )
