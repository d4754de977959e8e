"""What there is, what a run takes, and the refusal when the one exceeds the other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from pipeline import memory
from pipeline.errors import MemoryBudgetError
from pipeline.memory import available_bytes, check_budget, predicted_bytes, worker_bytes
from pipeline.model import ModelRef

MIB = 2**20
GIB = 2**30
UNLIMITED = 0x7FFFFFFFFFFFF000  # what cgroup 1 says


@pytest.fixture
def model(tmp_path: Path) -> ModelRef:
    onnx = tmp_path / "model.onnx"
    onnx.write_bytes(bytes(MIB))
    return ModelRef(
        onnx=str(onnx),
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


@pytest.mark.parametrize(
    ("second", "first", "expected"),
    [
        (f"{GIB}\n", None, GIB),
        (None, f"{GIB}\n", GIB),
        (f"{2 * GIB}\n", f"{GIB}\n", GIB),
        ("max\n", None, 64 * GIB),
        (None, f"{UNLIMITED}\n", 64 * GIB),
        (None, None, 64 * GIB),
    ],
)
def test_the_memory_available_is_the_machines_or_its_cgroups_limit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    second: str | None,
    first: str | None,
    expected: int,
) -> None:
    files = (tmp_path / "memory.max", tmp_path / "memory.limit_in_bytes")
    for file, text in zip(files, (second, first), strict=True):
        if text is not None:
            file.write_text(text)
    machine = psutil.virtual_memory()._replace(total=64 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    monkeypatch.setattr(memory, "CGROUP_LIMITS", files)
    assert available_bytes() == expected


def test_the_limits_of_both_cgroup_versions_are_looked_at() -> None:
    assert [str(file) for file in memory.CGROUP_LIMITS] == [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ]


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


def test_every_thread_of_a_worker_adds_a_block_but_no_second_model(model: ModelRef) -> None:
    one, two, three = (worker_bytes(model, 2048, "uint8", threads=n) for n in (1, 2, 3))
    assert one == predicted_bytes(model, 2048, "uint8")
    assert two - one == three - two
    assert 2048**2 * 3 < two - one < one - memory.BASE_BYTES


@pytest.mark.parametrize("threads", [1, 4])
def test_a_larger_block_needs_more(model: ModelRef, threads: int) -> None:
    # Multiples of the core of a patch: a block that cuts patches reads more than one that fits.
    needed = [
        worker_bytes(model, model.core * n, "uint8", threads=threads) for n in (2, 3, 6, 12, 24)
    ]
    assert needed == sorted(set(needed))
    # In the end it is pixels that count.
    growth = (needed[4] - needed[3]) / (needed[3] - needed[2])
    assert growth == pytest.approx(4, rel=0.1)


def test_a_block_that_cuts_patches_needs_more_than_one_that_fits(model: ModelRef) -> None:
    # With few scores to hold it is what is read that counts.
    strided = replace(model, stride=64)
    fits = predicted_bytes(strided, 9 * model.core, "uint8")
    assert predicted_bytes(strided, 9 * model.core - 64, "uint8") > fits


@pytest.mark.parametrize(
    "more", [{"batch": 64}, {"channels": 20}], ids=lambda more: next(iter(more))
)
def test_what_the_model_holds_counts(model: ModelRef, more: dict[str, int]) -> None:
    larger = replace(model, **more)  # type: ignore[arg-type]
    assert predicted_bytes(larger, 2048, "uint8") > predicted_bytes(model, 2048, "uint8")


def test_wider_stored_values_count(model: ModelRef) -> None:
    many = replace(model, channels=20)
    sizes = [predicted_bytes(many, 2048, dtype) for dtype in ("uint8", "float16", "float32")]
    assert sizes == sorted(set(sizes))


def test_a_strided_output_needs_less(model: ModelRef) -> None:
    many = replace(model, channels=20)
    strided = replace(many, stride=16)
    assert predicted_bytes(strided, 2048, "uint8") < predicted_bytes(many, 2048, "uint8")


def test_weights_count_twice(model: ModelRef) -> None:
    before = predicted_bytes(model, 2048, "uint8")
    Path(model.onnx).write_bytes(bytes(11 * MIB))
    assert predicted_bytes(model, 2048, "uint8") - before == 20 * MIB
