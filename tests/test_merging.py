"""The books of shards put together, and what is missing said."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.books.holder import holder_here
from pipeline.books.lease import lease
from pipeline.books.merging import merge
from pipeline.books.names import LEASE, RUNS, STATUS, named
from pipeline.books.rows import Row, read_rows, written
from pipeline.books.runs import read_runs
from pipeline.books.runs import written as runs_written
from pipeline.cli import cli
from pipeline.commands.terminal import INCOMPLETE
from pipeline.errors import ConfigError
from pipeline.files import places
from pipeline.manifest.shards import Shard

EARLY, LATE = "2026-11-26T01:00:00Z", "2026-11-26T05:00:00Z"


def keep(folder: Path, shard: Shard | None, *rows: Row, started: str = EARLY) -> None:
    (folder / named(STATUS, shard)).write_bytes(written(rows))
    run = {"started": started, "shard": shard}
    (folder / named(RUNS, shard)).write_bytes(runs_written([run, {"started": "earlier"}]))


def done(*names: str, at: str = EARLY) -> Sequence[Row]:
    return [Row(name, "done", 6, 3, 0, 9, 2.0, 2.5, 300, 256, "", at) for name in names]


def said_of(folder: Path) -> tuple[int, str]:
    """Give the exit code of the command, and what it says."""
    told = CliRunner().invoke(cli, ["merge", str(folder)], standalone_mode=False)
    assert told.exception is None, told.output
    return told.return_value, told.output


def name_slides(folder: Path, *names: str) -> None:
    lines = ["slide_id,image_path", *(f"{name},/slides/{name}.svs" for name in names)]
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")


def test_shards_that_are_done_are_done_together(tmp_path: Path) -> None:
    keep(tmp_path, (1, 2), *done("c", "a"))
    keep(tmp_path, (2, 2), *done("b"), started=LATE)
    name_slides(tmp_path, "a", "b", "c")
    code, _ = said_of(tmp_path)
    assert code == 0
    assert read_rows(str(tmp_path / "status.csv")) == tuple(done("a", "b", "c"))
    runs = read_runs(str(tmp_path / "run.json"))
    assert [run["shard"] for run in runs] == [[2, 2], [1, 2]]
    before = (tmp_path / "status.csv").read_bytes(), (tmp_path / "run.json").read_bytes()
    assert merge(str(tmp_path)).complete
    assert before == ((tmp_path / "status.csv").read_bytes(), (tmp_path / "run.json").read_bytes())


def test_what_is_missing_is_named_and_the_exit_code_says_so(tmp_path: Path) -> None:
    broken = Row("b", "failed", reason="b.svs: cannot be read", updated=EARLY)
    keep(tmp_path, (1, 3), *done("a"), broken)
    keep(tmp_path, (3, 3), *done("c"))
    name_slides(tmp_path, "a", "b", "c", "d")
    code, told = said_of(tmp_path)
    assert code == INCOMPLETE
    assert "shard 2 of 3 has not begun: run it with --shard 2/3\n" in told
    assert "d: in no shard\n" in told
    assert "b: failed: b.svs: cannot be read\n" in told
    keep(tmp_path, (2, 3), *done("b", "d", at=LATE))
    assert said_of(tmp_path)[0] == 0
    assert [row.state for row in read_rows(str(tmp_path / "status.csv"))] == ["done"] * 4


def test_a_slide_in_no_shard_is_missing_though_all_others_are_done(tmp_path: Path) -> None:
    keep(tmp_path, (1, 2), *done("a"))
    keep(tmp_path, (2, 2), *done("b"))
    name_slides(tmp_path, "a", "b", "c")
    code, told = said_of(tmp_path)
    assert code == INCOMPLETE
    assert "c: in no shard\n" in told


def test_a_shard_that_runs_is_running_and_one_that_was_killed_is_not(tmp_path: Path) -> None:
    for number, name in ((1, "a"), (2, "b")):
        keep(tmp_path, (number, 2), Row(name, "running", 2, blocks_total=6, updated=EARLY))
    dead = replace(holder_here(time.time()), born="1")
    (tmp_path / named(LEASE, (1, 2))).write_bytes(dead.written())
    with lease(str(tmp_path), (2, 2), lost=pytest.fail):
        merged = merge(str(tmp_path))
    assert merged.running == ((2, 2),)
    assert [(row.state, row.blocks_done) for row in merged.rows] == [("pending", 2), ("running", 2)]
    assert not merged.complete
    assert merged.missing_slides is None


def test_slides_shared_out_anew_count_as_they_were_last(tmp_path: Path) -> None:
    keep(tmp_path, (1, 1), Row("a", "running", updated=EARLY), *done("b"), Row("c"))
    keep(tmp_path, (1, 2), *done("a", at=LATE), Row("b"))
    merged = merge(str(tmp_path))
    assert [row.state for row in merged.rows] == ["done", "done", "pending"]
    assert merged.missing_shards == ((2, 2),)


def test_what_a_run_of_all_slides_has_done_stays(tmp_path: Path) -> None:
    keep(tmp_path, None, *done("a", "x"), Row("b", "running", updated=LATE), started="2026")
    keep(tmp_path, (1, 1), Row("a"), *done("b"))
    name_slides(tmp_path, "a", "b")
    merged = merge(str(tmp_path))
    assert merged.complete
    assert [row.slide_id for row in merged.rows] == ["a", "b"]
    assert [run.get("shard") for run in read_runs(str(tmp_path / RUNS))] == [None, [1, 1], None]


def test_where_there_is_nothing_to_merge_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no status-1-of-2\.csv or the like; run with --shard"):
        merge(str(tmp_path / "none"))
    keep(tmp_path, (1, 2), *done("a"))
    with (
        lease(str(tmp_path / "whole"), lost=pytest.fail),
        pytest.raises(ConfigError, match=rf"\(process {os.getpid()}\) holds it since .*; wait"),
    ):
        merge(str(tmp_path / "whole"))
    (tmp_path / "manifest.csv").write_text("image_path\na.svs\n")
    with pytest.raises(ConfigError, match="no column slide_id"):
        merge(str(tmp_path))


def test_shards_in_a_bucket_are_merged(bucket: str, tmp_path: Path) -> None:
    keep(tmp_path, (1, 1), *done("a"))
    for name in ("status-1-of-1.csv", "run-1-of-1.json"):
        places.write_whole(f"{bucket}/{name}", (tmp_path / name).read_bytes())
    assert merge(bucket).complete
    assert read_rows(f"{bucket}/status.csv") == tuple(done("a"))
