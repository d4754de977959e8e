"""How one begins: ``init``, ``models ls``, ``completion``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import RunConfig
from pipeline.config.runfile import load_config
from tests.test_cli import Command, command
from tests.toys import noise, write_tiff

__all__ = ["command"]

OK, INCOMPLETE, REFUSED = 0, 1, 2


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def drafted(folder: Path, name: str = "run.yaml") -> RunConfig:
    return load_config(folder / name)


def test_init_writes_a_run_file_that_says_what_was_seen_and_can_be_planned(
    command: Command, here: Path
) -> None:
    write_tiff(here / "b.tiff", noise(256, 320))
    write_tiff(here / "a.tiff", noise(128, 256))
    said = command("init", "*.tiff")
    assert said.code == OK
    assert said.out.splitlines()[-2:] == [
        "  wsi-pipeline plan run.yaml",
        "  wsi-pipeline run run.yaml",
    ]
    text = (here / "run.yaml").read_text(encoding="utf-8")
    assert "# 2 slides; the first, a: 256 x 128 px, 0.5 um per pixel" in text
    assert "# nuclei gives nucleus (scores), at 0.5 um per pixel; licence: Apache-2.0" in text
    assert max(map(len, text.splitlines())) <= 100
    config = drafted(here)
    assert (config.slides, config.model) == (str(here / "*.tiff"), "builtin:nuclei")
    assert (config.tissue.method, config.resolution.mpp) == ("otsu", "model")
    assert config.output.directory == str(here / "results" / "run")
    assert command("plan", "run.yaml", "--no-time").code == OK


def test_paths_are_relative_to_the_run_file_where_they_lie_below_it(
    command: Command, here: Path, toy_model: Callable[..., Path]
) -> None:
    card = toy_model("per_patch")
    write_tiff(here / "a 'slide' #1.tiff", noise(128, 128))
    (here / "runs").mkdir()
    assert command("init", "a 'slide' #1.tiff", card, "--output", "runs/my.yaml").code == OK
    config = drafted(here / "runs", "my.yaml")
    assert config.slides == str(here / "a 'slide' #1.tiff")
    assert config.model == str(card)
    assert command("init", "a 'slide' #1.tiff", card).code == OK
    assert "slides: \"a 'slide' #1.tiff\"\n" in (here / "run.yaml").read_text(encoding="utf-8")
    assert drafted(here).slides == config.slides


def test_slides_without_a_scale_or_that_cannot_be_read_are_told_and_the_file_says_what_to_do(
    command: Command, here: Path
) -> None:
    write_tiff(here / "a.tiff", noise(128, 128), mpp=None)
    (here / "b.tiff").write_bytes(b"no slide")
    said = command("init", ".")
    assert said.code == OK
    assert f"note: {here}/b.tiff: not a slide" in said.out
    assert "a.tiff: the file does not say its um per pixel; set resolution.missing" in said.out
    text = (here / "run.yaml").read_text(encoding="utf-8")
    assert "# 1 of 1 slides looked at say no um per pixel" in text
    assert drafted(here).resolution.missing == "error"


def test_a_scale_in_a_manifest_is_one(command: Command, here: Path) -> None:
    write_tiff(here / "a.tiff", noise(128, 128), mpp=None)
    (here / "slides.csv").write_text("image_path,mpp\na.tiff,0.5\n", encoding="utf-8")
    assert "note:" not in command("init", "slides.csv").out
    assert "looked at say no um" not in (here / "run.yaml").read_text(encoding="utf-8")


def test_dark_slides_are_analysed_everywhere(command: Command, here: Path) -> None:
    write_tiff(here / "a.tiff", np.full((128, 128, 3), 8, np.uint8))
    assert command("init", "a.tiff").code == OK
    assert drafted(here).tissue.method == "none"


def test_a_card_without_a_scale_is_told(
    command: Command, here: Path, toy_model: Callable[..., Path]
) -> None:
    write_tiff(here / "a.tiff", noise(128, 128))
    said = command("init", "a.tiff", toy_model("per_patch", mpp=None))
    assert "says no um per pixel; set resolution.mpp to what it was made for" in said.out
    assert "# mpp: 0.5\n" in (here / "run.yaml").read_text(encoding="utf-8")


def test_init_loses_nothing_and_names_what_is_wrong(command: Command, here: Path) -> None:
    (here / "run.yaml").write_text("mine", encoding="utf-8")
    write_tiff(here / "a.tiff", noise(128, 128))
    said = command("init", "a.tiff")
    assert (said.code, said.err) == (
        REFUSED,
        "error: run.yaml: is there already; name another file with --output\n",
    )
    assert (here / "run.yaml").read_text(encoding="utf-8") == "mine"
    (here / "run.yaml").unlink()
    (here / "b.tiff").write_bytes(b"no slide")
    for given, told in (
        (["b.tiff"], "not a slide"),
        (["none*.tiff"], "none"),
        (["a.tiff", "builtin:none"], "no such built-in model"),
        (["a.tiff", "--output", "no/run.yaml"], "no/run.yaml: cannot be written"),
    ):
        said = command("init", *given)
        assert said.code == REFUSED
        assert told in said.err
    assert not (here / "run.yaml").exists()


def test_models_are_listed_with_what_a_run_file_calls_them(
    command: Command, here: Path, toy_model: Callable[..., Path]
) -> None:
    card = toy_model("per_patch", licence="MIT", version="3")
    (card.parent / "run.yaml").write_text("slides: a\nmodel: b\n", encoding="utf-8")
    (card.parent / "folder.yaml").mkdir()
    said = command("models", "ls", card.parents[1])
    assert said.code == OK
    rows = {line.split()[0]: line for line in said.out.splitlines()}
    assert rows.keys() == {"model", "builtin:nuclei", "builtin:nuclei-objects", str(card)}
    assert "toy-per_patch 3" in rows[str(card)]
    assert rows[str(card)].split()[-1] == "MIT"
    assert "nucleus (scores), nuclei (objects)" in rows["builtin:nuclei-objects"]


def test_a_card_that_cannot_be_read_is_told_and_the_others_are_listed(
    command: Command, here: Path
) -> None:
    (here / "bad.yaml").write_text("onnx: a.onnx\n", encoding="utf-8")
    said = command("models", "ls", ".")
    assert said.code == INCOMPLETE
    assert "builtin:nuclei" in said.out
    assert "bad.yaml: name: missing" in said.out
    said = command("models", "ls", "nowhere")
    assert (said.code, said.err) == (
        REFUSED,
        "error: nowhere: No such file or directory; name a folder of models\n",
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_names_the_command_and_what_it_asks(command: Command, shell: str) -> None:
    script = command("completion", shell).out
    assert "_WSI_PIPELINE_COMPLETE" in script
    assert f"{shell}_complete" in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize(
    ("typed", "there"),
    [("wsi-pipeline mo", "plain,models"), ("wsi-pipeline schema c", "plain,card")],
)
def test_the_command_completes_itself(typed: str, there: str) -> None:
    asked = {
        "_WSI_PIPELINE_COMPLETE": "bash_complete",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split()) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-m", "pipeline"],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.stdout.splitlines() == [there]
