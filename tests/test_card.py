"""What may stand in a card: the four kinds of output, and what is refused with both values."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.errors import ModelError
from pipeline.model import Card
from pipeline.model.written import card_of, mapping_of

SCORES = {"name": "scores", "channels": ["tumour", "stroma"]}
OBJECTS = {"method": "watershed", "seeds": "centre"}


def a_card(*outputs: dict[str, Any], **changes: Any) -> Card:
    """Give a card of a patch of 64 px with these outputs, `SCORES` where there are none."""
    raw = {"name": "m", "onnx": "m.onnx", "input": {"patch": 64}, "outputs": outputs or [SCORES]}
    return card_of({**raw, **changes}, "card.yaml")


def test_the_four_kinds_of_output_stand_side_by_side() -> None:
    card = a_card(
        SCORES,
        {"name": "tissue-class", "kind": "labels", "tensor": "scores", "channels": ["a", "b"]},
        {"name": "embedding", "kind": "features", "channels": 768, "stride": 64},
        {
            "name": "nuclei",
            "kind": "objects",
            "channels": ["nucleus", "centre"],
            "objects": OBJECTS,
        },
    )
    assert [output.kind for output in card.outputs] == ["scores", "labels", "features", "objects"]
    assert card.outputs[2].names[:2] == ("0", "1")
    assert len(card.outputs[2].names) == 768


def test_one_number_stands_for_all_colours() -> None:
    assert a_card(input={"patch": 64, "mean": 0.5, "std": [0.25]}).input.mean == (0.5,)


def test_the_margin_is_the_halo_or_half_the_overlap() -> None:
    assert a_card(stitch={"halo": 8}).margin(64) == 8
    assert a_card(stitch={"method": "gaussian"}).margin(64) == 16
    assert a_card(stitch={"method": "mean", "overlap": 8}).margin(64) == 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"colour": 3}, "colour: unknown key; known keys: card, name"),
        ({"input": {"pach": 7}}, r"input\.pach: unknown key; did you mean patch\?"),
        ({"my-key": 1}, "my-key: unknown key"),
        ({"name": ""}, "name: String should have at least 1 character"),
        ({"sha256": "abc"}, r"sha256: .*pattern.* \(given 'abc'\)"),
        ({"card": 2}, r"card: Input should be 1 \(given 2\)"),
        ({"batch": 0}, r"batch: .*greater than or equal to 1"),
        ({"batch": True}, "batch: Input should be 'auto', or Input should be a valid integer"),
        ({"mpp": 0}, "mpp: .*greater than 0"),
        ({"input": {"patch": 10**6}}, r"input\.patch: .*16384 \(given 1000000\)"),
        (
            {"input": {"patch": "big"}},
            r"input\.patch: Input should be 'auto', or .*\(given 'big'\)",
        ),
        ({"input": {"scale": float("nan")}}, r"input\.scale: .*finite"),
        ({"input": {"scale": 0}}, r"input\.scale 0 makes every pixel the same$"),
        ({"input": {"std": [1, 0, 1]}}, r"input\.std \(1\.0, 0\.0, 1\.0\) must be greater than 0"),
        ({"input": {"mean": [1, 2]}}, r"input\.mean: give one number, or three.*\[1, 2\]"),
        ({"input": {"zscore": "patch", "mean": 1}}, "zscore patch takes the place of input.mean"),
        ({"input": {"channels": "grey", "mean": [1, 2, 3]}}, "grey has one input.mean"),
        (
            {"stitch": {"halo": True}},
            r"stitch\.halo: Input should be a valid integer \(given True\)",
        ),
        ({"input": {"patch": 64}, "stitch": {"halo": 32}}, r"halo 32 leaves nothing of .*patch 64"),
        ({"stitch": {"method": "mean", "halo": 4}}, r"halo is for crop; for mean give .*overlap"),
        (
            {"stitch": {"overlap": 4}},
            r"overlap is for gaussian and mean; for crop give stitch\.halo",
        ),
        ({"outputs": []}, r"outputs: .*at least 1 item.* \(given \[\]\)"),
        ({"outputs": ["x"]}, r"outputs\.0: Input should be .* \(given 'x'\)"),
        ({"outputs": [SCORES, SCORES]}, "outputs: a name is given twice: scores, scores"),
    ],
)
def test_a_card_that_is_wrong_is_refused_with_the_value(changes: dict[str, Any], said: str) -> None:
    changes.setdefault("input", {"patch": 64})
    with pytest.raises(ModelError, match=rf"^card\.yaml: .*{said}"):
        a_card(**changes)


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ({"stride": 5}, r"stride 5 must divide input\.patch 64 .*stitch\.halo 0; .* use halo 29"),
        ({"stride": "one"}, r"outputs\.0\.stride: Input should be a valid integer"),
        ({"range": [1, 0]}, r"range \[1, 0\] must rise"),
        ({"range": [1]}, r"outputs\.0\.range\.1: missing"),
        ({"range": [0, float("inf")]}, r"range.*finite number"),
        ({"channels": ["a"], "activation": "softmax"}, "softmax needs two channels"),
        ({"channels": ["a", "a"]}, "channels: a name is given twice"),
        ({"channels": 3}, "channels 3: a number is for features; give each one's name$"),
        ({"channels": []}, r"outputs\.0\.channels: .*at least 1 item"),
        ({"colours": ["red", "#ffffff"]}, r"outputs\.0\.colours\.0: .*pattern"),
        ({"colours": ["#ffffff"]}, "colours: 1 for 2 channels"),
        ({"activation": "argmax"}, "argmax is for kind labels, not scores"),
        ({"kind": "objects"}, "objects: is needed for kind objects"),
        ({"objects": {"metod": 1}}, r"objects\.method: missing; .*objects\.metod: .*mean method"),
        ({"objects": [1]}, r"outputs\.0\.objects: Input should be"),
        ({"regions": {}}, "regions are made of labels, not of scores"),
        ({"regions": {"x": 1}}, r"regions\.x: unknown key; known keys: min_area_um2"),
        (
            {"kind": "objects", "objects": {"method": "peaks", "seeds": "c"}},
            r"objects\.seeds c: no such channel; there is tumour, stroma",
        ),
        ({"kind": "labels", "channels": [str(n) for n in range(256)]}, "256 classes; .* 255"),
        ({"name": "a/b"}, r"outputs\.0\.name: .*pattern"),
    ],
)
def test_an_output_that_is_wrong_is_refused_with_the_value(
    output: dict[str, Any], said: str
) -> None:
    with pytest.raises(ModelError, match=rf"^card\.yaml: .*{said}"):
        a_card({**SCORES, **output})


def test_each_thing_is_said_once() -> None:
    with pytest.raises(ModelError) as caught:
        a_card({**SCORES, "stride": "one", "kind": "x"})
    said = str(caught.value)
    assert said.count("Input should be") == 2
    assert "Tuple" not in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: [1", "line 1: .*; a model card is a YAML"),
        (b"\xff\xfe\x00", "not UTF-8 text"),
        (b"- a\n- b\n", "not a model card: a mapping with name, onnx, input, outputs"),
        (b"", "not a model card: a mapping"),
    ],
)
def test_text_that_is_no_card_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(ModelError, match=rf"^c\.yaml: {said}"):
        mapping_of(content, "c.yaml")


def test_json_may_be_indented_by_tabs_and_its_mistakes_have_a_line() -> None:
    assert mapping_of(b'{\n\t"a": 1\n}', "config.json") == {"a": 1}
    with pytest.raises(ModelError, match=r"^config\.json: line 2: .*; not JSON"):
        mapping_of(b'{\n"a" 1}', "config.json")
