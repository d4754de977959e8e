"""status.csv: right at any moment of a run, after a kill, and never torn."""

from __future__ import annotations

import csv
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pipeline.books.ledger import Ledger
from pipeline.books.outcomes import SlideOutcome, Summary
from pipeline.books.rows import COLUMNS, Row, read_rows, written
from pipeline.errors import ConfigError, StoreError
from pipeline.files import places
from pipeline.manifest.jobs import Job

PATIENCE_S = 60
A, B, C = (Job(name, f"/slides/{name}.svs") for name in "abc")


def done(job: Job, **facts: object) -> SlideOutcome:
    given = {"analysed": 6, "background": 3, "computed": 6, "seconds": 2.0, "pixels": 5_000_000}
    return SlideOutcome(job, "done", **{**given, **facts})  # type: ignore[arg-type]


def rows_in(folder: Path, name: str = "status.csv") -> dict[str, Row]:
    return {row.slide_id: row for row in read_rows(str(folder / name))}


def wait_for(folder: Path, true: Callable[[dict[str, Row]], bool]) -> dict[str, Row]:
    patient_until = time.monotonic() + PATIENCE_S
    while not true(rows_in(folder)):
        assert time.monotonic() < patient_until
        time.sleep(0.01)
    return rows_in(folder)


def run(folder: Path, jobs: Sequence[Job], *outcomes: SlideOutcome) -> dict[str, Row]:
    with Ledger(str(folder)) as ledger:
        ledger.began(jobs, None)
        for outcome in outcomes:
            ledger.slide(outcome.job)
            ledger.ended(outcome)
        ledger.closed(Summary(str(folder), outcomes, 1.0))
    return rows_in(folder)


def test_every_slide_is_there_from_the_beginning_and_at_every_step(tmp_path: Path) -> None:
    with Ledger(str(tmp_path), every_s=0.01) as ledger:
        ledger.began([A, B, C], None)
        assert rows_in(tmp_path) == {name: Row(name) for name in "abc"}
        ledger.slide(A)
        rows = wait_for(tmp_path, lambda rows: rows["a"].state == "running")
        assert rows["a"].updated.endswith("Z")
        assert (rows["b"].state, rows["b"].updated) == ("pending", "")
        ledger.blocks(A, "blocks", 2, 6)
        ledger.blocks(A, "pyramid", 9, 9)
        rows = wait_for(tmp_path, lambda rows: rows["a"].blocks_done is not None)
        assert (rows["a"].blocks_done, rows["a"].blocks_total) == (2, 6)
        assert rows["a"].seconds is not None
        ledger.ended(done(A, predicted_bytes=300 * 2**20, peak_bytes=2**28))
        rows = wait_for(tmp_path, lambda rows: rows["a"].state == "done")
        expected = Row("a", "done", 6, 3, 0, 9, 2.0, 2.5, 300, 256, "", rows["a"].updated)
        assert rows["a"] == expected
        ledger.slide(B)
        ledger.ended(SlideOutcome(B, "failed", reason="b.svs: cannot\nbe read, at all", seconds=1))
        ledger.slide(C)
        ledger.ended(SlideOutcome(C, "refused", reason='begun with "other" settings'))
        ledger.closed(Summary(str(tmp_path), (), 1.0))
    rows = rows_in(tmp_path)
    assert [row.state for row in rows.values()] == ["done", "failed", "refused"]
    assert rows["b"].reason == "b.svs: cannot be read, at all"
    assert rows["c"].reason == 'begun with "other" settings'
    with (tmp_path / "status.csv").open(newline="") as file:
        assert next(csv.reader(file)) == list(COLUMNS)
    assert [path.name for path in tmp_path.iterdir()] == ["status.csv"]


def test_slides_under_way_when_a_run_is_interrupted_are_pending_with_what_they_have(
    tmp_path: Path,
) -> None:
    with Ledger(str(tmp_path), every_s=PATIENCE_S) as ledger:
        ledger.began([A, B, C], None)
        ledger.slide(A)
        ledger.blocks(A, "blocks", 4, 6)
        ledger.slide(B)
        ledger.blocks(B, "blocks", 1, 6)
        ledger.ended(SlideOutcome(B, "pending"))
    rows = rows_in(tmp_path)
    assert [row.state for row in rows.values()] == ["pending"] * 3
    assert [row.blocks_done for row in rows.values()] == [4, 1, None]
    assert "pipeline-ledger" not in [thread.name for thread in threading.enumerate()]


def test_a_run_that_goes_on_keeps_what_was_said_of_slides_it_has_not_come_to(
    tmp_path: Path,
) -> None:
    first = run(tmp_path, [A, B], done(A), SlideOutcome(B, "failed", reason="gone"))
    with Ledger(str(tmp_path)) as ledger:
        ledger.began([C, B], None)
        rows = rows_in(tmp_path)
        assert list(rows) == ["c", "b", "a"]
        assert (rows["a"], rows["b"], rows["c"]) == (first["a"], first["b"], Row("c"))


def test_a_slide_that_was_done_already_keeps_its_seconds(tmp_path: Path) -> None:
    first = run(tmp_path, [A], done(A, peak_bytes=2**28))
    again = run(tmp_path, [A], done(A, computed=0, pixels=0, seconds=0.1))
    assert (again["a"].seconds, again["a"].mpx_per_s, again["a"].peak_mib) == (2.0, 2.5, 256)
    assert again["a"].blocks_total == first["a"].blocks_total
    more = run(tmp_path, [A], done(A, computed=1, pixels=0, seconds=0.5))
    assert (more["a"].seconds, more["a"].mpx_per_s, more["a"].peak_mib) == (0.5, None, None)


def test_what_a_killed_run_was_doing_is_pending_in_the_next(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pipeline.books.ledger import Ledger\n"
        "from pipeline.manifest.jobs import Job\n"
        "ledger, a = Ledger(sys.argv[1], every_s=0.01), Job('a', 'a.svs')\n"
        "ledger.began([a, Job('b', 'b.svs')], None)\nledger.slide(a)\n"
        "ledger.blocks(a, 'blocks', 4, 6)\ntime.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) as process:
        wait_for(tmp_path, lambda rows: "a" in rows and rows["a"].blocks_done == 4)
        process.send_signal(signal.SIGKILL)
    assert rows_in(tmp_path)["a"].state == "running"
    with Ledger(str(tmp_path)) as ledger:
        ledger.began([A, B], None)
        rows = rows_in(tmp_path)
    assert (rows["a"].state, rows["a"].blocks_done) == ("pending", 4)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\xff\xfe", "no text"),
        (b"", "damaged"),
        (b"slide,state\na,done\n", "has the columns slide, state, not slide_id, state, blocks"),
        (written([Row("a", "done")])[:-5], "damaged"),
        (written([Row("a", "running")]).replace(b"running", b"runing"), "no row of a slide: a,run"),
        (written([Row("a", blocks_done=1)]).replace(b",1,", b",1.5,"), "damaged: invalid literal"),
        (written([Row("a")]) + b'"open', "damaged"),
    ],
)
def test_a_file_that_cannot_be_read_is_written_anew_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes, why: str
) -> None:
    caplog.set_level("INFO", "pipeline.books.ledger")
    (tmp_path / "status.csv").write_bytes(content)
    with pytest.raises(StoreError, match=why):
        read_rows(str(tmp_path / "status.csv"))
    assert run(tmp_path, [A]) == {"a": Row("a")}
    assert why in caplog.text
    assert "run again; written anew" in caplog.text


def test_a_file_read_while_it_is_rewritten_is_always_whole(tmp_path: Path) -> None:
    jobs = [Job(f"slide-{number}", "x.svs") for number in range(500)]
    seen: set[int] = set()
    with Ledger(str(tmp_path), every_s=0.0001) as ledger:
        ledger.began(jobs, None)
        busy = threading.Event()

        def work() -> None:
            while not busy.is_set():
                for job in jobs:
                    ledger.slide(job)
                    ledger.ended(done(job))
                    time.sleep(0.0001)

        worker = threading.Thread(target=work)
        worker.start()
        try:
            patient_until = time.monotonic() + PATIENCE_S
            while len(seen) < 50 and time.monotonic() < patient_until:
                content = (tmp_path / "status.csv").read_bytes()
                (tmp_path / "copy.csv").write_bytes(content)
                assert len(read_rows(str(tmp_path / "copy.csv"))) == 500
                seen.add(hash(content))
        finally:
            busy.set()
            worker.join()
    assert len(seen) >= 50


def test_it_is_written_now_and_then_and_not_while_nothing_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, count = places.write_whole, 0

    def counting(path: str, content: bytes) -> None:
        nonlocal count
        count += 1
        real(path, content)

    monkeypatch.setattr(places, "write_whole", counting)
    with Ledger(str(tmp_path), every_s=PATIENCE_S) as ledger:
        ledger.began([A], None)
        time.sleep(0.05)
        assert count == 1
        for finished in range(1000):
            ledger.blocks(A, "blocks", finished, 1000)
            time.sleep(0.0001)
        assert count == 2, "the first change is written at once, the others wait their time"
    assert count == 3


def test_a_disk_that_is_full_for_a_while_costs_a_line_and_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "pipeline.books.ledger")
    real, full = places.write_whole, threading.Event()

    def write_whole(path: str, content: bytes) -> None:
        if full.is_set():
            raise OSError(28, "No space left on device")
        real(path, content)

    monkeypatch.setattr(places, "write_whole", write_whole)
    with Ledger(str(tmp_path), every_s=0.01) as ledger:
        ledger.began([A], None)
        full.set()
        ledger.slide(A)
        ledger.ended(done(A))
        patient_until = time.monotonic() + PATIENCE_S
        while "No space left on device" not in caplog.text:
            assert time.monotonic() < patient_until
            time.sleep(0.01)
        assert rows_in(tmp_path)["a"].state == "pending"
        full.clear()
        wait_for(tmp_path, lambda rows: rows["a"].state == "done")
    assert caplog.text.count("No space left on device") == 1


def test_a_directory_that_cannot_be_written_is_refused_at_the_beginning(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        Ledger(str(tmp_path / "file" / "x")) as ledger,
        pytest.raises(ConfigError, match=r"cannot hold results: .*; name another"),
    ):
        ledger.began([A], None)


def test_a_shard_keeps_a_file_of_its_own(tmp_path: Path) -> None:
    with Ledger(str(tmp_path), (3, 8)) as ledger:
        ledger.began([A], None)
    assert [path.name for path in tmp_path.iterdir()] == ["status-3-of-8.csv"]


def test_a_bucket_holds_one_too(bucket: str) -> None:
    with Ledger(bucket) as ledger:
        ledger.began([A], None)
        ledger.slide(A)
        ledger.ended(done(A))
    assert read_rows(f"{bucket}/status.csv")[0].state == "done"


def test_the_readme_says_what_every_column_is() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    section = readme.split("## What a results directory holds")[1].split("\n## ")[0]
    assert tuple(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == COLUMNS
