"""What a results directory's own files are called, those of a whole run and those of its shards."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pipeline.errors import ConfigError
from pipeline.manifest.shards import Shard
from pipeline.results import CONFIG

__all__ = [
    "CONFIG",
    "LEASE",
    "MANIFEST",
    "RUNS",
    "STATUS",
    "cannot_hold",
    "named",
    "shards_of",
]

LEASE, RUNS, STATUS = ".lease.json", "run.json", "status.csv"
"""Who writes there now; what was run there; what has become of each slide."""

MANIFEST = "manifest.csv"
"""The slides, as they were understood; `CONFIG` is the run file."""


def named(name: str, shard: Shard | None) -> str:
    """Give the name of a shard's own file; of the whole run's without a shard.

    >>> named("status.csv", (3, 8)), named(".lease.json", (3, 8)), named("run.json", None)
    ('status-3-of-8.csv', '.lease-3-of-8.json', 'run.json')
    """
    if shard is None:
        return name
    start, _, ending = name.rpartition(".")
    return f"{start}-{shard[0]}-of-{shard[1]}.{ending}"


def shards_of(name: str, there: Iterable[str]) -> dict[Shard, str]:
    """Give the shards that have a file of that name among the names ``there``, in order.

    >>> shards_of("status.csv", ["status-10-of-12.csv", "status-2-of-12.csv", "status.csv"])
    {(2, 12): 'status-2-of-12.csv', (10, 12): 'status-10-of-12.csv'}
    """
    start, _, ending = map(re.escape, name.rpartition("."))
    pattern = re.compile(rf"{start}-([1-9]\d*)-of-([1-9]\d*)\.{ending}")
    found = {
        (int(match[1]), int(match[2])): match[0] for match in map(pattern.fullmatch, there) if match
    }
    return dict(sorted(found.items()))


def cannot_hold(folder: str, error: OSError) -> ConfigError:
    """Give what is raised where a directory cannot hold results."""
    return ConfigError(
        f"output.directory: {folder}: cannot hold results: {error.strerror}; name another"
    )
