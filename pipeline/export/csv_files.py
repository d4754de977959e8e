"""Objects and patches as CSV: ``<slide_id>.objects.csv`` and ``<slide_id>.patches.csv``.

Objects have the columns of the store's tables but for the outline; patches x, y, width and
height in level-0 pixels, their row and column, and a column per score. UTF-8, a comma between
values, a line feed after each row, a point in numbers; what is not known is empty.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator

from pipeline.export.making import Exporting
from pipeline.export.patches import Patches, scored_patches
from pipeline.export.tables import arrow, batches, schema, table_names

__all__ = ["export"]


def export(made: Exporting) -> Iterator[str]:
    """Write what there is of both; `StoreError` where the model gives neither."""
    patches = scored_patches(made.stored)
    if patches is None and not table_names(made):
        raise made.nothing("objects and no scores of whole patches")
    if table_names(made):
        yield _objects(made)
    if patches is not None:
        yield _patches(made, patches)


def _objects(made: Exporting) -> str:
    engine = arrow(made.kind)
    from pyarrow.csv import CSVWriter

    ending, columns = "objects.csv", schema(engine)
    columns = columns.remove(columns.get_field_index("geometry"))
    with made.writing(ending) as path, CSVWriter(path, columns) as writer:
        for batch in batches(made):
            writer.write_table(batch.drop_columns(["geometry"]))
    return made.path(ending)


def _patches(made: Exporting, patches: Patches) -> str:
    ending = "patches.csv"
    width, height = (_short(side) for side in patches.size)
    with (
        made.writing(ending) as path,
        path.open("w", encoding="utf-8", newline="") as file,
    ):
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["x", "y", "width", "height", "row", "column", *patches.names])
        for which, values in patches.rows():
            places = zip(patches.corners[which], patches.index[which], values, strict=True)
            rows.writerows(
                [_short(x), _short(y), width, height, row, column, *map(str, scores)]
                for (x, y), (row, column), scores in places
            )
            made.tell("patches", which.stop, len(patches))
    return made.path(ending)


def _short(number: float) -> str:
    """Give a number without what says nothing: ``512``, not ``512.0``.

    >>> _short(512.0), _short(0.25)
    ('512', '0.25')
    """
    return str(float(number)).removesuffix(".0")
