"""Which pictures a slide has in a report, with what they show in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline.display.pictures import limits_of
from pipeline.geometry import Box
from pipeline.ngff import PALETTE
from pipeline.report.numbers import MOST_POINTS, Objects, extent_um, kept_block_um
from pipeline.report.pictures import (
    COVERAGE_COLOURS,
    Drawn,
    draw_coverage,
    draw_labels,
    draw_points,
    draw_scores,
    draw_tissue,
    ramp,
    thumb,
)
from pipeline.results.drawing import HEAT_PIXELS, OverviewImage, area_of, with_heat
from pipeline.store import Coverage, placed_outputs
from pipeline.store.labels import read_colours

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.report.sections import Section
    from pipeline.results import StoredSlide

__all__ = ["Figure", "Swatch", "figures", "small"]

_MOST_CHANNELS = 3
"""Channels of scores that are drawn."""


@dataclass(frozen=True)
class Swatch:
    """A line of a legend."""

    colour: str
    words: str


@dataclass(frozen=True)
class Figure:
    """A picture, what it shows, and its legend: swatches, or a ramp from ``low`` to ``high``."""

    drawn: Drawn
    title: str
    alt: str
    swatches: tuple[Swatch, ...] = ()
    ramp: tuple[str, ...] = ()
    low: str = ""
    high: str = ""


def small(thumbnail: NDArray[np.uint8]) -> str:
    """Give a slide's picture for a table, as a data URI."""
    return thumb(thumbnail).uri


def figures(
    section: Section, thumbnail: NDArray[np.uint8], coverage: NDArray[np.uint8]
) -> list[Figure]:
    """Draw a slide's pictures: its tissue, each output that can be seen, and its coverage."""
    stored = section.entry.stored
    assert stored is not None  # noqa: S101 - for the type checker
    height_um, width_um = extent_um(stored)
    image = OverviewImage(
        thumbnail=thumbnail,
        heat=None,
        tissue=stored.tissue,
        width_um=width_um,
        height_um=height_um,
        tissue_um=area_of(stored.tissue_placement, stored.tissue, stored.level0_mpp),
        title="",
        channel="",
    )
    found = [Figure(draw_tissue(image), "Slide, tissue outlined", _alt(section, "tissue outlined"))]
    if stored.seen.committed:
        found += _scores(section, stored, image)
        found += _labels(section, stored, image)
        found += (_objects(section, each, image) for each in section.objects if each.total)
    found.append(_coverage(section, image, coverage, kept_block_um(stored)))
    return found


def _alt(section: Section, what: str) -> str:
    return f"{section.entry.slide_id}: the whole slide, {what}"


def _scores(section: Section, stored: StoredSlide, image: OverviewImage) -> Iterator[Figure]:
    shown = [i for i, name in enumerate(stored.channels) if name != "background"]
    for number in shown[:_MOST_CHANNELS]:
        heated = with_heat(image, stored, number)
        low, high = heated.limits
        yield Figure(
            draw_scores(heated),
            f"Scores: {heated.channel}",
            _alt(section, f"scores of {stored.channels[number]} as colours from dark to light"),
            ramp=tuple(ramp()),
            low=f"{low:.2g}",
            high=f"{high:.2g}",
        )


def _labels(section: Section, stored: StoredSlide, image: OverviewImage) -> Iterator[Figure]:
    for each in section.labels:
        folder = stored.folder_of(each.name)
        levels = placed_outputs(stored.path, folder)
        small = (each for each in levels if max(each[0].plane) <= HEAT_PIXELS)
        token, place = next(small, levels[-1])
        labels = token.read(Box(0, 0, *token.plane))[0]
        colours, classes = read_colours(stored.path, each.name), stored.classes(each.name)
        yield Figure(
            draw_labels(image, labels, area_of(place, labels, stored.level0_mpp), colours),
            f"Classes: {each.name}",
            _alt(section, f"the classes {', '.join(classes.values())} in colours"),
            swatches=tuple(
                Swatch(colours[value], f"{name}: {each.mm2[value]:,.3g} mm\u00b2")
                for value, name in classes.items()
            ),
        )


def class_colours(found: Objects) -> Mapping[str, str]:
    """Give a colour to each class of objects, by name, so that slides agree."""
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(sorted(found.counts))}


def _objects(section: Section, found: Objects, image: OverviewImage) -> Figure:
    stored = section.entry.stored
    assert stored is not None  # noqa: S101 - for the type checker
    if found.total <= MOST_POINTS:
        y_um, x_um = stored.level0_mpp
        names = sorted(found.counts)
        points = {
            name: np.array([(x * x_um, y * y_um) for x, y, each in found.points if each == name])
            for name in names
        }
        colours = class_colours(found)
        return Figure(
            draw_points(image, points, colours),
            f"Objects: {found.name}",
            _alt(section, f"{found.total:,} {found.name} as dots"),
            swatches=tuple(
                Swatch(colours[name], f"{name or found.name}: {found.counts[name]:,}")
                for name in names
            ),
        )
    rows, columns = found.density.shape
    cell_mm2 = image.height_um / rows * image.width_um / columns / 1e6
    density = (found.density / cell_mm2).astype(np.float32)
    limits = limits_of(density[density > 0], (0.0, float(density.max())))
    return Figure(
        draw_scores(replace(image, heat=density, limits=limits)),
        f"Objects: {found.name} per mm\u00b2",
        _alt(section, f"how dense {found.total:,} {found.name} lie, from dark to light"),
        ramp=tuple(ramp()),
        low="0",
        high=f"{limits[1]:,.0f}",
    )


def _coverage(
    section: Section,
    image: OverviewImage,
    coverage: NDArray[np.uint8],
    block_um: tuple[float, float],
) -> Figure:
    counts = section.blocks
    order = (Coverage.ANALYSED, Coverage.BACKGROUND, Coverage.FAILED, Coverage.PENDING)
    words = ", ".join(f"{counts[each.name.lower()]} {each.name.lower()}" for each in order)
    return Figure(
        draw_coverage(image, coverage, block_um),
        "Blocks",
        _alt(section, f"its blocks: {words}"),
        swatches=tuple(
            Swatch(COVERAGE_COLOURS[each], f"{each.name.lower()}: {counts[each.name.lower()]:,}")
            for each in order
            if counts[each.name.lower()] or each is not Coverage.PENDING
        ),
    )
