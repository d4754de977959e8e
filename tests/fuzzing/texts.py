"""What people write: run files, manifests, model cards, masks; and the books beside results."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.books.holder import Holder
from pipeline.books.kept import kept_config
from pipeline.books.rows import Row, read_rows
from pipeline.books.rows import written as rows_written
from pipeline.books.runs import identities, read_runs
from pipeline.config import RunConfig
from pipeline.config.runfile import dump_config, load_config, parse_config
from pipeline.errors import ConfigError
from pipeline.manifest.jobs import jobs, manifest_text, missing
from pipeline.manifest.listed import read_manifest
from pipeline.model.load import read_card_at
from pipeline.tissue.masks import Raster, load_mask
from tests.fuzzing.harness import Target, files_of
from tests.fuzzing.mutating import Mutations

__all__ = ["TARGETS"]

ROOT = Path(__file__).parents[2]


def _value(path: Path) -> Any:
    return _read(path)[1]


@lru_cache(maxsize=64)
def _read(path: Path) -> tuple[bytes, Any]:
    data = path.read_bytes()
    return data, yaml.safe_load(data)


def _changed(path: Path, mutations: Mutations) -> bytes:
    """Change a file of YAML or JSON: what it holds, or its text."""
    data, value = _read(path)
    if mutations.still:
        return data
    how = mutations.rng.random()
    if how < 0.25:
        return mutations.text(data.decode()).encode("utf-8", "surrogatepass")
    if how < 0.35:
        return mutations.binary(data)
    return mutations.json(value) if path.suffix == ".json" else mutations.yaml(value)


# -- run files ----------------------------------------------------------------------------


def _run_files(seeds: Path) -> None:
    for path in (ROOT / "configs").glob("*.yaml"):
        (seeds / path.name).write_bytes(path.read_bytes())


def _run_file(seeds: Path, folder: Path, mutations: Mutations) -> str:
    path = mutations.choose(list(files_of(seeds)))
    case = folder / "run.yaml"
    case.write_bytes(_changed(path, mutations))
    overrides = ["output.block=1024", "tissue={method: otsu}", "slides=[a.svs, b/*.svs]"]
    over = [mutations.text(mutations.choose(overrides))] if mutations.rng.random() < 0.3 else []
    config = load_config(case, over)
    assert parse_config(dump_config(config), "again", folder) == config
    return "read"


# -- manifests ----------------------------------------------------------------------------

_ROWS = (
    {"slide_id": "a", "image_path": "a.svs", "mpp": "0.25", "mask_path": "a.png", "case": "x, y"},
    {"slide_id": "b", "image_path": "s3://b/b.svs", "mpp": "", "mask_path": "", "case": 'q"q'},
    {
        "slide_id": "",
        "image_path": "https://u:p@h/c.svs?s=1",
        "mpp": "1",
        "mask_path": "",
        "case": "",
    },
)


def _manifests(seeds: Path) -> None:
    import csv

    import pyarrow as pa
    from pyarrow import parquet

    with (seeds / "slides.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(_ROWS[0]))
        table.writeheader()
        table.writerows(_ROWS)
    columns = {name: [row[name] for row in _ROWS] for name in _ROWS[0]}
    parquet.write_table(pa.table({**columns, "n": [1.5, None, 3]}), seeds / "slides.parquet")


def _manifest(seeds: Path, folder: Path, mutations: Mutations) -> str:
    path = mutations.choose(sorted(seeds.iterdir()))
    data = path.read_bytes()
    if path.suffix == ".csv" and mutations.rng.random() < 0.6:
        data = mutations.text(data.decode()).encode("utf-8", "surrogatepass")
    else:
        data = mutations.binary(data)
    case = folder / path.name
    case.write_bytes(data)
    config = RunConfig(slides=str(case), model="builtin:nuclei")
    todo = jobs(config)
    missing(todo)
    again = folder / "again.csv"
    again.write_text(manifest_text(todo), encoding="utf-8")
    _, wrong = read_manifest(str(again))
    assert not wrong, wrong
    return "read"


# -- model cards --------------------------------------------------------------------------


def _cards(seeds: Path) -> None:
    from tests.test_zoo import V04, V05, WSINFER

    builtin = ROOT / "pipeline" / "model" / "builtin"
    for path in (*builtin.glob("*.yaml"), ROOT / "configs" / "cards" / "example.yaml"):
        (seeds / path.name).write_bytes(path.read_bytes())
    weights = {"weights": {"onnx": {"source": "toy.onnx"}}}
    for name, made in (("04", V04), ("05", V05)):
        (seeds / f"rdf-{name}.yaml").write_text(yaml.safe_dump({**made, **weights}))
    (seeds / "config.json").write_text(json.dumps(WSINFER))


def _card(seeds: Path, folder: Path, mutations: Mutations) -> str:
    path = mutations.choose(list(files_of(seeds)))
    (folder / "toy.onnx").write_bytes(b"")
    case = folder / path.name
    case.write_bytes(_changed(path, mutations))
    _, card, _ = read_card_at(str(case))
    list(card.patch_problems(512))
    return "read"


# -- masks --------------------------------------------------------------------------------

_RASTER = Raster.covering((1200, 1500), (60, 75))


def _masks(seeds: Path) -> None:
    from PIL import Image

    square = [[0, 0], [700, 0], [700.5, 800], [0, 800], [0, 0]]
    hole = [[100, 100], [200, 100], [200, 200], [100, 100]]
    polygon = {"type": "Polygon", "coordinates": [square, hole]}
    several = {"type": "MultiPolygon", "coordinates": [[square], [hole]]}
    features = [
        {"type": "Feature", "geometry": each, "properties": {}} for each in (polygon, several)
    ]
    collection = {"type": "FeatureCollection", "features": features}
    (seeds / "a.geojson").write_text(json.dumps(collection))
    (seeds / "b.json").write_text(
        json.dumps({"type": "GeometryCollection", "geometries": [polygon]})
    )
    image = Image.fromarray(np.eye(120, 150, dtype=np.uint8) * 255)
    for name in ("a.png", "a.tif", "a.bmp", "a.gif"):
        image.save(seeds / name)
    image.convert("RGB").save(seeds / "a.jpg")


def _mask(seeds: Path, folder: Path, mutations: Mutations) -> str:
    files = list(files_of(seeds))
    drawn = [each for each in files if each.suffix.endswith("json")]
    path = mutations.choose(drawn * 3 + files)
    case = folder / path.name
    text = path in drawn
    case.write_bytes(_changed(path, mutations) if text else mutations.binary(path.read_bytes()))
    load_mask(str(case), _RASTER, (0.5, 0.5))
    return "read"


# -- books --------------------------------------------------------------------------------


def _books(seeds: Path) -> None:
    rows = [Row("a", "done", 4, 2, 0, 6, 1.5, 2.25, 100, 90), Row("b", "failed", reason="x, y\nz")]
    (seeds / "status.csv").write_bytes(rows_written(rows))
    run = {"started": "2026-01-01T00:00:00Z", "states": {"done": 1}, "slides": {"a": "x:1"}}
    (seeds / "run.json").write_text(json.dumps({"runs": [run, run]}))
    holder = Holder("t", "me", "here", "m", 1, "2", 1.0, 2.0, 3)
    (seeds / "lease.json").write_bytes(holder.written())
    (seeds / "config.yaml").write_bytes((ROOT / "configs" / "local.yaml").read_bytes())


def _book(seeds: Path, folder: Path, mutations: Mutations) -> str:
    path = mutations.choose(sorted(seeds.iterdir()))
    case = folder / path.name
    if path.suffix == ".csv":
        case.write_bytes(mutations.text(path.read_text()).encode("utf-8", "surrogatepass"))
    else:
        case.write_bytes(_changed(path, mutations))
    if path.name == "status.csv":
        rows_written(read_rows(str(case)))
    elif path.name == "run.json":
        identities(read_runs(str(case)))
    elif path.name == "config.yaml":
        kept_config(folder)
    else:
        held = Holder.read(case.read_bytes())
        if held is None:
            raise ConfigError("no lease")
        assert held.gone in (True, False), f"{held}"
    return "read"


TARGETS = (
    Target("run-file", _run_files, _run_file),
    Target("manifest", _manifests, _manifest, loads=("pyarrow.parquet",)),
    Target("card", _cards, _card),
    Target("mask", _masks, _mask),
    Target("book", _books, _book),
)
