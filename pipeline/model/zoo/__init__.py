"""Other descriptions of models, told as cards: those of the WSInfer zoo and of bioimage.io.

Neither names the graph's outputs: theirs are in the graph's order, one tensor each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pipeline.errors import ModelError, one_line
from pipeline.model.zoo import bioimageio, wsinfer

__all__ = ["Translate", "translator"]

Translate = Callable[[Mapping[str, Any], str], dict[str, Any]]
"""From a description and where it is to a card; `ModelError` names what no card can say."""


def translator(raw: Mapping[str, Any]) -> Translate | None:
    """Give what makes a card of a description; None where that is a card."""
    if "format_version" in raw:
        return _told(bioimageio.translate, "bioimage.io")
    if "spec_version" in raw:
        return _told(wsinfer.translate, "WSInfer")
    return None


def _told(translate: Translate, zoo: str) -> Translate:
    """Tell of what is of another type, or another size, than a zoo's descriptions have there."""

    def translated(raw: Mapping[str, Any], path: str) -> dict[str, Any]:
        try:
            return translate(raw, path)
        except ModelError:
            raise
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            said = one_line(error)
            raise ModelError(f"{path}: not as {zoo} has it: {said:.200}") from error

    return translated
