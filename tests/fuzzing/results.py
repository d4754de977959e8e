"""Results that somebody has tampered with, or a disk has: every command that reads them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pipeline
from pipeline.cli import main
from pipeline.errors import SlideError, StoreError
from pipeline.store.survey import survey
from pipeline.view.answers import UnknownQuestionError, answer
from pipeline.view.catalogue import Catalogue, catalogue_of
from tests.fuzzing.harness import Target, files_of
from tests.fuzzing.mutating import Mutations
from tests.fuzzing.slides import mutate_tree

__all__ = ["TARGETS", "write_results"]

SECRET = b"nobody may read this"

_COMMANDS = (
    ("status",),
    ("status", "--verify"),
    ("export", "geojson"),
    ("export", "csv"),
    ("merge",),
    ("report",),
    ("look",),
    ("view",),
    ("resume",),
)


def write_results(seeds: Path) -> None:
    """Run a small model of outputs of every kind; what nobody may read lies about there."""
    from tests.exported import run_many

    store = run_many(seeds)
    for place in (seeds, store, store / "drawn.zarr"):
        (place / "secret").write_bytes(SECRET)


def _result(seeds: Path, folder: Path, mutations: Mutations) -> str:
    store = seeds / "results"
    files = [each for each in files_of(store) if each.suffix not in (".log", ".png", ".html")]
    metadata = [each for each in files if each.suffix in (".json", ".csv", ".yaml", ".parquet")]
    root = [each for each in files if each.parent.suffix == ".zarr" and each.name == "zarr.json"]
    mutate_tree(store, folder / "results", mutations, metadata * 2 + files + root * len(files))
    first, *options = mutations.choose(_COMMANDS)
    if first == "look":
        return _look(folder / "results")
    if first == "view":
        return _view(folder / "results")
    if first == "resume":
        return _resume(seeds, folder)
    named = (
        [*options, str(folder / "results")]
        if first == "export"
        else [str(folder / "results"), *options]
    )
    try:
        main([first, *named])
    except SystemExit as ended:
        return {0: "read", 1: "incomplete"}.get(int(ended.code or 0), "refused")
    return "read"


def _properties(results: Any) -> str:
    """Ask for whatever results say of themselves."""
    said = "unreadable" if results.unopened else "read"
    results.table()
    repr(results)
    for stored in results.values():
        for name in dir(type(stored)):
            try:
                getattr(stored, name)
            except StoreError:
                said = "unreadable"
    return said


def _look(folder: Path) -> str:
    results = pipeline.open_results(folder)
    said = _properties(results)
    for stored in results.values():
        for name in list(stored.kinds):
            try:
                for level in stored.levels_of(name):
                    level.compute(scheduler="synchronous")
            except StoreError:
                said = "unreadable"
    return said


_QUESTIONS = ("slides", "slide/drawn", "state/drawn", "thumbnail/drawn")


def _view(folder: Path) -> str:
    return _asked(catalogue_of(folder), _QUESTIONS)


def _asked(catalogue: Catalogue, first: Sequence[str]) -> str:
    """Ask what the page asks, and for a tile of every layer."""
    said, questions = "read", list(first)
    while questions:
        try:
            found = answer(catalogue, question := questions.pop(0))
        except (SlideError, StoreError, UnknownQuestionError):
            said = "unreadable"
            continue
        if question == "slide/drawn":
            for layer in json.loads(found.content)["layers"]:
                kind = "objects" if layer["kind"] == "objects" else "tile"
                plane = "" if kind == "objects" else "/0"
                questions.append(f"{kind}/drawn/{layer['key']}{plane}/0/0")
    return said


def _resume(seeds: Path, folder: Path) -> str:
    """Run again over it: its slide may fail for a reason, and no reason may be unforeseen."""
    for name in ("drawn.tiff", "mask.png", "card.yaml", "run.yaml", "toy.onnx"):
        if (seeds / name).exists():
            shutil.copy(seeds / name, folder)
    for graph in seeds.glob("*.onnx"):
        shutil.copy(graph, folder)
    summary = pipeline.run(folder / "run.yaml")
    for outcome in summary.outcomes:
        assert "unforeseen" not in outcome.reason, outcome.reason
    return "read" if summary.complete else "incomplete"


def _metadata(seeds: Path, folder: Path, mutations: Mutations) -> str:
    """Change what a store says of itself, and look at it in every way that reads little."""
    store, copy = seeds / "results", folder / "results"
    shutil.copytree(store, copy, copy_function=os.link)
    root = copy / "drawn.zarr" / "zarr.json"
    content = root.read_bytes()
    root.unlink()
    root.write_bytes(mutations.json(json.loads(content)))
    said = _properties(pipeline.open_results(copy))
    survey(str(root.parent))
    return _asked(catalogue_of(copy), _QUESTIONS[:3]) if said == "read" else said


LOADS = (
    *("pipeline.batch", "pipeline.report", "pipeline.checks.examine", "pipeline.export.geojson"),
    *("pipeline.export.csv_files", "pipeline.view.catalogue", "pipeline.view.server"),
    *("pyarrow.parquet", "shapely", "onnxruntime", "matplotlib.figure", "rich.table"),
    *("pipeline.readers.openslide", "pipeline.readers.ome_zarr", "skimage.measure", "distributed"),
)

TARGETS = (
    Target("metadata", write_results, _metadata, loads=LOADS),
    Target("results", write_results, _result, loads=LOADS),
)
