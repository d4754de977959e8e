"""One model, several outputs of every kind, through one task per block into one store."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import skimage.measure
import yaml
import zarr
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import pipeline
from pipeline.errors import ConfigError, StaleStoreError, StoreError
from pipeline.execute import run
from pipeline.execute.finding import find_tissue
from pipeline.export import export
from pipeline.model import load_model
from pipeline.plan import Options, Plan, Tissue, plan_slide
from pipeline.results import StoredSlide, open_results
from pipeline.slide import Slide, open_slide
from pipeline.tissue import TissueSettings
from tests.toys import KERNEL, SCALE, Pixels, expected_neighbours, noise, write_tiff

HEIGHT, WIDTH = 200, 270

CARD: dict[str, Any] = {
    "name": "many",
    "onnx": "many.onnx",
    "input": {"patch": 34, "scale": SCALE},
    "mpp": 0.5,
    "batch": 4,
    "stitch": {"halo": 1},
    "outputs": [
        {"name": "sum", "channels": ["sum"], "range": [0, 128]},
        {"name": "thirds", "tensor": "colours", "channels": ["red", "green", "blue"]},
        {
            "name": "dominant",
            "tensor": "colours",
            "kind": "labels",
            "channels": ["red", "Background", "blue"],
            "colours": ["#ff0000", "#00ff00", "#0000ff"],
            "regions": {"min_area_um2": 1},
        },
        {"name": "bright", "tensor": "sum", "kind": "labels", "channels": ["bright"]},
        {
            "name": "means",
            "kind": "features",
            "channels": 3,
            "stride": 32,
            "dtype": "float32",
        },
    ],
}


def write_many(folder: Path) -> Path:
    """Write a graph with three outputs, of which the card makes five."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes: dict[str, list[str | int]] = {
        "sum": ["N", 1, "H", "W"],
        "colours": ["N", 3, "H", "W"],
        "means": ["N", 3],
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "kernel"], ["sum"], pads=[1, 1, 1, 1]),
            helper.make_node("Identity", ["image"], ["colours"]),
            helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["means"]),
        ],
        "many",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()],
        [numpy_helper.from_array(KERNEL[None], "kernel")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "many.onnx").write_bytes(model.SerializeToString(deterministic=True))
    (folder / "card.yaml").write_text(yaml.safe_dump(CARD, sort_keys=False))
    return folder / "card.yaml"


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_many(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Slide:
    path = tmp_path_factory.mktemp("slides") / "noise.tiff"
    return open_slide(write_tiff(path, noise(HEIGHT, WIDTH)))


@pytest.fixture(scope="module")
def pixels(slide: Slide) -> Pixels:
    rgb: Pixels = slide.levels[0].compute(scheduler="synchronous")
    return rgb


def planned(slide: Slide, card: Path, path: Path, **options: Any) -> Plan:
    tissue = find_tissue(slide, TissueSettings(method="none"), 8.0, None)
    return plan_slide(slide, load_model(card), tissue, Options(**options), path=str(path))


def stored(path: Path) -> StoredSlide:
    return open_results(path.parent)[path.name.removesuffix(".zarr")]


def whole(array: Any) -> NDArray[Any]:
    values: NDArray[Any] = array.compute(scheduler="synchronous")
    return values


def dominant(rgb: Pixels) -> NDArray[np.uint8]:
    """Give the label of the strongest colour: red is 1, green the background, blue 3."""
    labels: NDArray[np.uint8] = np.array([1, 0, 3], np.uint8)[rgb.argmax(axis=2)]
    return labels


@pytest.fixture(params=["threads", "processes"])
def somewhere(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param == "processes":
        request.getfixturevalue("client")
        with dask.config.set(scheduler="dask.distributed"):
            yield
    else:
        with dask.config.set(scheduler="threads", num_workers=2):
            yield


@pytest.mark.usefixtures("somewhere")
@pytest.mark.parametrize("block", [96, 512])
def test_every_output_is_what_the_model_says_of_the_whole_image(
    block: int, slide: Slide, pixels: Pixels, card: Path, tmp_path: Path
) -> None:
    plan = planned(slide, card, tmp_path / "a.zarr", block=block, dtype="float32")
    assert run(plan).complete
    found = stored(tmp_path / "a.zarr")
    assert found.kinds == {
        "sum": "scores",
        "thirds": "scores",
        "dominant": "labels",
        "bright": "labels",
        "means": "features",
        "dominant-regions": "objects",
    }
    sums = expected_neighbours(pixels)
    np.testing.assert_array_equal(whole(found.levels[0]), sums)
    np.testing.assert_array_equal(whole(found.levels_of("sum")[0]), sums)
    thirds = (pixels * np.float32(SCALE)).transpose(2, 0, 1)
    np.testing.assert_array_equal(whole(found.levels_of("thirds")[0]), thirds)
    np.testing.assert_array_equal(whole(found.levels_of("dominant")[0]), dominant(pixels))
    np.testing.assert_array_equal(whole(found.levels_of("bright")[0]), sums[0] >= 0.5)
    assert found.classes("dominant") == {1: "red", 3: "blue"}
    features, coordinates = found.features("means")
    assert features.shape == (7 * 9, 3)
    padded = np.pad(pixels, ((1, 32), (1, 32), (0, 0)), constant_values=255).astype(np.float64)
    for vector, (x, y) in zip(whole(features), coordinates.astype(int), strict=True):
        patch = padded[y : y + 34, x : x + 34]
        np.testing.assert_allclose(vector, patch.mean((0, 1)) * SCALE, rtol=1e-5)
    assert {tuple(each) for each in coordinates[:2]} == {(0.0, 0.0), (32.0, 0.0)}


def test_all_outputs_of_a_block_are_one_task(slide: Slide, card: Path, tmp_path: Path) -> None:
    from pipeline.lazy.tasks import block_tasks

    plan = planned(slide, card, tmp_path / "a.zarr", block=96)
    assert len(block_tasks(plan.blocks, [(0, 0), (1, 2)])) == 2


@pytest.mark.usefixtures("somewhere")
@pytest.mark.parametrize("block", [96, 512])
def test_the_regions_of_labels_are_connected_over_all_blocks(
    block: int, slide: Slide, pixels: Pixels, card: Path, tmp_path: Path
) -> None:
    """Noise has regions of every size and shape; 1 um2 is 4 of its pixels."""
    run(planned(slide, card, tmp_path / "a.zarr", block=block))
    table = stored(tmp_path / "a.zarr").objects("dominant-regions").to_pydict()
    labels, expected = dominant(pixels), []
    for value, name in ((1, "red"), (3, "blue")):
        numbered = skimage.measure.label(labels == value, connectivity=1)
        for region in skimage.measure.regionprops(numbered):
            if region.area >= 4:
                row, column = region.coords[0]
                expected.append((name, row * WIDTH + column, region.area / 4))
    assert len(expected) > 500
    assert sorted(zip(table["class"], table["id"], table["area_um2"], strict=True)) == sorted(
        expected
    )


def test_regions_are_made_anew_where_a_block_changes(
    slide: Slide, card: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.zarr"
    with dask.config.set(scheduler="synchronous"):
        run(planned(slide, card, path, block=96))
        part = path / "objects" / "dominant-regions" / "part-00000-00000.parquet"
        before = part.read_bytes()
        part.write_bytes(b"stale")
        (path / "labels/dominant/0/c/1/2").unlink()
        assert run(planned(slide, card, path, block=96)).computed == 1
    assert part.read_bytes() == before


def test_a_block_of_which_one_output_is_missing_is_done_again_and_no_other(
    slide: Slide, card: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.zarr"
    with dask.config.set(scheduler="synchronous"):
        run(planned(slide, card, path, block=96))
        before = whole(stored(path).levels_of("dominant")[0])
        for missing in ("labels/dominant/0/c/1/2", "features/means/0/c/0/0/1"):
            (path / missing).unlink()
        assert run(planned(slide, card, path, block=96)).computed == 2
        assert run(planned(slide, card, path, block=96)).computed == 0
    np.testing.assert_array_equal(whole(stored(path).levels_of("dominant")[0]), before)


def test_labels_are_ome_zarr_of_their_own_with_names_and_colours(
    slide: Slide, card: Path, tmp_path: Path
) -> None:
    v05 = pytest.importorskip("ome_zarr_models.v05")
    path = tmp_path / "a.zarr"
    with dask.config.set(scheduler="synchronous"):
        plan = planned(slide, card, path, block=128)
        run(plan)
    image = v05.Image.from_zarr(zarr.open_group(path, mode="r"))
    assert image.labels is not None
    assert image.labels.attributes.ome.labels == ["tissue", "dominant", "bright"]
    group: Any = zarr.open_group(path, path="labels/dominant", mode="r")
    label = v05.ImageLabel.from_zarr(group)
    described = group.attrs["ome"]["image-label"]
    assert described["properties"] == [
        {"label-value": 1, "name": "red"},
        {"label-value": 3, "name": "blue"},
    ]
    assert described["colors"] == [
        {"label-value": 1, "rgba": [255, 0, 0, 255]},
        {"label-value": 3, "rgba": [0, 0, 255, 255]},
    ]
    assert len(label.attributes.ome.multiscales[0].datasets) == len(plan.arrays[0])
    further: Any = zarr.open_group(path, path="scores/thirds", mode="r")
    v05.Image.from_zarr(further)
    channels = further.attrs["ome"]["omero"]["channels"]
    assert [each["label"] for each in channels] == ["red", "green", "blue"]


def test_a_coarser_level_of_labels_holds_labels_and_no_averages(
    slide: Slide, pixels: Pixels, card: Path, tmp_path: Path
) -> None:
    big = open_slide(write_tiff(tmp_path / "big.tiff", np.tile(pixels, (2, 2, 1))))
    with dask.config.set(scheduler="synchronous"):
        run(planned(big, card, tmp_path / "a.zarr", block=256))
    finest, coarser = stored(tmp_path / "a.zarr").levels_of("dominant")[:2]
    np.testing.assert_array_equal(whole(coarser), whole(finest)[::2, ::2])


def test_the_number_of_files_is_known_before(slide: Slide, card: Path, tmp_path: Path) -> None:
    plan = planned(slide, card, tmp_path / "a.zarr", block=128)
    with dask.config.set(scheduler="synchronous"):
        run(plan)
    files = [path for path in (tmp_path / "a.zarr").rglob("*") if path.is_file()]
    assert len(files) == plan.output_files


def test_what_was_not_predicted_is_background_in_every_output(
    slide: Slide, card: Path, tmp_path: Path
) -> None:
    mask = np.zeros((7, 9), np.bool_)
    mask[2, 3] = True  # 32 pixels each: one patch
    tissue = Tissue(mask, (32.0, 32.0), {"method": "a test"})
    path = tmp_path / "a.zarr"
    plan = plan_slide(
        slide, load_model(card), tissue, Options(block=512, dtype="float32"), path=str(path)
    )
    with dask.config.set(scheduler="synchronous"):
        assert run(plan).computed == 1
    found, inside = stored(path), (slice(64, 96), slice(96, 128))
    outside = np.ones((HEIGHT, WIDTH), np.bool_)
    outside[inside] = False
    for name in ("sum", "thirds"):
        values = whole(found.levels_of(name)[0])
        assert (values[:, outside] == 0).all()
        assert values[(slice(None), *inside)].mean() > 0.1
    labels = whole(found.levels_of("dominant")[0])
    assert (labels[outside] == 0).all()
    assert set(np.unique(labels[inside])) == {0, 1, 3}
    features, coordinates = found.features("means")
    assert features.shape == (1, 3)
    assert coordinates.tolist() == [[96.0, 64.0]]


def test_predict_gives_the_output_that_is_asked_for(
    slide: Slide, pixels: Pixels, card: Path
) -> None:
    model = load_model(card)
    thirds = pipeline.predict(slide, model, output="thirds", block=128)
    assert (thirds.shape, thirds.dtype) == ((3, HEIGHT, WIDTH), np.float32)
    corner = whole(thirds[:, 100:140, 200:230])
    expected = (pixels[100:140, 200:230] * np.float32(SCALE)).transpose(2, 0, 1)
    np.testing.assert_array_equal(corner, expected)
    labels = pipeline.predict(slide, model, output="dominant")
    assert (labels.shape, labels.dtype) == ((1, HEIGHT, WIDTH), np.uint8)
    np.testing.assert_array_equal(whole(labels)[0], dominant(pixels))
    assert pipeline.predict(slide, model, output="means").shape == (3, 7, 9)
    with pytest.raises(ConfigError, match=r"no output other; there is sum, thirds, dominant"):
        pipeline.predict(slide, model, output="other")


def test_asking_a_store_for_what_it_has_not_says_what_it_has(
    slide: Slide, card: Path, tmp_path: Path
) -> None:
    with dask.config.set(scheduler="synchronous"):
        run(planned(slide, card, tmp_path / "a.zarr"))
    found = stored(tmp_path / "a.zarr")
    with pytest.raises(StoreError, match=r"no features sum; there is sum \(scores\), thirds"):
        found.features("sum")
    with pytest.raises(StoreError, match=r"no objects other; there is sum"):
        found.objects("other")


@pytest.mark.parametrize(
    ("name", "change", "setting"),
    [
        ("dominant", {"regions": {"min_area_um2": 9}}, "model.regions.dominant"),
        ("dominant", {"regions": None}, "model.regions.dominant"),
        ("means", {"dtype": "float16"}, "model.features.means"),
        ("bright", {"threshold": 0.25}, "model.labels.bright"),
    ],
)
def test_a_card_that_would_store_something_else_is_another_setting(
    name: str, change: dict[str, Any], setting: str, slide: Slide, card: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(card.parent, other)
    outputs = [{**each, **change} if each["name"] == name else each for each in CARD["outputs"]]
    (other / "card.yaml").write_text(yaml.safe_dump({**CARD, "outputs": outputs}))
    with dask.config.set(scheduler="synchronous"):
        run(planned(slide, card, tmp_path / "a.zarr"))
        with pytest.raises(StaleStoreError, match=rf"was begun with {setting}"):
            run(planned(slide, other / "card.yaml", tmp_path / "a.zarr"))


def test_a_model_without_scores_has_a_store_all_the_same(
    slide: Slide, card: Path, tmp_path: Path
) -> None:
    only = tmp_path / "only"
    shutil.copytree(card.parent, only)
    outputs = [each for each in CARD["outputs"] if each.get("kind") == "labels"]
    (only / "card.yaml").write_text(yaml.safe_dump({**CARD, "outputs": outputs}))
    with dask.config.set(scheduler="synchronous"):
        run(planned(slide, only / "card.yaml", tmp_path / "a.zarr"))
    found = stored(tmp_path / "a.zarr")
    assert (found.state, found.channels, found.levels) == ("done", (), ())
    assert whole(found.levels_of("bright")[0]).shape == (HEIGHT, WIDTH)
    (picture,) = export("overview", found.path, slide)
    assert Path(picture).is_file()
