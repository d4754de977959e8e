"""The page's own files, and its JavaScript as the one module that browser and notebook load."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

__all__ = ["FILES", "module", "page_file", "widget_module"]

_PARTS = ("geometry.js", "loader.js", "layers.js", "objects.js", "panel.js", "viewer.js")
"""The module's parts, each using only those before it."""

_IMPORT = re.compile(r'^import \{[^}]*\} from "\./\w+\.js";\n', re.MULTILINE)

FILES = {
    "": ("index.html", "text/html"),
    "viewer.css": ("viewer.css", "text/css"),
    "page.js": ("page.js", "text/javascript"),
}
"""What the page asks for by name -> the file, and what it is."""


def page_file(name: str) -> str:
    """Give one of the page's files, which is one of the package's."""
    return files("pipeline.view").joinpath("page", name).read_text("utf-8")


@cache
def module() -> str:
    """Give the viewer as one ES module that exports ``mount``.

    Its parts import each other by name, which is nothing a notebook could load: there a module
    is a text without an address. So the imports between them are left out, and they stand one
    after another.
    """
    return "\n".join(_IMPORT.sub("", page_file(name)) for name in _PARTS)


def widget_module() -> str:
    """Give the same with what a notebook calls: a default export with ``render``."""
    return f"{module()}\n{page_file('widget.js')}"
