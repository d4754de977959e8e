"""How values say what they are: aligned text, and HTML for a notebook."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["as_html", "as_text", "png_bytes"]


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


def as_html(
    title: str,
    facts: Mapping[str, str],
    table: Sequence[Sequence[str]] = (),
    picture: NDArray[np.uint8] | None = None,
) -> str:
    """Give the same as a self-contained piece of HTML: facts, a table, a picture.

    ``table``'s first row is its head. Every text is escaped; ``picture`` is ``(y, x, 3)``
    uint8 and is embedded.
    """
    escape = html.escape
    body = "".join(
        f"<tr><th style='text-align:left'>{escape(key)}</th>"
        f"<td style='text-align:left'>{escape(text)}</td></tr>"
        for key, text in facts.items()
    )
    parts = [f"<table>{body}</table>"]
    if table:
        head, *rows = table
        lines = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"]
        lines += [
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
        ]
        parts.append(f"<table>{''.join(lines)}</table>")
    image = ""
    if picture is not None:
        data = base64.b64encode(png_bytes(picture)).decode()
        image = (
            f"<img alt='{escape(title, quote=True)}' style='max-width:256px;max-height:256px' "
            f"src='data:image/png;base64,{data}'>"
        )
    return (
        f"<div><b>{escape(title)}</b><div style='display:flex;gap:1.5em;align-items:flex-start'>"
        f"{image}<div>{''.join(parts)}</div></div></div>"
    )


def png_bytes(picture: NDArray[np.uint8]) -> bytes:
    """Encode ``(y, x, 3)`` uint8 as PNG."""
    out = io.BytesIO()
    Image.fromarray(picture).save(out, format="PNG")
    return out.getvalue()
