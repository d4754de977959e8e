"""A part of a run's slides, for one of several runs that share out those of one directory."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pipeline.errors import ConfigError
from pipeline.manifest.jobs import Job

__all__ = ["Shard", "parse_shard", "shard_of"]

Shard = tuple[int, int]
"""``(3, 8)`` is the third of eight, counted from 1."""


def parse_shard(text: str) -> Shard:
    """Give the shard that ``I/N`` is, I from 1 to N; `ConfigError` where it is of another form.

    >>> parse_shard("3/8")
    (3, 8)
    """
    parts = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    index, count = (int(parts[1]), int(parts[2])) if parts else (0, 0)
    if not 1 <= index <= count:
        raise ConfigError(
            f"--shard {text}: no part of a whole; give I/N with I from 1 to N, such as 1/8"
        )
    return index, count


def shard_of(todo: Sequence[Job], shard: Shard) -> tuple[Job, ...]:
    """Give the slides of shard ``(I, N)``: every N-th, from the I-th on; none where N is too many.

    >>> work = [Job(name, f"/slides/{name}.svs") for name in "abcde"]
    >>> [job.slide_id for job in shard_of(work, (2, 3))]
    ['b', 'e']
    """
    index, count = shard
    return tuple(todo[index - 1 :: count])
