"""What every source, target and reader has to keep: call these on a new one, that is its test.

They raise `AssertionError` saying what was broken. Give them something small: `check_source`
and `check_target` read the whole array more than once; `check_reader` reads a few corners.

    from tests.contracts import check_reader, check_source, check_target

    def test_a_stored_array_keeps_the_contract(...):
        check_target(stored, stored)
        check_source(stored)
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dask.base import tokenize
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import PipelineError, SlideError
from pipeline.geometry import Box, Grid, Shape
from pipeline.lazy import Source, Target
from pipeline.readers import LevelInfo, Metadata, Reader

__all__ = ["check_opener", "check_reader", "check_source", "check_target"]

TOKEN_BYTES = 700
"""What a source may add to a task."""

WINDOW = 600
"""Side of what is read of a level: more than one tile and more than one of OpenSlide's anchors."""


def check_source(source: Source, *, background: ArrayLike | None = None) -> None:
    """Check that ``source`` keeps the contract of `pipeline.lazy.Source`.

    Shape, dtype and axes; any box is the cut of the whole; what leaves the array is
    ``background`` (its own ``background`` or 0 where None is given); what is read belongs to
    the reader; and it travels as a small token that is equal, hashable and reads the same.
    """
    plane = _check_axes(source)
    everything = Box(0, 0, *plane)
    whole = source.read(everything)
    _check_pixels(source, everything, whole)
    if background is None:
        background = getattr(source, "background", 0)
    colour = np.asarray(background, source.dtype)
    if colour.ndim and source.axes[0] == "c":
        colour = colour[:, None, None]
    for box in [everything, *_boxes(plane)]:
        expected = np.empty(_extent(source, box), source.dtype)
        expected[:] = colour
        inside = box.clipped(plane)
        if inside.area:
            expected[_place(source, inside, box)] = whole[_place(source, inside, everything)]
        values = source.read(box)
        _check_pixels(source, box, values)
        _same(values, expected, f"{box} is not the cut of the whole of {plane}")
    values = source.read(everything)
    if values.flags.writeable:
        values[:] = 1 - (values > 0)
        _same(source.read(everything), whole, "what was read is changed by who read it")
    _check_token(source, whole)


def check_target(target: Target, source: Source, *, block: int | None = None) -> None:
    """Check that what ``target`` is given ``source`` gives back, block by block, and whole.

    ``block`` is the side of what is written at once; the target's own ``block``, or the whole
    plane, where None is given. The target is overwritten.
    """
    plane = _check_axes(source)
    assert source.axes == "cyx", f"outputs are (c, y, x), not {source.axes}"
    everything = Box(0, 0, *plane)
    grid = Grid(plane, block or getattr(target, "block", None) or max(plane))
    expected = source.read(everything)
    values = _values(source)
    for turn in (0, 1, 0):  # every second block, the others, the first ones again
        for index in grid:
            if sum(index) % 2 != turn:
                continue
            box = grid.box(index)
            given = values(box)
            kept = given.copy()
            target.write(box, given)
            _same(given, kept, f"writing {box} changes the values it is given")
            expected[_place(source, box, everything)] = kept
            _same(source.read(box), kept, f"{box} is not read back as it was written")
        _same(source.read(everything), expected, "writing a block changes others")
    box = grid.box((0, 0))
    target.write(box, np.zeros_like(values(box)))  # values like any others, not "nothing there"
    expected[_place(source, box, everything)] = 0
    _same(source.read(everything), expected, "a block of zeros is not stored over another")
    wrong = values(Box(box.y, box.x, box.height + 1, box.width))
    with pytest.raises((PipelineError, ValueError)):
        target.write(box, wrong)
    _same(source.read(everything), expected, "a block of the wrong shape is stored in part")
    copy = pickle.loads(pickle.dumps(target))
    given = values(box)
    copy.write(box, given)
    _same(source.read(box), given, "what an unpickled target writes is not read")


def check_reader(reader: Reader) -> None:
    """Check that an open ``reader`` keeps the contract of `pipeline.readers.Reader`.

    Metadata are sane; of every level a few windows, its far corner among them, are the same
    however they are cut, read twice or by threads at once; associated images are RGB; what
    is not there is a `SlideError`.
    """
    _check_metadata(reader.metadata)
    for number, info in enumerate(reader.metadata.levels):
        for window in _windows(info.shape):
            _check_window(reader, number, window)
        for shape in ((0, 0), (0, 5), (5, 0)):
            empty = reader.read(number, Box(0, 0, *shape))
            assert empty.shape == (*shape, 3), f"a box of {shape} is read as {empty.shape}"
    for name in reader.metadata.associated:
        _check_rgb(reader.associated_image(name), None, f"associated image {name}")
    with pytest.raises(SlideError, match="no-such-image"):
        reader.associated_image("no-such-image")


def check_opener(open_: Callable[[str], Reader], folder: Path) -> None:
    """Check that what is no slide is a `SlideError` naming the path; ``folder`` is written to."""
    (folder / "empty.svs").touch()
    (folder / "noise.svs").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "header.svs").write_bytes(b"II*\0\x08\0\0\0")
    (folder / "folder.svs").mkdir()
    for name in ("missing.svs", "empty.svs", "noise.svs", "header.svs", "folder.svs"):
        with pytest.raises(SlideError, match=name):
            open_(str(folder / name))


def _check_axes(source: Source) -> Shape:
    assert source.axes in ("yxs", "cyx"), f"axes {source.axes!r} are neither yxs nor cyx"
    assert len(source.shape) == len(source.axes)
    assert all(type(n) is int and n > 0 for n in source.shape), f"shape {source.shape}"
    assert isinstance(source.dtype, np.dtype), f"dtype {source.dtype!r} is no numpy.dtype"
    return (source.shape[source.axes.index("y")], source.shape[source.axes.index("x")])


def _check_token(source: Source, whole: NDArray[Any]) -> None:
    token = pickle.dumps(source)
    assert len(token) < TOKEN_BYTES, f"the pickle has {len(token)} bytes, {TOKEN_BYTES} are allowed"
    copy = pickle.loads(token)
    assert copy == source, "the unpickled source is another one"
    assert hash(copy) == hash(source), "the unpickled source has another hash"
    assert tokenize(copy) == tokenize(source), "the unpickled source has other graph keys"
    _same(copy.read(Box(0, 0, *_check_axes(copy))), whole, "the unpickled source reads otherwise")


def _check_pixels(source: Source, box: Box, values: NDArray[Any]) -> None:
    assert isinstance(values, np.ndarray), f"read gives a {type(values).__name__}"
    assert values.dtype == source.dtype, f"{box} is read as {values.dtype}, not {source.dtype}"
    expected = _extent(source, box)
    assert values.shape == expected, f"{box} is read as {values.shape}, not {expected}"


def _extent(source: Source, box: Box) -> tuple[int, ...]:
    spatial = {"y": box.height, "x": box.width}
    return tuple(spatial.get(a, n) for a, n in zip(source.axes, source.shape, strict=True))


def _place(source: Source, box: Box, outer: Box) -> tuple[slice, ...]:
    rows, columns = box.within(outer)
    spatial = {"y": rows, "x": columns}
    return tuple(spatial.get(axis, slice(None)) for axis in source.axes)


def _values(source: Source) -> Callable[[Box], NDArray[Any]]:
    """Give a maker of values that differ every time, zero among them."""
    rng = np.random.default_rng(0)

    def make(box: Box) -> NDArray[Any]:
        return rng.integers(0, 200, _extent(source, box)).astype(source.dtype)

    return make


def _boxes(plane: Shape) -> Iterator[Box]:
    """Give boxes inside, across every border, around everything, outside and empty."""
    height, width = plane
    yield Box(height // 2, width // 2, 1, 1)
    yield Box(height - 1, width - 1, 1, 1)
    yield Box(-3, -2, height + 7, width + 5)
    yield from (Box(-2, 0, 4, width), Box(height - 2, 0, 4, width))
    yield from (Box(0, -2, height, 4), Box(0, width - 2, height, 4))
    yield from (Box(-9, 0, 5, 5), Box(height + 4, 0, 5, 5))
    yield from (Box(0, -9, 5, 5), Box(0, width + 4, 5, 5), Box(height, width, 3, 3))
    yield from (Box(0, 0, 0, 0), Box(height // 2, 0, 0, 3), Box(0, width // 2, 3, 0))
    rng = np.random.default_rng(0)
    for _ in range(20):
        ys, xs = (sorted(rng.integers(-5, n + 6, 2).tolist()) for n in plane)
        yield Box.spanning(ys[0], xs[0], ys[1], xs[1])


def _windows(shape: Shape) -> Iterator[Box]:
    """Give the first, the middle and the last `WINDOW` of a level."""
    size = [min(n, WINDOW) for n in shape]
    ends = [(0, (n - side) // 2, n - side) for n, side in zip(shape, size, strict=True)]
    for y, x in sorted(set(zip(*ends, strict=True))):
        yield Box(y, x, *size)


def _check_window(reader: Reader, level: int, window: Box) -> None:
    whole = reader.read(level, window)
    what = f"level {level}, {window}"
    _check_rgb(whole, window.shape, what)
    _same(reader.read(level, window), whole, f"{what} is not the same when it is read again")
    for cell in (97, 256):
        cells = Grid(window.shape, cell)
        parts = [cells.box(index) for index in cells]
        boxes = [Box(window.y + b.y, window.x + b.x, b.height, b.width) for b in parts]
        with ThreadPoolExecutor(4) as threads:
            pieces = list(threads.map(lambda box: reader.read(level, box), boxes))
        for box, piece in zip(boxes, pieces, strict=True):
            _check_rgb(piece, box.shape, f"level {level}, {box}")
            _same(piece, whole[box.within(window)], f"level {level}, {box} depends on its box")


def _check_rgb(pixels: NDArray[Any], shape: Shape | None, what: str) -> None:
    assert pixels.dtype == np.uint8, f"{what} is {pixels.dtype}"
    assert pixels.ndim == 3, f"{what} has shape {pixels.shape}"
    assert pixels.shape == (*(shape or pixels.shape[:2]), 3), f"{what} has shape {pixels.shape}"
    assert pixels.size, f"{what} is empty"


def _check_metadata(metadata: Metadata) -> None:
    assert metadata.levels, "a slide has no levels"
    for number, info in enumerate(metadata.levels):
        _check_level(info, metadata.levels[0].shape, f"level {number}")
    assert metadata.levels[0].downsample == (1.0, 1.0), "level 0 is downsampled"
    areas = [Box(0, 0, *info.shape).area for info in metadata.levels]
    assert areas == sorted(areas, reverse=True), "levels are not finest first"
    if metadata.mpp is not None:
        for mpp in (metadata.mpp.y, metadata.mpp.x):
            assert 0 < mpp < math.inf, f"{mpp} um per pixel; unknown is None"
        assert metadata.mpp.source, "nobody says the um per pixel"
    assert metadata.objective is None or 0 < metadata.objective < math.inf
    if metadata.bounds is not None:
        assert metadata.bounds.area, f"bounds {metadata.bounds} are empty"
        assert metadata.bounds.clipped(metadata.levels[0].shape) == metadata.bounds
    assert len(metadata.background) == 3, f"background {metadata.background} is not RGB"
    assert all(type(value) is int and 0 <= value <= 255 for value in metadata.background)
    assert metadata.vendor
    assert metadata.identity
    assert len(set(metadata.associated)) == len(metadata.associated)
    assert len(dict(metadata.properties)) == len(metadata.properties), "a property comes twice"
    copy = pickle.loads(pickle.dumps(metadata))
    assert (copy, hash(copy)) == (metadata, hash(metadata)), "metadata do not travel"


def _check_level(info: LevelInfo, l0_shape: Shape, what: str) -> None:
    assert all(type(n) is int and n > 0 for n in info.shape), f"{what} has shape {info.shape}"
    assert all(type(n) is int and n > 0 for n in info.tile), f"{what} has tiles {info.tile}"
    for n, l0, downsample in zip(info.shape, l0_shape, info.downsample, strict=True):
        assert downsample >= 1, f"{what} is finer than level 0"
        assert abs(l0 / downsample - n) <= 1, f"{what}: {l0} px / {downsample} are not {n} px"


def _same(values: NDArray[Any], expected: NDArray[Any], what: str) -> None:
    np.testing.assert_array_equal(values, expected, err_msg=what, strict=True)
