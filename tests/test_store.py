"""What a store says of itself, to us and to the tools of others."""

from __future__ import annotations

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import zarr
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from pipeline.clusters import cluster
from pipeline.errors import DiskFullError, StoreError
from pipeline.execute import run
from pipeline.execute.finding import find_tissue
from pipeline.geometry import Box, Grid
from pipeline.model import load_model
from pipeline.plan import Options, Plan, plan_slide
from pipeline.results import open_results
from pipeline.slide import open_slide
from pipeline.store import (
    ArrayLayout,
    Layout,
    StoredArray,
    begin,
    commit,
    done,
    drop,
    look,
    outputs,
)
from pipeline.tissue import TissueSettings
from tests.contracts import check_source, check_target


@pytest.fixture(scope="module")
def plan(demo_slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A finished run of the demo slide, in blocks of 512."""
    slide = open_slide(demo_slide)
    with cluster("threads"):
        tissue = find_tissue(slide, TissueSettings(), 8.0, None)
        path = tmp_path_factory.mktemp("store") / "demo.zarr"
        made = plan_slide(
            slide, load_model("builtin:nuclei"), tissue, Options(block=512), path=str(path)
        )
        run(made, {"made": "by a test"})
    return made


IMAGE = ArrayLayout(
    name="scores",
    folder="",
    kind="scores",
    grid=Grid((700, 900), 256),
    step=(4.0, 4.0),
    chunk=64,
    dtype="uint8",
    channels=("a", "b"),
    colours=(),
    values=(),
    window=(0.0, 255.0),
    fill=0.0,
    levels=2,
)
LAYOUT = Layout(
    grid=Grid((2800, 3600), 1024),
    mpp=(0.5, 0.25),
    arrays=(IMAGE,),
    label_step=(16.0, 16.0),
    label_shape=(88, 113),
)


def begun(path: Path, settings: dict[str, Any] | None = None) -> StoredArray:
    begin(str(path), LAYOUT, settings or {"a": 1}, {}, np.ones(LAYOUT.label_shape, np.bool_))
    return outputs(str(path), IMAGE)[0]


def test_ome_zarr_models_reads_the_image_and_its_labels(plan: Plan) -> None:
    v05 = pytest.importorskip("ome_zarr_models.v05")
    group = zarr.open_group(plan.path, mode="r")
    image = v05.Image.from_zarr(group)
    (multiscale,) = image.ome_attributes.multiscales
    assert [axis.name for axis in multiscale.axes] == ["c", "y", "x"]
    assert image.labels is not None
    assert image.labels.attributes.ome.labels == ["tissue"]
    tissue = zarr.open_group(plan.path, path="labels/tissue", mode="r")
    label = v05.ImageLabel.from_zarr(tissue)
    assert len(label.attributes.ome.multiscales[0].datasets) == len(multiscale.datasets)


@pytest.mark.parametrize(
    ("path", "schema"),
    [
        ("", "image"),
        ("", "strict_image"),
        ("labels/tissue", "strict_label"),
        ("labels/tissue", "label"),
    ],
)
def test_the_official_schemas_of_ome_zarr_accept_it(path: str, schema: str, plan: Plan) -> None:
    spec = importlib.util.find_spec("ngff_zarr")
    if spec is None or spec.origin is None:
        pytest.skip("ngff-zarr, which carries the schemas, is not installed")
    folder = Path(spec.origin).parent / "spec" / "0.5" / "schemas"
    schemas = [json.loads(each.read_text()) for each in folder.glob("*.schema")]
    registry: Any = Registry().with_resources(
        (each["$id"], DRAFT202012.create_resource(each)) for each in schemas if "$id" in each
    )
    rules = json.loads((folder / f"{schema}.schema").read_text())
    attributes = zarr.open_group(plan.path, path=path, mode="r").attrs.asdict()
    validator = jsonschema.validators.validator_for(rules)(rules, registry=registry)
    validator.validate({"ome": attributes["ome"]})
    broken = json.loads(json.dumps(attributes["ome"]).replace('"0.5"', '"none"'))
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({"ome": broken})


def test_a_shard_is_a_block_and_a_stored_object(plan: Plan) -> None:
    array = zarr.open_array(plan.path, path="0", mode="r")
    assert array.shards == (1, 512, 512)
    assert array.chunks == (1, 512, 512)
    objects = [path for path in (Path(plan.path) / "0" / "c").rglob("*") if path.is_file()]
    assert len(objects) == len(plan.todo)


def test_the_predicted_number_of_files_is_the_real_one(plan: Plan) -> None:
    files = [path for path in Path(plan.path).rglob("*") if path.is_file()]
    assert len(files) == plan.output_files


def test_scales_and_positions_are_exact_micrometres(plan: Plan, tmp_path: Path) -> None:
    placements = open_results(Path(plan.path).parent)["demo"].placements
    assert [place.scale for place in placements] == [(0.5, 0.5), (1.0, 1.0), (2.0, 2.0)]
    # The centre of a pixel that covers n level-0 pixels lies (n - 1) / 2 of them further on.
    assert [place.origin for place in placements] == [(0.0, 0.0), (0.25, 0.25), (0.75, 0.75)]
    array = begun(tmp_path / "anisotropic.zarr")
    commit(array.store, LAYOUT, np.zeros(LAYOUT.grid.counts, np.uint8), {})
    (first, *_) = open_results(tmp_path)["anisotropic"].placements
    assert first.scale == (2.0, 1.0)
    assert first.origin == (0.75, 0.375)


def test_the_tissue_label_is_the_mask_that_was_used(plan: Plan) -> None:
    stored = open_results(Path(plan.path).parent)["demo"]
    np.testing.assert_array_equal(stored.tissue, plan.tissue.mask)
    finer = zarr.open_array(plan.path, path="labels/tissue/0", mode="r")[:]
    coarser = zarr.open_array(plan.path, path="labels/tissue/1", mode="r")[:]
    rows, columns = np.nonzero(np.asarray(finer))
    assert np.asarray(coarser)[rows // 2, columns // 2].all()


def test_the_store_says_what_made_it(plan: Plan) -> None:
    stored = open_results(Path(plan.path).parent)["demo"]
    assert stored.state == "done"
    assert stored.provenance["made"] == "by a test"
    assert stored.provenance["settings"]["model.digest"] == plan.model.ref.digest
    assert stored.provenance["settings"]["slide.identity"] == plan.slide.metadata.identity
    assert stored.blocks["analysed"] == len(plan.todo)
    assert stored.channels == ("nucleus",)


def test_the_same_coverage_is_seen_by_any_zarr_reader(plan: Plan) -> None:
    coverage = zarr.open_array(plan.path, path="coverage", mode="r")[:]
    np.testing.assert_array_equal(
        np.asarray(coverage) == 1,
        np.asarray(
            [
                [(i, j) in plan.todo for j in range(plan.grid.counts[1])]
                for i in range(plan.grid.counts[0])
            ]
        ),
    )


def test_a_stored_array_is_a_source_and_a_target(tmp_path: Path, plan: Plan) -> None:
    check_source(plan.arrays[0][0])
    array = begun(tmp_path / "a.zarr")
    check_target(array, array)


def test_a_block_of_zeros_counts_as_done(tmp_path: Path) -> None:
    array = begun(tmp_path / "a.zarr")
    assert done(array) == set()
    array.write(Box(256, 512, 256, 256), np.zeros((2, 256, 256), np.uint8))
    array.write(Box(512, 768, 188, 132), np.zeros((2, 188, 132), np.uint8))
    assert done(array) == {(1, 2), (2, 3)}
    drop(array, [(1, 2)])
    assert done(array) == {(2, 3)}


def test_a_half_written_block_does_not_count_as_done(tmp_path: Path) -> None:
    array = begun(tmp_path / "a.zarr")
    folder = tmp_path / "a.zarr" / "0" / "c" / "0" / "1"
    folder.mkdir(parents=True)
    (folder / "2.0123456789abcdef.partial").write_bytes(b"half")
    assert done(array) == set()


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((2, 256, 255), np.uint8),
        np.zeros((1, 256, 256), np.uint8),
        np.zeros((2, 256, 256), np.float32),
    ],
)
def test_values_that_are_not_one_whole_block_are_refused(values: Any, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="was expected, got"):
        begun(tmp_path / "a.zarr").write(Box(0, 0, 256, 256), values)


def test_an_uncommitted_store_is_visibly_unfinished(tmp_path: Path) -> None:
    begun(tmp_path / "a.zarr")
    stored = open_results(tmp_path)["a"]
    assert stored.state == "unfinished"
    assert "ome" not in zarr.open_group(stored.path, mode="r").attrs
    with pytest.raises(StoreError, match="is not finished; run again"):
        _ = stored.placements


def test_a_store_made_anew_with_other_blocks_is_written_with_those(tmp_path: Path) -> None:
    array = begun(tmp_path / "a.zarr")
    array.write(Box(0, 0, 256, 256), np.ones((2, 256, 256), np.uint8))
    shutil.rmtree(tmp_path / "a.zarr")
    smaller = replace(IMAGE, grid=Grid((700, 900), 128))
    begin(
        array.store,
        replace(LAYOUT, arrays=(smaller,)),
        {"a": 1},
        {},
        np.ones(LAYOUT.label_shape, np.bool_),
    )
    (again, *_) = outputs(array.store, smaller)
    again.write(Box(128, 128, 128, 128), np.full((2, 128, 128), 7, np.uint8))
    assert done(again) == {(1, 1)}
    np.testing.assert_array_equal(again.read(Box(120, 120, 8, 8)), 0)
    np.testing.assert_array_equal(again.read(Box(128, 128, 8, 8)), 7)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("zarr.json", b""),
        ("zarr.json", b'{"zarr_format": 3, "node_type": "group", "attributes": 7}'),
        ("0/zarr.json", b"{"),
        ("0/zarr.json", None),
        ("0/c/0/0/0", b"no shard" * 200),
        ("coverage/zarr.json", None),
    ],
)
def test_a_damaged_store_is_named_with_what_to_do(
    file: str, content: bytes | None, plan: Plan, tmp_path: Path
) -> None:
    path = tmp_path / "demo.zarr"
    shutil.copytree(plan.path, path)
    victim = path / file
    if content is None:
        victim.unlink()
    else:
        victim.write_bytes(content)
    # What the first block's parents are made from is all needed again.
    (path / "0" / "c" / "0" / "0" / "1").unlink()
    again = replace(plan, path=str(path))
    with cluster("threads"), pytest.raises(StoreError) as caught:
        run(again)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert ": damaged: " in message
    assert message.endswith("--verify --repair, or remove the store, and run again")
    assert "\n" not in message


@pytest.mark.parametrize("make", ["file", "folder", "zarr", "array", "attribute"])
def test_something_else_at_the_path_is_left_alone(make: str, tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    if make == "zarr":
        zarr.create_group(path)
    elif make == "array":
        zarr.create_array(path, shape=(3,), dtype="uint8")
    elif make == "attribute":
        zarr.create_group(path, attributes={"wsi_pipeline": 3})
    elif make == "folder":
        path.mkdir()
        (path / "thesis.txt").write_text("do not lose")
    else:
        path.write_text("do not lose")
    before = {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()}
    with pytest.raises(StoreError, match="move it away"):
        begun(path)
    assert {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()} == before


def test_looking_where_there_is_nothing_gives_none(tmp_path: Path) -> None:
    assert look(str(tmp_path / "none.zarr")) is None


def test_results_are_found_by_id_and_their_directory_is_checked(plan: Plan, tmp_path: Path) -> None:
    results = open_results(Path(plan.path).parent)
    assert list(results) == ["demo"]
    assert results.table()[1][:2] == ("demo", "done")
    assert "demo" in repr(results)
    assert "<table" in results._repr_html_()
    with pytest.raises(StoreError, match="no such directory"):
        open_results(tmp_path / "none")
    with pytest.raises(StoreError, match="holds no results"):
        open_results(tmp_path)


def test_a_disk_that_refuses_gives_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = begun(tmp_path / "a.zarr")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(DiskFullError, match=r"a\.zarr/0: .*No space left on device; make room"):
        array.write(Box(0, 0, 256, 256), np.ones((2, 256, 256), np.uint8))
    assert done(array) == set()
