"""The tables of objects of a store, part by part, as all exports read them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pipeline.export.making import Exporting, missing
from pipeline.geometry import Grid
from pipeline.store.tables import StoredTable, read_part, there

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["arrow", "batches", "parts", "schema", "table_names"]

_ROWS = 20_000
"""Rows that are written at once: parts of few objects are put together."""


def table_names(made: Exporting) -> tuple[str, ...]:
    """Give the names of the tables, those of regions among them."""
    return tuple(made.stored.seen.attributes.get("tables", ()))


def parts(made: Exporting, name: str) -> Iterator[pa.Table]:
    """Give the parts of a table, by row and column of their blocks, and tell how far it is."""
    table = StoredTable(made.stored.path, name, Grid((0, 0), 1))
    indices = sorted(there(table))
    for number, index in enumerate(indices):
        yield read_part(table, index)
        made.tell(name, number + 1, len(indices))


def batches(made: Exporting) -> Iterator[pa.Table]:
    """Give all objects of all tables, some at a time, by one schema: one batch at least."""
    engine = arrow(made.kind)
    empty = True
    for name in table_names(made):
        waiting: list[Any] = []
        for part in parts(made, name):
            waiting.append(part)
            if sum(map(len, waiting)) >= _ROWS:
                yield _together(engine, waiting, name)
                waiting, empty = [], False
        if waiting:
            yield _together(engine, waiting, name)
            empty = False
    if empty:
        yield schema(engine).empty_table()


def schema(engine: Any) -> Any:
    """Give the columns of a store's tables; ``output`` says of which, classes are plain text."""
    return engine.schema(
        [
            ("output", engine.string()),
            ("id", engine.int64()),
            ("x", engine.float64()),
            ("y", engine.float64()),
            ("area_um2", engine.float64()),
            ("score", engine.float32()),
            ("class", engine.string()),
            ("truncated", engine.bool_()),
            ("geometry", engine.binary()),
        ]
    )


def arrow(kind: str) -> Any:
    """Give pyarrow; `MissingExtraError` where it is not installed."""
    try:
        import pyarrow as pa
    except ImportError as error:
        raise missing("pyarrow", f"{kind} of objects") from error
    return pa


def _together(engine: Any, tables: list[Any], name: str) -> Any:
    wanted = schema(engine)
    own = wanted.remove(0)
    plain = [each.replace_schema_metadata(None).cast(own) for each in tables]
    whole = engine.concat_tables(plain)
    return whole.add_column(0, wanted.field(0), engine.repeat(name, len(whole)))
