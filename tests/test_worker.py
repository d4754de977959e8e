"""Worker processes of a local cluster: what the client tells already, they do not tell again."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from pipeline.process.worker import unforeseen
from tests.toys import RED, noise, write_tiff


@pytest.fixture
def run_file(tmp_path: Path, toy_model: Callable[..., Path]) -> Path:
    """A run in two processes over a slide of which one block of four cannot be predicted."""
    pixels = noise(400, 500)
    pixels[300, 400] = RED
    card = toy_model("nan", outputs={"range": [0, 32]})
    settings = {
        "slides": str(write_tiff(tmp_path / "red.tiff", pixels)),
        "model": str(card),
        "output": {"block": 256},
        "tissue": {"method": "none"},
        "cluster": {"kind": "local", "workers": 2, "dashboard": "none"},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_a_block_that_fails_on_a_worker_is_one_clear_line(run_file: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "run", str(run_file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == ""
    assert "Traceback" not in done.stdout
    assert "dashboard" not in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if "NaN or infinite" in line]
    assert line.startswith("red: partial: 3 blocks analysed, 0 background, 1 failed (4 computed")


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[..., list[str]]]:
    logger = logging.getLogger("test of a worker")
    logger.addFilter(unforeseen)

    def log(message: str, *args: object) -> list[str]:
        caplog.clear()
        logger.error(message, *args)
        return [record.getMessage() for record in caplog.records]

    yield log
    logger.removeFilter(unforeseen)


def test_a_worker_still_logs_what_nobody_foresaw(logged: Callable[..., list[str]]) -> None:
    failed = "Compute Failed\nKey: %s\nState: %s\nException: %r"
    assert logged(failed, ("write-a", 0, 0), "executing", "ZeroDivisionError('x')")
    assert logged(failed, ("write-a", 0, 0), "executing", "OSError('SlideError(3)')")
    assert logged("Worker is at %d%% memory usage", 91)
    assert logged("Unexpected exception during heartbeat. Closing worker.")
    assert not logged(failed, ("write-a", 0, 0), "executing", "SlideError('a.svs: broken')")
    assert not logged("Failed to communicate with scheduler during heartbeat.")
