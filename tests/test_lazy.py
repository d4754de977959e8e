"""Blocks read, mapped and written by dask: the right pixels, in one small task per block."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np
import pytest
from dask.blockwise import Blockwise
from dask.local import get_sync
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.geometry import Box, Frame, Grid, Index, Shape
from pipeline.lazy import map_blocks, read_blocks, sliceable, write_blocks
from pipeline.lazy.tasks import block_key, block_tasks
from tests.contracts import check_source, check_target

# Building a graph takes milliseconds, so a few examples of each shape must do.
few = settings(deadline=None, max_examples=25)

WEIGHTS = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
"""What `weigh` weighs a pixel's neighbours with: no flip or shift leaves it the same."""


@dataclass(frozen=True, slots=True)
class Plane:
    """A source whose every pixel is computed from its place, and is ``background`` outside."""

    plane: Shape
    axes: str = "yxs"
    samples: int = 3
    background: int = 255

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.plane, self.samples) if self.axes == "yxs" else (self.samples, *self.plane)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    def read(self, box: Box) -> NDArray[Any]:
        _read.append(box)
        return self.truth(box)

    def truth(self, box: Box | None = None) -> NDArray[Any]:
        box = box or Box(0, 0, *self.plane)
        y, x, s = np.ogrid[box.y : box.y_stop, box.x : box.x_stop, : self.samples]
        values = (y * 31 + x * 17 + y * x + s * 101) % 251
        outside = (y < 0) | (x < 0) | (y >= self.plane[0]) | (x >= self.plane[1])
        pixels: NDArray[Any] = np.where(outside, self.background, values).astype(np.uint8)
        return pixels if self.axes == "yxs" else pixels.transpose(2, 0, 1)


_read: list[Box] = []


@contextmanager
def reads() -> Iterator[list[Box]]:
    """Give the boxes read of any `Plane` meanwhile."""
    _read.clear()
    yield _read


@dataclass(frozen=True, slots=True)
class Sheet:
    """A ``(c, y, x)`` target, and a source, whose values are in this process's memory."""

    name: str
    plane: Shape
    channels: int
    block: int = 16
    axes: str = "cyx"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.channels, *self.plane)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.int32)

    def read(self, box: Box) -> NDArray[Any]:
        values = np.zeros((self.channels, *box.shape), self.dtype)
        inside = box.clipped(self.plane)
        if inside.area:
            place = (slice(None), *inside.within(Box(0, 0, *self.plane)))
            values[(slice(None), *inside.within(box))] = self._stored()[place]
        return values

    def write(self, box: Box, values: NDArray[Any]) -> None:
        if values.shape != (self.channels, *box.shape):
            raise ValueError(f"{box}: {values.shape} values")
        self._stored()[(slice(None), *box.within(Box(0, 0, *self.plane)))] = values

    def _stored(self) -> NDArray[Any]:
        return _sheets.setdefault(self.name, np.zeros(self.shape, self.dtype))


_sheets: dict[str, NDArray[Any]] = {}


@pytest.fixture(autouse=True)
def no_sheets() -> None:
    _sheets.clear()


def weigh_neighbours(pixels: NDArray[Any]) -> NDArray[Any]:
    """Weigh 3 x 3 pixels of ``(y, x, s)``; the result is one pixel smaller all around."""
    rows, columns = pixels.shape[0] - 2, pixels.shape[1] - 2
    return sum(
        (
            pixels[i : i + rows, j : j + columns].astype(np.int32) * WEIGHTS[i, j]
            for i in range(3)
            for j in range(3)
        ),
        start=np.zeros((rows, columns, pixels.shape[2]), np.int32),
    )


def weigh(
    block: NDArray[Any], index: Index, _value: Any, *, cells: Grid, frame: Frame
) -> NDArray[Any]:
    """Weigh the neighbours of a block's pixels, which ``frame`` has put around it."""
    box = cells.box(index)
    inner = frame.around(box).expanded(-1)
    return weigh_neighbours(block)[box.within(inner)].transpose(2, 0, 1).astype(np.int32)


def weighed(source: Plane) -> NDArray[Any]:
    """Give what `weigh` has to give on the whole plane."""
    whole = source.truth(Box(0, 0, *source.plane).expanded(1))
    return weigh_neighbours(whole).transpose(2, 0, 1)


def weigh_blocks(
    source: Plane, grid: Grid, frame: Frame, needed: Mapping[Index, Box] | None = None
) -> da.Array:
    pixels = read_blocks(source, grid, frame, needed)
    return map_blocks(
        weigh, pixels, grid, axes="yxs", channels=3, dtype=np.int32, cells=grid, frame=frame
    )


def mark(
    _block: NDArray[Any], index: Index, value: Any, *, cells: Grid, lowest: int
) -> NDArray[Any]:
    """Give a block full of its value and its index, whatever was read."""
    values = np.array((lowest if value is None else value, *index), np.int32)
    return np.broadcast_to(values[:, None, None], (3, *cells.box(index).shape))


def compute(array: da.Array) -> NDArray[Any]:
    values: NDArray[Any] = array.compute(scheduler="synchronous")
    return values


planes = st.tuples(st.integers(1, 70), st.integers(1, 70))
cells = st.integers(8, 40)
frames = st.builds(Frame, st.integers(1, 20), st.integers(1, 5))


def test_the_plane_these_tests_read_keeps_the_contract_of_a_source() -> None:
    check_source(Plane((23, 41)))
    check_source(Plane((41, 23), "cyx", samples=2))


def test_the_sheet_these_tests_write_keeps_the_contract_of_a_target() -> None:
    sheet = Sheet("out", (37, 50), 2)
    check_target(sheet, sheet)
    check_source(sheet)


@dataclass(frozen=True, slots=True)
class Broken(Plane):
    """A plane that breaks its contract in one way."""

    how: str = ""

    def read(self, box: Box) -> NDArray[Any]:
        if self.how == "depends on the box":
            return self.truth(replace(box, y=box.y + box.height % 2))
        if self.how == "not background outside":
            return replace(self, background=0).truth(box)
        if self.how == "cut at the border":
            return self.truth(box.clipped(self.plane))
        if self.how == "another dtype":
            return self.truth(box).astype(np.int16)
        return self.truth(box)


@pytest.mark.parametrize(
    "how", ["depends on the box", "not background outside", "cut at the border", "another dtype"]
)
def test_a_source_that_reads_wrongly_breaks_the_contract(how: str) -> None:
    with pytest.raises(AssertionError):
        check_source(Broken((23, 41), how=how))


def test_a_source_that_does_not_fit_a_task_breaks_the_contract() -> None:
    with pytest.raises(AssertionError, match="bytes"):
        check_source(Broken((23, 41), how="long " * 200))


def test_a_target_that_writes_beside_breaks_the_contract() -> None:
    sheet = Sheet("out", (37, 50), 2)

    class Beside:
        def write(self, box: Box, values: NDArray[Any]) -> None:
            sheet.write(replace(box, x=max(box.x - 1, 0)), values)

    with pytest.raises(AssertionError, match="not read back"):
        check_target(Beside(), sheet, block=16)


@few
@given(planes, cells, frames, st.sampled_from(["yxs", "cyx"]))
def test_a_block_holds_what_its_frame_adds_around_it(
    plane: Shape, cell: int, frame: Frame, axes: str
) -> None:
    source, grid = Plane(plane, axes), Grid(plane, cell)
    blocks = read_blocks(source, grid, frame)
    for i, j in grid:
        index = (i, j, 0) if axes == "yxs" else (0, i, j)
        box = frame.around(grid.box((i, j)))
        with reads() as boxes:
            block = compute(blocks.blocks[index])
        assert boxes == [box]
        assert (block.dtype, block.shape) == (blocks.dtype, blocks.blocks[index].shape)
        np.testing.assert_array_equal(block, source.truth(box))


@few
@given(planes, cells, st.sampled_from(["yxs", "cyx"]))
def test_blocks_without_a_frame_are_the_plane(plane: Shape, cell: int, axes: str) -> None:
    source = Plane(plane, axes)
    blocks = read_blocks(source, Grid(plane, cell))
    assert (blocks.shape, blocks.dtype) == (source.shape, source.dtype)
    np.testing.assert_array_equal(compute(blocks), source.truth())


@few
@given(planes, cells, frames)
def test_neighbours_are_the_same_at_the_border_of_a_block(
    plane: Shape, cell: int, frame: Frame
) -> None:
    source = Plane(plane)
    scores = weigh_blocks(source, Grid(plane, cell), frame)
    assert scores.shape == (3, *plane)
    np.testing.assert_array_equal(compute(scores), weighed(source))


@few
@given(planes, cells, frames, st.data())
def test_only_the_needed_part_of_a_block_is_read(
    plane: Shape, cell: int, frame: Frame, data: st.DataObject
) -> None:
    source, grid = Plane(plane), Grid(plane, cell)
    index = data.draw(st.sampled_from(list(grid)))
    places, sides = st.integers(-10, 75), st.integers(0, 30)
    part = data.draw(st.builds(Box, places, places, sides, sides))
    blocks = read_blocks(source, grid, frame, {index: part})
    for i, j in grid:
        box = frame.around(grid.box((i, j)))
        wanted = part.intersection(box) if (i, j) == index else box
        with reads() as boxes:
            block = compute(blocks.blocks[i, j, 0])
        assert sum(read.area for read in boxes) == wanted.area
        expected = np.zeros((*box.shape, 3), np.uint8)
        expected[wanted.within(box)] = source.truth(wanted)
        np.testing.assert_array_equal(block, expected)


def test_needed_parts_are_named_in_the_rows_and_columns_of_any_axes() -> None:
    source, grid = Plane((40, 50), "cyx", samples=2), Grid((40, 50), 32)
    part = Box(3, 33, 10, 7)
    block = compute(read_blocks(source, grid, Frame(), {(0, 1): part}).blocks[0, 0, 1])
    expected = np.zeros((2, 32, 18), np.uint8)
    expected[:, 3:13, 1:8] = source.truth(part)
    np.testing.assert_array_equal(block, expected)


@few
@given(planes, cells, st.sampled_from(["yxs", "cyx"]), st.data())
def test_a_value_arrives_at_its_block(
    plane: Shape, cell: int, axes: str, data: st.DataObject
) -> None:
    grid = Grid(plane, cell)
    values = data.draw(st.dictionaries(st.sampled_from(list(grid)), st.integers(1, 99)))
    marked = map_blocks(
        mark,
        read_blocks(Plane(plane, axes, samples=3 if axes == "yxs" else 4), grid),
        grid,
        axes=axes,
        channels=3,
        dtype=np.int32,
        per_block=values,
        cells=grid,
        lowest=-1,
    )
    assert marked.shape == (3, *plane)
    found = compute(marked)
    for index in grid:
        block = found[(slice(None), *grid.box(index).within(Box(0, 0, *plane)))]
        assert set(block[0].ravel().tolist()) == {values.get(index, -1)}
        assert set(zip(*block[1:].reshape(2, -1).tolist(), strict=True)) == {index}


def halve(block: NDArray[Any], _index: Index, _value: None) -> NDArray[Any]:
    return block[:, ::2, ::2]


def test_the_result_may_be_coarser_than_what_is_read() -> None:
    source = Plane((100, 70), "cyx")
    coarse = Grid(source.plane, 16).halved()
    pairs = read_blocks(source, Grid(source.plane, 32))
    halved = map_blocks(halve, pairs, coarse, axes="cyx", channels=3, dtype=np.uint8)
    assert halved.shape == (3, 50, 35)
    np.testing.assert_array_equal(compute(halved), source.truth()[:, ::2, ::2])


@few
@given(planes, cells)
def test_every_block_is_written_to_its_place(plane: Shape, cell: int) -> None:
    _sheets.clear()
    source, grid, sheet = Plane(plane), Grid(plane, cell), Sheet("out", plane, 3)
    written = write_blocks(weigh_blocks(source, grid, Frame(8, 1)), sheet, grid)
    assert (written.shape, written.dtype) == ((1, *grid.counts), np.uint8)
    assert _sheets == {}
    done = compute(written)
    assert (done.shape, done.dtype) == (written.shape, written.dtype)
    assert (done == 1).all()
    np.testing.assert_array_equal(_sheets["out"], weighed(source))


@few
@given(planes, cells, st.data())
def test_a_subset_of_the_keys_writes_those_blocks_and_reads_no_other(
    plane: Shape, cell: int, data: st.DataObject
) -> None:
    _sheets.clear()
    source, grid, sheet = Plane(plane), Grid(plane, cell), Sheet("out", plane, 3)
    frame = Frame(8, 1)
    some = data.draw(st.sets(st.sampled_from(list(grid)), min_size=1))
    written = write_blocks(weigh_blocks(source, grid, frame), sheet, grid)
    with reads() as boxes:
        get_sync(block_tasks(written, some), [block_key(written, index) for index in some])
    assert sorted(boxes) == sorted(frame.around(grid.box(index)) for index in some)
    expected = np.zeros_like(weighed(source))
    for index in some:
        place = (slice(None), *grid.box(index).within(Box(0, 0, *plane)))
        expected[place] = weighed(source)[place]
    np.testing.assert_array_equal(_sheets["out"], expected)


def whole_chain(side: int, cell: int) -> da.Array:
    """Read, map with a value per block, map, write: what a run does, all of it."""
    plane = (side, side)
    source, grid = Plane(plane), Grid(plane, cell)
    frame = Frame(8, 1)
    needed = {index: grid.box(index).expanded(-4) for index in grid}
    values = {index: bytes(range(64)) for index in grid}
    pixels = read_blocks(source, grid, frame, needed)
    scores = map_blocks(
        weigh,
        pixels,
        grid,
        axes="yxs",
        channels=3,
        dtype=np.int32,
        per_block=values,
        cells=grid,
        frame=frame,
    )
    kept = map_blocks(
        mark, scores, grid, axes="cyx", channels=3, dtype=np.int32, cells=grid, lowest=0
    )
    return write_blocks(kept, Sheet("out", plane, 3), grid)


def test_a_block_is_one_task() -> None:
    written = whole_chain(side=160, cell=16)
    grid = Grid((160, 160), 16)
    for some in ([(0, 0)], [(9, 9), (3, 7)], list(grid)):
        tasks = block_tasks(written, some)
        assert sorted(tasks) == sorted(block_key(written, index) for index in some)
        assert len(tasks) == len(some)
        assert all(not task.dependencies for task in tasks.values())


def test_a_block_of_a_pyramid_is_one_task() -> None:
    source = Plane((160, 160), "cyx")
    coarse = Grid(source.plane, 16).halved()
    pairs = read_blocks(source, Grid(source.plane, 32))
    halved = map_blocks(halve, pairs, coarse, axes="cyx", channels=3, dtype=np.uint8)
    written = write_blocks(halved, Sheet("coarse", coarse.shape, 3), coarse)
    assert len(block_tasks(written, coarse)) == coarse.size == 25


def test_ten_thousand_blocks_stay_symbolic_and_their_tasks_small() -> None:
    written = whole_chain(side=200_000, cell=2000)
    assert written.shape == (1, 100, 100)
    layers = written.dask.layers.values()
    assert len(layers) == 4
    assert all(isinstance(layer, Blockwise) and not layer.is_materialized() for layer in layers)
    some = [(i, j) for i in range(16) for j in range(84, 100)]
    tasks = block_tasks(written, some)
    assert len(tasks) == 256
    assert max(len(pickle.dumps(task)) for task in tasks.values()) < 2000


def name_of(
    source: Plane, cell: int, frame: Frame, values: Mapping[Index, int] | None, sheet: str
) -> str:
    grid = Grid(source.plane, cell)
    scores = map_blocks(
        weigh,
        read_blocks(source, grid, frame),
        grid,
        axes="yxs",
        channels=3,
        dtype=np.int32,
        per_block=values,
        cells=grid,
        frame=frame,
    )
    return str(write_blocks(scores, Sheet(sheet, source.plane, 3), grid).name)


def test_keys_tell_sources_grids_frames_values_and_targets_apart() -> None:
    source, frame = Plane((40, 40)), Frame(8, 1)
    names = [
        name_of(source, 16, frame, None, "out"),
        name_of(replace(source, background=0), 16, frame, None, "out"),
        name_of(source, 20, frame, None, "out"),
        name_of(source, 16, Frame(8, 2), None, "out"),
        name_of(source, 16, frame, {(0, 0): 1}, "out"),
        name_of(source, 16, frame, {(0, 0): 2}, "out"),
        name_of(source, 16, frame, None, "other"),
    ]
    assert len(set(names)) == len(names)
    assert name_of(Plane((40, 40)), 16, Frame(8, 1), None, "out") == names[0]


def test_keys_tell_what_is_needed_apart() -> None:
    source, grid = Plane((40, 40)), Grid((40, 40), 16)
    parts = [None, {(0, 0): Box(0, 0, 5, 5)}, {(0, 0): Box(0, 0, 5, 6)}]
    assert len({read_blocks(source, grid, Frame(), needed).name for needed in parts}) == 3


def test_a_block_key_ends_with_the_index() -> None:
    written = whole_chain(side=160, cell=16)
    assert block_key(written, (3, 4)) == (written.name, 0, 3, 4)


def indices(n: int, *, fancy: bool) -> st.SearchStrategy[Any]:
    # Not below -n: there dask's own slices with a negative step are not numpy's.
    bounds = st.none() | st.integers(-n, n + 3)
    sliced = st.builds(slice, bounds, bounds, st.none() | st.sampled_from([1, 2, 3, -1, -2, -5]))
    inside = st.integers(-n, n - 1)
    return sliced | inside | (st.lists(inside, max_size=6) if fancy else sliced)


@settings(deadline=None, max_examples=100)
@given(st.data(), st.sampled_from(["yxs", "cyx"]))
def test_a_sliced_source_is_the_sliced_array(data: st.DataObject, axes: str) -> None:
    source = Plane((40, 33), axes)
    chunks = data.draw(st.sampled_from([(16, 8), (40, 33), (7, 50)]))
    array = sliceable(source, (*chunks, 3) if axes == "yxs" else (3, *chunks))
    expected = source.truth()
    # One axis at a time: what a list beside an integer means differs between numpy and dask.
    for axis in data.draw(st.permutations(range(3))):
        index = data.draw(indices(source.shape[axis], fancy=True), label=f"axis {axis}")
        if isinstance(index, int):
            index = slice(index, index + 1 or None)
        cut = tuple(index if a == axis else slice(None) for a in range(3))
        array, expected = array[cut], expected[cut]
    found = compute(array)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@settings(deadline=None, max_examples=100)
@given(st.data(), st.sampled_from(["yxs", "cyx"]))
def test_integers_and_slices_together_are_numpys(data: st.DataObject, axes: str) -> None:
    source = Plane((40, 33), axes)
    array = sliceable(source, (16, 16, 3) if axes == "yxs" else (3, 16, 16))
    cut = tuple(
        data.draw(indices(n, fancy=False)) for n in source.shape[: data.draw(st.integers(0, 3))]
    )
    np.testing.assert_array_equal(compute(array[cut]), source.truth()[cut])


@pytest.mark.parametrize(
    ("cut", "area"),
    [
        (np.s_[10:20, 30:45], 150),
        (np.s_[15:17, 63:65], 4),
        (np.s_[5, 7], 1),
        (np.s_[-1, 10:20:3], 10),
        (np.s_[40:40], 0),
    ],
    ids=str,
)
def test_only_what_is_sliced_is_read(cut: Any, area: int) -> None:
    source = Plane((100, 120))
    array = sliceable(source, (16, 64, 3))
    with reads() as boxes:
        found = compute(array[cut])
    np.testing.assert_array_equal(found, source.truth()[cut])
    assert sum(box.area for box in boxes) == area


def test_what_dask_cannot_hand_down_reads_no_more_than_the_chunks_it_touches() -> None:
    array = sliceable(Plane((100, 120)), (16, 64, 3))
    for sliced, most in (
        (array[20:10:-1, 3], 2 * 16 * 64),
        (array[[3, 90], 5:7], 2 * 16 * 2),
        (array[10:50][5:7, :, 0][:, 60:70], (6 + 16) * 120),
    ):
        with reads() as boxes:
            compute(sliced)
        assert sum(box.area for box in boxes) <= most


def test_nothing_is_read_until_something_is_computed() -> None:
    source = Plane((100, 120))
    with reads() as boxes:
        sliceable(source, (16, 64, 3))[3:5].sum()
        write_blocks(
            weigh_blocks(source, Grid(source.plane, 32), Frame(8, 1)),
            Sheet("out", source.plane, 3),
            Grid(source.plane, 32),
        )
    assert boxes == []
    assert _sheets == {}
