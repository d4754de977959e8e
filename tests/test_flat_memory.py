"""Memory is predicted, and does not grow with the slide: measured in fresh processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.demo import write_demo

SMALL, LARGE = (2_500, 2_000), (10_000, 8_000)

SCRIPT = """
import json, re, sys
from pathlib import Path

from pipeline.batch import run
from pipeline.manifest.jobs import Job
from pipeline.books.outcomes import Silence
from pipeline.execute.schedulers import scheduler_in_force
from pipeline.config.runfile import load_config

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

class Measure(Silence):
    def ended(self, outcome):
        assert outcome.state == "done", outcome
        here = scheduler_in_force()
        self.workers = list(here.client.run(peak).values()) if hasattr(here, "client") else [peak()]
        self.outcome = outcome

if __name__ == "__main__":
    config, measure = load_config(sys.argv[1], sys.argv[2:]), Measure()
    run(config, report=measure)
    print(json.dumps({
        "client": peak(),
        "worker": max(measure.workers),
        "predicted": measure.outcome.predicted_bytes,
        "told": measure.outcome.peak_bytes,
    }))
"""


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], Path]:
    folder = tmp_path_factory.mktemp("memory")
    paths = {size: folder / f"{size[0]}.svs" for size in (SMALL, LARGE)}
    for (width, height), path in paths.items():
        write_demo(path, width, height)
    return paths


def measured(slide: Path, folder: Path, *overrides: str) -> dict[str, int]:
    """Give the peak of the client and of the largest worker, and what was told, in bytes."""
    script, config = folder / "measure.py", folder / "run.yaml"
    script.write_text(SCRIPT)
    config.write_text(f"slides: {slide}\nmodel: builtin:nuclei\ncluster: {{dashboard: none}}\n")
    arguments = (str(config), f"output.directory={folder / slide.stem}", *overrides)
    done = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "block", "mpp"),
    [("threads", 512, "model"), ("local", 1024, "model"), ("local", 512, "1.1")],
)
def test_peak_memory_does_not_grow_with_the_slide_and_is_what_was_predicted(
    kind: str,
    block: int,
    mpp: str,
    slides: dict[tuple[int, int], Path],
    tmp_path: Path,
    tell: Callable[[str], None],
) -> None:
    """The large slide has 16 times the pixels of the small one, which has a few whole blocks.

    In one process the peaks of two threads add up when they meet, for which there must be many.
    """
    settings = (
        f"cluster.kind={kind}",
        "cluster.workers=2",
        f"output.block={block}",
        f"resolution.mpp={mpp}",
    )
    small = measured(slides[SMALL], tmp_path, *settings)
    large = measured(slides[LARGE], tmp_path, *settings)
    for size, found in ((SMALL, small), (LARGE, large)):
        mib = {name: round(value / 2**20) for name, value in found.items()}
        tell(
            f"{kind}, block {block}, mpp {mpp}, {size[0]} x {size[1]}: MiB of the client "
            f"{mib['client']}, of a worker {mib['worker']}, predicted {mib['predicted']}"
        )
    assert large["client"] <= 1.15 * small["client"]
    assert large["worker"] <= 1.15 * small["worker"]
    for found in (small, large):
        assert 0.9 * found["worker"] <= found["predicted"] <= 1.25 * found["worker"]
        assert found["told"] == pytest.approx(found["worker"], rel=0.05)
