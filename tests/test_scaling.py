"""What a great many slides need: where the answer is known, and as the command says it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.batch.planning import Forecast
from pipeline.cli import main
from pipeline.errors import ConfigError
from pipeline.scaling import Scale, kind_of, limits, makespan, scale, sequence
from pipeline.scaling.measured import TYPICAL, Costs, Load, Slides
from tests.toys import noise, write_tiff

FREE = Costs(block_s=0, slide_s=0, open_s=0, close_s=0, row_s=0)
LOADS = (Load(3, 6.0), Load(10, 5.0), Load(1, 7.0), Load(0, 0.0))

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def plan(capsys: pytest.CaptureFixture[str]) -> Command:
    """Give ``plan(*arguments) -> exit code, output, errors``."""

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["plan", *arguments])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call


def test_one_worker_without_costs_takes_the_sum_of_the_work() -> None:
    slides = sequence(LOADS, 37)
    work = sum(load.seconds for load in slides)
    assert makespan(slides, 1, 1, FREE) == pytest.approx(work)
    assert makespan(slides, 1, 16, FREE) == pytest.approx(work)


def test_any_number_of_workers_takes_the_slides_that_wait_for_each_other() -> None:
    costs = replace(FREE, open_s=4, close_s=2)
    slides = [Load(5, 10.0)] * 12  # blocks of 2 s
    assert makespan(slides, 10**4, 12, costs) == pytest.approx(4 + 2 + 2)
    assert makespan(slides, 10**4, 4, costs) == pytest.approx(3 * (4 + 2 + 2))
    assert makespan(slides, 10**4, 1, costs) == pytest.approx(12 * (4 + 2 + 2))


def test_a_scheduler_sends_one_block_after_another_whatever_its_workers() -> None:
    costs = replace(FREE, block_s=0.5, slide_s=3)
    assert makespan([Load(10, 0.0)] * 6, 10**3, 6, costs) == pytest.approx(6 * (3 + 10 * 0.5))


def test_blocks_that_do_not_fit_the_workers_leave_a_tail() -> None:
    assert makespan([Load(5, 5.0)], 4, 1, FREE) == pytest.approx(2)
    assert makespan([Load(5, 5.0)] * 4, 4, 4, FREE) == pytest.approx(5)


@pytest.mark.parametrize("at_once", [1, 3, 16])
def test_more_workers_are_never_slower(at_once: int) -> None:
    slides = sequence(TYPICAL.loads, 60)
    took = [makespan(slides, workers, at_once) for workers in (1, 2, 3, 5, 8, 20, 100, 1000)]
    assert took == sorted(took, reverse=True)
    assert took[0] > 5 * took[5]


def test_a_sequence_has_every_kind_as_often_and_many_kinds_keep_their_mean() -> None:
    assert sorted(sequence(LOADS, 8), key=repr) == sorted([*LOADS, *LOADS], key=repr)
    assert sequence(LOADS, 21) == sequence(LOADS, 30)[:21]
    many = [Load(100 + n, n**1.5) for n in range(1000)]
    some = sequence(many, 24)
    assert len(set(some)) == 24
    assert sum(load.seconds for load in some) / 24 == pytest.approx(
        sum(load.seconds for load in many) / 1000
    )
    assert sum(load.blocks for load in some) / 24 == pytest.approx(599.5, abs=1)


def test_what_is_needed_is_in_time_and_one_worker_fewer_is_not() -> None:
    asked = Scale(150, 1.0)
    need = scale(asked)
    assert need.schedulers == 1
    assert need.hours <= 1.0
    slides = sequence(TYPICAL.loads, 150)
    assert makespan(slides, need.workers, asked.at_once) / 3600 == pytest.approx(need.hours)
    assert makespan(slides, need.workers - 1, asked.at_once) / 3600 > 1.0
    assert need.workers >= 150 * TYPICAL.seconds / 3600


def test_what_follows_the_simulated_slides_goes_on_at_their_pace() -> None:
    # Few blocks of few slides, so that all can be simulated as well.
    kind = replace(TYPICAL, loads=(Load(100, 300.0), Load(300, 500.0)))
    asked = Scale(1200, 10.0, kind)
    need = scale(asked)
    whole = makespan(sequence(kind.loads, 1200), need.workers, asked.at_once) / 3600
    assert need.hours == pytest.approx(whole, rel=0.01)


def test_more_slides_or_less_time_need_no_fewer_workers_and_schedulers() -> None:
    needs = [scale(Scale(10**n, 168)) for n in (1, 3, 5, 6)]
    assert [each.schedulers for each in needs] == sorted(each.schedulers for each in needs)
    workers = [each.schedulers * each.workers for each in needs]
    assert workers == sorted(workers)
    assert needs[0].schedulers == 1
    assert scale(Scale(10**5, 24)).workers > scale(Scale(10**5, 168)).workers
    assert (
        needs[3].slides == ceil(10**6 / needs[3].schedulers) <= limits(Scale(10**6, 168))[0].slides
    )


def test_a_scheduler_whose_workers_would_wait_for_slides_gets_others_beside_it() -> None:
    # A slide at a time, a minute of it without blocks: workers would be idle most of the time.
    slow = replace(FREE, open_s=60, slide_s=0.01)
    asked = Scale(50, 1.0, replace(TYPICAL, loads=(Load(400, 400.0),)), slow, at_once=1)
    need = scale(asked)
    assert need.schedulers > 1
    assert need.hours <= 1.0
    assert need.efficiency >= asked.ceilings.efficiency


def test_limits_are_what_their_ceilings_and_costs_make_them() -> None:
    kind = Slides((Load(100, 50.0),), None, 0, 1)
    costs = Costs(block_s=0.01, slide_s=1, row_s=0, row_bytes=100, listed_bytes=1000)
    asked = Scale(10, 1.0, kind, costs)
    found = {each.what: each.slides for each in limits(asked)}
    # 2 s of the core per slide, of 1,800 s in an hour; 10 MB of 100 bytes; 4 GiB of 1,000.
    assert list(found.values()) == [900, 100_000, 2**32 // 1000]
    assert next(iter(found)) == "the scheduler's core"


def test_slides_of_a_plan_are_as_its_forecasts(tmp_path: Path) -> None:
    (tmp_path / "a.tiff").write_bytes(bytes(500))
    half = Forecast(
        *("a", str(tmp_path / "a.tiff"), "partial"),
        blocks=40,
        left=20,
        seconds=30.0,
        output_bytes=100,
        output_files=10,
    )
    done = replace(half, path="https://example.org/b.svs", blocks=10, left=0, seconds=0.0)
    refused = replace(half, state="refused", blocks=1000)
    kind = kind_of([half, done, refused], at_once=4)
    # 20 blocks took 30 s for 4 at a time: 6 s of one thread for each.
    assert kind == Slides((Load(40, 240.0), Load(10, 60.0)), 500, 100, 10)
    with pytest.raises(ConfigError, match="could be tried"):
        kind_of([done, refused], at_once=4)


def test_the_command_says_what_a_million_slides_need_and_what_that_rests_on(plan: Command) -> None:
    code, out, _ = plan("--slides", "1000000", "--json")
    said = json.loads(out)
    assert code == 0
    assert said["slides"] == 1_000_000
    assert said["hours"] == 168
    assert said["workers"] == said["schedulers"] * said["workers_per_scheduler"]
    assert said["work_hours"] == pytest.approx(1e6 * TYPICAL.seconds / 3600)
    assert said["worker_hours"] == pytest.approx(said["workers"] * said["takes_hours"])
    assert 0.8 < said["efficiency"] <= 1
    assert said["read_bytes"] == 1e15
    assert said["files"] == 1e6 * TYPICAL.files
    assert {*said["limits"][0]} == {"what", "slides", "why"}
    assert {"block_s", "slide_s", "open_s", "close_s"} <= said["costs"].keys()
    code, text, _ = plan("--slides", "1000000")
    lines = text.splitlines()
    assert code == 0
    assert lines[0] == "1,000,000 slides in 168 hours"
    for label in ("schedulers", "workers", "CPU hours", "read", "written", "files", "breaks first"):
        assert any(line.startswith(label) for line in lines), label
    assert f"--shard I/{said['schedulers']}" in text
    assert "1 PB" in text


def test_a_run_file_says_what_the_slides_are(
    plan: Command, tmp_path: Path, toy_model: Callable[..., Path]
) -> None:
    slides = [write_tiff(tmp_path / f"{name}.tiff", noise(600, 500), mpp=0.5) for name in "ab"]
    settings: dict[str, Any] = {
        "slides": [str(each) for each in slides],
        "model": str(toy_model("per_patch", batch=1)),
        "output": {"directory": str(tmp_path / "results"), "block": 256},
        "tissue": {"method": "none"},
        "cluster": {"kind": "threads", "workers": 2, "slides_at_once": 3},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    code, out, _ = plan(str(path), "--slides", "5000", "--hours", "1", "--json")
    said, planned = json.loads(out), json.loads(plan(str(path), "--json")[1])
    assert code == 0
    assert said["slide"]["blocks"] == 6
    assert said["blocks"] == 30_000
    assert said["files"] == 2500 * planned["total"]["output_files"]
    assert said["read_bytes"] == 2500 * sum(each.stat().st_size for each in slides)
    assert said["slides_at_once"] == 3
    assert said["slide"]["seconds"] > 0
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no CONFIG"),
        (["--slides", "0"], "--slides 0"),
        (["--slides", "-3"], "--slides -3"),
        (["--slides", "9", "--hours", "0"], "--hours 0"),
        (["--slides", "9", "--hours", "nan"], "--hours nan"),
        (["--slides", "9", "--hours", "inf"], "--hours inf"),
        (["--slides", "9", "--hours", "0.0001"], "any number of workers"),
        (["--slides", "9", "--no-time"], "--no-time"),
        (["--slides", "9", "-o", "output.block=256"], "-o"),
        (["run.yaml", "--hours", "3"], "--hours"),
        (["--slides", "many"], "--slides"),
    ],
)
def test_what_cannot_be_meant_is_refused(plan: Command, arguments: list[str], message: str) -> None:
    code, out, errors = plan(*arguments)
    assert code == 2
    assert out == ""
    assert message in errors
