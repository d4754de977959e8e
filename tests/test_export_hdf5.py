"""Features as HDF5, read back by h5py as CLAM, TRIDENT and STAMP do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import openslide
import pytest
import yaml

import pipeline
from pipeline.errors import MissingExtraError
from pipeline.export import export
from tests import exported
from tests.test_crop import BOUNDS, RGB, Bounded, bounded
from tests.toys import write_tiff

__all__ = ["bounded"]


@pytest.fixture(scope="module")
def store(many_results: Path) -> str:
    return str(many_results / "drawn.zarr")


def test_features_and_corners_are_those_of_the_patches(store: str, tmp_path: Path) -> None:
    (path,) = export("hdf5", store, output=str(tmp_path))
    assert Path(path).name == "drawn.h5"
    truth = exported.means(exported.drawn())
    rows = exported.TISSUE_ROWS // exported.STEP
    with h5py.File(path) as file:
        features, coords = file["features"][:], file["coords"][:]
        assert sorted(file) == ["coords", "features"]
    assert features.shape == (rows * truth.shape[1], 3)
    assert features.dtype == np.float32
    assert coords.dtype == np.int64
    assert len(np.unique(coords, axis=0)) == len(coords)
    x, y = coords.T // exported.STEP
    assert ((x * exported.STEP, y * exported.STEP) == coords.T).all()
    np.testing.assert_allclose(features, truth[y, x], rtol=1e-5)


def test_the_attributes_are_those_that_clam_and_trident_read(store: str, tmp_path: Path) -> None:
    (path,) = export("hdf5", store, output=str(tmp_path))
    with h5py.File(path) as file:
        said = dict(file["coords"].attrs)
        assert dict(file["features"].attrs) == {"name": "drawn", "encoder": "many"}
    np.testing.assert_array_equal(said.pop("downsample"), (1.0, 1.0))
    assert said == {
        "name": "drawn",
        "savetodir": str(tmp_path),
        "save_path": str(tmp_path),
        "patch_size": 32,
        "patch_size_level0": 32,
        "patch_level": 0,
        "overlap": 0,
        "level0_magnification": 40,
        "target_magnification": 40,
        "level0_mpp": 0.25,
        "target_mpp": 0.25,
        "level0_width": exported.WIDTH,
        "level0_height": exported.HEIGHT,
    }


def test_stamp_has_micrometres(store: str, tmp_path: Path) -> None:
    (plain,) = export("hdf5", store, output=str(tmp_path))
    (path,) = export("stamp", store, output=str(tmp_path))
    assert Path(path).name == "drawn.stamp.h5"
    with h5py.File(plain) as pixels, h5py.File(path) as file:
        np.testing.assert_array_equal(file["feats"][:], pixels["features"][:])
        mpp_y, mpp_x = exported.MPP
        np.testing.assert_allclose(file["coords"][:], pixels["coords"][:] * (mpp_x, mpp_y))
        assert dict(file.attrs) == {
            "unit": "um",
            "tile_size_um": 32 * mpp_x,
            "tile_size_px": 32,
            "extractor": "many",
            "feat_type": "tile",
        }


def run(folder: Path, slide: Path, card: Path, **settings: Any) -> str:
    given = {
        "slides": str(slide),
        "model": str(card),
        "output": {"directory": "results", "block": 64},
        "tissue": {"method": "none"},
        "cluster": {"kind": "threads"},
        **settings,
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(given))
    assert pipeline.run(folder / "run.yaml").complete
    return str(folder / "results" / f"{slide.stem}.zarr")


FEATURES = {"kind": "features", "channels": 3, "dtype": "float16"}


def test_coords_are_the_files_own_where_the_slide_is_cropped(
    bounded: Bounded, toy_model: Callable[..., Path], tmp_path: Path
) -> None:
    """OpenSlide reads by them: what is there has the mean colours that are the features."""
    bounded()
    store = run(tmp_path, tmp_path / "bounded.tif", toy_model("per_patch", outputs=FEATURES))
    (path,) = export("hdf5", store)
    with h5py.File(path) as file, openslide.OpenSlide(tmp_path / "bounded.tif") as slide:
        coords, features = file["coords"][:], file["features"][:]
        side = int(file["coords"].attrs["patch_size"])
        level = int(file["coords"].attrs["patch_level"])
        assert coords.min(axis=0).tolist() == [BOUNDS.x, BOUNDS.y]
        inside = (coords + side <= (BOUNDS.x_stop, BOUNDS.y_stop)).all(axis=1)
        assert inside.sum() > 100
        for (x, y), found in list(zip(coords[inside], features[inside], strict=True))[::17]:
            region = slide.read_region((int(x), int(y)), level, (side, side))
            mean = np.asarray(region)[..., :3].mean(axis=(0, 1)) / 256
            np.testing.assert_allclose(found, mean, atol=1e-3)
            mean = RGB[y : y + side, x : x + side].mean(axis=(0, 1)) / 256
            np.testing.assert_allclose(found, mean, atol=1e-3)


def test_a_resampled_level_names_no_level_to_read_patches_from(
    toy_model: Callable[..., Path], tmp_path: Path
) -> None:
    slide = write_tiff(tmp_path / "fine.tiff", RGB, mpp=0.25)
    store = run(tmp_path, slide, toy_model("per_patch", outputs=FEATURES))
    (path,) = export("hdf5", store)
    with h5py.File(path) as file:
        said = dict(file["coords"].attrs)
    assert not {"patch_level", "downsample"} & set(said)
    assert (said["patch_size"], said["patch_size_level0"]) == (32, 64)
    assert (said["level0_magnification"], said["target_magnification"]) == (40, 20)
    assert (said["level0_mpp"], said["target_mpp"]) == (0.25, 0.5)


def test_without_h5py_the_extra_is_named(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"hdf5 export needs h5py.*\[export\]"):
        export("hdf5", store, output=str(tmp_path))
