"""Memory is predicted, and does not grow with the slide: measured in fresh processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.demo import write_demo

SMALL, LARGE = (5_000, 4_000), (20_000, 16_000)

SCRIPT = """
import json, re, sys
from pathlib import Path

from pipeline.batch import dry_run, run
from pipeline.outcomes import Silence
from pipeline.schedulers import scheduler_in_force
from pipeline.runfile import load_config

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

class Measure(Silence):
    def ended(self, outcome):
        assert outcome.state == "done", outcome
        here = scheduler_in_force()
        self.workers = list(here.client.run(peak).values()) if hasattr(here, "client") else [peak()]
        self.threads = here.threads

if __name__ == "__main__":
    config, measure = load_config(sys.argv[1], sys.argv[2:]), Measure()
    run(config, report=measure)
    measured = {"client": peak(), "workers": measure.workers}
    ((_, plan),) = dry_run(config)
    predicted = plan.worker_bytes(threads=measure.threads)
    print(json.dumps({**measured, "predicted": predicted}))
"""


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, int], Path]:
    folder = tmp_path_factory.mktemp("memory")
    paths = {size: folder / f"{size[0]}.svs" for size in (SMALL, LARGE)}
    for (width, height), path in paths.items():
        write_demo(path, width, height)
    return paths


def measured(slide: Path, folder: Path, *overrides: str) -> tuple[int, int, int]:
    """Give the peak of the client and of the largest worker, and the prediction, in bytes."""
    script, config = folder / "measure.py", folder / "run.yaml"
    script.write_text(SCRIPT)
    config.write_text(f"slides: {slide}\nmodel: builtin:nuclei\ncluster: {{dashboard: none}}\n")
    arguments = (str(config), f"output.directory={folder / slide.stem}", *overrides)
    done = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    return found["client"], max(found["workers"]), found["predicted"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "mpp"), [("threads", "model"), ("local", "model"), ("local", "1.1")]
)
def test_peak_memory_does_not_grow_with_the_slide_and_stays_below_the_prediction(
    kind: str,
    mpp: str,
    slides: dict[tuple[int, int], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # In one process the peaks of two threads add up when they meet; the blocks have to be many
    # enough in the small slide, too, for that to happen. So where the model sees half of its
    # resolution.
    block = {"threads": "512", "local": "auto" if mpp == "model" else "1024"}[kind]
    settings = (
        f"cluster.kind={kind}",
        "cluster.workers=2",
        f"output.block={block}",
        f"resolution.mpp={mpp}",
    )
    small = measured(slides[SMALL], tmp_path, *settings)
    large = measured(slides[LARGE], tmp_path, *settings)
    with capsys.disabled():
        for size, (client, worker, predicted) in ((SMALL, small), (LARGE, large)):
            print(
                f"\n{kind}, mpp {mpp}, {size[0]} x {size[1]}: client {client / 2**20:.0f} MiB, "
                f"worker {worker / 2**20:.0f} MiB, predicted {predicted / 2**20:.0f} MiB",
                end="",
            )
    assert large[0] <= 1.15 * small[0]
    assert large[1] <= 1.15 * small[1]
    for _, worker, predicted in (small, large):
        assert worker <= predicted
        assert worker >= 0.6 * predicted
