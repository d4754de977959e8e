"""The log of a run: which lines are in it, what they say, and what becomes of them."""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
import stat
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from distributed import Client

import pipeline
import pipeline.errors
from pipeline.books.outcomes import SlideOutcome, Summary
from pipeline.commands.terminal import log_shown
from pipeline.errors import SlideError
from pipeline.files import places
from pipeline.logs.listening import entry, listening
from pipeline.logs.logfile import LogFile, Sizes
from pipeline.logs.report import logging_to
from pipeline.manifest.jobs import Job
from pipeline.process.underway import Work, of_slide
from tests.talking import BROKEN, compute
from tests.toys import RED, noise, write_tiff

Entry = dict[str, Any]
Lines = Callable[[], list[Entry]]


@pytest.fixture(params=["synchronous", "threads", "local"])
def scheduler(request: pytest.FixtureRequest) -> Iterator[Client | None]:
    """Put each scheduler in force in turn; give its client, if it has one."""
    named = "dask.distributed" if request.param == "local" else request.param
    client = request.getfixturevalue("client") if request.param == "local" else None
    with dask.config.set(scheduler=named, num_workers=2):
        yield client


@pytest.fixture
def lines(tmp_path: Path) -> Lines:
    """Give the lines of the log of a run whose results are in ``tmp_path``."""

    def read() -> list[Entry]:
        path = tmp_path / "logs" / "run.jsonl"
        return read_lines(path) if path.exists() else []

    return read


def read_lines(path: Path) -> list[Entry]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def messages(found: list[Entry]) -> list[str]:
    return [each["message"] for each in found]


def test_what_is_logged_at_a_block_says_slide_block_stage_and_worker(
    scheduler: Client | None, tmp_path: Path, lines: Lines
) -> None:
    with logging_to(str(tmp_path)) as log, log.of_workers(scheduler):
        compute(Work("a"), (0, 0), (1, 1))
    said = lines()
    assert {(*each["block"], each["stage"], each["message"], each["logger"]) for each in said} == {
        (y, x, *what)
        for y, x in [(0, 0), (1, 1)]
        for what in [
            ("read", "reading 100 px", "pipeline.readers.talking"),
            ("read", "so-so", "foreign"),
            ("first_of", "predicted", "pipeline.model.first"),
            ("write", "written", "pipeline.store.nowhere"),
        ]
    }
    assert {(each["slide"], each["work"]) for each in said} == {("a", "blocks")}
    pids = {each["pid"] for each in said}
    if scheduler is None:
        assert pids == {os.getpid()}
    else:
        assert os.getpid() not in pids
        assert {each["worker"] for each in said} <= {"0", "1"}
        assert {each["address"] for each in said} <= set(scheduler.scheduler_info()["workers"])


def test_an_error_says_at_which_stage_and_on_which_worker(scheduler: Client | None) -> None:
    error = compute(Work("a"), BROKEN)[BROKEN]
    assert (str(error), error.stage) == ("it is torn", "read")
    assert error.worker in (("",) if scheduler is None else ("0", "1"))


@pytest.mark.parametrize("name", [n for n in pipeline.errors.__all__ if n.endswith("Error")])
def test_every_error_travels_with_where_it_was_raised(name: str) -> None:
    error = getattr(pipeline.errors, name)("a.svs: torn")
    error.stage, error.worker = "read", "3"
    arrived = pickle.loads(pickle.dumps(error))
    assert (arrived.stage, arrived.worker, str(arrived)) == ("read", "3", "a.svs: torn")


def test_blocks_without_a_name_leave_the_lines_as_they_are(tmp_path: Path, lines: Lines) -> None:
    with dask.config.set(scheduler="synchronous"), logging_to(str(tmp_path)):
        compute(None, (0, 0))
    assert lines()
    assert not any({"slide", "block", "stage"} & set(each) for each in lines())


def test_a_lost_worker_is_in_the_log_and_the_one_after_it_speaks(
    client: Client, tmp_path: Path, lines: Lines
) -> None:
    address = next(iter(client.scheduler_info()["workers"]))
    pid = client.run(os.getpid)[address]
    with logging_to(str(tmp_path)) as log, log.of_workers(client):
        speak = logging.getLogger("pipeline.new").info

        def is_heard() -> bool:
            client.run(speak, "are we heard?")
            return "are we heard?" in messages(lines())

        # The scheduler learns in its own time that we listen.
        eventually(is_heard)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: any("worker lost" in message for message in messages(lines())))
        client.wait_for_workers(2, timeout=300)
        eventually(lambda: address not in client.scheduler_info()["workers"])
        client.run(speak, "here I am")
        eventually(lambda: messages(lines()).count("here I am") == 2)
    (lost,) = [each for each in lines() if "worker lost" in each["message"]]
    assert (lost["address"], lost["level"], lost["tasks"]) == (address, "WARNING", 0)
    new = {each["address"] for each in lines() if each["message"] == "here I am"}
    assert new == set(client.scheduler_info()["workers"])
    assert {each["worker"] for each in lines() if each["message"] == "here I am"} == {"0", "1"}


def eventually(happened: Callable[[], bool]) -> None:
    """Wait for what another process is about to do."""
    deadline = time.monotonic() + 300
    while not happened():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


def test_a_run_is_told_from_its_beginning_to_its_end(tmp_path: Path, lines: Lines) -> None:
    good, bad = Job("good", "good.svs"), Job("bad", "https://host/bad.svs?X-Amz-Signature=secret")
    partial = SlideOutcome(good, "partial", analysed=3, failed=1, reason="block (0, 0): torn")
    failed = SlideOutcome(bad, "failed", reason="bad.svs: no such file")
    with logging_to(str(tmp_path)) as log:
        log.began([good, bad], "http://127.0.0.1:8787/status")
        log.note(None, "of the run")
        log.slide(good)
        log.note(good, "of the slide")
        for finished in range(1, 5):
            log.blocks(good, "blocks", finished, 4)
        with of_slide("good"):
            logging.getLogger("pipeline.batch").info("planned", extra={"left": 4, "of": (2, 2)})
        log.ended(partial)
        log.slide(bad)
        log.ended(failed)
        log.closed(Summary(str(tmp_path), (partial, failed), 2.5))
    said = lines()
    assert [(each["level"], each.get("slide"), each["message"]) for each in said] == [
        ("INFO", None, "run began"),
        ("INFO", None, "of the run"),
        ("INFO", "good", "slide began"),
        ("INFO", "good", "of the slide"),
        ("INFO", "good", "blocks: 4 finished"),
        ("INFO", "good", "planned"),
        ("WARNING", "good", "slide partial: block (0, 0): torn"),
        ("INFO", "bad", "slide began"),
        ("ERROR", "bad", "slide failed: bad.svs: no such file"),
        ("WARNING", None, "run ended"),
    ]
    assert (said[5]["left"], said[5]["of"]) == (4, [2, 2])
    assert (said[6]["analysed"], said[6]["failed"]) == (3, 1)
    assert said[9]["slides"] == {"failed": 1, "partial": 1}
    assert "secret" not in json.dumps(said)
    assert all(each["time"].endswith("Z") and len(each["time"]) == 24 for each in said)


def test_a_run_that_breaks_off_says_why(tmp_path: Path, lines: Lines) -> None:
    with pytest.raises(KeyboardInterrupt), logging_to(str(tmp_path)):
        raise KeyboardInterrupt
    (line,) = lines()
    assert (line["level"], line["error"]) == ("ERROR", "KeyboardInterrupt")


def test_warnings_are_in_the_log_and_shown_as_before(
    tmp_path: Path,
    lines: Lines,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        # Pytest catches warnings before they are shown.
        monkeypatch.setattr(warnings, "showwarning", _show)
        with logging_to(str(tmp_path)), of_slide("a"):
            warnings.warn("thin ice", RuntimeWarning, stacklevel=1)
        assert warnings.showwarning is _show
    (line,) = lines()
    assert (line["message"], line["category"], line["slide"]) == ("thin ice", "RuntimeWarning", "a")
    assert capsys.readouterr().err == "shown: thin ice\n"


def _show(message: Warning | str, *_: object, **__: object) -> None:
    sys.stderr.write(f"shown: {message}\n")


def test_the_terminal_shows_what_is_for_people_and_no_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with log_shown(), logging_to(str(tmp_path)):
        logging.getLogger("pipeline").info("copying a.mrxs")
        logging.getLogger("pipeline.execute.work").warning("block (0, 1): attempt 1 of 2 failed")
    assert capsys.readouterr().err == "note: copying a.mrxs\n"


def test_what_others_log_is_shown_as_it_is_without_a_log() -> None:
    code = (
        "import logging\n"
        "from pipeline.logs.listening import listening\n"
        "with listening(lambda entry: None):\n"
        "    logging.getLogger('foreign').warning('shown')\n"
        "    logging.getLogger('foreign').info('not shown')\n"
        "    logging.getLogger('pipeline.execute.work').warning('not shown')\n"
        "    logging.getLogger('pipeline').warning('shown, too')\n"
        "print(logging.getLogger().handlers, logging.getLogger('pipeline').level)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stderr, done.stdout) == ("shown\nshown, too\n", "[] 0\n")


def test_what_a_line_says_is_plain_and_bounded() -> None:
    heard: list[Entry] = []
    with listening(heard.append):
        log = logging.getLogger("pipeline.test")
        extra = {"nan": float("nan"), "number": np.float32(2), "path": Path("a")}
        log.info("x" * 10_000, extra=extra)
        try:
            raise SlideError("torn")  # noqa: TRY301 - to have a traceback
        except SlideError:
            log.exception("it failed")
    long, failed = heard
    assert long["message"] == "x" * 4000 + " ... 6000 more"
    assert (long["nan"], long["number"], long["path"]) == ("nan", "2.0", "a")
    assert failed["traceback"].endswith("SlideError: torn")
    json.dumps(heard, allow_nan=False)


def written(folder: Path, name: str = "run") -> list[str]:
    return [message for path in parts(folder, name) for message in messages(read_lines(path))]


def parts(folder: Path, name: str = "run") -> list[Path]:
    return sorted(folder.glob(f"{name}*.jsonl"), key=lambda path: (len(path.name), path.name))


def test_a_log_goes_on_where_a_killed_run_left_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text('{"message": "before"}\n{"messa')
    file = LogFile(str(tmp_path), "run")
    file.write(entry("INFO", "test", "after"))
    file.close()
    whole, torn, after = path.read_text().splitlines()
    assert (json.loads(whole)["message"], torn) == ("before", '{"messa')
    assert json.loads(after)["message"] == "after"


def test_a_log_is_bounded_and_keeps_its_beginning_and_its_end(tmp_path: Path) -> None:
    for begun in (0, 50):  # a second run goes on in the newest part
        file = LogFile(str(tmp_path), "run", Sizes(part_bytes=1000, parts=3))
        for number in range(begun, begun + 50):
            file.write(entry("INFO", "test", f"line {number}"))
        file.close()
    said = written(tmp_path)
    assert len(parts(tmp_path)) == 3
    assert all(path.stat().st_size <= 1000 for path in parts(tmp_path))
    assert said[0] == "line 0"
    assert said[-10:] == [f"line {number}" for number in range(90, 100)]


def test_a_log_that_cannot_be_written_is_said_once_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    in_the_way = tmp_path / "logs"
    in_the_way.write_text("")
    with logging_to(str(tmp_path)) as log:
        log.note(None, "first")
        log.note(None, "second")
        in_the_way.unlink()
        log.note(None, "third")
    assert written(in_the_way) == ["3 lines are missing here", "third"]  # with what was told
    (told,) = caplog.messages
    assert told.startswith(f"the log in {in_the_way} cannot be written: ")


def test_a_full_disk_ends_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "logs").mkdir()
    log_file = tmp_path / "logs" / "run.jsonl"
    try:  # a /dev/full of its own: links are not followed
        os.mknod(log_file, 0o666 | stat.S_IFCHR, os.makedev(1, 7))
        log_file.open("ab").close()
    except OSError as error:
        pytest.skip(f"no device can be made here: {error.strerror}")
    with logging_to(str(tmp_path)) as log:
        log.note(None, "lost")
        log.note(None, "lost, too")
    (told,) = caplog.messages
    assert told.endswith("cannot be written: No space left on device; the run goes on")


def test_a_log_in_a_bucket_is_whole_objects_and_goes_on(bucket: str) -> None:
    for begun in (0, 10):
        file = LogFile(bucket, "run", Sizes(part_bytes=2000, parts=48))
        for number in range(begun, begun + 10):
            file.write(entry("INFO", "test", f"line {number}"))
            if number % 5 == 4:
                written_now(file)
        file.close()
    found = [name for name in places.names(bucket) if name.endswith(".jsonl")]
    assert len(found) == 2
    text = "".join(places.read_text(f"{bucket}/{name}") for name in sorted(found, reverse=True))
    assert sorted(json.loads(line)["message"] for line in text.splitlines()) == sorted(
        f"line {number}" for number in range(20)
    )


def written_now(file: LogFile) -> None:
    """Do what its thread does every few seconds."""
    engine: Any = file._engine
    engine._write_out()


def test_shards_of_a_run_have_logs_of_their_own(tmp_path: Path) -> None:
    with logging_to(str(tmp_path), (2, 4)) as log:
        log.note(None, "hello")
    assert written(tmp_path / "logs", "run-2-of-4") == ["hello"]


def test_a_run_keeps_its_log_with_every_failed_attempt(
    tmp_path: Path, toy_model: Callable[..., Path]
) -> None:
    pixels = noise(400, 500)
    pixels[300, 400] = RED
    settings = {
        "slides": [str(write_tiff(tmp_path / "red.tiff", pixels)), str(tmp_path / "torn.svs")],
        "model": str(toy_model("nan", outputs={"range": [0, 32]})),
        "output": {"directory": str(tmp_path / "results"), "block": 256},
        "tissue": {"method": "none"},
        "cluster": {"kind": "threads", "workers": 2},
    }
    (tmp_path / "torn.svs").write_bytes(b"torn")
    (tmp_path / "run.yaml").write_text(json.dumps(settings))
    pipeline.run(tmp_path / "run.yaml")
    said = read_lines(tmp_path / "results" / "logs" / "run.jsonl")
    assert (said[0]["message"], said[-1]["message"]) == ("run began", "run ended")
    assert [each.get("slide") for each in said if each["message"] == "slide began"] == [
        "red",
        "torn",
    ]
    attempts = [each for each in said if "attempt" in each]
    assert [(each["attempt"], each["given_up"]) for each in attempts] == [(1, False), (2, True)]
    assert {(each["slide"], *each["block"], each["stage"]) for each in attempts} == {
        ("red", 1, 1, "predict")
    }
    assert all("NaN or infinite" in each["message"] for each in attempts)
    assert {each["slide"]: each["state"] for each in said if "state" in each} == {
        "red": "partial",
        "torn": "failed",
    }
    (planned,) = [each for each in said if each["message"].startswith("planned")]
    assert (planned["slide"], planned["blocks"]) == ("red", 4)
