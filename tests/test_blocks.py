"""The side of a block that nobody said: usual, kept, or what a worker has room for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import pipeline
from pipeline.errors import ConfigError, MemoryBudgetError
from pipeline.execute import run
from pipeline.execute.standing import kept_block
from pipeline.geometry import Grid
from pipeline.model import Model, load_model
from pipeline.plan import Options, Plan, Tissue, plan_slide
from pipeline.plan.blocks import LEAST_BLOCK, chosen_block
from pipeline.plan.memory import Worker, worker_bytes
from pipeline.slide import Slide
from pipeline.slide.level import Level

MIB = 2**20


@pytest.fixture(scope="module")
def slide(demo_slide: Path) -> Slide:
    return pipeline.open_slide(demo_slide)


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model("builtin:nuclei")


@pytest.fixture(scope="module")
def level(slide: Slide) -> Level:
    """A level of more than a few blocks; none of it is read."""
    return replace(slide.level(0), plane=(9000, 9000))


def needed(model: Model, level: Level, block: int, threads: int = 1) -> int:
    return worker_bytes(model, block, "uint8", Worker(threads), level)


def chosen(
    model: Model, level: Level, worker: Worker, chunk: int | None = None, *, share: float = 1
) -> tuple[int, str]:
    """Choose a block where the patches in the upper ``share`` of a level are predicted."""
    wanted = np.zeros(Grid(level.plane, model.ref.step).counts, np.bool_)
    wanted[: round(len(wanted) * share)] = True
    return chosen_block(model, "uint8", level, wanted, worker, chunk)


def planned(slide: Slide, model: Model, path: Path, options: Options) -> Plan:
    tissue = Tissue(np.ones((12, 15), np.bool_), (100.0, 100.0), {})
    return plan_slide(slide, model, tissue, options, path=str(path))


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("block", [512, 1024, 1536, 2048])
def test_a_block_is_the_largest_that_a_worker_has_room_for(
    block: int, threads: int, model: Model, level: Level
) -> None:
    least = int(needed(model, level, block, threads) / 0.8) + 1
    side, said = chosen(model, level, Worker(threads, least))
    assert side == block
    assert ("instead of 2048" in said) == (block < 2048)
    assert (f"for {threads} threads" in said) == (block < 2048 and threads > 1)
    if block > LEAST_BLOCK:
        assert chosen(model, level, Worker(threads, least - 2))[0] < block


def test_without_a_known_limit_a_block_is_as_usual(model: Model, level: Level) -> None:
    assert chosen(model, level, Worker()) == (2048, "")


@pytest.mark.parametrize(
    ("plane", "share", "chunk", "block"),
    [
        ((2000, 3000), 1, None, 1024),  # of 2048 px two threads would have 9 parts and 2
        ((2048 * 5, 2048 * 3), 1, None, 1024),  # 15
        ((2048 * 4, 2048 * 4), 1, None, 2048),  # 16
        ((2048 * 40, 2048 * 4), 0.1, None, 2048),
        ((2048 * 40, 2048 * 4), 0.05, None, 1024),  # 8 of 160 have tissue
        ((2048 * 40, 2048 * 4), 0, None, 1024),
        ((2000, 3000), 1, 512, 1024),
        ((2000, 3000), 1, 2048, 2048),  # what is asked for comes first
    ],
)
def test_where_few_blocks_are_analysed_they_are_smaller(
    plane: tuple[int, int],
    share: float,
    chunk: int | None,
    block: int,
    model: Model,
    level: Level,
) -> None:
    small = replace(level, plane=plane)
    for worker in (Worker(), Worker(1, 2**40)):
        assert chosen(model, small, worker, chunk, share=share) == (block, "")


def test_chunks_that_are_asked_for_fit_into_the_block_that_is_chosen(
    model: Model, level: Level
) -> None:
    limit = int(needed(model, level, 1536) / 0.8) + 1
    assert chosen(model, level, Worker(1, limit), chunk=1024)[0] == 1024


def test_where_the_least_block_does_not_fit_the_run_is_refused_with_both_numbers(
    model: Model, slide: Slide, tmp_path: Path
) -> None:
    plan = planned(slide, model, tmp_path / "a.zarr", Options(worker=Worker(2, 180 * MIB)))
    assert plan.grid.cell == LEAST_BLOCK
    both = rf"need {plan.memory_bytes / MIB:.0f} MiB and may use 180 MiB; raise cluster\.memory"
    with pytest.raises(MemoryBudgetError, match=both):
        run(plan)
    assert not (tmp_path / "a.zarr").exists()


def test_what_is_planned_with_less_memory_says_so(
    model: Model, slide: Slide, tmp_path: Path
) -> None:
    small = Worker(1, int(needed(model, slide.level(0), 512) / 0.8) + 1)
    plan = planned(slide, model, tmp_path / "a.zarr", Options(worker=small))
    assert plan.remarks[-1].startswith("blocks of 512 px instead of 1024: a worker has ")
    asked = planned(slide, model, tmp_path / "a.zarr", Options(worker=small, block=1024))
    assert (asked.grid.cell, asked.remarks) == (1024, ())


def test_a_store_that_was_begun_is_gone_on_with_in_its_own_blocks(
    slide: Slide, toy_model: Callable[..., Path], tmp_path: Path
) -> None:
    toy, path = load_model(toy_model("per_patch")), tmp_path / "a.zarr"
    assert kept_block(str(path)) is None
    run(planned(slide, toy, path, Options(block=256)))
    kept = kept_block(str(path))
    assert kept == 256
    again = planned(slide, toy, path, Options(kept_block=kept, worker=Worker(1, 2**40)))
    assert run(again).computed == 0


def test_a_kept_block_that_is_none_of_the_models_is_left_alone(
    slide: Slide, model: Model, toy_model: Callable[..., Path], tmp_path: Path
) -> None:
    strided = load_model(toy_model("strided"))
    odd = strided.ref.stride + 1
    plan = planned(slide, strided, tmp_path / "a.zarr", Options(kept_block=odd))
    assert plan.grid.cell % strided.ref.stride == 0
    with pytest.raises(ConfigError):
        planned(slide, strided, tmp_path / "a.zarr", Options(block=odd))
