"""Two results directories are held against each other: what differs is said, and nothing else."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
import zarr

from pipeline.batch import run
from pipeline.checks.compare import Comparison, compare
from pipeline.checks.differing import ArrayDifference, compare_arrays, compare_tables
from pipeline.clusters import cluster
from pipeline.objects import PlacedObjects
from pipeline.store import StoredArray
from tests.test_check import flip
from tests.test_outputs import write_many
from tests.test_tables import some, table_at
from tests.toys import noise, write_tiff


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over one slide, of every kind of output."""
    folder = tmp_path_factory.mktemp("compare")
    rgb = noise(8, 9).repeat(40, axis=0).repeat(40, axis=1)
    settings = {
        "slides": str(write_tiff(folder / "a.tiff", rgb)),
        "model": str(write_many(folder / "model")),
        "output": {"directory": str(folder / "results"), "block": 192},
        "tissue": {"method": "none"},
        "cluster": {"kind": "threads"},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    assert run(folder / "run.yaml").complete
    return folder / "results"


@pytest.fixture
def copy(results: Path, tmp_path: Path) -> Path:
    shutil.copytree(results, tmp_path / "copy")
    return tmp_path / "copy"


def compared(first: Path, second: Path) -> Comparison:
    with cluster("threads", workers=2):
        return compare(str(first), str(second))


def lines(first: Path, second: Path) -> list[str]:
    return [str(each) for each in compared(first, second).differences]


def test_a_copy_is_the_same(results: Path, copy: Path) -> None:
    found = compared(results, copy)
    assert (found.differences, found.made) == ((), ())
    assert (found.slides, found.blocks) == (1, 4 * 5)


def test_values_that_differ_are_counted_with_the_first_block(results: Path, copy: Path) -> None:
    for name, value in (("0", 200), ("scores/thirds/0", 201)):
        array: Any = zarr.open_array(str(copy / "a.zarr"), path=name, mode="r+")
        array[0, 200:210, 5:8] = value
    before = np.asarray(
        zarr.open_array(str(results / "a.zarr"), path="0", mode="r")[0, 200:210, 5:8]
    )
    off = np.abs(200 - before.astype(int))
    first, second = lines(results, copy)
    assert first == (
        f"a: sum, level 0: {(off > 0).sum()} of 115,200 values differ, by up to {off.max()}; "
        "first in block (1, 0)"
    )
    assert second.startswith("a: thirds, level 0: 30 of 345,600 values differ")


def test_settings_states_coverage_and_slides_that_differ_are_said(
    results: Path, copy: Path
) -> None:
    text = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(text.replace("min_hole_um2: 5000.0", "min_hole_um2: 1.0"))
    shutil.copytree(copy / "a.zarr", copy / "b.zarr")
    group = zarr.open_group(str(copy / "a.zarr"), mode="r+")
    own: Any = group.attrs["wsi_pipeline"]
    own["settings"]["tissue.min_fraction"] = 0.5
    own["provenance"]["versions"]["zarr"] = "4.0"
    own["failures"] = [{"block": [0, 1], "reason": "torn"}]
    group.attrs["wsi_pipeline"] = own
    coverage: Any = group["coverage"]
    coverage[0, 1] = 3
    found = compared(results, copy)
    assert [str(each) for each in found.differences] == [
        "run file: tissue.min_hole_um2: 5000.0, then 1.0",
        "b: slide: only in the second",
        "a: state: done, then partial",
        "a: tissue.min_fraction: 0.0, then 0.5",
        "a: coverage: 1 of 4 blocks differ; the first, (0, 1), is analysed, then failed",
    ]
    (made,) = found.made
    assert str(made).startswith("a: versions.zarr: '3.")


def test_what_cannot_be_read_is_a_difference_and_the_rest_is_compared(
    results: Path, copy: Path
) -> None:
    flip(copy / "a.zarr" / "0" / "c" / "0" / "0" / "0")
    (copy / "a.zarr" / "features" / "means" / "0" / "c" / "0" / "1" / "1").unlink()
    torn, lost = lines(results, copy)
    assert torn.startswith("a: sum: cannot be read: Zstd decompression error")
    assert lost.startswith("a: means, level 0: ")
    (copy / "a.zarr" / "zarr.json").write_bytes(b"")
    (alone,) = lines(results, copy)
    assert alone.startswith("a: store: cannot be read: ")


def test_values_that_are_no_number_are_equal_to_themselves_alone(tmp_path: Path) -> None:
    tokens = []
    for name, values in (("a", [np.nan, 1.0, np.inf]), ("b", [np.nan, np.nan, np.inf])):
        array = zarr.open_group(str(tmp_path / name), mode="w").create_array(
            "0", shape=(1, 1, 3), dtype="float32", chunks=(1, 2, 2), shards=(1, 2, 2)
        )
        array[:] = np.array(values, np.float32)[None, None]
        tokens.append(StoredArray(str(tmp_path / name), "0", (1, 3), 1, "float32", 2, 2, 0.0))
    told: list[int] = []
    first, second = tokens
    found = compare_arrays(
        first, second, lambda blocks: blocks.compute(scheduler="sync"), told.append
    )
    assert isinstance(found, ArrayDifference)
    assert (found.values, found.of, found.block) == (1, 3, (0, 0))
    assert np.isnan(found.largest)
    assert told == [2]


@pytest.mark.parametrize("aligned", [True, False])
def test_objects_are_matched_by_their_ids(aligned: bool, tmp_path: Path) -> None:
    first, second = table_at(tmp_path / "a"), table_at(tmp_path / "b")
    first.write_part((0, 0), some(1, 2, 3))
    first.write_part((0, 1), some(7))
    second.write_part((0, 0), changed(some(3, 2, 9)))
    found = compare_tables(first, second, aligned=aligned)
    assert found
    assert (found.only_first, found.only_second, found.both) == (2, 1, 2)
    assert found.columns == {"area_um2": 2}
    assert found.largest == {"area_um2": 0.5}
    assert "area_um2 differs in 2 by up to 0.5" in str(found)
    assert not compare_tables(first, first, aligned=aligned)


def changed(objects: PlacedObjects) -> PlacedObjects:
    return replace(objects, areas_um2=objects.areas_um2 + 0.5)
