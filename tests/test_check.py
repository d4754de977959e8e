"""What is torn or missing in a store is found, dropped, and made again as it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from pipeline.checks.examine import examine
from pipeline.clusters import cluster
from pipeline.errors import DamagedStoreError, StoreError
from pipeline.execute import run
from pipeline.geometry import Box
from pipeline.plan import Plan
from pipeline.results import open_results
from pipeline.slide import open_slide
from pipeline.store import Coverage, begin, drop, look, withdraw
from pipeline.store.check import Damage
from pipeline.store.mend import mend
from tests.test_outputs import planned, write_many
from tests.toys import noise, write_tiff

Spoil = Callable[[Path], object]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A finished store of every kind of output, in 2 x 2 blocks and up to 2 levels."""
    folder = tmp_path_factory.mktemp("whole")
    rgb = noise(13, 14).repeat(40, axis=0).repeat(40, axis=1)
    slide = open_slide(write_tiff(folder / "a.tiff", rgb))
    with cluster("threads", workers=2):
        made = planned(slide, write_many(folder / "model"), folder / "a.zarr", block=288)
        assert run(made).complete
    return made


@pytest.fixture
def copy(plan: Plan, tmp_path: Path) -> Plan:
    """The same in a place of its own."""
    shutil.copytree(plan.path, tmp_path / "a.zarr")
    return replace(plan, path=str(tmp_path / "a.zarr"))


def flip(file: Path) -> None:
    """Change one byte of what is in a file, as a disk does."""
    content = bytearray(file.read_bytes())
    content[len(content) // 8] ^= 1
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def found(path: str) -> list[str]:
    with cluster("threads", workers=2):
        return [str(each) for each in examine(path).damages]


def repaired(copy: Plan) -> int:
    """Drop what is damaged, run again, and give the blocks that were computed."""
    with cluster("threads", workers=2):
        mend(copy.path, examine(copy.path).damages)
        seen = look(copy.path)
        assert seen is not None
        assert not seen.committed
        outcome = run(copy)
    assert outcome.complete
    assert found(copy.path) == []
    return outcome.computed


def contents(store: str) -> dict[str, bytes]:
    """Give every file but the group's own metadata, which say how long it took."""
    files = {str(p.relative_to(store)): p for p in Path(store).rglob("*") if p.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name != "zarr.json"}


def test_nothing_is_wrong_with_a_store_that_was_left_alone(plan: Plan) -> None:
    with cluster("threads", workers=2):
        examined = examine(plan.path)
    assert examined.damages == ()
    assert examined.checked
    # Four blocks of five arrays, one block of the coarser levels of four, two rows of regions.
    assert examined.blocks == 4 * 5 + 4 + 2


DAMAGES: list[tuple[str, Spoil, str, int]] = [
    ("0/c/0/0/1", flip, "array 0, block (0, 1): Zstd decompression error", 1),
    ("0/c/0/1/1", cut, "array 0, block (1, 1): ", 1),
    (
        "scores/thirds/0/c/0/1/0",
        empty,
        "array scores/thirds/0, block (1, 0): 0 bytes",
        1,
    ),
    ("labels/dominant/0/c/0/0", Path.unlink, "array labels/dominant/0, block (0, 0): not there", 1),
    ("features/means/0/c/0/1/1", flip, "array features/means/0, block (1, 1): Zstd", 1),
    ("scores/thirds/1/c/0/0/0", flip, "array scores/thirds/1, block (0, 0): Zstd", 0),
    ("1/c/0/0/0", Path.unlink, "array 1, block (0, 0): not there", 0),
    ("features/means/index/c/0/0", flip, "features/means/index: Zstd", 0),
    ("features/means/coordinates/zarr.json", Path.unlink, "features/means/coordinates: not", 0),
    (
        "objects/dominant-regions/part-00001-00000.parquet",
        flip,
        "table dominant-regions, block (1, 0): ",
        0,
    ),
    (
        "objects/dominant-regions/part-00000-00000.parquet",
        Path.unlink,
        "table dominant-regions, block (0, 0): not there",
        0,
    ),
    ("labels/tissue/0/c/0/0", flip, "labels/tissue: Zstd", 0),
    ("labels/tissue/1/c/0/0", Path.unlink, "labels/tissue: chunk 0/0 is not there", 0),
    ("labels/tissue/0/zarr.json", empty, "metadata of labels/tissue/0: 0 bytes are no", 0),
    ("labels/tissue/zarr.json", Path.unlink, "metadata of labels/tissue: not there", 0),
    ("coverage/c/0/0", empty, "coverage: ", 0),
    ("coverage/c/0/0", Path.unlink, "coverage: not there", 0),
    ("coverage/zarr.json", empty, "metadata of coverage: 0 bytes are no metadata", 0),
    ("0/zarr.json", empty, "metadata of 0: 0 bytes are no metadata", 0),
    ("labels/bright/1/zarr.json", Path.unlink, "metadata of labels/bright/1: not there", 0),
    ("scores/thirds/zarr.json", empty, "metadata of scores/thirds: 0 bytes are no metadata", 0),
    ("labels/zarr.json", Path.unlink, "metadata of labels: not there", 0),
]


@pytest.mark.parametrize(
    ("file", "spoil", "said", "redone"), DAMAGES, ids=[f"{d[0]} {d[1].__name__}" for d in DAMAGES]
)
def test_one_damage_is_named_and_made_again_as_it_was(
    file: str, spoil: Spoil, said: str, redone: int, plan: Plan, copy: Plan
) -> None:
    spoil(Path(copy.path) / file)
    (line,) = found(copy.path)
    assert line.startswith(said)
    assert "\n" not in line
    assert repaired(copy) == redone
    assert contents(copy.path) == contents(plan.path)


def test_many_damages_are_all_named_and_only_their_blocks_are_done_again(
    plan: Plan, copy: Plan
) -> None:
    for file, spoil, *_ in DAMAGES[:10]:
        spoil(Path(copy.path) / file)
    assert len(found(copy.path)) == 10
    assert repaired(copy) == 4
    assert contents(copy.path) == contents(plan.path)


def test_what_is_torn_in_an_unfinished_store_is_found_and_what_is_not_there_is_not_missing(
    copy: Plan,
) -> None:
    withdraw(copy.path)
    flip(Path(copy.path) / "0/c/0/0/0")
    (Path(copy.path) / "0/c/0/1/1").unlink()
    (line,) = found(copy.path)
    assert line.startswith("array 0, block (0, 0): Zstd")


def test_a_block_that_failed_is_not_missing_and_what_is_made_of_it_is(copy: Plan) -> None:
    coverage = zarr.open_array(copy.path, path="coverage", mode="r+")
    coverage[0, 1] = Coverage.FAILED
    for levels in copy.arrays:
        drop(levels[0], [(0, 1)])
    assert found(copy.path) == []
    drop(copy.arrays[0][1], [(0, 0)])
    assert found(copy.path) == ["array 1, block (0, 0): not there"]


def test_a_chunk_of_a_mask_that_is_all_background_is_missed_too(copy: Plan) -> None:
    shutil.rmtree(copy.path)
    begin(copy.path, copy.layout, copy.settings, {}, np.zeros_like(copy.tissue.mask))
    assert found(copy.path) == []
    (Path(copy.path) / "labels/tissue/0/c/0/0").unlink()
    assert found(copy.path) == ["labels/tissue: chunk 0/0 is not there"]


def test_a_store_without_its_own_metadata_is_moved_aside_never_removed(copy: Plan) -> None:
    store = Path(copy.path)
    empty(store / "zarr.json")
    before = contents(copy.path)
    with cluster("threads", workers=2):
        (damage,) = examine(copy.path).damages
    assert (damage.kind, str(damage).partition(": ")[0]) == ("lost", "metadata")
    mended = mend(copy.path, [damage])
    assert mended.moved == f"{store}.damaged-1"
    assert not store.exists()
    assert contents(mended.moved) == before
    store.mkdir()
    assert mend(copy.path, [damage]).moved == f"{store}.damaged-2"


def test_what_could_only_not_be_read_is_left(copy: Plan) -> None:
    unread = Damage("array 0", "cannot be read: Permission denied", (0, 0), "unread")
    before = contents(copy.path)
    assert mend(copy.path, [unread]).left == 1
    assert contents(copy.path) == before
    seen = look(copy.path)
    assert seen is not None
    assert seen.committed


def test_shards_without_content_are_done_again_by_a_run_alone(plan: Plan, copy: Plan) -> None:
    store = Path(copy.path)
    empty(store / "0/c/0/0/0")
    (store / "features/means/0/c/0/1/1").write_bytes(b"short")
    with cluster("threads", workers=2):
        assert run(copy).computed == 2
    assert contents(copy.path) == contents(plan.path)


@pytest.mark.parametrize("file", ["objects/dominant-regions/part-00001-00000.parquet", "1/c/0/0/0"])
def test_what_is_made_of_blocks_is_missed_by_a_run_alone(file: str, plan: Plan, copy: Plan) -> None:
    (Path(copy.path) / file).unlink()
    with cluster("threads", workers=2):
        assert run(copy).computed == 0
    assert contents(copy.path) == contents(plan.path)


def test_blocks_of_a_store_made_before_they_had_checksums_can_be_read(copy: Plan) -> None:
    array = zarr.open_group(copy.path, mode="r+").create_array(
        "0",
        shape=(1, 520, 560),
        dtype="uint8",
        chunks=(1, 288, 288),
        shards=(1, 288, 288),
        compressors=zarr.codecs.ZstdCodec(level=1),
        overwrite=True,
    )
    array[:] = values = noise(520, 560)[None, ..., 0]
    with cluster("threads", workers=2):
        examined = examine(copy.path)
    assert examined.damages == ()
    assert not examined.checked
    token = copy.arrays[0][0]
    np.testing.assert_array_equal(token.read(Box(0, 0, 520, 560)), values)


def test_a_damaged_store_does_not_hide_the_others(copy: Plan) -> None:
    folder = Path(copy.path).parent
    shutil.copytree(copy.path, folder / "b.zarr")
    shutil.copytree(copy.path, folder / "c.zarr")
    empty(folder / "b.zarr" / "zarr.json")
    (folder / "c.zarr" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    results = open_results(folder)
    assert list(results) == ["a"]
    assert [row[:2] for row in results.table()[1:]] == [
        ("a", "done"),
        ("b", "damaged"),
        ("c", "refused"),
    ]
    with pytest.raises(DamagedStoreError, match=r"b\.zarr: damaged"):
        results["b"]
    with pytest.raises(StoreError, match="a zarr group of another program"):
        results["c"]
