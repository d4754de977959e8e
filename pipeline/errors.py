"""Everything this package raises on purpose.

Each error is also the builtin a caller would expect, so ``except OSError`` around
`open_slide` works. Messages say *path: what, values; what to do*.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection

__all__ = [
    "ClusterError",
    "ConfigError",
    "DamagedStoreError",
    "DiskFullError",
    "MemoryBudgetError",
    "MissingExtraError",
    "ModelError",
    "PipelineError",
    "SchedulerLostError",
    "SlideError",
    "StaleStoreError",
    "StoreError",
    "one_line",
    "reason_of",
    "unknown_key",
]


class PipelineError(Exception):
    """The parent of every error raised on purpose.

    Where it left a block's task, ``stage`` and ``worker`` say of which stage, on which worker.
    """

    stage: str = ""
    worker: str = ""


class ConfigError(PipelineError, ValueError):
    """A run file, an override or an argument that cannot be meant."""


class SlideError(PipelineError, OSError):
    """A slide that cannot be opened, or pixels that cannot be read."""


class ModelError(PipelineError, ValueError):
    """A model card, an ONNX file or an output that is not what it should be."""


class StoreError(PipelineError, OSError):
    """A results store that cannot be written or read."""


class DiskFullError(StoreError):
    """A results directory without room: no other slide would fare better."""


class StaleStoreError(StoreError):
    """A results store that was begun with other settings."""


class DamagedStoreError(StoreError):
    """A results store of ours in which something is torn or missing."""


class ClusterError(PipelineError, RuntimeError):
    """Workers that cannot be had, or that died at a block."""


class SchedulerLostError(ClusterError):
    """A scheduler that is gone: nothing more can be computed, of this slide or of another."""


class MemoryBudgetError(PipelineError, MemoryError):
    """A plan whose predicted memory exceeds what a worker has."""


class MissingExtraError(PipelineError, ImportError):
    """An optional dependency that is not installed; the message names the extra."""


def one_line(error: BaseException) -> str:
    """Give what an error says as one line; what kind of error it is where it says nothing.

    >>> one_line(ValueError("two  words")), one_line(MemoryError())
    ('two words', 'MemoryError')
    """
    return " ".join(str(error).split()) or type(error).__name__


def reason_of(error: BaseException) -> str:
    """Say in a line why something failed; of what nobody foresaw, also what it is.

    >>> reason_of(KeyError("x"))
    "unforeseen KeyError: 'x'; the log has its traceback"
    """
    said = " ".join(str(error).split())
    if isinstance(error, PipelineError):
        return said
    return f"unforeseen {type(error).__name__}: {said}; the log has its traceback"


def unknown_key(name: str, known: Collection[str]) -> str:
    """Say that a key is not known, and which one was probably meant.

    >>> unknown_key("tisue", ["slides", "tissue"])
    'unknown key; did you mean tissue?'
    """
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
    return f"unknown key; {hint}"
