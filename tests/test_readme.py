"""What the README says is what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from pipeline.model.card import Card, InputSpec, OutputSpec, StitchSpec

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NESTED: dict[str, tuple[str, type[BaseModel]]] = {
    "input": ("input.", InputSpec),
    "outputs": ("outputs[].", OutputSpec),
    "stitch": ("stitch.", StitchSpec),
}


def documented(model: type[BaseModel], prefix: str = "") -> list[tuple[str, str]]:
    """Give (key, description) of every field of a card."""
    rows = []
    for name, field in model.model_fields.items():
        if not prefix and name in NESTED:
            inner, block = NESTED[name]
            rows += documented(block, inner)
        else:
            rows.append((f"{prefix}{name}", field.description or ""))
    return rows


def test_the_card_table_names_every_field_with_its_meaning() -> None:
    table = README.split("<!-- card table -->")[1].split("<!-- /card table -->")[0]
    rows = re.findall(r"^\| `([^`]+)` \| [^|]+ \| (.+) \|$", table, re.MULTILINE)
    assert rows == documented(Card)


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
