"""One stored output array: its token, its blocks, and which of them are there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.sync import sync

from pipeline.errors import StoreError
from pipeline.files import places
from pipeline.files.urls import join
from pipeline.geometry import Box, Grid, Index, Shape
from pipeline.handles import Pool
from pipeline.readers.zarr_stores import zarr_at
from pipeline.store.damage import tells_the_store
from pipeline.store.layout import ArrayLayout, ImageLayout
from pipeline.store.shards import check_shard, decode_shard, encode_shard, index_bytes

__all__ = [
    "StoredArray",
    "done",
    "drop",
    "halve",
    "image_outputs",
    "keys",
    "outputs",
    "there",
    "thin",
]

_ROWS = 64


@dataclass(frozen=True, slots=True)
class StoredArray:
    """The token of one ``(c, y, x)`` output array: a `Source` and a `Target`.

    A ``flat`` one is stored as ``(y, x)``, as labels are, and has one channel here.

    It holds whatever the array's metadata hold, so that an array which was made anew with
    other blocks is another token and no process goes on with the old one. ``chunk`` is the side
    of a chunk inside a shard, ``chunk_channels`` how many channels it holds.
    """

    store: str
    name: str
    plane: Shape
    channels: int
    kind: str
    block: int
    chunk: int
    background: float
    chunk_channels: int = 1
    flat: bool = False

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

    @property
    def grid(self) -> Grid:
        """Its plane cut into blocks, each one shard."""
        return Grid(self.plane, self.block)

    @tells_the_store
    def read(self, box: Box) -> NDArray[Any]:
        """Give ``(c, y, x)`` values of ``box``; background outside and where no block is."""
        inside = box.clipped(self.plane)
        with _arrays.using(self) as array:
            values = self._read_inside(array, inside)
        if inside == box:
            return values
        padded = np.full((self.channels, *box.shape), self.background, self.kind)
        if inside.area:
            padded[(slice(None), *inside.within(box))] = values
        return padded

    @tells_the_store
    def read_channel(self, channel: int, box: Box) -> NDArray[Any]:
        """Give the values ``(y, x)`` of one channel in a box that is within the plane."""
        place = box.within(Box(0, 0, *self.plane))
        with _arrays.using(self) as array:
            values: NDArray[Any] = array[place] if self.flat else array[(channel, *place)]
        return values

    @tells_the_store
    def write(self, box: Box, values: NDArray[Any]) -> None:
        """Store one whole block; it is there whole or not at all."""
        expected = (self.channels, *box.shape)
        if values.shape != expected or values.dtype != self.dtype:
            raise StoreError(
                f"{self.store}/{self.name}: a block of {expected} {self.kind} was expected, "
                f"got {values.shape} {values.dtype}"
            )
        index = (box.y // self.block, box.x // self.block)
        if self.grid.box(index) != box:
            raise StoreError(f"{self.store}/{self.name}: {box} is not a block of {self.grid}")
        data = encode_shard(values, self.chunks, self._chunk_shape, self.background)
        with _arrays.using(self):  # what cannot be opened is not written into
            places.write_whole(self._place(index), data)

    def check(self, index: Index) -> None:
        """Read one block's shard back, a chunk at a time.

        Raises `ValueError`, `RuntimeError` or `FileNotFoundError`, which say what is wrong with
        it; another `OSError` where it cannot be read.
        """
        data = memoryview(places.read(self._place(index)))
        shape = (self.channels, *self.grid.box(index).shape)
        check_shard(data, shape, self.kind, self.chunks, self._chunk_shape)

    @property
    def _chunk_shape(self) -> tuple[int, int, int]:
        return (self.chunk_channels, self.chunk, self.chunk)

    def key(self, index: Index) -> str:
        """Give the name of a block's shard in the store."""
        return f"{self._prefix}{index[0]}/{index[1]}"

    def _place(self, index: Index) -> str:
        """Give where a block's shard lies.

        It is read and written there and not by zarr, which would do it in its one event loop: two
        milliseconds a block, in which the thread that asked for it waits.
        """
        return join(self.store, *self.key(index).split("/"))

    @property
    def _prefix(self) -> str:
        return f"{self.name}/c/" if self.flat else f"{self.name}/c/0/"

    def _read_inside(self, array: Any, inside: Box) -> NDArray[Any]:
        whole = [self.grid.box(index) for index in self.grid.touching(inside)]
        if sum(block.area for block in whole) != inside.area:
            place = inside.within(Box(0, 0, *self.plane))
            values: NDArray[Any] = array[place][None] if self.flat else array[(slice(None), *place)]
            return values
        # Whole blocks, as the level above is made of: each is one object, decoded here.
        values = np.empty((self.channels, *inside.shape), self.kind)
        for block in whole:
            part = values[(slice(None), *block.within(inside))]
            try:
                data = places.read(self._place((block.y // self.block, block.x // self.block)))
            except FileNotFoundError:
                part[...] = self.background
            else:
                decode_shard(
                    memoryview(data), part, self.chunks, self._chunk_shape, self.background
                )
        return values


def _open_array(ref: StoredArray) -> Any:
    # Blocks are written beside the array, so that it need not be told how.
    return zarr.open_array(zarr_at(ref.store), path=ref.name, mode="r+")


_arrays: Pool[StoredArray, Any] = Pool(_open_array, size=32)


def outputs(path: str, array: ArrayLayout) -> tuple[StoredArray, ...]:
    """Give the tokens of an output's levels, finest first; nothing is opened."""
    return tuple(
        StoredArray(
            store=path,
            name=array.path(level),
            plane=grid.shape,
            channels=1 if array.kind == "labels" else len(array.channels),
            kind=array.dtype,
            block=grid.cell,
            chunk=array.chunk,
            background=array.fill,
            chunk_channels=array.chunk_channels,
            flat=array.kind == "labels",
        )
        for level, grid in enumerate(array.grids)
    )


def image_outputs(path: str, layout: ImageLayout) -> tuple[StoredArray, ...]:
    """Give the tokens of a converted slide's levels, finest first; nothing is opened."""
    return tuple(
        StoredArray(
            store=path,
            name=str(i),
            plane=grid.shape,
            channels=3,
            kind="uint8",
            block=grid.cell,
            chunk=layout.chunk,
            background=float(layout.fill),
            chunk_channels=3,
        )
        for i, grid in enumerate(layout.grids)
    )


@tells_the_store
def done(array: StoredArray) -> set[Index]:
    """Give the blocks of ``array`` that are stored: those whose shard has room for its index.

    A disk that lost its power leaves files of the right name and no content.
    """
    least = index_bytes(array.chunks, array._chunk_shape)  # noqa: SLF001 - its own module
    return {index for index, size in there(array).items() if size >= least}


@tells_the_store
def there(array: StoredArray) -> Mapping[Index, int]:
    """Give the bytes of every shard that is there, whole or not."""
    folder = join(array.store, *array._prefix.rstrip("/").split("/"))  # noqa: SLF001
    shards: dict[Index, int] = {}
    for name, size in places.below(folder):
        row, _, column = name.partition("/")
        if row.isdigit() and column.isdigit():  # what is being written there has another name
            shards[int(row), int(column)] = size
    return shards


@tells_the_store
def drop(array: StoredArray, indices: Iterable[Index]) -> None:
    """Remove blocks, so that they are pending again."""
    root = zarr.open_group(zarr_at(array.store), mode="r+").store
    for i, j in indices:
        sync(root.delete(array.key((i, j))))


def halve(values: NDArray[Any], _index: Index, _value: None) -> NDArray[Any]:
    """Average ``(c, y, x)`` over 2 x 2, integers rounded; an odd border is repeated.

    >>> halve(np.array([[[0, 1, 9], [1, 1, 9]]], np.uint8), (0, 0), None)
    array([[[1, 9]]], dtype=uint8)
    """
    channels, height, width = values.shape
    if height % 2 or width % 2:
        values = np.pad(values, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge")
    half = np.empty((channels, values.shape[1] // 2, values.shape[2] // 2), values.dtype)
    # A few rows at a time: the sums stay in the processor's cache, and are no second block.
    for channel in range(channels):
        for y in range(0, len(half[channel]), _ROWS):
            rows = values[channel, 2 * y : 2 * (y + _ROWS)]
            half[channel, y : y + _ROWS] = _means(rows)
    return half


def thin(values: NDArray[Any], _index: Index, _value: None) -> NDArray[Any]:
    """Take the first of every 2 x 2 of ``(c, y, x)`` labels: an average of labels is none.

    >>> thin(np.array([[[5, 1, 9], [1, 1, 9]]], np.uint8), (0, 0), None)
    array([[[5, 9]]], dtype=uint8)
    """
    return np.ascontiguousarray(values[:, ::2, ::2])


def _means(rows: NDArray[Any]) -> NDArray[Any]:
    integer = np.issubdtype(rows.dtype, np.integer)
    tall = np.add(rows[::2], rows[1::2], dtype=np.uint16 if integer else np.float32)
    total: NDArray[Any] = tall[:, ::2] + tall[:, 1::2]
    if integer:
        total += 2
        total >>= 2
    else:
        total /= 4
    return total


@tells_the_store
def keys(path: str, prefix: str) -> Sequence[str]:
    """Give the keys of a store's objects that begin with ``prefix``."""

    async def collect(store: Any) -> list[str]:
        return [key async for key in store.list_prefix(prefix)]

    found: list[str] = sync(collect(zarr.open_group(zarr_at(path), mode="r").store))
    return found
