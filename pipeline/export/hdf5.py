"""Features of patches as HDF5, as tools for multiple instance learning read them.

``hdf5``, ``<slide_id>.h5``, is for CLAM and TRIDENT, which agree: ``features`` ``(n, c)`` and
``coords`` ``(n, 2)``, x and y of the patches' corners in pixels of the *file's* level 0, as
OpenSlide's ``read_region`` takes them, also where the slide is cropped to its scanned area.
Attributes of ``coords``, from their sources (github.com/mahmoodlab/CLAM,
``wsi_core/WholeSlideImage.py`` and ``dataset_modules/dataset_h5.py``;
github.com/mahmoodlab/TRIDENT, ``trident/IO.py``, ``coords_to_h5``):

=======================================  ==========================================================
``patch_size``                           side in pixels as the model sees them (both)
``patch_level``, ``downsample``          CLAM's; only where a stored level was read as it is: with
                                         a resampled one its ``patch_size`` would mean another area
``patch_size_level0``, ``overlap``       side in level-0 pixels, 0 (TRIDENT)
``level0_width``, ``level0_height``      of the slide (TRIDENT)
``level0_magnification``,                nominal, by TRIDENT's own table for um per pixel; for what
``target_magnification``                 is exact see ``level0_mpp`` and ``target_mpp`` (ours)
``name``, ``savetodir``, ``save_path``   the slide, and where this was written
=======================================  ==========================================================

``stamp``, ``<slide_id>.stamp.h5``, is for STAMP (github.com/KatherLab/STAMP,
``src/stamp/modeling/data.py``, ``get_coords``), whose ``coords`` are micrometres, so that one file
cannot serve all three: ``feats`` ``(n, c)``, ``coords`` ``(n, 2)`` float32, and the attributes
``unit``, ``tile_size_um``, ``tile_size_px``, ``extractor`` and ``feat_type`` of the file.

Several outputs of features have a file each, ``<slide_id>.<output>.h5``. Features are written as
they are stored, a row of blocks at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.export.making import Exporting, missing
from pipeline.export.patches import Patches, feature_patches

__all__ = ["export", "h5py_module"]

_ROWS = 256
"""Patches of a chunk."""

_MAGNIFICATIONS = ((0.16, 80), (0.2, 60), (0.3, 40), (0.6, 20), (1.2, 10), (2.4, 5))
"""Below how many um per pixel TRIDENT takes a slide for which magnification."""


def export(made: Exporting) -> Iterator[str]:
    """Write the features of each output that has some; `StoreError` where there is none.

    Raises `MissingExtraError` without h5py.
    """
    names = [name for name, kind in made.stored.kinds.items() if kind == "features"]
    if not names:
        raise made.nothing("features")
    h5py = h5py_module(made.kind)
    for name in names:
        ending = "stamp.h5" if made.kind == "stamp" else "h5"
        ending = ending if len(names) == 1 else f"{name}.{ending}"
        with made.writing(ending) as path, h5py.File(path, "w") as file:
            patches = feature_patches(made.stored, name)
            if made.kind == "stamp":
                _write_stamp(made, file, patches)
            else:
                _write_coords(made, file, patches, made.path(ending))
                _write_features(made, file, "features", patches)
                file["features"].attrs.update(_named(made, name))
        yield made.path(ending)


def h5py_module(kind: str) -> Any:
    """Give h5py; `MissingExtraError` where it is not installed."""
    try:
        import h5py
    except ImportError as error:
        raise missing("h5py", f"{kind} export") from error
    return h5py


def _write_features(made: Exporting, file: Any, name: str, patches: Patches) -> None:
    channels = len(patches.names)
    written = file.create_dataset(
        name,
        shape=(len(patches), channels),
        dtype=patches.columns[0].dtype,
        chunks=(max(1, min(_ROWS, len(patches))), channels),
        maxshape=(None, channels),
    )
    for which, values in patches.rows():
        written[which] = values
        made.tell(name, which.stop, len(patches))


def _write_coords(made: Exporting, file: Any, patches: Patches, path: str) -> None:
    settings, said = made.stored.provenance["settings"], made.stored.provenance.get("slide", {})
    corners = np.rint(_in_the_file(made, patches)).astype(np.int64)
    coords = file.create_dataset("coords", data=corners, maxshape=(None, 2))
    folder = path.rpartition("/")[0]
    l0_mpp, mpp = made.stored.level0_mpp, _target_mpp(made, patches)
    coords.attrs.update(
        {
            "name": made.stored.slide_id,
            "savetodir": folder,
            "save_path": folder,
            "patch_size": _side(made, patches),
            "patch_size_level0": round(patches.size[0]),
            "overlap": 0,
            "level0_magnification": _magnification(l0_mpp[1]),
            "target_magnification": _magnification(mpp),
            "level0_mpp": l0_mpp[1],
            "target_mpp": mpp,
        }
    )
    if "shape" in said:
        height, width = said["shape"]
        coords.attrs.update({"level0_width": width, "level0_height": height})
    if "slide.resampled" not in settings:
        down = patches.size[0] / _side(made, patches)
        coords.attrs.update({"patch_level": settings["slide.level"], "downsample": (down, down)})


def _write_stamp(made: Exporting, file: Any, patches: Patches) -> None:
    mpp_y, mpp_x = made.stored.level0_mpp
    um = _in_the_file(made, patches) * np.array([mpp_x, mpp_y])
    file.create_dataset("coords", data=um.astype(np.float32))
    _write_features(made, file, "feats", patches)
    file.attrs.update(
        {
            "unit": "um",
            "tile_size_um": patches.size[0] * mpp_x,
            "tile_size_px": _side(made, patches),
            "extractor": _named(made, patches.columns[0].output)["encoder"],
            "feat_type": "tile",
        }
    )


def _in_the_file(made: Exporting, patches: Patches) -> NDArray[np.float64]:
    """Give the corners in level-0 pixels of the file, of which the slide may be a part."""
    y, x = made.stored.provenance["settings"].get("slide.crop", (0, 0))[:2]
    corners: NDArray[np.float64] = patches.corners + np.array([x, y])
    return corners


def _named(made: Exporting, output: str) -> Mapping[str, str]:
    model = made.stored.provenance.get("model", {})
    said = [str(model[each]) for each in ("name", "version") if model.get(each)]
    return {"name": made.stored.slide_id, "encoder": "-".join(said) or output}


def _side(made: Exporting, patches: Patches) -> int:
    """Give the side of what a vector stands for, in pixels as the model sees them."""
    settings = made.stored.provenance["settings"]
    side: int = settings[f"model.output.{patches.columns[0].output}"][3]
    return side


def _target_mpp(made: Exporting, patches: Patches) -> float:
    return patches.size[0] * made.stored.level0_mpp[1] / _side(made, patches)


def _magnification(mpp: float) -> int:
    """Give the nominal magnification of so many um per pixel.

    >>> _magnification(0.2528), _magnification(0.5), _magnification(8)
    (40, 20, 1)
    """
    return next((nominal for below, nominal in _MAGNIFICATIONS if mpp < below), 1)
