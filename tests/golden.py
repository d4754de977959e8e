"""A small slide, a model and their results, kept as this version's format wrote them.

Made once for each format of stores, by ``python -m tests.golden``, and then never again: the next
version must read what was written by this one. The results of an older format are kept beside
those of a newer one, each in a folder that is called as its format.
"""

from __future__ import annotations

import getpass
import shutil
import socket
import sys
from pathlib import Path

import pipeline
from pipeline.store.group import FORMAT
from tests.toys import noise, write_tiff, write_toy_model

__all__ = ["GOLDEN", "HEIGHT", "SEED", "WIDTH", "copied"]

GOLDEN = Path(__file__).parent / "golden"

HEIGHT, WIDTH, SEED = 96, 160, 7
"""Of the slide, `tests.toys.noise`: it is written where it is needed, each time the same bytes."""

_RUN = """\
slides: slide.tiff
model: model/card.yaml
output: {block: 64, chunk: 32, directory: results}
tissue: {method: none}
cluster: {kind: threads, workers: 1, dashboard: none}
"""


def copied(number: int, folder: Path) -> Path:
    """Copy what is kept of a format into a folder, write its slide, and give its run file."""
    shutil.copytree(GOLDEN / f"format-{number}", folder)
    _write_slide(folder)
    return folder / "run.yaml"


def _write_slide(folder: Path) -> Path:
    return write_tiff(folder / "slide.tiff", noise(HEIGHT, WIDTH, SEED))


def _made(folder: Path) -> None:
    folder.mkdir(parents=True)
    slide = _write_slide(folder)
    write_toy_model(folder / "model", "neighbours", outputs={"range": [0, 128]})
    (folder / "run.yaml").write_text(_RUN, encoding="utf-8")
    if not pipeline.run(folder / "run.yaml").complete:
        sys.exit("the run is not complete")
    slide.unlink()
    _forget(folder)


def _forget(folder: Path) -> None:
    """Take out who made it, and where."""
    named = {getpass.getuser(): "user", socket.gethostname(): "host"}
    for path in (folder / "results").rglob("*.json"):
        text = path.read_text(encoding="utf-8")
        for name, field in named.items():
            text = text.replace(f'"{field}": "{name}"', f'"{field}": "golden"')
        path.write_text(text, encoding="utf-8")
    config = folder / "results" / "config.yaml"
    text = config.read_text(encoding="utf-8").replace(str(Path.home()), "/golden")
    config.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    # Where the results were made is in them: a place that is nobody's.
    made = Path("/golden") / f"format-{FORMAT}"
    _made(made)
    shutil.move(made, GOLDEN / made.name)
    made.parent.rmdir()
