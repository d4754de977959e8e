"""Dense scores made without this package, stored in zarr as uint8.

Chunks and compression are ours, but for shards: there are none, which is faster.

- OpenSlide in a pool of processes, each with a handle and a session of its own that are opened
  once: reads a square, predicts it, writes its chunks; and then the pyramid, level by level.
- dask: `map_overlap` over an array of OpenSlide reads, and `to_zarr`, in threads. One handle and
  one session are shared, which both can be. There is no pyramid.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.contenders import Contender, Run, Setting, write_sample
from tests.benchmarks.models import model_card
from tests.benchmarks.pools import Here, Place, open_session, places_of, pool_of, read_place, scaled

if TYPE_CHECKING:
    from concurrent.futures import Executor

    import dask.array as da
    import numpy as np
    import openslide
    from numpy.typing import NDArray

__all__ = ["DENSE", "map_overlap_predicts", "openslide_predicts"]

DENSE = "dense.zarr"
"""What both write: a group of levels, or an array ``(1, y, x)``."""

SIDE = 1024
"""Side of what is read, predicted and written at once: whole chunks. 512 and 2048 take as long."""

CHUNK = 512
HALO = 32
MULTIPLE = 4
SMALLEST = 512
LEVEL = 1  # of zstd


def openslide_predicts(name: str) -> Contender:
    """Give a contender for a model that looks at no neighbours, from the file to a pyramid."""

    @contextmanager
    def contender(at: Setting) -> Iterator[Run]:
        model = str(model_card(name, Path(at.folder)).with_suffix(".onnx"))
        width, height = _size(at.slide)
        levels = _make_levels(Path(at.folder, DENSE), (width, height))
        with pool_of(at, _predict_place, tuple(levels), model) as pool:
            yield partial(_predict_all, pool, levels)

    return contender


def map_overlap_predicts(name: str) -> Contender:
    """Give a contender for a model that looks at neighbours, up to `HALO` pixels away."""

    @contextmanager
    def contender(at: Setting) -> Iterator[Run]:
        import dask
        import openslide

        model = str(model_card(name, Path(at.folder)).with_suffix(".onnx"))
        with dask.config.set(scheduler="threads", num_workers=at.cores):
            with openslide.OpenSlide(write_sample(at.folder)) as sample:
                _map_overlap(sample, open_session(model), Path(at.folder, "sample.zarr"))
            with openslide.OpenSlide(at.slide) as slide:
                yield partial(_map_overlap, slide, open_session(model), Path(at.folder, DENSE))

    return contender


def _map_overlap(slide: openslide.OpenSlide, session: Any, out: Path) -> int:
    pixels = _lazily(slide)
    maps = pixels.map_overlap(
        partial(_predict, session),
        depth={0: HALO, 1: HALO, 2: 0},
        boundary="reflect",
        drop_axis=2,
        dtype="uint8",
        meta=pixels[:0, :0, 0]._meta,
    )
    maps.to_zarr(str(out), compressors=_compressor())
    return int(maps.size)


def _lazily(slide: openslide.OpenSlide) -> da.Array:
    """Give level 0 as a dask array of (y, x, 3)."""
    import dask.array as da
    from dask.delayed import delayed

    read, rows = delayed(read_place), defaultdict(list)
    for place in places_of(slide.dimensions, SIDE):
        _, y, width, height = place
        rows[y].append(da.from_delayed(read(slide, place), (height, width, 3), "uint8"))
    level_0: da.Array = da.concatenate([da.concatenate(row, axis=1) for row in rows.values()])
    return level_0


def _make_levels(group: Path, size: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Make the arrays of a pyramid as deep as ours; give their paths with width and height."""
    import zarr

    levels = {str(group / "0"): size}
    while max(size) > SMALLEST:
        size = (-(-size[0] // 2), -(-size[1] // 2))
        levels[str(group / str(len(levels)))] = size
    for path, (width, height) in levels.items():
        zarr.create_array(
            path,
            shape=(height, width),
            chunks=(CHUNK, CHUNK),
            dtype="uint8",
            compressors=_compressor(),
        )
    return levels


def _predict_all(pool: Executor, levels: dict[str, tuple[int, int]]) -> int:
    paths = list(levels)
    pixels = sum(pool.map(partial(_predict_place, paths[0]), places_of(levels[paths[0]], SIDE)))
    for fine, coarse in pairwise(paths):
        deque(pool.map(partial(_halve_place, fine, coarse), places_of(levels[coarse], SIDE)), 0)
    return pixels


def _predict_place(out: str, place: Place) -> int:
    x, y, width, height = place
    values = _predict(Here.session, read_place(Here.slide, place))
    Here.arrays[out][y : y + height, x : x + width] = values
    return width * height


def _halve_place(fine: str, coarse: str, place: Place) -> None:
    import numpy as np

    x, y, width, height = place
    read = Here.arrays[fine][2 * y : 2 * (y + height), 2 * x : 2 * (x + width)]
    even = np.pad(read, [(0, n % 2) for n in read.shape], mode="edge").astype(np.uint16)
    tall = even[::2] + even[1::2]
    means = (tall[:, ::2] + tall[:, 1::2] + 2) >> 2
    Here.arrays[coarse][y : y + height, x : x + width] = means.astype(np.uint8)


def _predict(session: Any, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Give the scores of ``(y, x, 3)`` pixels as 0 to 255, ``(y, x)``; what the model halves is
    made even for it."""
    import numpy as np

    height, width, _ = pixels.shape
    if height % MULTIPLE or width % MULTIPLE:
        missing = [(0, -height % MULTIPLE), (0, -width % MULTIPLE), (0, 0)]
        pixels = np.pad(pixels, missing, mode="edge")
    batch = scaled(pixels)
    scores = session.run(None, {"image": batch})[0][0, 0, :height, :width]
    scores *= np.float32(255)
    return np.asarray(np.rint(scores, out=scores).astype(np.uint8))


def _size(path: str) -> tuple[int, int]:
    import openslide

    with openslide.OpenSlide(path) as slide:
        return slide.dimensions


def _compressor() -> Any:
    from zarr.codecs import ZstdCodec

    return ZstdCodec(level=LEVEL)
