"""One slide's results, or its own pixels: an OME-Zarr 0.5 group, one shard per block.

With the reader of OME-Zarr the only place that imports `zarr`.

A group is *begun* (metadata, settings, tissue), then its blocks are written in any order and
by anyone, then it is *committed*: the coverage and, last of all, the multiscales metadata
that make it an image. Until then any reader sees that it is unfinished. Nothing is locked:
each block is one object with one writer, written under another name and renamed.

Layout::

    <slide_id>.zarr            group; attributes: ome (last), wsi_pipeline
      0, 1, 2 ...              (c, y, x) the first scores, each half of the one before
      scores/<name>/0, 1 ...   (c, y, x) further scores, an image of their own
      labels/<name>/0, 1 ...   (y, x) uint8, a class per pixel
      features/<name>/0        (c, y, x) a vector per patch
      features/<name>/index    (n, 2) int32, row and column of the patches that have one
      features/<name>/coordinates (n, 2) float64, x and y of their corners, level-0 pixels
      objects/<name>/*.parquet a table of objects, one part per block
      coverage                 (rows, columns) uint8, one element per block
      labels/tissue/0, 1 ...   (y, x) uint8, 1 is tissue
      labels/quality/0, 1 ...  (y, x) uint8, what spoils it, if it was looked for

A slide that was converted (`pipeline.store.image`)::

    <name>.zarr                group; attributes: ome (last), wsi_pipeline
      0, 1, 2 ...              (3, y, x) uint8, red, green, blue
      associated/<name>/0      (3, y, x) uint8, an image of its own: label, macro ...
      icc_profile              its bytes
"""

from pipeline.store.array import StoredArray, done, drop, halve, image_outputs, outputs, thin
from pipeline.store.features import PATCH_CHUNK, PATCH_FILES, read_patches, write_patches
from pipeline.store.group import (
    Look,
    begin,
    commit,
    look,
    withdraw,
)
from pipeline.store.image import Kept, begin_image, commit_image
from pipeline.store.layout import ArrayLayout, Coverage, ImageLayout, Layout, halvings
from pipeline.store.stored import (
    placed_outputs,
    read_coverage,
    read_placements,
    read_tissue,
    stored_outputs,
)
from pipeline.store.tables import StoredTable, read_table
from pipeline.store.tables import done as table_done
from pipeline.store.tables import drop as table_drop

__all__ = [
    "PATCH_CHUNK",
    "PATCH_FILES",
    "ArrayLayout",
    "Coverage",
    "ImageLayout",
    "Kept",
    "Layout",
    "Look",
    "StoredArray",
    "StoredTable",
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
    "placed_outputs",
    "read_coverage",
    "read_patches",
    "read_placements",
    "read_table",
    "read_tissue",
    "stored_outputs",
    "table_done",
    "table_drop",
    "thin",
    "withdraw",
    "write_patches",
]
