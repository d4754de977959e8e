"""What exports of a great many objects take: files grow with them, memory does not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import shapely

from pipeline.geometry import Grid
from pipeline.objects import PlacedObjects
from pipeline.store import Layout, begin, commit
from pipeline.store.tables import StoredTable

SIDE, BLOCK = 20_000, 2_000
"""Level-0 pixels of the slide and of a block: 100 blocks."""

FEW, MANY = 250, 2_000
"""Objects of a block: 25,000 and 200,000 in all. The fewer are more than is written at once."""

KINDS = ("geojson", "csv", "parquet", "anndata")

MOST_PART = 1 / 3
"""Of what all files of 175,000 objects more hold, the most that making them may take more."""

CODE = """
import json, sys
from pipeline.export import export
paths = [path for kind in sys.argv[2:] for path in export(kind, sys.argv[1])]
peak_kb = open("/proc/self/status").read().split("VmHWM:")[1].split()[0]
print(json.dumps([peak_kb, *paths]))
"""


def objects(row: int, column: int, count: int) -> PlacedObjects:
    """Give octagons anywhere in a block."""
    rng = np.random.default_rng(row * 1000 + column)
    x, y = rng.random((2, count)) * BLOCK + np.array([[column], [row]]) * BLOCK
    turn = np.linspace(0, 2 * np.pi, 9)
    rings = np.stack([x[:, None] + 8 * np.cos(turn), y[:, None] + 8 * np.sin(turn)], axis=2)
    rings[:, -1] = rings[:, 0]
    first = (row * (SIDE // BLOCK) + column) * MANY
    return PlacedObjects(
        ids=np.arange(first, first + count),
        x=x,
        y=y,
        areas_um2=np.full(count, 45.0),
        scores=rng.random(count).astype(np.float32),
        classes=np.arange(count, dtype=np.int32) % 2,
        class_names=("tumour", "stroma"),
        truncated=np.zeros(count, np.bool_),
        geometries=shapely.polygons(rings),
    )


def write_store(path: Path, count: int) -> str:
    """Write a committed store with a table of so many objects in every block and nothing else."""
    grid = Grid((SIDE, SIDE), BLOCK)
    layout = Layout(
        grid=grid,
        mpp=(0.5, 0.5),
        arrays=(),
        tables=("nuclei",),
        label_step=(1000.0, 1000.0),
        label_shape=(40, 40),
    )
    settings: dict[str, Any] = {
        "slide.identity": "none",
        "slide.mpp": [0.5, 0.5],
        "model.patch": 512,
        "model.halo": 0,
    }
    begin(str(path), layout, settings, {}, np.ones((40, 40), np.bool_))
    table = StoredTable(str(path), "nuclei", grid)
    for row, column in grid:
        table.write_part((row, column), objects(row, column, count))
    commit(str(path), layout, np.ones(grid.counts, np.uint8), {"failures": []})
    return str(path)


def exported(store: str) -> tuple[int, list[Path]]:
    """Export in a process of its own; give the most memory it had, and the files."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, store, *KINDS], capture_output=True, text=True, check=True
    )
    peak, *paths = json.loads(done.stdout)
    return int(peak) * 1024, [Path(path) for path in paths]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc says the peak here")
def test_eight_times_the_objects_take_no_more_memory(
    tmp_path: Path, tell: Callable[[str], None]
) -> None:
    few, small = exported(write_store(tmp_path / "few.zarr", FEW))
    many, large = exported(write_store(tmp_path / "many.zarr", MANY))
    sizes = [sum(path.stat().st_size for path in paths) for paths in (small, large)]
    tell(
        f"exports of {100 * FEW:,} and {100 * MANY:,} objects: files of {sizes[0] / 2**20:.0f} and "
        f"{sizes[1] / 2**20:.0f} MiB with a peak of {few / 2**20:.0f} and {many / 2**20:.0f} MiB"
    )
    assert sizes[1] - sizes[0] > 100 * 2**20
    assert many - few < MOST_PART * (sizes[1] - sizes[0])
    geojson, csv, parquet, h5ad = large
    with geojson.open(encoding="utf-8") as file:
        assert sum('"objectType": "detection"' in line for line in file) == 100 * MANY
    assert len(pd.read_csv(csv, usecols=["id"])["id"].unique()) == 100 * MANY
    assert pq.read_metadata(parquet).num_rows == 100 * MANY
    with h5py.File(h5ad) as file:
        assert len(file["obs/_index"]) == len(file["obsm/spatial"]) == 100 * MANY
