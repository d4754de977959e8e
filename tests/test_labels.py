"""Label images beside a slide's scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import ome_zarr_models.v05
import pytest
import zarr

from pipeline.geometry import Grid
from pipeline.ngff import Placement
from pipeline.store import ArrayLayout, Layout, begin, read_placements
from pipeline.store.labels import label_files, read_label, write_label

IMAGE = ArrayLayout(
    name="scores",
    folder="",
    kind="scores",
    grid=Grid((1100, 900), 256),
    step=(4.0, 4.0),
    chunk=64,
    dtype="uint8",
    channels=("a",),
    colours=(),
    values=(),
    window=(0.0, 255.0),
    fill=0.0,
    levels=3,
)
LAYOUT = Layout(
    grid=Grid((4400, 3600), 1024),
    mpp=(0.5, 0.25),
    arrays=(IMAGE,),
    label_step=(16.0, 16.0),
    label_shape=(275, 225),
    label_origin=(-3.0, 0.0),
)
MEANINGS = {1: ("pen", "#0072B2"), 2: ("blur", "#E69F00")}


@pytest.fixture
def store(tmp_path: Path) -> str:
    path = str(tmp_path / "a.zarr")
    begin(path, LAYOUT, {"a": 1}, {}, np.ones(LAYOUT.label_shape, np.bool_))
    return path


def flags() -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    return np.random.default_rng(1).integers(0, 3, (275, 225), np.uint8)


def test_a_label_has_the_image_s_levels_its_names_and_the_tissue_s_place(store: str) -> None:
    write_label(store, "quality", flags(), LAYOUT, MEANINGS)
    found = read_label(store, "quality")
    assert found is not None
    np.testing.assert_array_equal(found, flags())
    group = zarr.open_group(store, path="labels/quality", mode="r")
    label = ome_zarr_models.v05.ImageLabel.from_zarr(group).attributes.ome
    assert len(label.multiscales[0].datasets) == LAYOUT.label_levels
    assert label.image_label is not None
    assert label.image_label.colors is not None
    assert [(c.label_value, c.rgba) for c in label.image_label.colors] == [
        (1, (0, 114, 178, 255)),
        (2, (230, 159, 0, 255)),
    ]
    assert group.attrs["ome"]["image-label"]["properties"][1]["name"] == "blur"  # type: ignore[index,call-overload]
    place = Placement.of(LAYOUT.mpp, LAYOUT.label_step, LAYOUT.label_origin)
    assert read_placements(f"{store}/labels/quality")[0] == place


def test_the_files_of_a_label_are_predicted(store: str) -> None:
    write_label(store, "quality", flags(), LAYOUT, MEANINGS)
    there = [each for each in Path(store, "labels/quality").rglob("*") if each.is_file()]
    assert len(there) == label_files(LAYOUT)


def test_the_group_of_labels_lists_both(store: str) -> None:
    write_label(store, "quality", flags(), LAYOUT, MEANINGS)
    labels = zarr.open_group(store, path="labels", mode="r").attrs["ome"]
    assert labels["labels"] == ["tissue", "quality"]  # type: ignore[index,call-overload]
    assert read_label(store, "tissue") is not None
    assert read_label(store, "other") is None


def test_a_label_that_is_there_is_left_alone_and_half_of_one_is_written_anew(store: str) -> None:
    write_label(store, "quality", flags(), LAYOUT, MEANINGS)
    write_label(store, "quality", flags() * 0, LAYOUT, MEANINGS)
    found = read_label(store, "quality")
    assert found is not None
    assert found.any()
    group = zarr.open_group(store, path="labels/quality", mode="r+")
    del group.attrs["ome"]  # as a kill before the end leaves it
    write_label(store, "quality", flags() * 0, LAYOUT, MEANINGS)
    again = read_label(store, "quality")
    assert again is not None
    assert not again.any()
