"""Other descriptions of models, told as cards: those of the WSInfer zoo and of bioimage.io.

Neither names the graph's outputs: theirs are in the graph's order, one tensor each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pipeline.model.zoo import bioimageio, wsinfer

__all__ = ["Translate", "translator"]

Translate = Callable[[Mapping[str, Any], str], dict[str, Any]]
"""From a description and where it is to a card; `ModelError` names what no card can say."""


def translator(raw: Mapping[str, Any]) -> Translate | None:
    """Give what makes a card of a description; None where that is a card."""
    if "format_version" in raw:
        return bioimageio.translate
    if "spec_version" in raw:
        return wsinfer.translate
    return None
