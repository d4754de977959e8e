"""How a run file says that a model is run: several models, turned patches, other hardware."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import pipeline
from pipeline.errors import ModelError
from pipeline.results import StoredSlide
from tests.toys import expected_neighbours, noise, write_tiff, write_toy_model

WIDE: dict[str, Any] = {"outputs": {"range": [0, 128]}}


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    """A run of two models over a small slide, which they see as it is."""
    write_tiff(tmp_path / "noise.tiff", noise(200, 170))
    write_toy_model(tmp_path / "a", "neighbours", **WIDE)
    write_toy_model(tmp_path / "b", "neighbours", input={"channels": "BGR"}, **WIDE)
    run = {
        "slides": "noise.tiff",
        "model": ["a/card.yaml", "b"],
        "output": {"dtype": "float32"},
        "tissue": {"method": "none"},
        "cluster": {"kind": "threads", "workers": 2, "dashboard": "none"},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    return tmp_path / "run.yaml"


def stored(run_file: Path) -> StoredSlide:
    return pipeline.open_results(run_file.parent / "results")["noise"]


def scores(run_file: Path) -> Any:
    return stored(run_file).levels[0].compute(scheduler="synchronous")


def test_a_list_of_cards_is_their_mean(run_file: Path) -> None:
    assert pipeline.run(run_file).complete
    rgb = noise(200, 170)
    expected = (expected_neighbours(rgb) + expected_neighbours(rgb[..., ::-1])) / 2
    np.testing.assert_array_equal(scores(run_file), expected)
    made = stored(run_file).provenance
    assert made["model"]["members"] == ["toy-neighbours", "toy-neighbours"]
    (first,), (second,) = made["sessions"]
    assert (first["provider"], first["batch"], second["batch"]) == ("cpu", 4, 4)


def test_another_ensemble_is_another_setting_of_a_store(run_file: Path) -> None:
    assert pipeline.run(run_file).complete
    cards = [str(run_file.parent / name) for name in ("b", "a")]
    summary = pipeline.run(run_file, [f"model=[{', '.join(cards)}]"])
    (outcome,) = summary.outcomes
    assert "was begun with model.input" in outcome.reason


def test_augmentation_is_asked_for_in_the_run_file(run_file: Path) -> None:
    only = f"model={run_file.parent / 'a'}"
    assert pipeline.run(run_file, [only, "inference.tta=rotations"]).complete
    rgb, expected = noise(200, 170), np.zeros((1, 200, 170))
    for turns in range(4):
        turned = expected_neighbours(np.ascontiguousarray(np.rot90(rgb, turns)))
        expected += np.rot90(turned, -turns, (1, 2)) / 4
    np.testing.assert_allclose(scores(run_file), expected, rtol=1e-5)
    assert stored(run_file).provenance["model"]["tta"] == "rotations"


def test_hardware_that_is_not_there_is_refused_before_any_slide(run_file: Path) -> None:
    with pytest.raises(ModelError, match=r"cuda.*pip install 'wsi-pipeline\[gpu\]'"):
        pipeline.run(run_file, ["inference.provider=cuda"])
    assert not (run_file.parent / "results" / "noise.zarr").exists()


def test_what_workers_refuse_is_one_line(run_file: Path) -> None:
    command = [sys.executable, "-m", "pipeline", "run", str(run_file), "-o", "cluster.kind=local"]
    said = subprocess.run(
        [*command, "-o", "inference.provider=cuda"], capture_output=True, text=True, check=False
    )
    assert said.returncode == 2
    assert said.stderr.startswith("error: provider: cuda was asked for")
    assert "Traceback" not in said.stdout + said.stderr


def test_an_ensemble_of_more_models_than_a_process_keeps_is_refused(run_file: Path) -> None:
    cards = [str(run_file.parent / "a")] * 9
    with pytest.raises(ModelError, match=r"an ensemble of 9 cards; a process keeps 8"):
        pipeline.run(run_file, [f"model={yaml.safe_dump(cards, default_flow_style=True)}"])
