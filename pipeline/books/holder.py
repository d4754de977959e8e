"""Who writes to a results directory: which process, of whom, where, since when."""

from __future__ import annotations

import getpass
import json
import os
import socket
import uuid
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import psutil

from pipeline.files.notation import parse_json

__all__ = ["Holder", "holder_here", "stamp", "user"]

_PROCESSES = Path("/proc")
_BOOT = _PROCESSES / "sys/kernel/random/boot_id"
_NAMESPACE = _PROCESSES / "self/ns/pid"
_EXITING = 0x4  # PF_EXITING of linux/sched.h


@dataclass(frozen=True)
class Holder:
    """A process that holds a lease.

    ``token`` is of this one holding; ``machine`` says among which processes ``pid`` counts, and
    ``born`` which of all that have had the number it is. ``since`` and ``renewed`` are seconds
    since 1970 by its clock, ``count`` how often it was renewed.
    """

    token: str
    user: str
    host: str
    machine: str
    pid: int
    born: str
    since: float
    renewed: float
    count: int = 0

    def __str__(self) -> str:
        return (
            f"by {self.user} on {self.host} (process {self.pid}) holds it since {stamp(self.since)}"
        )

    @property
    def here(self) -> bool:
        """Whether its process is or was one of those that this process can see."""
        return (self.host, self.machine) == (socket.gethostname(), _machine())

    @property
    def gone(self) -> bool:
        """Whether its process is known to have ended."""
        return self.here and _born(self.pid) not in (self.born, None)

    def renewed_at(self, now: float) -> Holder:
        """Give the same, renewed once more."""
        return replace(self, renewed=now, count=self.count + 1)

    def written(self) -> bytes:
        """Give it as the content of a file."""
        return f"{json.dumps(asdict(self), indent=2, ensure_ascii=False)}\n".encode()

    @classmethod
    def read(cls, content: bytes) -> Holder | None:
        """Read what `written` gave; None where it is something else."""
        try:
            said = parse_json(content)
            holder = cls(**{each.name: said[each.name] for each in fields(cls)})
            stamp(holder.since)
            return holder if isinstance(holder.pid, int) and holder.renewed >= 0 else None
        except (ValueError, KeyError, TypeError, OverflowError, OSError):
            return None


def holder_here(now: float) -> Holder:
    """Give this process as a new holder."""
    pid = os.getpid()
    born = _born(pid) or ""
    token, host = uuid.uuid4().hex, socket.gethostname()
    return Holder(token, user(), host, _machine(), pid, born, now, now)


def user() -> str:
    """Give who this process runs as: a name, or a number where it has none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's numbers need no names
        return str(os.getuid())


def stamp(seconds: float) -> str:
    """Give seconds since 1970 as people and programs read them.

    >>> stamp(0)
    '1970-01-01T00:00:00Z'
    """
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@lru_cache(maxsize=1)
def _machine() -> str:
    """Say which boot of which machine this is, and which of its sets of process numbers.

    Two containers may have the name of their machine, and each a process 1. After a boot, numbers
    and times count anew.
    """
    try:
        return f"{_BOOT.read_text().strip()} {_NAMESPACE.readlink()}"
    except OSError:  # not Linux: hosts are told by their names
        return ""


def _born(pid: int) -> str | None:
    """Say when a process began; ``""`` where it has ended, None where that cannot be known.

    Linux counts from the boot; what `psutil` gives there moves with the clock.
    """
    if not _NAMESPACE.exists():
        return _born_by_psutil(pid)
    try:
        # The name of the program, in parentheses, may hold any character.
        parts = (_PROCESSES / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None if psutil.pid_exists(pid) else ""  # another user's may be hidden
    state, flags, ticks = parts[0], int(parts[6]), parts[19]
    # One that was killed may take seconds to give back its memory, and does nothing else.
    return "" if state in "ZX" or flags & _EXITING else ticks


def _born_by_psutil(pid: int) -> str | None:
    try:
        process = psutil.Process(pid)
        dead = process.status() == psutil.STATUS_ZOMBIE
        return "" if dead else f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return ""
    except psutil.AccessDenied:
        return None
