"""Instances: found in the dense maps of a block, or connected out of stored labels.

`found` is what a block's task does: maxima (`maxima`), floods from them (`watershed`), outlines
(`outlines`). `regions` goes over the stored blocks of a label map afterwards, with `pieces`.
"""

from pipeline.objects.found import Finder, Objects, PlacedObjects, find_objects

__all__ = ["Finder", "Objects", "PlacedObjects", "find_objects"]
