"""The notebooks run, and what they store is what they show."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests import notebooks

MOST_BYTES = 2 * 2**20

MACHINE = re.compile(
    "|".join(f"/{name}/" for name in ("tmp", "home", "root", "Users", "work", "var"))
)
"""What only one machine has: paths of its disks."""

STORED = [notebooks.read(path) for path in notebooks.notebooks()]

each = pytest.mark.parametrize("stored", STORED, ids=[each.stem for each in notebooks.notebooks()])


def code_of(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell: Any) -> Iterator[str]:
    """Give all that a cell shows as text, without embedded pictures."""
    for output in cell.outputs:
        if output.output_type == "stream":
            yield output.text
        for content in output.get("data", {}).values():
            if isinstance(content, str):
                yield re.sub(r"[A-Za-z0-9+/=\s]{1000,}", "", content)


def kinds(cell: Any) -> list[set[str]]:
    """Give the kinds of each of a cell's outputs; how a stream is cut is chance."""
    return [
        set(output.data) if "data" in output else {output.output_type}
        for output in cell.outputs
        if output.output_type != "stream"
    ]


def test_there_are_some_and_they_are_small() -> None:
    paths = notebooks.notebooks()
    assert [path.stem[:2] for path in paths] == ["01", "02", "03", "04", "05"]
    assert sum(path.stat().st_size for path in paths) < MOST_BYTES


@each
def test_each_begins_with_what_one_will_be_able_to_do(stored: Any) -> None:
    first = stored.cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert "After this notebook you will be able to" in first.source


@each
def test_what_is_stored_is_of_these_sources(stored: Any) -> None:
    """Store it anew after a change: ``python -m tests.notebooks``."""
    assert stored.metadata[notebooks.OURS]["sources"] == notebooks.digest_of(stored)
    counts = [cell.execution_count for cell in code_of(stored)]
    assert counts == list(range(1, len(counts) + 1))


@each
def test_no_error_no_warning_and_no_path_of_a_machine_is_stored(stored: Any) -> None:
    for cell in code_of(stored):
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.text
        for text in texts(cell):
            assert not MACHINE.search(text), text
            assert "Warning" not in text


@each
def test_it_runs_and_shows_the_same_kinds_of_things(stored: Any, tmp_path: Path) -> None:
    again = nbformat.from_dict(stored)
    for cell in code_of(again):
        cell.outputs, cell.execution_count = [], None
    notebooks.execute(again, tmp_path)
    for before, now in zip(code_of(stored), code_of(again), strict=True):
        assert kinds(now) == kinds(before), now.source


def test_a_run_and_a_cluster_show_themselves_in_a_cell(demo_slide: Path, tmp_path: Path) -> None:
    """One output for a run, replaced until its end; a link that a hub's setting decides."""
    hostile = tmp_path / "slides" / "a<b>.svs"
    hostile.parent.mkdir()
    hostile.symlink_to(demo_slide)
    (tmp_path / "none.svs").write_bytes(b"no slide")
    run = (
        "import pipeline, dask\n"
        "dask.config.set({'distributed.dashboard.link': 'https://hub/<{port}>'})\n"
        "from pathlib import Path\n"
        "Path('run.yaml').write_text('''slides: [slides, none.svs]\nmodel: builtin:nuclei\n"
        "output: {directory: results}\ncluster: {kind: threads}\n''')\n"
        "summary = pipeline.run('run.yaml')"
    )
    cluster = (
        "with pipeline.cluster(workers=1, dashboard='127.0.0.1:0') as client:\n"
        "    assert client.dashboard_link.startswith('https://hub/')"
    )
    cells = [nbformat.v4.new_code_cell(each) for each in (run, "summary", cluster)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebooks.execute(notebook, tmp_path)
    ran, summary, linked = notebook.cells
    (shown,) = ran.outputs
    assert shown.output_type == "display_data"
    assert "1 of 2 slides done, 1 failed in" in shown.data["text/plain"]
    assert "none: failed: " in shown.data["text/html"]
    assert "<progress" not in shown.data["text/html"]
    assert "<b>Run</b>" in summary.outputs[0].data["text/html"]
    (link,) = linked.outputs
    assert re.search(r"<a href='https://hub/&lt;\d+&gt;'", link.data["text/html"])
    assert link.data["text/plain"].startswith("dashboard: https://hub/<")
