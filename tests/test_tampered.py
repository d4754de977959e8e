"""Stores whose own metadata somebody has changed: told as damaged, and never followed outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import zarr

import pipeline
from pipeline.errors import DamagedStoreError
from pipeline.results.stored import open_stored
from pipeline.store import placed_outputs
from pipeline.store.attributes import check_attributes

OUTPUT = {"name": "a", "kind": "scores", "folder": "scores/a", "channels": ["x"], "values": []}

GOOD: dict[str, Any] = {
    "settings": {"slide.mpp": [0.5, 0.25], "model.range.a": [0, 1], "output.block": 96, "x": None},
    "provenance": {"slide": {"shape": [300, 500], "seen_mpp": [0.5, 0.5], "crop": None}},
    "outputs": [OUTPUT],
    "tables": ["nuclei", "grade-regions"],
    "failures": [{"block": [0, 1], "reason": "no"}],
    "blocks": {"failed": 1},
    "memory": {"peak_bytes": None},
    "seconds": 1.5,
}

BAD: list[dict[str, Any]] = [
    {"settings": []},
    {"settings": {"slide.mpp": [0.5]}},
    {"settings": {"slide.mpp": [0, 0.5]}},
    {"settings": {"slide.mpp": [float("nan"), 0.5]}},
    {"settings": {"model.range.a": [1, 0]}},
    {"settings": {"model.output.a": ["scores", "t", "none", 1]}},
    {"settings": {"model.objects.a": []}},
    {"settings": {"output.block": 0}},
    {"settings": {"output.block": True}},
    {"settings": {"slide.reader": ["tiff"]}},
    {"provenance": "me"},
    {"provenance": {"slide": {"shape": [2**40, 5]}}},
    {"provenance": {"slide": {"reader": 1}}},
    {"provenance": {"slide": {"mpp_source": {}}}},
    {"provenance": {"notes": [1]}},
    {"outputs": {}},
    {"outputs": [1.5]},
    {"outputs": [{**OUTPUT, "folder": "../../other"}]},
    {"outputs": [{**OUTPUT, "name": "a/b"}]},
    {"outputs": [{**OUTPUT, "kind": "pickle"}]},
    {"outputs": [{"name": "a"}]},
    {"tables": ["../nuclei"]},
    {"failures": [{"block": [0], "reason": "no"}]},
    {"failures": [{"block": [0, -1], "reason": "no"}]},
    {"blocks": {"failed": "1"}},
    {"seconds": 10**400},
    {"sessions": [1]},
]


def store_that_says(path: Path, own: dict[str, Any]) -> Path:
    zarr.open_group(str(path), mode="w", attributes={"wsi_pipeline": {"format": 2, **own}})
    return path


def test_what_is_written_is_accepted() -> None:
    check_attributes(GOOD)
    check_attributes({})
    check_attributes({"settings": None})


@pytest.mark.parametrize("own", BAD, ids=[f"{i} {next(iter(each))}" for i, each in enumerate(BAD)])
def test_what_no_version_writes_is_damage_and_the_other_slides_are_opened(
    own: dict[str, Any], tmp_path: Path
) -> None:
    store_that_says(tmp_path / "good.zarr", GOOD)
    path = store_that_says(tmp_path / "bad.zarr", {**GOOD, **own})
    results = pipeline.open_results(tmp_path)
    assert list(results) == ["good"]
    error = results.unopened["bad"]
    assert isinstance(error, DamagedStoreError)
    assert f"{error}".startswith(f'{path}: damaged: its metadata say "{next(iter(own))}": ')
    assert len(f"{error}") < 600


def test_what_is_not_said_and_somebody_needs_is_damage(tmp_path: Path) -> None:
    stored = open_stored(str(store_that_says(tmp_path / "a.zarr", {"settings": {}})))
    assert stored is not None
    for key, ask in (
        ("slide.mpp", lambda: stored.level0_mpp),
        ("slide", lambda: stored.provenance["slide"]),
    ):
        with pytest.raises(DamagedStoreError, match=f"its metadata do not say {key}"):
            ask()


@pytest.mark.parametrize("scale", [["a", 1], [0, 1], [1], [1e400, 1], [10**400, 1], None, "xy"])
def test_a_place_that_is_none_is_damage(scale: Any, tmp_path: Path) -> None:
    path = store_that_says(tmp_path / "a.zarr", GOOD)
    moves = [{"type": "scale", "scale": scale}, {"type": "translation", "translation": [0, 0]}]
    datasets: Any = [{"path": "0", "coordinateTransformations": moves}]
    group = zarr.open_group(str(path), mode="r+")
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"datasets": datasets}]}
    stored = open_stored(str(path))
    assert stored is not None
    with pytest.raises(DamagedStoreError):
        _ = stored.placements


@pytest.mark.parametrize("placed", [0, 1, 3])
def test_levels_of_which_not_each_is_placed_are_damage(placed: int, tmp_path: Path) -> None:
    path = store_that_says(tmp_path / "a.zarr", GOOD)
    group = zarr.open_group(str(path), mode="r+")
    for name in ("0", "1"):
        group.create_array(name, shape=(1, 8, 8), chunks=(1, 4, 4), dtype="u1")
    moves = [{"type": "scale", "scale": [1, 1]}, {"type": "translation", "translation": [0, 0]}]
    datasets: Any = [{"path": str(n), "coordinateTransformations": moves} for n in range(3)]

    def say(count: int) -> None:
        group.attrs["ome"] = {"version": "0.5", "multiscales": [{"datasets": datasets[:count]}]}

    say(2)
    assert [array.name for array, _ in placed_outputs(str(path))] == ["0", "1"]
    say(placed)
    with pytest.raises(DamagedStoreError):
        placed_outputs(str(path))
    del group["0"], group["1"]
    say(0)
    with pytest.raises(DamagedStoreError, match="its image has no level"):
        placed_outputs(str(path))
