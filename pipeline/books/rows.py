"""The rows of status.csv: what is known of each slide of a results directory."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields

from pipeline.books.outcomes import STATES
from pipeline.errors import StoreError
from pipeline.files import places

__all__ = ["COLUMNS", "HEAD", "Row", "read_rows", "written"]


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of a slide; None is not known.

    ``blocks_done`` are analysed, and ``blocks_total`` all there are; while a slide is running the
    blocks that are to be computed now, and how many of them are finished. ``seconds``,
    ``mpx_per_s`` and the memory of the largest worker are of the run that computed it last.
    ``updated`` is when its state changed.
    """

    slide_id: str
    state: str = "pending"
    blocks_done: int | None = None
    blocks_background: int | None = None
    blocks_failed: int | None = None
    blocks_total: int | None = None
    seconds: float | None = None
    mpx_per_s: float | None = None
    predicted_mib: int | None = None
    peak_mib: int | None = None
    reason: str = ""
    updated: str = ""

    def line(self) -> str:
        """Give it as a line of CSV, the end of the line included."""
        cells = ("" if value is None else value for value in astuple(self))
        return _line(cells)


def _line(cells: Iterable[object]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue()


COLUMNS = tuple(column.name for column in fields(Row))
HEAD = _line(COLUMNS)

_WHOLE = (
    *("blocks_done", "blocks_background", "blocks_failed", "blocks_total"),
    *("predicted_mib", "peak_mib"),
)
_NUMBERS = {**dict.fromkeys(_WHOLE, int), "seconds": float, "mpx_per_s": float}


def written(rows: Iterable[Row]) -> bytes:
    """Give rows as the content of a file."""
    return "".join([HEAD, *(row.line() for row in rows)]).encode()


def read_rows(path: str) -> tuple[Row, ...]:
    """Read a status file; no rows where there is none.

    Raises `StoreError` where it cannot be read, or is none.
    """
    try:
        text = places.read_text(path)
    except FileNotFoundError:
        return ()
    except UnicodeDecodeError as error:
        raise StoreError(f"{path}: no text; remove it, and run again") from error
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        head, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        if tuple(head) != COLUMNS:
            raise StoreError(
                f"{path}: has the columns {', '.join(head)}, not {', '.join(COLUMNS)}; "
                "remove it, and run again"
            )
        return tuple(_row(cells) for cells in rows)
    except (ValueError, csv.Error) as error:
        raise StoreError(f"{path}: damaged: {error}; remove it, and run again") from error


def _row(cells: list[str]) -> Row:
    """Read a row; `ValueError` where it cannot be one."""
    said = dict(zip(COLUMNS, cells, strict=True))
    if said["state"] not in STATES or not said["slide_id"]:
        raise ValueError(f"no row of a slide: {','.join(cells)}")
    numbers = {name: kind(said[name]) if said[name] else None for name, kind in _NUMBERS.items()}
    texts = {name: said[name] for name in COLUMNS if name not in _NUMBERS}
    return Row(**texts, **numbers)  # type: ignore[arg-type]  # the columns are its fields
