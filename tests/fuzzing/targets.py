"""All targets by name."""

from __future__ import annotations

from tests.fuzzing import models, results, slides, texts, viewer

__all__ = ["TARGETS"]

TARGETS = {
    target.name: target
    for module in (slides, texts, models, results, viewer)
    for target in module.TARGETS
}
