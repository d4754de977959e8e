"""One shard as bytes: a block cut into chunks, each compressed, and an index behind them.

The same bytes zarr's own sharding codec writes and reads, made in the calling thread: zarr
takes every chunk through its one event loop, which costs twice the time of the compression
and cannot use more than a core or two. The format is in the zarr v3 specification, codecs
``sharding_indexed``, ``bytes``, ``zstd`` and ``crc32c``.

Every frame of zstd ends with a checksum of what was compressed (RFC 8878, 3.1.1), which whoever
decompresses it checks; the index has one of its own. Without the frame's, 3,031 of 3,032 bytes
that were changed in a chunk of scores passed for good ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import google_crc32c
import numpy as np
from numcodecs.zstd import compress, decompress
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

__all__ = ["ALL_CHUNKS", "COMPRESSOR", "check_shard", "decode_shard", "encode_shard", "index_bytes"]

COMPRESSOR = ZstdCodec(level=1, checksum=True)
"""What shards are made with; whoever creates an array that is written here passes it on."""

ALL_CHUNKS: Any = {"write_empty_chunks": True}
"""How zarr writes small arrays: also what is all fill, so that a chunk that is lost is missed."""

_NOT_STORED = np.uint64(2**64 - 1)
_CHECKSUM_BYTES = 4

Chunk = tuple[int, int, int]


def encode_shard(values: NDArray[Any], shard: Chunk, chunk: Chunk, fill: float) -> bytes:
    """Give the shard that holds ``values`` (c, y, x), which may be less at the array's border.

    Every chunk that has a pixel of the array is stored, also where it is all ``fill``.
    """
    index = np.full((*_counts(shard, chunk), 2), _NOT_STORED, "<u8")
    parts, offset = [], 0
    for place, inside in _chunks(values.shape, chunk):
        part = values[inside]
        if part.shape != chunk:
            whole = np.full(chunk, fill, values.dtype)
            whole[tuple(slice(n) for n in part.shape)] = part
            part = whole
        encoded = compress(np.ascontiguousarray(part), COMPRESSOR.level, COMPRESSOR.checksum)
        index[place] = offset, len(encoded)
        parts.append(encoded)
        offset += len(encoded)
    described = index.tobytes()
    return b"".join([*parts, described, _checksum(described)])


def decode_shard(
    data: memoryview, values: NDArray[Any], shard: Chunk, chunk: Chunk, fill: float
) -> None:
    """Fill ``values`` (c, y, x) with what `encode_shard` was given, a chunk at a time.

    What is not stored is ``fill``. Raises `ValueError` or `RuntimeError` where the bytes are
    not a shard of that shape.
    """
    index = _index(data, shard, chunk)
    buffer = np.empty(chunk, values.dtype)
    for place, inside in _chunks(values.shape, chunk):
        offset, length = index[place]
        part = values[inside]
        if offset == _NOT_STORED:
            part[...] = fill
            continue
        # Into a buffer of our own: a damaged frame may claim any size.
        decompress(data[int(offset) : int(offset) + int(length)], buffer)
        part[...] = buffer[tuple(slice(n) for n in part.shape)]


def check_shard(
    data: memoryview, shape: tuple[int, ...], kind: str, shard: Chunk, chunk: Chunk
) -> None:
    """Raise what `decode_shard` raises, keeping nothing: a chunk is held at a time."""
    index = _index(data, shard, chunk)
    buffer = np.empty(chunk, kind)
    for place, _ in _chunks(shape, chunk):
        offset, length = index[place]
        if offset != _NOT_STORED:
            decompress(data[int(offset) : int(offset) + int(length)], buffer)


def index_bytes(shard: Chunk, chunk: Chunk) -> int:
    """Give the bytes of a shard's index with its checksum: no shard has fewer."""
    return int(np.prod(_counts(shard, chunk))) * 16 + _CHECKSUM_BYTES


def _index(data: memoryview, shard: Chunk, chunk: Chunk) -> NDArray[np.uint64]:
    size = index_bytes(shard, chunk)
    described = bytes(data[-size:-_CHECKSUM_BYTES])
    if len(data) < size or data[-_CHECKSUM_BYTES:] != _checksum(described):
        raise ValueError(f"{len(data):,} bytes do not end with the index of a shard")
    index: NDArray[np.uint64] = np.frombuffer(described, "<u8").reshape(*_counts(shard, chunk), 2)
    return index


def _counts(shard: Chunk, chunk: Chunk) -> Chunk:
    c, y, x = (n // size for n, size in zip(shard, chunk, strict=True))
    return c, y, x


def _chunks(shape: tuple[int, ...], chunk: Chunk) -> Iterator[tuple[Chunk, tuple[slice, ...]]]:
    """Give place in the index and place in ``shape`` of every chunk with something in it."""
    counts = (range(-(-n // size)) for n, size in zip(shape, chunk, strict=True))
    for place in product(*counts):
        inside = (slice(i * n, (i + 1) * n) for i, n in zip(place, chunk, strict=True))
        yield place, tuple(inside)  # type: ignore[misc]


def _checksum(described: bytes) -> bytes:
    value: int = google_crc32c.value(described)
    return value.to_bytes(_CHECKSUM_BYTES, "little")
