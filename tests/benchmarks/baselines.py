"""What one would read and convert with instead, each as its users do and as fast as it goes.

- OpenSlide in a pool of processes, each with a handle of its own that is opened once.
- tifffile's segments of a page, decoded in as many threads.
- ngff-zarr, given the slide as the zarr store that tifffile makes of it. Of its ways of
  downsampling this is the fastest (measured), and the one that gives our pixels: means of 2 x 2.
  Its chunks are ours; it writes no shards, which takes it longer. One compressor, one level.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks.contenders import Run, Setting, write_sample
from tests.benchmarks.pools import Here, Place, places_of, pool_of, read_place

__all__ = ["ngff_zarr_converts", "openslide_reads", "openslide_writes", "tifffile_reads"]

READ = 512
"""Side of what one call of OpenSlide reads."""

WRITE = 2048
"""The same where it is written: whole chunks, and as few calls as may be."""

CHUNK = 256
LEVEL = 1  # of zstd
SMALLEST = 512


@contextmanager
def openslide_reads(at: Setting) -> Iterator[Run]:
    """Read level 0 in squares; they are dropped in the worker, which gives their pixels' count."""
    places = _places(at.slide, READ)
    with pool_of(at, _read) as pool:
        yield lambda: sum(pool.map(_read, places, chunksize=8))


@contextmanager
def openslide_writes(at: Setting) -> Iterator[Run]:
    """Write level 0, and no pyramid, to a zarr array that the workers share."""
    import zarr
    from zarr.codecs import ZstdCodec

    places = _places(at.slide, WRITE)
    out = str(Path(at.folder, "level-0.zarr"))
    height, width = max(y + h for _, y, _, h in places), max(x + w for x, _, w, _ in places)
    zarr.create_array(
        out,
        shape=(3, height, width),
        chunks=(3, CHUNK, CHUNK),
        dtype="uint8",
        compressors=ZstdCodec(level=LEVEL),
    )
    with pool_of(at, _write, (out,)) as pool:
        yield lambda: sum(pool.map(_write, places))


@contextmanager
def tifffile_reads(at: Setting) -> Iterator[Run]:
    """Decode the segments of level 0 as they are, in threads; each is dropped once it is there."""
    import tifffile

    with tifffile.TiffFile(at.slide) as tiff:
        page = tiff.series[0].levels[0].keyframe
        next(page.segments(maxworkers=1))  # all is imported now

        height, width = page.shape[:2]

        def pixels_of(decoded: Any) -> int:
            _, (_, _, y, x, _), (_, rows, columns, _) = decoded
            return int(min(rows, height - y) * min(columns, width - x))

        yield lambda: sum(page.segments(maxworkers=at.cores, func=pixels_of))


@contextmanager
def ngff_zarr_converts(at: Setting) -> Iterator[Run]:
    """Write an OME-Zarr 0.5 image with a pyramid, in dask's threads."""
    import dask
    import dask.array as da
    import ngff_zarr
    import tifffile
    import zarr
    from ngff_zarr.codecs import codec_from_name

    def run(path: str, out: str) -> int:
        with tifffile.imread(path, aszarr=True, level=0) as store:
            pixels = da.from_zarr(zarr.open_array(store, mode="r"))
            height, width, _ = pixels.shape
            image = ngff_zarr.to_ngff_image(
                pixels, dims=("y", "x", "c"), scale={"y": 0.5, "x": 0.5, "c": 1.0}
            )
            made = ngff_zarr.to_multiscales(
                image,
                scale_factors=_factors(max(height, width)),
                method=ngff_zarr.Methods.DASK_BIN_SHRINK,
                chunks=CHUNK,
                cache=False,
            )
            ngff_zarr.to_ngff_zarr(
                str(Path(at.folder, out)),
                made,
                version="0.5",
                compressor=codec_from_name("zstd", LEVEL),
            )
        return int(height * width)

    with dask.config.set(scheduler="threads", num_workers=at.cores):
        run(write_sample(at.folder), "sample.zarr")
        yield lambda: run(at.slide, "slide.zarr")


def _factors(side: int) -> list[int]:
    """Give the downsamples of a pyramid that ends as ours does.

    >>> _factors(5000)
    [2, 4, 8, 16]
    """
    factors = [1]
    while -(-side // factors[-1]) > SMALLEST:
        factors.append(2 * factors[-1])
    return factors[1:]


def _places(path: str, side: int) -> list[Place]:
    import openslide

    with openslide.OpenSlide(path) as slide:
        return places_of(slide.dimensions, side)


def _read(place: Place) -> int:
    pixels = read_place(Here.slide, place)
    return int(pixels.shape[0] * pixels.shape[1])


def _write(place: Place) -> int:
    x, y, width, height = place
    (array,) = Here.arrays.values()
    array[:, y : y + height, x : x + width] = read_place(Here.slide, place).transpose(2, 0, 1)
    return width * height
