"""What a drawn run has to store, by plain numpy over the whole image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.slide import Slide, open_slide
from tests.test_bicubic import reference
from tests.toys import (
    KERNEL,
    SCALE,
    Pixels,
    Scores,
    expected_means,
    expected_neighbours,
    halved,
    noise,
)

__all__ = ["MASK_STEP", "MPP", "Case", "expected", "slide_of"]

MPP, MASK_STEP, SMALLEST = 0.5, 16, 512
"""Um per pixel of the slides, their pixels to one of a mask, and the side of a last level."""

CELL = 4
"""Side of what ``strided`` gives the mean of."""

ANALYSED, BACKGROUND = 1, 2


@dataclass(frozen=True)
class Case:
    """A run. Lengths are pixels of what the model sees; ``low`` is the least score.

    ``level`` or ``mpp`` is what the model sees; ``mask`` seeds the tissue, None is all of it.
    ``end`` is how the first run is interrupted, after that ``part`` of its blocks.
    """

    height: int
    width: int
    tile: int
    reader: str
    kind: str
    method: str
    step: int
    halo: int
    batch: int
    block: int
    chunks: int
    dtype: str
    low: float
    scheduler: str
    level: int | None = 0
    mpp: float | None = None
    mask: int | None = None
    min_fraction: float = 0.0
    end: str = "none"
    part: float = 0.0

    @property
    def stride(self) -> int:
        """Pixels that the model sees to one it gives."""
        return {"neighbours": 1, "strided": CELL, "per_patch": self.step}[self.kind]

    @property
    def steps(self) -> float:
        """How many steps of uint8 there are to 1: a power of two, so that products are exact."""
        return 256.0 if self.low == 0 else 128.0

    @property
    def rgb(self) -> Pixels:
        """Level 0."""
        return noise(self.height, self.width)

    @property
    def tissue(self) -> NDArray[np.bool_]:
        """Where there is tissue, one element per `MASK_STEP` pixels of level 0."""
        shape = (-(-self.height // MASK_STEP), -(-self.width // MASK_STEP))
        if self.mask is None:
            return np.ones(shape, np.bool_)
        coarse = np.random.default_rng(self.mask).random([-(-n // 5) for n in shape]) < 0.3
        tissue: NDArray[np.bool_] = coarse.repeat(5, 0).repeat(5, 1)[: shape[0], : shape[1]]
        return tissue


def expected(case: Case, folder: Path) -> tuple[list[NDArray[Any]], NDArray[np.uint8]]:
    """Give what a run has to store, its levels and its coverage, from the slide's own pixels."""
    rgb, downsample = _looked_at(case, folder)
    wanted = _wanted(case, rgb.shape[:2], downsample)
    scores = _scores(case, rgb, wanted)
    if case.dtype == "uint8":
        finest = np.rint((scores.astype(np.float64) - case.low) * case.steps).astype(np.uint8)
    else:
        finest = scores.astype(case.dtype)
    levels = [finest]
    while max(levels[-1].shape[1:]) > SMALLEST:
        levels.append(_half(levels[-1]))
    return levels, _coverage(case, rgb.shape[:2], wanted)


def _looked_at(case: Case, folder: Path) -> tuple[Pixels, float]:
    """Give the pixels a model sees of a whole slide, and how many of level 0 one is."""
    if case.level is not None:
        return (case.rgb, 1.0) if case.level == 0 else (halved(case.rgb), 2.0)
    ratio = (case.mpp or MPP) / MPP
    level = slide_of(case, folder).at(case.mpp or MPP)
    seen: Pixels = level.array(block=4096).compute(scheduler="synchronous")
    # Keys' filter by numpy, to half a grey level and what fixed-point weights are off.
    assert np.abs(seen - reference(case.rgb, (ratio, ratio))).max() < 1
    return seen, ratio


def _wanted(case: Case, plane: tuple[int, ...], downsample: float) -> NDArray[np.bool_]:
    """Say which cells of the grid of patches hold enough tissue, by area."""
    overlaps, lengths = [], []
    for axis, l0_size in enumerate((case.height, case.width)):
        edges = np.arange(-(-plane[axis] // case.step) + 1) * case.step * downsample
        fine = np.rint(edges.clip(0, l0_size) * 16)[:, None]  # whole 16ths of a pixel
        mask = np.arange(case.tissue.shape[axis] + 1) * MASK_STEP * 16.0
        common = np.minimum(fine[1:], mask[1:]) - np.maximum(fine[:-1], mask[:-1])
        overlaps.append(common.clip(0))
        lengths.append(fine[1:, 0] - fine[:-1, 0])
    areas = overlaps[0] @ case.tissue.astype(float) @ overlaps[1].T
    wanted: NDArray[np.bool_] = (areas > 0) & (areas >= case.min_fraction * np.outer(*lengths))
    return wanted


def _scores(case: Case, rgb: Pixels, wanted: NDArray[np.bool_]) -> Scores:
    if case.method != "crop":
        return _blended(case, rgb, wanted)
    if case.kind == "neighbours":
        scores = expected_neighbours(rgb)
    elif case.kind == "strided":
        scores = expected_means(rgb, CELL)
    else:
        scores = np.zeros((3, *wanted.shape), np.float32)
        for (i, j), patch in _patches(case, rgb, wanted):
            scores[:, i, j] = patch.mean(axis=(0, 1)) * SCALE
    side = case.step // case.stride
    pixels = wanted.repeat(side, 0).repeat(side, 1)[: scores.shape[1], : scores.shape[2]]
    return np.where(pixels, scores, np.float32(case.low))


def _patches(
    case: Case, rgb: Pixels, wanted: NDArray[np.bool_]
) -> Iterator[tuple[tuple[int, int], NDArray[np.float64]]]:
    """Give the cell of every wanted patch and its pixels; beyond the slide they are white."""
    far = case.step + case.halo
    beyond = np.pad(rgb.astype(np.float64), ((far, far), (far, far), (0, 0)), constant_values=255)
    side = case.step + 2 * case.halo
    for i, j in np.argwhere(wanted):
        y, x = (n * case.step - case.halo + far for n in (i, j))
        yield (int(i), int(j)), beyond[y : y + side, x : x + side]


def _blended(case: Case, rgb: Pixels, wanted: NDArray[np.bool_]) -> Scores:
    """Give the weighted mean of what all wanted patches say of a pixel."""
    side, core, margin = (
        n // case.stride for n in (case.step + 2 * case.halo, case.step, case.halo)
    )
    weights = np.ones((side, side), np.float32)
    if case.method == "gaussian":
        bell = np.exp(-0.5 * ((np.arange(side) - (side - 1) / 2) / (side / 8)) ** 2)
        weights = np.maximum(np.outer(bell, bell), 1e-3).astype(np.float32)
    channels = 1 if case.kind == "neighbours" else 3
    total = np.zeros((channels, *(n * core + 2 * margin for n in wanted.shape)), np.float32)
    weight = np.zeros(total.shape[1:], np.float32)
    for (i, j), patch in _patches(case, rgb, wanted):
        here = (slice(i * core, i * core + side), slice(j * core, j * core + side))
        given = _convolved(patch) if channels == 1 else expected_means(patch.astype(np.uint8), CELL)
        total[(slice(None), *here)] += given * weights
        weight[here] += weights
    rows, columns = (-(-n // case.stride) for n in rgb.shape[:2])
    inside = (slice(margin, margin + rows), slice(margin, margin + columns))
    total, weight = total[(slice(None), *inside)], weight[inside]
    with np.errstate(invalid="ignore"):
        return np.where(weight > 0, total / weight, np.float32(case.low))


def _convolved(patch: NDArray[np.float64]) -> Scores:
    """Give `KERNEL` over a patch, around which the graph sees zeros."""
    height, width = patch.shape[:2]
    padded = np.pad(patch, ((1, 1), (1, 1), (0, 0)))
    scores = np.zeros((1, height, width))
    for dy, dx in np.ndindex(3, 3):
        weights = KERNEL[:, dy, dx].astype(np.float64)
        scores[0] += padded[dy : dy + height, dx : dx + width] @ weights * SCALE
    return scores.astype(np.float32)


def _half(fine: NDArray[Any]) -> NDArray[Any]:
    """Give the means of 2 x 2, integers rounded half up; an odd border is repeated."""
    odd = [(0, n % 2) for n in fine.shape[1:]]
    even = np.pad(fine, ((0, 0), *odd), mode="edge")
    wide = even.astype(np.uint32 if fine.dtype == np.uint8 else np.float32)
    tall = wide[:, ::2] + wide[:, 1::2]
    sums = tall[:, :, ::2] + tall[:, :, 1::2]
    means = (sums + 2) // 4 if fine.dtype == np.uint8 else sums / 4
    return means.astype(fine.dtype)


def _coverage(case: Case, plane: tuple[int, ...], wanted: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Say of each block whether a wanted patch has a part in it."""
    used = 0 if case.method == "crop" else case.halo
    coverage = np.full([-(-n // case.block) for n in plane], BACKGROUND, np.uint8)
    for i, j in np.argwhere(wanted):
        spans = []
        for n, size in zip((i, j), plane, strict=True):
            first = max(n * case.step - used, 0)
            last = min((n + 1) * case.step + used, size) - 1
            spans.append(slice(first // case.block, last // case.block + 1))
        coverage[tuple(spans)] = ANALYSED
    return coverage


def slide_of(case: Case, folder: Path) -> Slide:
    """Open the slide of a case."""
    return open_slide(str(folder / "slide.tiff"), reader=case.reader)
