"""The commands about results, as a person at a terminal meets them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipeline.books.rows import HEAD, Row
from pipeline.cli import main
from tests.test_check import contents, flip
from tests.toys import noise, spoil_first_tile, write_tiff

OK, INCOMPLETE, REFUSED = 0, 1, 2

Command = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Give ``command(*arguments) -> (exit code, lines)``."""
    monkeypatch.setenv("COLUMNS", "250")

    def call(*arguments: object) -> tuple[int, list[str]]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return int(ended.value.code or 0), [line.rstrip() for line in (out + err).splitlines()]

    return call


@pytest.fixture
def results(tmp_path: Path, toy_model: Callable[..., Path]) -> Path:
    """A run file over two slides; its results go to ``results``."""
    slides = [write_tiff(tmp_path / f"{name}.tiff", noise(200, 300)) for name in "ab"]
    settings = {
        "slides": [str(path) for path in slides],
        "model": str(toy_model("neighbours")),
        "output": {"directory": "results", "block": 128},
        "tissue": {"method": "none"},
        "cluster": {"kind": "threads"},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "results"


def states(lines: list[str]) -> dict[str, str]:
    return {line.split()[0]: line.split()[1] for line in lines[1:] if line.split()[0] in "abc"}


def test_damage_is_named_repaired_and_run_again(command: Command, results: Path) -> None:
    assert command("run", results.parent / "run.yaml")[0] == OK
    before = contents(str(results / "a.zarr"))
    assert command("status", results, "--verify")[0] == OK
    flip(results / "a.zarr" / "0" / "c" / "0" / "1" / "2")
    (results / "b.zarr" / "zarr.json").write_bytes(b"")
    code, lines = command("status", results)
    assert (code, states(lines)) == (INCOMPLETE, {"a": "done", "b": "damaged"})
    code, lines = command("status", results, "--verify")
    assert (code, states(lines)) == (INCOMPLETE, {"a": "damaged", "b": "damaged"})
    assert any(line.startswith("a: array 0, block (1, 2): Zstd") for line in lines)
    assert any(line.startswith("b: metadata: ") for line in lines)
    assert lines[-2].endswith(": 2 torn or missing")
    assert lines[-1].endswith("--verify --repair, then run again: only that is done again")
    code, lines = command("status", results, "--verify", "--repair")
    assert code == INCOMPLETE
    assert "a: 1 files dropped: what is torn, and what was made of it" in lines
    assert any(line.startswith(f"b: moved to {results / 'b.zarr.damaged-1'}") for line in lines)
    code, lines = command("run", results.parent / "run.yaml")
    assert code == OK
    assert any("(1 computed now" in line for line in lines)
    code, lines = command("status", results, "--verify")
    assert (code, states(lines)) == (OK, {"a": "done", "b": "done"})
    assert contents(str(results / "a.zarr")) == before


def test_repair_alone_is_refused(command: Command, results: Path) -> None:
    code, (line,) = command("status", results, "--repair")
    assert code == REFUSED
    assert line == "error: --repair: drops what --verify finds; give both"


def test_retry_does_the_failed_blocks_of_the_failed_slides_alone(
    command: Command, results: Path
) -> None:
    assert command("run", results.parent / "run.yaml")[0] == OK
    assert command("retry", results) == (
        OK,
        ["nothing failed: there is nothing to try again"],
    )
    shutil.rmtree(results)
    spoil_first_tile(results.parent / "a.tiff")
    code, lines = command("run", results.parent / "run.yaml")
    assert code == INCOMPLETE
    code, lines = command("retry", results)
    assert code == INCOMPLETE
    assert "a: slide 1 of 1" in lines
    assert any(re.search(r"([1-9]) failed \(\1 computed now", line) for line in lines)
    assert not any(line.startswith("b:") for line in lines)


def test_what_the_last_run_said_is_shown_where_there_is_no_store(
    command: Command, results: Path
) -> None:
    assert command("run", results.parent / "run.yaml")[0] == OK
    shutil.rmtree(results / "b.zarr")
    assert states(command("status", results)[1]) == {"a": "done", "b": "no"}
    rows = [Row("a", "done"), Row("b", "refused", reason="needs 9 GiB")]
    (results / "status.csv").write_text(HEAD + "".join(row.line() for row in rows))
    code, lines = command("status", results)
    assert (code, states(lines)) == (INCOMPLETE, {"a": "done", "b": "refused"})
    assert "b: needs 9 GiB" in lines
    moved = results.rename(results.with_name("moved"))
    code, lines = command("retry", moved)
    assert code == OK
    assert "b: slide 1 of 1" in lines
    assert (moved / "b.zarr").is_dir()


def test_rerun_does_all_again_elsewhere_and_finds_it_the_same(
    command: Command, results: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert command("run", results.parent / "run.yaml")[0] == OK
    moved = tmp_path / "moved"
    results.rename(moved)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, lines = command("rerun", moved)
    assert code == OK
    assert sum("(6 computed now" in line for line in lines) == 2
    assert lines[-1].endswith(": no difference")
    assert (tmp_path / "moved-rerun" / "a.zarr").is_dir()
    assert not results.exists()
    code, (line,) = command("rerun", moved, "--output", moved)
    assert code == REFUSED
    assert "holds the results themselves" in line


def test_diff_says_it_in_words_and_as_json(command: Command, results: Path, tmp_path: Path) -> None:
    assert command("run", results.parent / "run.yaml")[0] == OK
    shutil.copytree(results, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "b.zarr")
    code, lines = command("diff", results, tmp_path / "copy")
    assert (code, lines[0]) == (INCOMPLETE, "b: slide: only in the first")
    assert lines[-1].endswith(": 1 difference")
    code, lines = command("diff", results, tmp_path / "copy", "--json")
    told = json.loads("\n".join(lines))
    assert (code, told["equal"], told["slides"]) == (INCOMPLETE, False, 1)
    assert told["differences"] == [
        {"slide": "b", "what": "slide", "text": "only in the first", "only": "first"}
    ]
    code, lines = command("diff", results, results, "--json")
    assert (code, json.loads("\n".join(lines))["equal"]) == (OK, True)


def test_a_run_of_which_nothing_is_stored_says_why(command: Command, results: Path) -> None:
    for slide in results.parent.glob("*.tiff"):
        slide.write_bytes(b"torn")
    assert command("run", results.parent / "run.yaml")[0] == INCOMPLETE
    code, lines = command("status", results)
    assert (code, states(lines)) == (INCOMPLETE, {"a": "failed", "b": "failed"})
    assert any(line.startswith("a: ") and "not a slide" in line for line in lines)


def test_jobs_that_the_last_run_lost_are_told(command: Command, results: Path) -> None:
    assert command("run", results.parent / "run.yaml")[0] == OK
    said = "jobs of workers that ended"
    assert not any(line.startswith(said) for line in command("status", results)[1])
    runs = json.loads((results / "run.json").read_text())
    runs["runs"][0]["scheduler"]["jobs_ended"] = {"walltime": 2, "cancelled": 1}
    (results / "run.json").write_text(json.dumps(runs))
    code, lines = command("status", results)
    assert code == OK
    assert f"{said} in the last run and were replaced: 1 cancelled, 2 walltime" in lines
