"""Objects of whole slides: found in blocks, and the same whatever the blocks and workers are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial import cKDTree

import pipeline
from pipeline.demo import read_truth, write_demo
from pipeline.errors import MissingExtraError
from pipeline.execute import run
from pipeline.execute.finding import find_tissue
from pipeline.model import load_model
from pipeline.plan import Options, Plan, plan_slide
from pipeline.results import StoredSlide, open_results
from pipeline.slide import Slide, open_slide
from pipeline.tissue import TissueSettings

WITHIN_UM = 2.0


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Slide:
    path = tmp_path_factory.mktemp("slides") / "demo.svs"
    write_demo(path, 2100, 1500)
    return open_slide(path)


def planned(slide: Slide, path: Path, block: int) -> Plan:
    tissue = find_tissue(slide, TissueSettings(), 8.0, None)
    model = load_model("builtin:nuclei-objects")
    return plan_slide(slide, model, tissue, Options(block=block), path=str(path))


def stored(path: Path) -> StoredSlide:
    return open_results(path.parent)[path.stem]


@pytest.fixture(scope="module")
def found(slide: Slide, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """The objects of a run in blocks of 1024, by column, in the order of their ids."""
    path = tmp_path_factory.mktemp("run") / "a.zarr"
    with pipeline.cluster("threads", workers=1):
        run(planned(slide, path, 1024))
    return columns(path)


def columns(path: Path) -> dict[str, list[Any]]:
    table: dict[str, list[Any]] = stored(path).objects().sort_by("id").to_pydict()
    return table


def f1(truth: NDArray[np.float64], seen: NDArray[np.float64], within: float) -> float:
    """Give the F1 of points against points: pairs nearer than ``within``, each used once."""
    distances, nearest = cKDTree(truth).query(seen)
    taken: set[int] = set()
    for number in np.argsort(distances):
        if distances[number] <= within:
            taken.add(int(nearest[number]))
    return 2 * len(taken) / (len(truth) + len(seen))


def test_the_demos_nuclei_are_found_where_they_are(
    slide: Slide, found: dict[str, list[Any]]
) -> None:
    truth = read_truth(slide.path)
    seen = np.column_stack([found["x"], found["y"]])
    assert f1(truth.nuclei, seen, WITHIN_UM / truth.mpp) >= 0.9
    # A shift by three radii is no find: the measure can tell.
    assert f1(truth.nuclei, seen + 30, WITHIN_UM / truth.mpp) < 0.3


def test_each_has_an_outline_an_area_and_a_score(slide: Slide, found: dict[str, list[Any]]) -> None:
    import shapely

    outlines = shapely.from_wkb(found["geometry"])
    assert shapely.is_valid(outlines).all()
    assert {outline.geom_type for outline in outlines} <= {"Polygon", "MultiPolygon"}
    um2 = slide.believed_mpp[0] * slide.believed_mpp[1]
    np.testing.assert_allclose(shapely.area(outlines) * um2, found["area_um2"], rtol=1e-6)
    true_um2 = np.pi * np.median(read_truth(slide.path).radii) ** 2 * um2
    assert 0.5 < np.median(found["area_um2"]) / true_um2 < 2
    assert 0.4 <= min(found["score"]) <= max(found["score"]) <= 1
    assert len(set(found["id"])) == len(found["id"])


@pytest.mark.parametrize("block", [512, 2048])
def test_the_same_objects_are_found_whatever_the_blocks(
    block: int, slide: Slide, found: dict[str, list[Any]], tmp_path: Path
) -> None:
    with pipeline.cluster("threads", workers=2):
        run(planned(slide, tmp_path / "a.zarr", block))
    assert columns(tmp_path / "a.zarr") == found


@pytest.mark.usefixtures("client")
def test_the_same_objects_are_found_by_two_workers(
    slide: Slide, found: dict[str, list[Any]], tmp_path: Path
) -> None:
    with dask.config.set(scheduler="dask.distributed"):
        run(planned(slide, tmp_path / "a.zarr", 1024))
    assert columns(tmp_path / "a.zarr") == found


def test_a_block_whose_objects_are_missing_is_done_again(slide: Slide, tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    with pipeline.cluster("threads", workers=1):
        run(planned(slide, path, 1024))
        before = columns(path)
        (path / "objects" / "nuclei" / "part-00000-00001.parquet").unlink()
        assert run(planned(slide, path, 1024)).computed == 1
    assert columns(path) == before


def test_the_number_of_files_is_known_before(slide: Slide, tmp_path: Path) -> None:
    plan = planned(slide, tmp_path / "a.zarr", 2048)
    with pipeline.cluster("threads", workers=1):
        run(plan)
    files = [path for path in (tmp_path / "a.zarr").rglob("*") if path.is_file()]
    assert len(files) == plan.output_files


def test_without_the_extra_for_tables_nothing_is_begun(
    slide: Slide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'wsi-pipeline\[objects\]'"):
        planned(slide, tmp_path / "a.zarr", 1024)
