"""Results that somebody has tampered with, or a disk has: every command that reads them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pipeline
from pipeline.cli import main
from pipeline.errors import SlideError, StoreError
from pipeline.view.answers import UnknownQuestionError, answer
from pipeline.view.catalogue import catalogue_of
from tests.fuzzing.harness import Target, files_of
from tests.fuzzing.mutating import Mutations
from tests.fuzzing.slides import mutate_tree

__all__ = ["TARGETS", "write_results"]

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
    """Run a small model of outputs of every kind."""
    from tests.exported import run_many

    run_many(seeds)


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


def _look(folder: Path) -> str:
    said = "read"
    results = pipeline.open_results(folder)
    results.table()
    for stored in results.values():
        for name in dir(type(stored)):
            try:
                getattr(stored, name)
            except StoreError:
                said = "unreadable"
        for name in list(stored.kinds):
            try:
                for level in stored.levels_of(name):
                    level.compute(scheduler="synchronous")
            except StoreError:
                said = "unreadable"
    repr(results)
    return said


_QUESTIONS = ("slides", "slide/drawn", "state/drawn", "thumbnail/drawn")


def _view(folder: Path) -> str:
    import json

    said, catalogue = "read", catalogue_of(folder)
    questions = list(_QUESTIONS)
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


LOADS = (
    *("pipeline.batch", "pipeline.report", "pipeline.examine", "pipeline.export.geojson"),
    *("pipeline.export.csv_files", "pipeline.view.catalogue", "pipeline.view.server"),
    *("pyarrow.parquet", "shapely", "onnxruntime", "matplotlib.figure", "rich.table"),
    *("pipeline.readers.openslide", "pipeline.readers.ome_zarr", "skimage.measure", "distributed"),
)

TARGETS = (Target("results", write_results, _result, loads=LOADS),)
