"""ONNX files, mutated, beside cards that are good, and the other way round."""

from __future__ import annotations

from pathlib import Path

import yaml

from pipeline.model.load import load_model
from tests.fuzzing.harness import Target
from tests.fuzzing.mutating import Mutations

__all__ = ["TARGETS"]


def _models(seeds: Path) -> None:
    from tests.toys import write_toy_model

    for kind in ("neighbours", "static", "per_patch", "strided"):
        write_toy_model(seeds / kind, kind)


def _model(seeds: Path, folder: Path, mutations: Mutations) -> str:
    kind = mutations.choose(sorted(seeds.iterdir()))
    graph, card = (kind / "toy.onnx").read_bytes(), (kind / "card.yaml").read_bytes()
    if mutations.rng.random() < 0.7:
        graph = mutations.binary(graph)
    else:
        card = mutations.yaml(yaml.safe_load(card))
    (folder / "toy.onnx").write_bytes(graph)
    (folder / "card.yaml").write_bytes(card)
    load_model(folder / "card.yaml")
    return "read"


TARGETS = (Target("onnx", _models, _model, native=True, loads=("onnxruntime",)),)
