"""A job in a forked child: little memory, little time, and one folder to write to."""

from __future__ import annotations

import faulthandler
import mmap
import os
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["MOST_MEMORY", "bounded"]

MOST_MEMORY = 3 * 2**30
"""Address space that cases may take beside what everything that is imported takes."""


def bounded(
    job: Callable[[], None],
    work: Path,
    *,
    seconds: float | None = None,
    memory: int = MOST_MEMORY,
) -> tuple[int, str]:
    """Do a job in a forked child; give its exit status, below 0 for a signal, and what it said.

    The child ends after ``seconds``, if given, and has ``memory`` bytes of address space more
    than this process. It may write below ``work`` alone; where it does elsewhere it fails.
    """
    work.mkdir(parents=True, exist_ok=True)
    log = work / "said.txt"
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _child(job, work, log, seconds, memory)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), log.read_text("utf-8", "replace")


def _child(
    job: Callable[[], None], work: Path, log: Path, seconds: float | None, memory: int
) -> NoReturn:
    code = 1
    try:
        said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        faulthandler.enable(said)
        faulthandler.register(signal.SIGXCPU, said, chain=True)
        if seconds:
            faulthandler.dump_traceback_later(seconds, exit=True, file=said)
        _confine(work)
        limit = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        job()
        code = 0
    except BaseException:  # noqa: BLE001 - a child tells its parent whatever it was
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


_MAKES = {
    **dict.fromkeys(("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod"), (0,)),
    **dict.fromkeys(("os.rename", "os.link", "os.symlink"), (1,)),
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC


def _confine(work: Path) -> None:
    """Let Python write below one folder, where home and temporary files are, too."""
    home = work / "home"
    home.mkdir(exist_ok=True)
    os.environ.update(HOME=str(home), TMPDIR=str(home), MPLCONFIGDIR=str(home))
    tempfile.tempdir = str(home)
    sys.dont_write_bytecode = True
    os.chdir(home)
    allowed = (str(work), "/dev/", "/proc/self")

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = args
            paths = [path] if isinstance(flags, int) and flags & _WRITING else []
        else:
            paths = [args[i] for i in _MAKES.get(event, ())]
        for path in paths:
            if isinstance(path, str | bytes | os.PathLike):
                where = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - as the kernel has it
                # What is there already is made again by some, which makes nothing.
                idle = event == "os.mkdir" and os.path.isdir(where)  # noqa: PTH112 - as above
                if not where.startswith(allowed) and not idle:
                    raise AssertionError(f"{event} outside of {work}: {where}")

    sys.addaudithook(hook)
