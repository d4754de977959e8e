"""``wsi-pipeline model``: a card held against its model and tried, as a person meets it."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from pipeline.model import load_model
from pipeline.model.schema import card_schema
from pipeline.model.trial import noise, sample_box, try_model
from tests.test_cli import Command, command
from tests.test_load import classes
from tests.toys import RED, SCALE, write_graph, write_tiff

__all__ = ["command"]

OK, INCOMPLETE, REFUSED = 0, 1, 2

ToyModel = Callable[..., Path]


def test_a_card_that_agrees_is_described_and_tried(command: Command, toy_model: ToyModel) -> None:
    card = toy_model("strided", licence="MIT", batch=2)
    said = command("models", "check", card)
    assert said.code == OK
    assert said.err == ""
    lines = said.out.splitlines()
    assert lines[0] == "toy-strided: card and ONNX file agree"
    for fact in (
        r"licence +MIT",
        rf"card +{card}",
        r"input +\(batch, 3, 64, 64\) NCHW RGB: 0\.\.255 times 0\.00390625",
        r"graph takes +image \(N, 3, H, W\) tensor\(float\)",
        r"graph gives +scores \(N, .+\) tensor\(float\)",
        r"patch +64 px, of which 48 are kept \(halo 8\)",
        r"memory +\d+ MiB, and \d+ MiB for a batch that is run",
        r"output +channel +least +mean +greatest",
        r"scores +green +0\.\d+ +0\.\d+ +0\.\d+",
        r"tried on noise: 4 patches, [\d.e+]+ patches/s, [\d.e-]+ Mpx/s",
        r"ran on cpu, ONNX Runtime [\d.]+, threads 1, batch 2",
    ):
        assert any(re.fullmatch(fact, line.strip()) for line in lines), fact
    assert "warning" not in said.out


def test_a_card_that_disagrees_is_told_in_a_line(command: Command, toy_model: ToyModel) -> None:
    card = toy_model("neighbours", outputs={"channels": ["a", "b"]})
    said = command("models", "check", card)
    assert (said.code, said.out) == (INCOMPLETE, "")
    (line,) = said.err.splitlines()
    assert re.match(rf"error: {card}: outputs: 2 channels.* the graph gives \(4, 1, 34, 34\)", line)


def test_values_outside_the_range_and_a_missing_scale_are_warned_of(
    command: Command, toy_model: ToyModel
) -> None:
    said = command("models", "check", toy_model("strided", mpp=None, input={"scale": 1}))
    assert said.code == OK
    assert "warning: the card has no mpp: a run needs resolution.mpp" in said.out
    outside = (
        r"channel red: [\d.]+ to [\d.]+ are outside the card's range 0 to 1; set activation or"
    )
    assert re.search(f"warning: output scores, {outside} range", said.out)


def test_a_model_that_gives_no_number_is_an_error(command: Command, toy_model: ToyModel) -> None:
    nodes = [helper.make_node("Log", ["image"], ["scores"])]
    said = command(
        "models", "check", write_graph(toy_model("strided", outputs={"stride": 1}), nodes)
    )
    assert said.code == INCOMPLETE
    assert re.search(r"error: .*toy\.onnx: output scores is NaN or infinite in the patch", said.err)


def test_the_middle_of_a_slides_tissue_is_tried(
    command: Command, toy_model: ToyModel, tmp_path: Path
) -> None:
    """All red there is lies in the tissue's middle: what was read shows in the values."""
    rgb = np.full((700, 800, 3), 245, np.uint8)
    rgb[200:500, 400:700] = (150, 60, 140)
    rgb[310:390, 510:590] = RED
    slide = write_tiff(tmp_path / "slide.tiff", rgb)
    card = toy_model("per_patch", batch=1)
    said = command("models", "check", card, slide)
    assert said.code == OK
    place = re.search(r"tried on the middle of the tissue of slide \(x (\d+), y (\d+)", said.out)
    assert place
    assert abs(int(place[1]) - 534) < 10
    assert abs(int(place[2]) - 334) < 10
    red, green = (re.search(rf"scores +{name} +([\d.]+)", said.out) for name in ("red", "green"))
    assert red
    assert green
    assert float(red[1]) == pytest.approx(255 * SCALE, abs=1e-4)
    assert float(green[1]) == 0


def test_a_slide_without_scale_needs_one(
    command: Command, toy_model: ToyModel, tmp_path: Path
) -> None:
    slide = write_tiff(tmp_path / "a.tiff", np.full((200, 200, 3), 245, np.uint8), mpp=None)
    card = toy_model("per_patch", batch=1)
    said = command("models", "check", card, slide)
    assert said.code == REFUSED
    assert "mpp" in said.err
    said = command("models", "check", card, slide, "--assume-mpp", "0.5")
    assert said.code == OK
    assert "the middle, where no tissue was found" in said.out


def test_a_provider_that_is_not_there_is_refused(command: Command, toy_model: ToyModel) -> None:
    card = toy_model("per_patch")
    said = command("models", "check", card, "--provider", "tea")
    assert said.refusal() == (
        "error: --provider tea: there is cpu, cuda, tensorrt, migraphx, openvino, coreml, directml"
    )
    said = command("models", "check", card, "--provider", "coreml")
    assert said.code == INCOMPLETE
    assert "coreml" in said.err


def test_the_schema_is_printed(command: Command) -> None:
    said = command("schema", "card")
    assert said.code == OK
    assert json.loads(said.out) == json.loads(json.dumps(card_schema()))


def test_features_that_do_not_fit_are_warned_of(toy_model: ToyModel) -> None:
    card = toy_model(
        "per_patch", input={"scale": 1e4}, outputs={"kind": "features", "channels": 3}, batch=1
    )
    model = load_model(card)
    warnings = try_model(model, noise(sample_box(model))).warnings
    assert len(warnings) == 3
    assert all("does not fit float16; set dtype" in each for each in warnings)


def test_classes_that_have_no_name_are_warned_of(toy_model: ToyModel) -> None:
    card = classes(toy_model, keepdims=0, stitch={"halo": 0})
    card.write_text(card.read_text().replace("  - blue\n", ""))
    model = load_model(card)
    (warning,) = try_model(model, noise(sample_box(model))).warnings
    assert warning.endswith("classes 0 to 2, and the card names 2")


def test_many_channels_are_told_together(toy_model: ToyModel) -> None:
    nodes: list[Any] = [
        helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        helper.make_node("Concat", ["mean"] * 8, ["many"], axis=1),
        helper.make_node("Flatten", ["many"], ["scores"]),
    ]
    card = toy_model("per_patch", outputs={"kind": "features", "channels": 24}, batch=1)
    model = load_model(write_graph(card, nodes, rank=2))
    (values,) = try_model(model, noise(sample_box(model))).values
    assert (values.channel, values.low < values.mean < values.high) == ("all 24", True)


def test_what_is_copied_is_said_while_a_command_runs(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def logging_schema() -> dict[str, str]:
        logging.getLogger("pipeline").info("m.onnx: 10 % of 1 GB")
        return {}

    monkeypatch.setattr("pipeline.model.schema.card_schema", logging_schema)
    assert command("schema", "card").err == "note: m.onnx: 10 % of 1 GB\n"
    logging.getLogger("pipeline").info("not any more")
    assert command("--version").err == ""
