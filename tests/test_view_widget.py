"""The viewer as a notebook's widget: what it says to the page, and what it leaves behind."""

from __future__ import annotations

import base64
import builtins
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pipeline
from pipeline.demo import write_demo
from pipeline.errors import ConfigError, MissingExtraError
from pipeline.view import widget
from pipeline.view.catalogue import catalogue_of
from pipeline.view.widget import replied


@pytest.fixture(scope="module")
def stored(demo_slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("widget")
    (folder / "run.yaml").write_text(
        f"slides: {demo_slide}\nmodel: builtin:nuclei\n"
        "output: {directory: results}\ncluster: {kind: threads, workers: 2, dashboard: none}\n"
    )
    assert pipeline.run(folder / "run.yaml").complete
    return pipeline.open_results(folder / "results")["demo"]


def test_a_message_is_answered_under_its_number(demo_slide: Path) -> None:
    reply, (content,) = replied(catalogue_of(demo_slide), {"number": 7, "question": "slides"})
    assert reply == {"number": 7, "kind": "application/json"}
    assert json.loads(content)[0]["id"] == "demo"
    reply, buffers = replied(catalogue_of(demo_slide), {"number": 8, "question": "nothing"})
    assert reply == {"number": 8, "error": "no such question"}
    assert buffers == []


def test_the_widget_sends_tiles_as_buffers(demo_slide: Path) -> None:
    made = pipeline.viewer(demo_slide, height=300)
    sent: list[tuple[Any, Any]] = []
    made.send = lambda content, buffers=None: sent.append((content, buffers))
    made._handle_custom_msg({"number": 1, "question": "tile/demo/slide/0/0/0"}, [])
    ((content, (buffer,)),) = sent
    assert content == {"number": 1, "kind": "image/jpeg"}
    assert Image.open(io.BytesIO(buffer)).size == (512, 512)
    assert made.height == 300
    made.close()


@pytest.mark.parametrize("given", ["slide", "path", "stored", "results", "both"])
def test_slides_results_and_paths_can_be_looked_at(
    given: str, demo_slide: Path, stored: Any
) -> None:
    results = Path(stored.path).parent
    made = {
        "slide": lambda: pipeline.viewer(pipeline.open_slide(demo_slide)),
        "path": lambda: pipeline.viewer(str(results)),
        "stored": lambda: pipeline.viewer(stored),
        "results": lambda: pipeline.viewer(pipeline.open_results(results)),
        "both": lambda: pipeline.viewer(str(demo_slide), stored.path),
    }[given]()
    _, (content,) = replied(made._catalogue, {"number": 1, "question": "slide/demo"})
    keys = [each["key"] for each in json.loads(content)["layers"]]
    assert ("scores-0-0" in keys) == (given != "slide")
    assert "slide" in keys
    made.close()


def test_a_stored_notebook_shows_the_slide_under_its_scores(demo_slide: Path, stored: Any) -> None:
    plain, scored = (
        _picture(pipeline.viewer(*each)) for each in ((demo_slide,), (demo_slide, stored))
    )
    thumbnail = pipeline.open_slide(demo_slide).thumbnail(640)
    assert plain.shape == thumbnail.shape == scored.shape
    assert np.abs(plain - thumbnail).mean() < 4
    changed = np.abs(plain - scored).max(axis=2) > 16
    tissue = np.asarray(Image.fromarray(stored.tissue).resize(changed.shape[::-1]))
    assert changed[tissue].mean() > 0.1
    assert changed[~tissue].mean() < 0.01


def _picture(made: Any) -> Any:
    bundle = made._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    made.close()
    content = base64.b64decode(bundle["image/jpeg"])
    return np.asarray(Image.open(io.BytesIO(content))).astype(int)


def test_results_of_another_slide_are_refused(stored: Any, tmp_path: Path) -> None:
    other = tmp_path / "other.svs"
    write_demo(other, 600, 600)
    with pytest.raises(ConfigError, match="give the slide they were made of"):
        pipeline.viewer(other, stored)


def test_without_anywidget_the_extra_is_named(
    demo_slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = builtins.__import__

    def missing(name: str, *more: Any) -> Any:
        if name == "anywidget":
            raise ImportError(name)
        return there(name, *more)

    monkeypatch.setattr(builtins, "__import__", missing)
    widget._widget_class.cache_clear()
    with pytest.raises(MissingExtraError, match=r"wsi-pipeline\[jupyter\]"):
        pipeline.viewer(demo_slide)
