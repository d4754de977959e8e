"""What a contender is: a setting in, and for the time of a ``with`` block something to run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Contender", "Run", "Setting", "write_sample"]


@dataclass(frozen=True)
class Setting:
    """What every contender of a job is given: the slide, threads or processes, a free folder."""

    slide: str
    cores: int
    folder: str


Run = Callable[[], int]
"""What is measured. It gives how many pixels of the slide it decoded."""

Contender = Callable[[Setting], AbstractContextManager[Run]]
"""Prepares a run and takes it down again: neither is measured."""


def write_sample(folder: str) -> str:
    """Write a small slide and give its path: what has been done once has imported all it needs."""
    from pipeline.demo import write_demo

    path = Path(folder, "sample.svs")
    write_demo(path, 1024, 768)
    return str(path)
