"""One stored output array: its token, its blocks, and which of them are there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.sync import sync

from pipeline.errors import StoreError
from pipeline.geometry import Box, Index, Shape
from pipeline.handles import Pool
from pipeline.store.damage import tells_the_store
from pipeline.store.layout import Layout

__all__ = ["StoredArray", "done", "drop", "halve", "keys", "outputs"]


@dataclass(frozen=True, slots=True)
class StoredArray:
    """The token of one ``(c, y, x)`` output array: a `Source` and a `Target`.

    It holds whatever the array's metadata hold, so that an array which was made anew with
    other blocks is another token and no process goes on with the old one.
    """

    store: str
    name: str
    plane: Shape
    channels: int
    kind: str
    block: int
    chunk: int
    background: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, rows, columns."""
        return (self.channels, *self.plane)

    @property
    def dtype(self) -> np.dtype[Any]:
        """What is stored."""
        return np.dtype(self.kind)

    @property
    def axes(self) -> str:
        """``"cyx"``."""
        return "cyx"

    @property
    def chunks(self) -> tuple[int, int, int]:
        """Channels, rows and columns of one shard."""
        return (self.channels, self.block, self.block)

    @tells_the_store
    def read(self, box: Box) -> NDArray[Any]:
        """Give ``(c, y, x)`` values of ``box``; background outside and where no block is."""
        inside = box.clipped(self.plane)
        with _arrays.using(self) as array:
            values: NDArray[Any] = array[(slice(None), *inside.within(Box(0, 0, *self.plane)))]
        if inside == box:
            return values
        padded = np.full((self.channels, *box.shape), self.background, self.kind)
        if inside.area:
            padded[(slice(None), *inside.within(box))] = values
        return padded

    @tells_the_store
    def write(self, box: Box, values: NDArray[Any]) -> None:
        """Store one whole block; it is there whole or not at all."""
        expected = (self.channels, *box.shape)
        if values.shape != expected or values.dtype != self.dtype:
            raise StoreError(
                f"{self.store}/{self.name}: a block of {expected} {self.kind} was expected, "
                f"got {values.shape} {values.dtype}"
            )
        with _arrays.using(self) as array:
            array[(slice(None), *box.within(Box(0, 0, *self.plane)))] = values


def _open_array(ref: StoredArray) -> Any:
    array = zarr.open_array(ref.store, path=ref.name, mode="r+")
    # All-zero chunks are written too, or a block of zeros would never count as done. The
    # `config` argument of `open_array` does not reach an existing array; this does.
    return array.with_config({"write_empty_chunks": True})


_arrays: Pool[StoredArray, Any] = Pool(_open_array, size=32)


def outputs(path: str, layout: Layout) -> tuple[StoredArray, ...]:
    """Give the tokens of the output's levels, finest first; nothing is opened."""
    return tuple(
        StoredArray(
            store=path,
            name=str(i),
            plane=grid.shape,
            channels=len(layout.channels),
            kind=layout.dtype,
            block=grid.cell,
            chunk=layout.chunk,
            background=layout.window[0],
        )
        for i, grid in enumerate(layout.grids)
    )


@tells_the_store
def done(array: StoredArray) -> set[Index]:
    """Give the blocks of ``array`` that are stored."""
    prefix = f"{array.name}/c/0/"
    parts = (key.removeprefix(prefix).split("/") for key in keys(array.store, prefix))
    return {(int(p[0]), int(p[1])) for p in parts if len(p) == 2 and "".join(p).isdigit()}


@tells_the_store
def drop(array: StoredArray, indices: Iterable[Index]) -> None:
    """Remove blocks, so that they are pending again."""
    root = zarr.open_group(array.store, mode="r+").store
    for i, j in indices:
        sync(root.delete(f"{array.name}/c/0/{i}/{j}"))


def halve(values: NDArray[Any], _index: Index, _value: None) -> NDArray[Any]:
    """Average ``(c, y, x)`` over 2 x 2, integers rounded; an odd border is repeated.

    >>> halve(np.array([[[0, 1, 9], [1, 1, 9]]], np.uint8), (0, 0), None)
    array([[[1, 9]]], dtype=uint8)
    """
    _, height, width = values.shape
    if height % 2 or width % 2:
        values = np.pad(values, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge")
    integer = np.issubdtype(values.dtype, np.integer)
    # One accumulator and no wide copy of the four quarters: they are the largest thing here.
    total: NDArray[Any] = values[:, ::2, ::2].astype(np.uint16 if integer else np.float32)
    for quarter in (values[:, 1::2, ::2], values[:, ::2, 1::2], values[:, 1::2, 1::2]):
        total += quarter
    if integer:
        total += 2
        total //= 4
    else:
        total /= 4
    return total.astype(values.dtype)


@tells_the_store
def keys(path: str, prefix: str) -> Sequence[str]:
    """Give the keys of a store's objects that begin with ``prefix``."""

    async def collect(store: Any) -> list[str]:
        return [key async for key in store.list_prefix(prefix)]

    found: list[str] = sync(collect(zarr.open_group(path, mode="r").store))
    return found
