"""What a notebook is shown beside what its cells give: pieces of HTML that can be replaced.

IPython's own display messages and nothing else: no widget and no script, so that JupyterLab, VS
Code and a notebook that was executed and stored show the same. The only place that knows IPython,
which is there where a notebook is: nothing here imports it before.
"""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["Shown", "in_notebook"]


def in_notebook() -> bool:
    """Say whether this process is a notebook's kernel."""
    core = sys.modules.get("IPython")
    shell = None if core is None else core.get_ipython()
    return getattr(shell, "kernel", None) is not None


class Shown:
    """A piece of HTML in the output of the running cell, and the same as text."""

    def __init__(self, html: str, text: str) -> None:
        from IPython.display import display

        self._handle: Any = display(_bundle(html, text), raw=True, display_id=True)

    def replace(self, html: str, text: str) -> None:
        """Show something else in its place."""
        self._handle.update(_bundle(html, text), raw=True)


def _bundle(html: str, text: str) -> dict[str, str]:
    return {"text/html": html, "text/plain": text}
