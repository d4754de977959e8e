"""How values say what they are: aligned text, and HTML for a notebook."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["SIDE", "Picture", "as_html", "as_text", "png_bytes"]


def as_text(title: str, facts: Mapping[str, str], rows: Sequence[str] = ()) -> str:
    """Give a title and one aligned line per fact.

    >>> print(as_text("Slide a", {"vendor": "aperio", "mpp": "0.5"}))
    Slide a
      vendor  aperio
      mpp     0.5
    """
    width = max((len(key) for key in facts), default=0)
    lines = [title, *(f"  {key:<{width}}  {text}" for key, text in facts.items())]
    return "\n".join([*lines, *(f"  {row}" for row in rows)])


Picture = NDArray[np.uint8]
"""Pixels ``(y, x, 3)``, or with alpha ``(y, x, 4)``."""

SIDE = 256
"""The longest side of a picture, in pixels of the screen."""

_SHORT = 32  # characters of a cell that are kept on one line: ids, sizes


def as_html(
    title: str,
    facts: Mapping[str, str],
    table: Sequence[Sequence[str | Picture | None]] = (),
    picture: Picture | None = None,
) -> str:
    """Give the same as a self-contained piece of HTML: facts, a table, a picture.

    ``table``'s first row is its head; a cell is a text or a picture. Every text is escaped, every
    picture embedded. No colour is set: it has those of the page around it, light or dark.
    """
    body = "".join(
        f"<tr><th style='text-align:left'>{html.escape(key)}</th>"
        f"<td style='text-align:left;overflow-wrap:anywhere'>{html.escape(text)}</td></tr>"
        for key, text in facts.items()
    )
    parts = [f"<table style='color:inherit'>{body}</table>"] if facts else []
    if table:
        rows = [
            f"<tr>{''.join(f'<{tag}>{_cell(cell)}</{tag}>' for cell in row)}</tr>"
            for row, tag in zip(table, ("th", *("td",) * (len(table) - 1)), strict=True)
        ]
        parts.append(f"<table style='color:inherit'>{''.join(rows)}</table>")
    image = "" if picture is None else _image(title, picture, SIDE)
    return (
        f"<div><b>{html.escape(title)}</b><div style='display:flex;flex-wrap:wrap;gap:1.5em;"
        f"align-items:flex-start'>{image}<div>{''.join(parts)}</div></div></div>"
    )


def _cell(cell: str | Picture | None) -> str:
    if cell is None:
        return ""
    if not isinstance(cell, str):
        return _image("", cell, SIDE // 4)
    kept = "nowrap" if len(cell) <= _SHORT else "normal;text-align:left;display:block"
    return f"<span style='white-space:{kept}'>{html.escape(cell)}</span>"


def _image(title: str, picture: Picture, side: int) -> str:
    data = base64.b64encode(png_bytes(picture)).decode()
    return (
        f"<img alt='{html.escape(title, quote=True)}' "
        f"style='max-width:{side}px;max-height:{side}px' src='data:image/png;base64,{data}'>"
    )


def png_bytes(picture: Picture) -> bytes:
    """Encode ``(y, x, 3)`` or ``(y, x, 4)`` uint8 as PNG."""
    out = io.BytesIO()
    Image.fromarray(picture).save(out, format="PNG")
    return out.getvalue()
