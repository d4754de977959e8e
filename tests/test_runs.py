"""run.json: what was run, where and on what, from the first moment to the end."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline import __version__, load_model
from pipeline.books.outcomes import SlideOutcome, Summary
from pipeline.books.runs import MOST_RUNS, RunRecord, identities, read_runs
from pipeline.errors import ConfigError, StoreError
from pipeline.manifest.jobs import Job
from pipeline.model import Model

A, B, C = (Job(name, f"/slides/{name}.svs") for name in "abc")


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model("builtin:nuclei")


def runs_in(folder: Path, name: str = "run.json") -> Sequence[Any]:
    return read_runs(str(folder / name))


def test_a_run_is_there_while_it_goes_on_and_says_how_it_ended(
    tmp_path: Path, model: Model, in_threads: None
) -> None:
    arguments = ["run", "my.yaml", "-o", "slides=['https://me:pw@host/a.svs?signature=x', 'b.svs']"]
    record = RunRecord(str(tmp_path), model=model, kind="threads", arguments=arguments)
    with record:
        record.began([A, B, C], None)
        (run,) = runs_in(tmp_path)
        assert (run["ended"], run["exit"], run["pid"]) == (None, None, os.getpid())
        assert run["states"] == {"pending": 3}
        assert run["arguments"][3] == "slides=['https://host/a.svs', 'b.svs']"
        assert run["versions"]["wsi-pipeline"] == __version__
        scheduler = run["scheduler"]
        assert (scheduler["kind"], scheduler["processes"], scheduler["threads"]) == (
            "threads",
            1,
            2,
        )
        assert scheduler["memory_limit_bytes"] > 2**20
        (described,) = run["models"]
        assert described["sha256"] == model.ref.digest
        assert described["name"] == model.card.name
        outcomes = (
            SlideOutcome(A, "done", identity="aa"),
            SlideOutcome(B, "failed", reason="gone"),
        )
        for outcome in outcomes:
            record.ended(outcome)
        record.closed(Summary(str(tmp_path), outcomes, 1.0))
    (run,) = runs_in(tmp_path)
    assert run["exit"] == "incomplete"
    assert run["started"] <= run["ended"]
    assert run["states"] == {"done": 1, "failed": 1, "pending": 1}
    assert run["slides"] == {"a": "aa"}
    assert not {"pw", "signature"} & set(json.dumps(run).split())
    assert "signature" not in (tmp_path / "run.json").read_text()


@pytest.mark.parametrize(
    ("state", "signal_", "expected"),
    [
        ("done", None, "done"),
        ("partial", None, "incomplete"),
        ("done", signal.SIGTERM, "interrupted"),
    ],
)
def test_how_a_run_ended_is_one_word(
    tmp_path: Path, model: Model, state: str, signal_: int | None, expected: str
) -> None:
    with RunRecord(str(tmp_path), model=model, kind="threads") as record:
        record.began([A], None)
        record.closed(Summary(str(tmp_path), (SlideOutcome(A, state),), 1.0, signal_))
    assert runs_in(tmp_path)[0]["exit"] == expected


def test_a_run_that_ends_by_an_error_has_an_end_and_no_word_for_it(
    tmp_path: Path, model: Model
) -> None:
    def run(error: type[BaseException]) -> None:
        with RunRecord(str(tmp_path), model=model, kind="threads") as record:
            record.began([A], None)
            raise error

    with pytest.raises(ZeroDivisionError):
        run(ZeroDivisionError)
    with pytest.raises(KeyboardInterrupt):
        run(KeyboardInterrupt)
    last, first = runs_in(tmp_path)
    assert (last["exit"], first["exit"]) == ("interrupted", None)
    assert first["ended"] is not None


def test_the_last_runs_are_kept_the_last_one_first(tmp_path: Path, model: Model) -> None:
    for number in range(MOST_RUNS + 2):
        record = RunRecord(str(tmp_path), model=model, kind="threads", arguments=[str(number)])
        with record:
            record.began([A, B], None)
            slide = A if number % 2 else B
            record.ended(SlideOutcome(slide, "done", identity=f"seen by {number}"))
    runs = runs_in(tmp_path)
    expected = [str(number) for number in range(MOST_RUNS + 1, 1, -1)]
    assert [run["arguments"][0] for run in runs] == expected
    assert identities(runs) == {"a": "seen by 21", "b": "seen by 20"}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "damaged: Expecting value"),
        ('{"runs": [', "damaged"),
        ('{"runs": 3}', "no list of runs"),
        ('["runs"]', "no list of runs"),
        ('{"runs": [3]}', "no list of runs"),
    ],
)
def test_a_file_that_cannot_be_read_is_written_anew_and_that_is_said(
    tmp_path: Path, model: Model, caplog: pytest.LogCaptureFixture, content: str, why: str
) -> None:
    caplog.set_level("INFO", "pipeline.books.runs")
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(StoreError, match=why):
        runs_in(tmp_path)
    with RunRecord(str(tmp_path), model=model, kind="threads") as record:
        record.began([A], None)
    assert why in caplog.text
    assert len(runs_in(tmp_path)) == 1


def test_a_directory_that_cannot_be_written_is_refused_at_the_beginning(
    tmp_path: Path, model: Model
) -> None:
    (tmp_path / "file").write_text("")
    with (
        RunRecord(str(tmp_path / "file" / "x"), model=model, kind="threads") as record,
        pytest.raises(ConfigError, match=r"cannot (hold results|be read): .*Not a directory"),
    ):
        record.began([A], None)


def test_a_shard_keeps_a_file_of_its_own(tmp_path: Path, model: Model) -> None:
    with RunRecord(str(tmp_path), (3, 8), model=model, kind="threads") as record:
        record.began([A], None)
    (run,) = runs_in(tmp_path, "run-3-of-8.json")
    assert run["shard"] == [3, 8]
    assert [path.name for path in tmp_path.iterdir()] == ["run-3-of-8.json"]
