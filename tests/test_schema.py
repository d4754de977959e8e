"""The card's JSON schema: what it lets through is what is loaded, as far as one field goes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipeline.config.schema import DIALECT, config_schema
from pipeline.model.schema import card_schema
from pipeline.model.written import card_of

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHIPPED = sorted(
    [
        *(ROOT / "pipeline" / "model" / "builtin").glob("*.yaml"),
        *(ROOT / "configs/cards").glob("*.yaml"),
    ]
)
IN_README = [
    block for block in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL) if "\noutputs:" in block
]


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = card_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_schema_names_its_dialect_and_explains_every_field() -> None:
    schema = card_schema()
    assert schema["$schema"] == DIALECT
    blocks = [schema, *schema["$defs"].values()]
    unexplained = [
        name
        for block in blocks
        for name, field in block["properties"].items()
        if not field.get("description")
    ]
    assert not unexplained


@pytest.mark.parametrize("card", SHIPPED, ids=[card.name for card in SHIPPED])
def test_every_card_that_is_shipped_is_valid(card: Path, validator: Any) -> None:
    raw = yaml.safe_load(card.read_text(encoding="utf-8"))
    validator.validate(raw)
    card_of(raw, str(card))


@pytest.mark.parametrize("block", IN_README)
def test_every_card_in_the_readme_is_valid(block: str, validator: Any) -> None:
    raw = yaml.safe_load(block)
    validator.validate(raw)
    card_of(raw, "README.md")


def test_there_are_cards_to_look_at() -> None:
    assert len(SHIPPED) >= 2
    assert IN_README


@pytest.mark.parametrize(
    "changes",
    [
        {"colour": 1},
        {"name": None},
        {"input": {"pach": 3}},
        {"input": {"patch": 7}},
        {"input": {"mean": [1, 2]}},
        {"sha256": "abc"},
        {"outputs": [{"name": "a"}]},
        {"outputs": [{"name": "a", "channels": ["a"], "kind": "masks"}]},
    ],
)
def test_a_wrong_card_is_refused_by_the_schema(changes: dict[str, Any], validator: Any) -> None:
    card = {"name": "m", "onnx": "m.onnx", "outputs": [{"name": "a", "channels": ["a"]}]}
    assert validator.is_valid(card)
    assert not validator.is_valid({**card, **changes})


def test_one_number_stands_for_all_colours_in_the_schema_too(validator: Any) -> None:
    card = {"name": "m", "onnx": "m.onnx", "outputs": [{"name": "a", "channels": ["a"]}]}
    validator.validate({**card, "input": {"mean": 0.5, "std": [1, 2, 3]}})


def test_the_shipped_schema_is_the_models_own() -> None:
    """Made by: ``wsi-pipeline schema card > configs/cards/schema.json``."""
    shipped = json.loads((ROOT / "configs" / "cards" / "schema.json").read_text(encoding="utf-8"))
    assert shipped == json.loads(json.dumps(card_schema()))


def test_the_shipped_schema_of_run_files_is_their_own() -> None:
    """Made by: ``wsi-pipeline schema > configs/schema.json``."""
    shipped = json.loads((ROOT / "configs" / "schema.json").read_text(encoding="utf-8"))
    assert shipped == json.loads(json.dumps(config_schema()))


@pytest.fixture(scope="module")
def of_run_files() -> Any:
    schema = config_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_the_run_files_that_come_along_fit_their_schema_and_name_it(
    path: Path, of_run_files: Any
) -> None:
    text = path.read_text(encoding="utf-8")
    of_run_files.validate(yaml.safe_load(text))
    assert text.startswith("# yaml-language-server: $schema=schema.json\n")


@pytest.mark.parametrize(
    "changes",
    [
        {"modle": "a"},
        {"slides": 1},
        {"output": {"dtype": "int8"}},
        {"output": {"block": 32}},
        {"resolution": {"mpp": 0.001}},
        {"export": ["pdf"]},
        {"cluster": {"kind": "slum"}},
        {"cluster": {"jobs": 0}},
    ],
)
def test_what_a_run_file_may_not_say_does_not_fit_the_schema(
    changes: dict[str, Any], of_run_files: Any
) -> None:
    least = {"slides": "a.svs", "model": "builtin:nuclei"}
    assert of_run_files.is_valid({**least, "resolution": {"mpp": {"level": 1}}})
    assert not of_run_files.is_valid({**least, **changes})
