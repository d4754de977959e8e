"""Executes the notebooks, and stores them with what they show: ``python -m tests.notebooks``.

What is stored says nothing of the machine it was made on: paths below the working directory become
relative, those of the environment short, and times of execution are left out.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).parents[1]

FOLDER = ROOT / "notebooks"

OURS = "wsi_pipeline"
"""Our part of a notebook's metadata: a digest of the sources that its outputs are of."""

_TIMEOUT_S = 300

_COLOURS = 256
_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def notebooks() -> list[Path]:
    """Give the notebooks in their order."""
    return sorted(FOLDER.glob("*.ipynb"))


def read(path: Path) -> Any:
    """Read a notebook."""
    return nbformat.read(path, as_version=4)


def execute(notebook: Any, folder: Path) -> None:
    """Execute a notebook in a folder, from its first cell to its last; raises where one fails."""
    with _activated():
        NotebookClient(
            notebook,
            timeout=_TIMEOUT_S,
            kernel_name="python3",
            resources={"metadata": {"path": str(folder)}},
            record_timing=False,
            coalesce_streams=True,
        ).execute()


@contextmanager
def _activated() -> Iterator[None]:
    """Put this environment's commands first, as for who has activated it."""
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{before}"
    try:
        yield
    finally:
        os.environ["PATH"] = before


def digest_of(notebook: Any) -> str:
    """Give a digest of a notebook's sources."""
    sources = [[cell.cell_type, cell.source] for cell in notebook.cells]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def tidy(notebook: Any, folder: Path) -> None:
    """Take out of a notebook that was executed in ``folder`` what is of this machine or moment."""
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata.clear()
        if cell.cell_type == "code":
            cell.outputs = [_tidy_output(output, folder) for output in cell.outputs]
    notebook.metadata.clear()
    notebook.metadata["kernelspec"] = dict(_KERNEL)
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.metadata[OURS] = {"sources": digest_of(notebook)}


def _tidy_output(output: Any, folder: Path) -> Any:
    if output.output_type == "stream":
        output.text = _tidy_text(output.text, folder)
        return output
    data = output.get("data", {})
    for kind, content in data.items():
        if kind == "image/png":
            data[kind] = smaller(content)
        elif kind == "text/html":
            embedded = r"(data:image/png;base64,)([^'\"]+)"
            page = re.sub(embedded, lambda found: found[1] + smaller(found[2]), content)
            data[kind] = _tidy_text(page, folder)
        elif isinstance(content, str):
            data[kind] = _tidy_text(content, folder)
    output.pop("transient", None)
    return output


def _tidy_text(text: str, folder: Path) -> str:
    short: Mapping[str, str] = {
        f"{folder}{os.sep}": "",
        str(folder): ".",
        f"{ROOT}{os.sep}": "",
        f"{Path(sys.executable).parent}{os.sep}": ".venv/bin/",
        str(Path(sys.prefix)): ".venv",
        f"{Path.home()}{os.sep}": "~/",
    }
    for long, said in short.items():
        text = text.replace(long, said)
    return re.sub(r"at 0x[0-9a-f]+", "at 0x...", text)


def smaller(png: str) -> str:
    """Give a picture, base64, in 256 colours; as it is where that is no smaller."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    out = io.BytesIO()
    image.quantize(_COLOURS, method=Image.Quantize.MEDIANCUT).save(out, "PNG", optimize=True)
    few = base64.b64encode(out.getvalue()).decode()
    return few if len(few) < len(png) else png


def main() -> None:
    """Execute notebooks, all or those named, and store what they show."""
    named = [Path(each).resolve() for each in sys.argv[1:]]
    for path in named or notebooks():
        notebook = read(path)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary).resolve()
            execute(notebook, folder)
            tidy(notebook, folder)
        nbformat.write(notebook, path)
        sys.stdout.write(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB\n")


if __name__ == "__main__":
    main()
