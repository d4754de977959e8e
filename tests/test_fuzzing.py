"""Mutated input of every kind, for a while; and that the harness sees what must not happen."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ConfigError
from tests.fuzzing.targets import TARGETS

ROOT = Path(__file__).parents[1]

FUZZ_SECONDS = "WSI_PIPELINE_FUZZ_SECONDS"
"""How long all targets together take; CI gives them more."""

BOTH_WAYS = TARGETS.keys() - {"url"}
"""Targets of which some cases are good and some are bad: else their mutations test nothing."""


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Fuzz everything in a process of its own; give what became of it, and what it said."""
    file = tmp_path_factory.mktemp("fuzzing") / "report.json"
    seconds = float(os.environ.get(FUZZ_SECONDS, "10")) / len(TARGETS)
    command = [sys.executable, "-m", "tests.fuzzing", "--report", str(file)]
    done = subprocess.run(
        [*command, "--seconds", str(seconds), "--least", "25"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert file.exists(), done.stderr
    return {report["target"]: report for report in json.loads(file.read_text())}


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_mutated_input_gives_our_own_errors_only(
    name: str, reports: dict[str, Any], tell: Callable[[str], None]
) -> None:
    report = reports[name]
    tell(f"fuzzing {name}: {report['cases']} cases: {report['outcomes']}")
    told = [
        f"python -m tests.fuzzing {name} --seed {report['seed']} --case {each['case']}: "
        f"{each['what']}\n{each['told']}"
        for each in report["failures"]
    ]
    assert not told, "\n".join(told)
    assert report["cases"] >= 25
    if name in BOTH_WAYS:
        assert report["outcomes"].get("read"), report
        assert len(report["outcomes"]) > 1, report


PROBE = """
import json, sys
from pathlib import Path
from tests import test_fuzzing
from tests.fuzzing import harness
harness.MOST_SECONDS, harness.MOST_WAITING = 2, 60
said = {}
for name in test_fuzzing.SEEN:
    target = harness.Target(name, test_fuzzing.nothing, getattr(test_fuzzing, name))
    report = harness.fuzz(target, Path(sys.argv[1], name), seed=0, seconds=0, least=3)
    whats = [each.what for each in report.failures]
    said[name] = "|".join([str(report.cases), str(dict(report.outcomes)), *whats])
print(json.dumps(said))
"""


def nothing(seeds: Path) -> None:
    """There is nothing to prepare."""


def refuses(seeds: Path, folder: Path, mutations: Any) -> str:
    """Is as it should be."""
    if mutations.still:
        return "read"
    raise ConfigError("no")


def refuses_what_is_good(seeds: Path, folder: Path, mutations: Any) -> str:
    raise ConfigError("no")


def says_too_much(seeds: Path, folder: Path, mutations: Any) -> str:
    if mutations.still:
        return "read"
    raise ConfigError("no" * 100_000)


def raises_another(seeds: Path, folder: Path, mutations: Any) -> str:
    raise KeyError("foreign")


def hangs(seeds: Path, folder: Path, mutations: Any) -> str:
    while True:
        time.monotonic()


def crashes(seeds: Path, folder: Path, mutations: Any) -> str:
    ctypes.string_at(0)
    return "read"


def takes_memory(seeds: Path, folder: Path, mutations: Any) -> str:
    return f"{len(bytearray(2**36))}"


def writes_elsewhere(seeds: Path, folder: Path, mutations: Any) -> str:
    (folder.parent.parent / "astray").write_bytes(b"")
    return "read"


def writes_beside(seeds: Path, folder: Path, mutations: Any) -> str:
    (folder.parent / "astray").write_bytes(b"")
    return "read"


SEEN = {
    "refuses": "3|{'read': 1, 'refused': 2}",
    "refuses_what_is_good": "3|{'refused': 2}|AssertionError: what is mutated has to be good",
    "says_too_much": "3|{'read': 1}|AssertionError: an error of 200000 characters",
    "raises_another": "3|{}|KeyError: 'foreign'",
    "hangs": "3|{}|SIGXCPU",
    "crashes": "3|{}|SIGSEGV",
    "takes_memory": "3|{}|MemoryError:",
    "writes_elsewhere": "3|{}|AssertionError: open outside of ",
    "writes_beside": "3|{}|files elsewhere: ['astray']",
}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Give what the harness says of targets that are as none may be."""
    work = tmp_path_factory.mktemp("probe") / "work"
    work.mkdir()
    command = [sys.executable, "-c", PROBE, str(work)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert not (work / "astray").exists()
    said: dict[str, str] = json.loads(done.stdout)
    return said


@pytest.mark.parametrize("case", SEEN)
def test_the_harness_sees(case: str, seen: dict[str, str]) -> None:
    assert seen[case].startswith(SEEN[case]), seen[case]
