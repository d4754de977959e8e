"""AnnData files, read back by anndata."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pytest

import pipeline
from pipeline.demo import read_truth
from pipeline.errors import MissingExtraError
from pipeline.export import export
from tests import exported
from tests.test_export_hdf5 import run
from tests.test_object_runs import f1
from tests.toys import noise, write_tiff


@pytest.fixture(scope="module")
def many(
    many_results: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, anndata.AnnData]:
    folder = str(tmp_path_factory.mktemp("many"))
    made = export("anndata", str(many_results / "drawn.zarr"), output=folder)
    return {Path(path).name: anndata.read_h5ad(path) for path in made}


def test_nuclei_have_a_place_and_a_row_each(
    demo_results: Path, demo_slide: Path, tmp_path: Path
) -> None:
    (path,) = export("anndata", str(demo_results / "demo.zarr"), output=str(tmp_path))
    assert Path(path).name == "demo.nuclei.h5ad"
    read, truth = anndata.read_h5ad(path), read_truth(demo_slide)
    stored = pipeline.open_results(demo_results)["demo"].objects()
    assert list(read.obs.columns) == ["area_um2", "score", "class", "truncated", "slide_id"]
    assert read.obs_names.is_unique
    assert list(read.obs_names) == [str(each) for each in stored.column("id").to_pylist()]
    for name in ("area_um2", "score", "truncated"):
        np.testing.assert_array_equal(read.obs[name], stored.column(name).to_numpy())
    assert set(read.obs["slide_id"]) == {"demo"}
    assert read.obs["class"].isna().all()
    assert f1(truth.nuclei, read.obsm["spatial"], 2.0 / truth.mpp) > 0.9
    library = read.uns["spatial"]["demo"]
    factors = library["scalefactors"]
    assert factors["tissue_hires_scalef"] == 1
    px = np.mean(read.obs["area_um2"]) / truth.mpp**2
    assert factors["spot_diameter_fullres"] == pytest.approx(2 * np.sqrt(px / np.pi))
    assert library["metadata"] == {"level0_mpp_x": truth.mpp, "level0_mpp_y": truth.mpp}
    assert read.uns["wsi_pipeline"]["model"]["name"] == "nuclei-objects"
    assert (read.n_vars, read.X) == (0, None)


def test_features_are_x_with_the_scores_of_their_patches_beside(
    many: dict[str, anndata.AnnData],
) -> None:
    assert list(many) == ["drawn.dominant-regions.h5ad", "drawn.means.h5ad"]
    read = many["drawn.means.h5ad"]
    truth = exported.means(exported.drawn())
    rows, columns = read.obs["row"].to_numpy(), read.obs["column"].to_numpy()
    assert len(read) == exported.TISSUE_ROWS // exported.STEP * truth.shape[1]
    assert read.obs_names.is_unique
    assert list(read.var_names) == ["0", "1", "2"]
    np.testing.assert_allclose(read.X, truth[rows, columns], rtol=1e-5)
    assert list(read.obs.columns) == ["row", "column", "dull", "lush", "cold", "slide_id"]
    scores = read.obs[["dull", "lush", "cold"]].to_numpy()
    np.testing.assert_allclose(scores, truth[rows, columns], rtol=1e-5)
    centres = (np.column_stack([columns, rows]) + 0.5) * exported.STEP
    np.testing.assert_array_equal(read.obsm["spatial"], centres)
    factors = read.uns["spatial"]["drawn"]["scalefactors"]
    assert factors["spot_diameter_fullres"] == exported.STEP


def test_regions_have_their_classes(many: dict[str, anndata.AnnData]) -> None:
    read = many["drawn.dominant-regions.h5ad"]
    assert read.obs["class"].dtype == "category"
    assert list(read.obs["class"]).count("red") == 1
    assert read.obs["score"].isna().all()
    assert read.obs["truncated"].dtype == bool


def test_what_was_read_can_be_written_and_put_together(
    many: dict[str, anndata.AnnData], tmp_path: Path
) -> None:
    read = many["drawn.means.h5ad"]
    read.write_h5ad(tmp_path / "again.h5ad")
    again = anndata.read_h5ad(tmp_path / "again.h5ad")
    np.testing.assert_array_equal(again.X, read.X)
    other = read.copy()
    other.obs_names = [f"other-{name}" for name in other.obs_names]
    assert anndata.concat([read, other]).n_obs == 2 * read.n_obs


def test_scores_without_features_have_a_file_of_their_own(
    toy_model: Callable[..., Path], tmp_path: Path
) -> None:
    slide = write_tiff(tmp_path / "a.tiff", noise(100, 130))
    store = run(tmp_path, slide, toy_model("per_patch"))
    (path,) = export("anndata", store)
    assert Path(path).name == "a.patches.h5ad"
    read = anndata.read_h5ad(path)
    assert (read.n_obs, read.X) == (4 * 5, None)
    assert list(read.obs.columns) == ["row", "column", "red", "green", "blue", "slide_id"]


def test_without_anndata_the_extra_is_named(
    many_results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "anndata", None)
    with pytest.raises(MissingExtraError, match=r"anndata export needs anndata.*\[export\]"):
        export("anndata", str(many_results / "drawn.zarr"), output=str(tmp_path))
    assert not list(tmp_path.iterdir())
