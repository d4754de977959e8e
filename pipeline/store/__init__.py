"""One slide's results, or its own pixels: an OME-Zarr 0.5 group, one shard per block.

With the reader of OME-Zarr the only place that imports `zarr`.

A group is *begun* (metadata, settings, tissue), then its blocks are written in any order and
by anyone, then it is *committed*: the coverage and, last of all, the multiscales metadata
that make it an image. Until then any reader sees that it is unfinished. Nothing is locked:
each block is one object with one writer, written under another name and renamed.

Layout::

    <slide_id>.zarr            group; attributes: ome (last), wsi_pipeline
      0, 1, 2 ...              (c, y, x) scores, each half of the one before
      coverage                 (rows, columns) uint8, one element per block
      labels/tissue/0, 1 ...   (y, x) uint8, 1 is tissue

A slide that was converted (`pipeline.store.image`)::

    <name>.zarr                group; attributes: ome (last), wsi_pipeline
      0, 1, 2 ...              (3, y, x) uint8, red, green, blue
      associated/<name>/0      (3, y, x) uint8, an image of its own: label, macro ...
      icc_profile              its bytes
"""

from pipeline.store.array import StoredArray, done, drop, halve, image_outputs, outputs
from pipeline.store.group import (
    Look,
    begin,
    commit,
    look,
    read_coverage,
    read_placements,
    read_tissue,
    stored_outputs,
    withdraw,
)
from pipeline.store.image import Kept, begin_image, commit_image
from pipeline.store.layout import Coverage, ImageLayout, Layout, halvings

__all__ = [
    "Coverage",
    "ImageLayout",
    "Kept",
    "Layout",
    "Look",
    "StoredArray",
    "begin",
    "begin_image",
    "commit",
    "commit_image",
    "done",
    "drop",
    "halve",
    "halvings",
    "image_outputs",
    "look",
    "outputs",
    "read_coverage",
    "read_placements",
    "read_tissue",
    "stored_outputs",
    "withdraw",
]
