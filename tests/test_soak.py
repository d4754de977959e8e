"""Nothing grows however many slides a process sees; ``python -m tests.soak`` is the long way."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.soak import COUNTED, FILLING, Life, Sample, growth

SLIDES, BLOCKS = FILLING + 9, 24

MOST = {
    "descriptors": 1,  # a connection that is just being made
    "threads": 2,
    "objects": 600 * 9,
    "files": 0,
    "children": 0,
}
"""How much more there may be after the last slides than after the first that count."""

MOST_MEMORY = {"threads": 2**19, "local": 2**21}
"""The same of memory: less than the pixels of the blocks of two slides.

On a cluster Dask keeps its profiles, a tree every ten seconds, and the last lines of its logs.
"""


def lived(kind: str) -> Life:
    """Let a process of its own live."""
    command = [sys.executable, "-m", "tests.soak", "--json", "--kind", kind]
    done = subprocess.run(
        [*command, "--slides", str(SLIDES), "--blocks", str(BLOCKS)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    life = Life(**json.loads(done.stdout.splitlines()[-1]))
    life.samples = [Sample(**sample) for sample in json.loads(done.stdout)["samples"]]
    return life


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "processes"), [("threads", 1), ("local", 3)])
def test_nothing_grows_with_the_slides_a_process_has_seen(
    kind: str, processes: int, tell: Callable[[str], None]
) -> None:
    life = lived(kind)
    assert life.computed == SLIDES * BLOCKS
    assert len(life.pids) == processes
    grown = {(pid, what): growth(life.of(pid), what) for pid in life.pids for what in COUNTED}
    for pid in life.pids:
        said = ", ".join(f"{what} {grown[pid, what]:+.0f}" for what in COUNTED)
        tell(f"{kind}, {'client' if pid == life.pids[0] else 'worker'}: {said}")
    most = {"memory": MOST_MEMORY[kind], **MOST}
    assert not {key: more for key, more in grown.items() if more > most[key[1]]}
