"""A synthetic H&E slide *with ground truth*, of any size, written tile by tile.

`write_demo` makes an Aperio-style SVS that every reader takes for a real one, and beside it
what is really there: each nucleus's centre and radius and each tissue piece's outline. It is
a cartoon: good for trying the pipeline and for measuring that objects land where they are,
not for judging a model's worth on patients.

`places` knows where things are, `drawings` how they look, `scene` renders any square of the
slide by itself, `svs` writes the file.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError, SlideError

__all__ = ["DemoTruth", "read_truth", "write_demo"]

_SMALLEST = 64
_MPP = (0.1, 4.0)  # beyond these a nucleus is a thousand pixels, or none


@dataclass(frozen=True)
class DemoTruth:
    """What a synthetic slide shows, in level-0 pixels (x, y) from its top-left corner.

    Pixel 0 spans 0 to 1: the centre of the first pixel is (0.5, 0.5), and nuclei are centred
    on pixel centres. A nucleus's radius is that of the circle of its area.
    """

    width: int
    height: int
    mpp: float
    nuclei: NDArray[np.float64]  # (n, 2)
    radii: NDArray[np.float64]  # (n,)
    tissue: tuple[NDArray[np.float64], ...]  # closed outlines, each (m, 2)


def write_demo(
    path: str | os.PathLike[str],
    width: int = 5000,
    height: int = 4000,
    *,
    mpp: float = 0.5,
    seed: int = 0,
) -> DemoTruth:
    """Write a synthetic slide to ``path`` (.svs) and its truth beside it, and return the truth.

    The same arguments give the same bytes. Memory holds a row of tiles and the truth, never an
    image. Both files appear under their names when complete, the slide last.

    Raises `ConfigError` for an argument that cannot be meant.
    """
    path = Path(path)
    _check(path, width, height, mpp, seed)
    # The drawing half brings in imagecodecs and tifffile, which reading a truth does not need.
    from pipeline.demo.scene import Scene
    from pipeline.demo.svs import write_svs

    scene = Scene(width, height, mpp=mpp, seed=seed)
    nuclei, radii = zip(*scene.nuclei(), strict=True)
    truth = DemoTruth(
        width, height, float(mpp), np.concatenate(nuclei), np.concatenate(radii), scene.tissue
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, as only there a rename is atomic; and not named .svs, lest a glob see it.
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder:
        slide_part, truth_part = Path(folder, "slide"), Path(folder, "truth.npz")
        write_svs(slide_part, scene.render, (width, height), mpp=float(mpp))
        _save(truth_part, truth)
        truth_part.replace(_truth_path(path))
        slide_part.replace(path)
    return truth


def read_truth(path: str | os.PathLike[str]) -> DemoTruth:
    """Read the truth of the synthetic slide at ``path``.

    Raises `SlideError` where nothing, or something else, lies where the truth should.
    """
    beside = _truth_path(Path(path))
    try:
        with np.load(beside) as stored:
            ends = np.cumsum(stored["outline_lengths"])[:-1]
            return DemoTruth(
                int(stored["width"]),
                int(stored["height"]),
                float(stored["mpp"]),
                stored["nuclei"],
                stored["radii"],
                tuple(np.split(stored["outlines"], ends)),
            )
    except (OSError, ValueError, KeyError) as error:
        raise SlideError(
            f"{path}: no ground truth in {beside} ({error}); "
            "it is written with a synthetic slide, by write_demo"
        ) from error


def _save(path: Path, truth: DemoTruth) -> None:
    np.savez_compressed(
        path,
        width=truth.width,
        height=truth.height,
        mpp=truth.mpp,
        nuclei=truth.nuclei,
        radii=truth.radii,
        outlines=np.concatenate(truth.tissue),
        outline_lengths=[len(outline) for outline in truth.tissue],
    )


def _truth_path(path: Path) -> Path:
    return path.with_suffix(".truth.npz")


def _check(path: Path, width: int, height: int, mpp: float, seed: int) -> None:
    if path.suffix.lower() != ".svs":
        raise ConfigError(f"{path}: a synthetic slide is an Aperio SVS; give a name in .svs")
    if min(width, height) < _SMALLEST:
        raise ConfigError(
            f"{path}: {width} x {height} pixels is too small for a slide; "
            f"give a width and a height of at least {_SMALLEST}"
        )
    if not _MPP[0] <= mpp <= _MPP[1]:
        raise ConfigError(
            f"{path}: mpp {mpp!r} is no resolution nuclei can be drawn at; "
            f"give micrometres per pixel from {_MPP[0]} to {_MPP[1]}, such as 0.5"
        )
    if seed < 0:
        raise ConfigError(f"{path}: seed {seed} is negative; give a whole number from 0 up")
