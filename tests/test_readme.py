"""What the README says is what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.model.schema import card_table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_card_table_names_every_field_with_its_meaning() -> None:
    """Made by: ``python -c 'from pipeline.model.schema import *; print(card_table())'``."""
    table = README.split("<!-- card table -->\n")[1].split("\n<!-- /card table -->")[0]
    assert table == card_table()


def test_ci_runs_the_commands_of_the_readme() -> None:
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    setup, tests = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)
    assert tests in ci
    assert setup in ci


def test_every_file_and_module_the_readme_names_is_there() -> None:
    for path in re.findall(r"`((?:configs|tests|readers|store|export)/[\w./-]*)`", README):
        assert (ROOT / path).exists() or (ROOT / "pipeline" / path).exists(), path
    table = README.split("| layer | modules |")[1].split("\n\n")[0]
    named = set(re.findall(r"`(\w+)`", table))
    there = {
        path.stem
        for path in (ROOT / "pipeline").iterdir()
        if not path.stem.startswith("_") and path.suffix in ("", ".py")
    }
    assert named == there


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_python_examples_parse_and_use_public_names(block: str) -> None:
    import pipeline

    compile(block, "README.md", "exec")
    used = set(re.findall(r"pipeline\.(\w+)", block))
    assert used
    assert used <= set(pipeline.__all__)
