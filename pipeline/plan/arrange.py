"""Where the outputs of a model go in a slide's store, and in which shape."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.errors import ConfigError
from pipeline.geometry import Grid
from pipeline.model import ModelRef, OutputRef
from pipeline.store import ArrayLayout, halvings
from pipeline.store.tables import REGIONS

__all__ = ["arrays", "tables"]

_CHUNK = 512
_FEATURE_CHUNK = 16
"""Side of a chunk of features, each of them with all its channels."""


def arrays(
    ref: ModelRef, level_grid: Grid, step: tuple[float, float], *, dtype: str, chunk: int | None
) -> tuple[ArrayLayout, ...]:
    """Give the outputs that are stored as arrays; the first scores are the group's own image.

    ``level_grid`` is what the model sees, in blocks; ``step`` level-0 pixels per pixel of it;
    ``dtype`` that of scores and ``chunk`` the side of a chunk, chosen here where it is None.
    """
    return tuple(_arrays(ref, level_grid, step, dtype, chunk))


def tables(ref: ModelRef) -> tuple[str, ...]:
    """Give the names of what is stored as tables: objects, and the regions of labels."""
    objects = (output.name for output in ref.outputs if output.objects is not None)
    regions = (
        output.name + REGIONS for output in ref.outputs if output.regions_min_area_um2 is not None
    )
    return (*objects, *regions)


def _arrays(
    ref: ModelRef,
    level_grid: Grid,
    step: tuple[float, float],
    dtype: str,
    chunk: int | None,
) -> Iterator[ArrayLayout]:
    image = None
    for output in ref.outputs:
        if not output.is_array:
            continue
        stride = ref.maps[output.map].stride
        grid = Grid(Grid(level_grid.shape, stride).counts, level_grid.cell // stride)
        folder = f"{output.kind}/{output.name}"
        if output.kind == "scores" and image is None:
            image, folder = output, ""
        yield ArrayLayout(
            name=output.name,
            folder=folder,
            kind=output.kind,
            grid=grid,
            step=(step[0] * stride, step[1] * stride),
            chunk=_chunk(chunk, grid.cell, _FEATURE_CHUNK if output.kind == "features" else _CHUNK),
            dtype=_dtype(output, dtype),
            channels=output.channels,
            colours=output.colours,
            values=output.values,
            window=_window(output, dtype),
            fill=_window(output, dtype)[0] if output.kind == "scores" else 0.0,
            levels=1 if output.kind == "features" else len(halvings(grid)),
        )


def _chunk(asked: int | None, cell: int, most: int) -> int:
    if asked is None or most == _FEATURE_CHUNK:
        return max(n for n in range(1, most + 1) if cell % n == 0)
    if cell % asked:
        raise ConfigError(
            f"output.chunk: {asked} does not divide a block of {cell} output pixels; use auto"
        )
    return asked


def _dtype(output: OutputRef, dtype: str) -> str:
    if output.kind == "labels":
        return "uint8"
    return output.dtype if output.kind == "features" else dtype


def _window(output: OutputRef, dtype: str) -> tuple[float, float]:
    return (0.0, 255.0) if dtype == "uint8" or output.kind == "labels" else output.value_range
