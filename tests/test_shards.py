"""Shards made here are zarr's, byte for byte where it matters: each reads the other's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from pipeline.errors import StoreError
from pipeline.geometry import Box
from pipeline.store import StoredArray
from pipeline.store.shards import COMPRESSOR
from tests.contracts import check_source, check_target

KINDS = [("uint8", 3), ("uint8", 1), ("float16", 1), ("float32", 3)]


def make(path: Path, kind: str, together: int) -> StoredArray:
    """Make an empty array of 3 channels, its border in the middle of chunks."""
    zarr.open_group(str(path), mode="w").create_array(
        "0",
        shape=(3, 150, 235),
        dtype=kind,
        chunks=(together, 32, 32),
        shards=(3, 96, 96),
        compressors=COMPRESSOR,
        fill_value=7,
    )
    return StoredArray(str(path), "0", (150, 235), 3, kind, 96, 32, 7.0, together)


def noise(kind: str) -> NDArray[Any]:
    return np.random.default_rng(0).integers(0, 256, (3, 150, 235)).astype(kind)


@pytest.mark.parametrize(("kind", "together"), KINDS)
def test_zarr_reads_what_is_written_here(kind: str, together: int, tmp_path: Path) -> None:
    token, values = make(tmp_path / "a.zarr", kind, together), noise(kind)
    for index in token.grid:
        box = token.grid.box(index)
        token.write(box, values[(slice(None), *box.within(Box(0, 0, 150, 235)))])
    stored = zarr.open_array(str(tmp_path / "a.zarr"), path="0", mode="r")
    np.testing.assert_array_equal(stored[:], values)
    np.testing.assert_array_equal(stored[:, 40:140, 3:90], values[:, 40:140, 3:90])
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize(("kind", "together"), KINDS)
def test_what_zarr_writes_is_read_here(kind: str, together: int, tmp_path: Path) -> None:
    token, values = make(tmp_path / "a.zarr", kind, together), noise(kind)
    values[:, :32, :64] = 7  # zarr stores no chunk that is all fill
    zarr.open_array(str(tmp_path / "a.zarr"), path="0", mode="r+")[:] = values
    np.testing.assert_array_equal(token.read(Box(0, 0, 150, 235)), values)  # whole blocks
    np.testing.assert_array_equal(token.read(Box(96, 96, 54, 96)), values[:, 96:, 96:192])
    np.testing.assert_array_equal(token.read(Box(5, 7, 100, 90)), values[:, 5:105, 7:97])


@pytest.mark.parametrize(("kind", "together"), KINDS)
def test_a_stored_array_keeps_the_contracts(kind: str, together: int, tmp_path: Path) -> None:
    token = make(tmp_path / "a.zarr", kind, together)
    check_target(token, token)
    check_source(token, background=7)


@pytest.mark.parametrize("damage", ["empty", "cut", "index", "frame", "byte"])
def test_a_damaged_shard_is_named(damage: str, tmp_path: Path) -> None:
    token, values = make(tmp_path / "a.zarr", "uint8", 3), noise("uint8")
    box = token.grid.box((0, 0))
    token.write(box, values[:, :96, :96])
    shard = tmp_path / "a.zarr" / "0" / "c" / "0" / "0" / "0"
    good = shard.read_bytes()
    shard.write_bytes(
        {
            "empty": b"",
            "cut": good[:-10],
            "index": good[:-30] + b"x" + good[-29:],
            "frame": b"\0" * 60 + good[60:],
            "byte": good[:500] + bytes([good[500] ^ 1]) + good[501:],
        }[damage]
    )
    for asked in (box, Box(0, 0, 10, 10)):
        with pytest.raises(StoreError, match=r"a\.zarr/0: damaged"):
            token.read(asked)


def test_only_whole_blocks_are_written(tmp_path: Path) -> None:
    token = make(tmp_path / "a.zarr", "uint8", 3)
    for box in (Box(0, 96, 96, 95), Box(1, 0, 96, 96), Box(0, 0, 96, 192)):
        with pytest.raises(StoreError, match="is not a block"):
            token.write(box, np.zeros((3, *box.shape), np.uint8))
    assert (token.read(Box(0, 0, 150, 235)) == 7).all()
