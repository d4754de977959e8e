"""Small files that are changed only if they are still what was seen, on a disk or in a bucket.

Who writes a file that others write too must not undo what it has not seen. A bucket's server
compares and stores in one step. On a disk the comparing is done under the kernel's lock of the
folder, which ends with the process that has it. A network file system may have no locks: there a
file is taken from another by moving it aside, which succeeds once, and looking at it before it is
replaced.

Each function that writes gives what is there now, or None where something else was there, and
nothing was changed. What fails is an `OSError` whose ``strerror`` says why.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.files import cloud, places
from pipeline.files.urls import is_url

__all__ = ["Seen", "create", "drop", "renew", "see", "take"]

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_LOCK_TRIES, _LOCK_WAIT_S = 50, 0.02
"""A lock is held for milliseconds, but by a process that may be suspended in them."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a file was when it was read; ``tag`` is a bucket's name for it."""

    content: bytes
    tag: cloud.Tag = field(default_factory=dict, compare=False)


def see(path: str) -> Seen | None:
    """Give what a file is now; None where there is none."""
    try:
        return Seen(*cloud.read_tagged(path)) if is_url(path) else Seen(Path(path).read_bytes())
    except FileNotFoundError:
        return None


def create(path: str, content: bytes) -> Seen | None:
    """Write a file that is not there, its folder too if need be."""
    if is_url(path):
        return _put(path, content, None)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _alone_in(target.parent):
        return _linked(target, content)


def renew(path: str, content: bytes, was: Seen) -> Seen | None:
    """Replace a file of one's own; whoever reads it finds the one or the other."""
    if is_url(path):
        return _put(path, content, was)
    with _alone_in(Path(path).parent):
        if see(path) != was:
            return None
        places.write_whole(path, content)
        return Seen(content)


def take(path: str, content: bytes, was: Seen) -> Seen | None:
    """Replace a file of somebody else's; of those who try at once, one succeeds."""
    if is_url(path):
        return _put(path, content, was)
    target = Path(path)
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.aside")
    with _alone_in(target.parent):
        try:
            target.rename(aside)
        except FileNotFoundError:
            return None
        # Killed from here on, nothing is there: free for whoever comes next.
        try:
            if aside.read_bytes() == was.content:
                return _linked(target, content)
            with contextlib.suppress(FileExistsError):
                target.hardlink_to(aside)
            return None
        finally:
            aside.unlink()


def drop(path: str, was: Seen) -> None:
    """Remove a file if it is still what was seen."""
    if is_url(path):
        # A server compares for storing only; what comes between is found out by its writer.
        if see(path) == was:
            cloud.remove(path)
        return
    with _alone_in(Path(path).parent):
        if see(path) == was:
            Path(path).unlink()


def _put(url: str, content: bytes, was: Seen | None) -> Seen | None:
    if was is not None and see(url) != was:  # there are servers that do not compare
        return None
    try:
        return Seen(content, cloud.put_if(url, content, None if was is None else was.tag))
    except FileExistsError:
        # Ours perhaps: a request that was repeated finds what its first try has stored.
        now = see(url)
        return now if now is not None and now.content == content else None


def _linked(target: Path, content: bytes) -> Seen | None:
    """Give a file its name whole, unless there is one of that name."""
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.write_bytes(content)
        target.hardlink_to(partial)
    except FileExistsError:
        return None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _opened_new(target, content)
    finally:
        partial.unlink(missing_ok=True)
    return Seen(content)


def _opened_new(target: Path, content: bytes) -> Seen | None:
    """Write a file where names cannot be given by links; for a moment it may be read in part."""
    try:
        with target.open("xb") as file:
            file.write(content)
    except FileExistsError:
        return None
    return Seen(content)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep others on this machine out for a ``with`` block; where there are no locks, nobody."""
    held = os.open(folder, os.O_RDONLY)
    try:
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_LOCK_WAIT_S)
            except OSError:  # a file system without them
                break
            else:
                break
        yield
    finally:
        os.close(held)
