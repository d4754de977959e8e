"""Boxes, grids and frames against brute force on small planes."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.geometry import Box, Frame, Grid, Index, ceil_div

positions = st.integers(-40, 40)
sides = st.integers(0, 30)
boxes = st.builds(Box, positions, positions, sides, sides)
filled = boxes.filter(lambda box: box.area > 0)
shapes = st.tuples(sides, sides)
grids = st.builds(Grid, shapes, st.integers(1, 12))
steps = st.integers(1, 12)
halos = st.integers(0, 9)


def pixels(box: Box) -> set[Index]:
    return set(product(range(box.y, box.y_stop), range(box.x, box.x_stop)))


@given(st.integers(-1000, 1000), st.integers(1, 50))
def test_ceil_div_rounds_up(a: int, b: int) -> None:
    assert ceil_div(a, b) == math.ceil(a / b)


@given(boxes)
def test_a_box_has_as_many_pixels_as_its_area(box: Box) -> None:
    assert len(pixels(box)) == box.area
    assert box.shape == (box.height, box.width)


@given(positions, positions, positions, positions)
def test_a_box_that_spans_nothing_is_empty(y: int, x: int, y_stop: int, x_stop: int) -> None:
    box = Box.spanning(y, x, y_stop, x_stop)
    assert pixels(box) == set(product(range(y, y_stop), range(x, x_stop)))
    assert (box.y, box.x) == (y, x)
    assert min(box.shape) >= 0


@given(boxes, boxes)
def test_the_intersection_holds_the_pixels_of_both(one: Box, other: Box) -> None:
    assert pixels(one.intersection(other)) == pixels(one) & pixels(other)


@given(filled, filled)
def test_the_union_is_the_smallest_box_around_both(one: Box, other: Box) -> None:
    both = pixels(one) | pixels(other)
    rows, columns = zip(*both, strict=True)
    expected = Box.spanning(min(rows), min(columns), max(rows) + 1, max(columns) + 1)
    assert one.union(other) == expected


@given(boxes, shapes)
def test_clipping_keeps_what_is_inside_the_array(box: Box, shape: tuple[int, int]) -> None:
    clipped = box.clipped(shape)
    assert pixels(clipped) == {
        (y, x) for y, x in pixels(box) if 0 <= y < shape[0] and 0 <= x < shape[1]
    }
    assert clipped.clipped(shape) == clipped


@given(filled, halos)
def test_expanding_adds_the_margin_on_every_side(box: Box, margin: int) -> None:
    reach = range(-margin, margin + 1)
    corners = {(box.y, box.x), (box.y_stop - 1, box.x_stop - 1)}
    ends = {(y + dy, x + dx) for (y, x), dy, dx in product(corners, reach, reach)}
    expanded = box.expanded(margin)
    assert ends <= pixels(expanded)
    assert expanded.area == (box.height + 2 * margin) * (box.width + 2 * margin)
    assert expanded.expanded(-margin) == box


@given(filled, steps)
def test_dividing_names_every_coarse_pixel_that_is_touched(box: Box, step: int) -> None:
    assert pixels(box.divided(step)) == {(y // step, x // step) for y, x in pixels(box)}


@given(filled, st.tuples(*[st.integers(0, 9)] * 4))
def test_a_box_is_cut_out_of_an_array_that_covers_more(
    inner: Box, margins: tuple[int, int, int, int]
) -> None:
    top, left, bottom, right = margins
    outer = Box.spanning(inner.y - top, inner.x - left, inner.y_stop + bottom, inner.x_stop + right)
    places = np.indices(outer.shape) + np.array([outer.y, outer.x])[:, None, None]
    cut = places[(slice(None), *inner.within(outer))]
    assert cut.shape[1:] == inner.shape
    assert set(zip(*cut.reshape(2, -1).tolist(), strict=True)) == pixels(inner)


@given(grids)
def test_the_cells_of_a_grid_tile_the_plane_exactly_once(grid: Grid) -> None:
    counts = np.zeros(grid.shape, int)
    for index in grid:
        cell = grid.box(index)
        assert cell.area > 0
        counts[cell.within(Box(0, 0, *grid.shape))] += 1
    assert (counts == 1).all()


@given(grids)
def test_a_grid_gives_its_cells_row_by_row(grid: Grid) -> None:
    indices = list(grid)
    assert indices == sorted(set(indices))
    assert len(indices) == grid.size == grid.counts[0] * grid.counts[1]


@given(grids.filter(lambda grid: grid.size > 0), st.data())
def test_a_whole_cell_is_square_and_holds_the_cell(grid: Grid, data: st.DataObject) -> None:
    index = data.draw(st.sampled_from(list(grid)))
    whole = grid.whole(index)
    assert whole.shape == (grid.cell, grid.cell)
    assert whole == Box(index[0] * grid.cell, index[1] * grid.cell, *whole.shape)
    assert grid.box(index) == whole.intersection(Box(0, 0, *grid.shape))


@given(grids, boxes)
def test_touching_gives_the_cells_that_share_a_pixel(grid: Grid, box: Box) -> None:
    expected = [index for index in grid if grid.box(index).intersection(box).area]
    assert list(grid.touching(box)) == expected


@given(grids)
def test_a_cell_of_the_halved_grid_covers_two_by_two_cells(grid: Grid) -> None:
    half = grid.halved()
    assert half.cell == grid.cell
    assert half.shape == (math.ceil(grid.shape[0] / 2), math.ceil(grid.shape[1] / 2))
    seen: list[Index] = []
    for i, j in half:
        box = half.whole((i, j))
        doubled = Box(2 * box.y, 2 * box.x, 2 * box.height, 2 * box.width)
        square = list(product((2 * i, 2 * i + 1), (2 * j, 2 * j + 1)))
        assert doubled == grid.whole(square[0]).union(grid.whole(square[3]))
        assert list(grid.touching(doubled)) == [index for index in square if index in set(grid)]
        seen += grid.touching(doubled)
    assert sorted(seen) == list(grid)


@given(filled, steps, halos)
def test_a_frame_adds_the_halo_to_whole_steps(box: Box, step: int, halo: int) -> None:
    read = Frame(step, halo).around(box)
    inner = read.expanded(-halo)
    assert [n % step for n in (inner.y, inner.x, inner.y_stop, inner.x_stop)] == [0, 0, 0, 0]
    assert inner.intersection(box) == box
    # No whole step more than it takes.
    assert max(box.y - inner.y, box.x - inner.x) < step
    assert max(inner.y_stop - box.y_stop, inner.x_stop - box.x_stop) < step


@given(boxes)
def test_a_frame_of_nothing_reads_the_box_itself(box: Box) -> None:
    assert Frame().around(box) == box


@given(grids, steps, halos)
def test_a_block_is_read_up_to_the_outer_edge_of_its_patches(
    blocks: Grid, core: int, halo: int
) -> None:
    patches = Grid(blocks.shape, core)
    for index in blocks:
        touched = [patches.whole(patch) for patch in patches.touching(blocks.box(index))]
        outer = touched[0].union(touched[-1]).expanded(halo)
        assert Frame(core, halo).around(blocks.box(index)) == outer


@given(shapes, steps, st.integers(1, 3))
def test_blocks_of_whole_patches_share_none(shape: tuple[int, int], core: int, side: int) -> None:
    blocks, patches = Grid(shape, core * side), Grid(shape, core)
    shared = [patch for index in blocks for patch in patches.touching(blocks.box(index))]
    assert sorted(shared) == list(patches)
