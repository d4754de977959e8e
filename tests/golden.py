"""A small slide, a model and their results, kept as this version's format wrote them.

Made once for each format of stores, by ``python -m tests.golden``, and then never again: the next
version must read what was written by this one. The results of an older format are kept beside
those of a newer one, each in a folder that is called as its format.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pipeline
from pipeline.store.group import FORMAT
from tests.toys import noise, write_tiff, write_toy_model

__all__ = ["GOLDEN", "HEIGHT", "SEED", "WIDTH", "copied"]

GOLDEN = Path(__file__).parent / "golden"

HEIGHT, WIDTH, SEED = 96, 160, 7
"""Of the slide, which is `tests.toys.noise`."""

_RUN = """\
slides: slide.tiff
model: model/card.yaml
output: {block: 64, chunk: 32, directory: results}
tissue: {method: none}
cluster: {kind: threads, workers: 1, dashboard: none}
"""


def copied(number: int, folder: Path) -> Path:
    """Copy what is kept of a format into a folder; give its run file."""
    shutil.copytree(GOLDEN / f"format-{number}", folder)
    return folder / "run.yaml"


def _made(folder: Path) -> None:
    folder.mkdir(parents=True)
    write_tiff(folder / "slide.tiff", noise(HEIGHT, WIDTH, SEED))
    write_toy_model(folder / "model", "neighbours", outputs={"range": [0, 128]})
    (folder / "run.yaml").write_text(_RUN, encoding="utf-8")
    if not pipeline.run(folder / "run.yaml").complete:
        sys.exit("the run is not complete")


if __name__ == "__main__":
    # Where the results were made is in them: a place that is nobody's.
    made = Path("/golden") / f"format-{FORMAT}"
    _made(made)
    shutil.move(made, GOLDEN / made.name)
    made.parent.rmdir()
