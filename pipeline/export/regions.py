"""The regions of label maps whose card asked for no table of them: found when they are exported."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

from pipeline.execute.schedulers import scheduler_in_force
from pipeline.export.making import Exporting
from pipeline.export.patches import lying
from pipeline.export.tables import arrow
from pipeline.plan.regions import Regions, write_regions
from pipeline.results.stored import StoredSlide
from pipeline.store import stored_outputs
from pipeline.store.tables import REGIONS, StoredTable, read_parts

__all__ = ["labels_without_regions", "regions_found"]


def labels_without_regions(stored: StoredSlide) -> tuple[str, ...]:
    """Give the names of the label maps that have no table of regions."""
    kinds = stored.kinds
    return tuple(
        name for name, kind in kinds.items() if kind == "labels" and name + REGIONS not in kinds
    )


def regions_found(made: Exporting, name: str) -> Iterator[Any]:
    """Give the regions of a label map as parts of a table, which is in a temporary folder."""
    arrow(made.kind)
    stored = made.stored
    labels = stored_outputs(stored.path, stored.folder_of(name))[0]
    lies = lying(stored.placement_of(name), stored.level0_mpp)
    with tempfile.TemporaryDirectory(prefix="wsi-pipeline-") as folder:
        regions = Regions(
            labels=labels,
            table=StoredTable(folder, name + REGIONS, labels.grid),
            classes=tuple(stored.classes(name).items()),
            step=lies.downsample,
            origin=lies.origin,
            mpp=stored.level0_mpp,
        )
        write_regions(
            regions,
            scheduler_in_force().compute,
            lambda row, rows: made.tell(f"regions of {name}", row, rows),
        )
        yield from read_parts(folder, name + REGIONS)
