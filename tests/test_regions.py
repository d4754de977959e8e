"""Connected regions of a label map, over all blocks."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.measure import label

from pipeline.execute.schedulers import scheduler_in_force
from pipeline.geometry import Box, Grid
from pipeline.plan.regions import Regions, regions_done, write_regions
from pipeline.store.tables import StoredTable, done, read_table

CLASSES = ((1, "tumour"), (2, "stroma"), (3, "necrosis"))


@dataclass(frozen=True)
class Held:
    """A label map in memory, cut into blocks of ``block`` pixels."""

    rows: tuple[bytes, ...]
    block: int

    @property
    def grid(self) -> Grid:
        return Grid((len(self.rows), len(self.rows[0])), self.block)

    @property
    def shape(self) -> tuple[int, int, int]:
        return (1, *self.grid.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    @property
    def axes(self) -> str:
        return "cyx"

    def read(self, box: Box) -> NDArray[np.uint8]:
        rows, columns = box.within(Box(0, 0, *self.grid.shape))
        values = np.array([np.frombuffer(row, np.uint8) for row in self.rows])
        return np.ascontiguousarray(values[None, rows, columns])


def regions_of(
    values: NDArray[np.uint8], block: int, folder: Path, min_area_um2: float = 0.0
) -> Regions:
    held = Held(tuple(row.tobytes() for row in values), block)
    table = StoredTable(str(folder), f"labels-{block}", held.grid)
    return Regions(held, table, CLASSES, (2.0, 2.0), (10.0, 20.0), (0.5, 0.5), min_area_um2)


def found(regions: Regions) -> list[dict[str, Any]]:
    """Give the written rows by id."""
    count = write_regions(regions, scheduler_in_force().compute)
    rows: list[dict[str, Any]] = read_table(regions.table.store, regions.table.name).to_pylist()
    assert len(rows) == count
    return sorted(rows, key=lambda row: row["id"])


def texture(seed: int, shape: tuple[int, int], sigma: float) -> NDArray[np.uint8]:
    """Give a map of four values: noise, or large regions with holes and islands."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)
    values: NDArray[np.uint8] = np.digitize(noise, np.quantile(noise, [0.2, 0.5, 0.8])).astype(
        np.uint8
    )
    return values


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.integers(0, 1000),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.sampled_from([0.0, 0.8, 2.5]),
    st.integers(3, 45),
)
def test_regions_are_those_of_the_whole_map(
    tmp_path: Path, seed: int, shape: tuple[int, int], sigma: float, block: int
) -> None:
    values = texture(seed, shape, sigma)
    truth, count = label(values, background=0, connectivity=1, return_num=True)
    with dask.config.set(scheduler="synchronous"):
        rows = found(regions_of(values, block, tmp_path / f"{seed}-{shape}-{sigma}-{block}"))
    assert len(rows) == count
    y0, x0 = np.mgrid[: shape[0], : shape[1]]
    for row in rows:
        first = divmod(row["id"], shape[1])
        mask = truth == truth[first]
        assert np.flatnonzero(mask)[0] == row["id"]
        assert row["class"] == dict(CLASSES)[int(values[first])]
        assert (row["area_um2"], row["score"], row["truncated"]) == (mask.sum(), None, False)
        outline = shapely.from_wkb(row["geometry"])
        assert outline.is_valid
        assert outline.area == 4 * mask.sum()
        assert shapely.contains_xy(outline, x0[mask] * 2 + 21, y0[mask] * 2 + 11).all()
        assert shapely.covers(outline, shapely.points(row["x"], row["y"]))


def test_rows_are_the_same_for_any_block(tmp_path: Path, in_threads: None) -> None:
    values = texture(3, (90, 70), 2.0)
    whole = found(regions_of(values, 100, tmp_path))
    assert len(whole) > 20
    for block in (16, 33):
        assert found(regions_of(values, block, tmp_path)) == whole


def test_a_snake_through_all_blocks_is_one_region(tmp_path: Path, in_threads: None) -> None:
    values = np.zeros((40, 40), np.uint8)
    values[::4] = 2
    values[:, 0] = 2
    (snake,) = found(regions_of(values, 7, tmp_path))
    assert snake["class"] == "stroma"
    assert snake["area_um2"] == 10 * 40 + 30


def test_small_regions_are_left_out_wherever_they_are_cut(tmp_path: Path, in_threads: None) -> None:
    values = np.zeros((20, 20), np.uint8)
    values[1:3, 1:3] = values[9:11, 9:11] = 1
    values[14:16, 3:8] = 1
    for area, count in ((4.0, 3), (5.0, 1), (11.0, 0)):
        assert len(found(regions_of(values, 10, tmp_path, area))) == count


def test_values_that_have_no_name_are_none(tmp_path: Path, in_threads: None) -> None:
    assert found(regions_of(np.full((5, 5), 9, np.uint8), 3, tmp_path)) == []


def test_they_are_done_when_every_row_of_blocks_has_its_part(
    tmp_path: Path, in_threads: None
) -> None:
    regions = regions_of(texture(0, (20, 20), 1.0), 8, tmp_path)
    write_regions(regions, scheduler_in_force().compute)
    parts = done(regions.table)
    assert parts == {(0, 0), (1, 0), (2, 0)}
    assert regions_done(regions, parts)
    assert not regions_done(regions, parts - {(1, 0)})


def test_tasks_and_what_they_give_travel(tmp_path: Path, in_threads: None) -> None:
    def elsewhere(row: da.Array) -> Any:
        there = pickle.loads(pickle.dumps(row))
        return pickle.loads(pickle.dumps(there.compute(scheduler="synchronous")))

    regions = regions_of(texture(1, (60, 60), 2.0), 25, tmp_path)
    here = found(regions)
    write_regions(regions, elsewhere)
    there = read_table(regions.table.store, regions.table.name).to_pylist()
    assert sorted(there, key=lambda row: row["id"]) == here
