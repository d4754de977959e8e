"""Local copies of remote slides and models, for libraries that read only files.

The copies lie in one folder (`CACHE_VARIABLE`, else the user's cache folder) that holds up to
`SIZE_VARIABLE` gigabytes; what was used longest ago goes first, and what has not the name of a copy
is left alone. A slide is a folder there, named after its URL and version, filled under another
name and renamed when it is whole.

Locks are the kernel's, on the folders themselves, so that they end with their process: whoever
copies has its folder alone, whoever reads shares it, and what is locked is not removed.

Slides are patients': a cache that is made here is its user's alone. One that is there keeps its
rights, so that several may share it; what is put into it only its owner can write to, whatever the
umask, and a link in the place of a copy is not followed.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import shutil
import stat
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import SlideError
from pipeline.files.rights import FOLDER, OWN, make_folders, ours_alone, writing
from pipeline.files.urls import is_url, shown
from pipeline.readers.companions import files_of
from pipeline.readers.remote import PIECE, RemoteBytes

__all__ = [
    "CACHE_VARIABLE",
    "SIZE_VARIABLE",
    "StagedFile",
    "as_size",
    "cache_folder",
    "hold_copy",
    "stage",
    "write_whole",
]

CACHE_VARIABLE = "WSI_PIPELINE_CACHE"
"""Names the folder of the copies."""

SIZE_VARIABLE = "WSI_PIPELINE_CACHE_GB"
"""Says how many gigabytes it may hold."""

DEFAULT_GB = 50.0

_PARTIAL = ".partial"
_OURS = re.compile(r"[0-9a-f]{24,64}(\.partial)?")
_LOOK_AGAIN_S = 0.1
_TOGETHER = 2

_log = logging.getLogger("pipeline")


@dataclass
class StagedFile:
    """A file on this machine that is not removed until `close`.

    ``bytes`` is the size of the slide, companions included; ``reason`` says in words what was
    done. A slide that was local all along is 0 bytes and no reason.
    """

    path: str
    bytes: int = 0
    reason: str = ""
    _held: list[int] = field(default_factory=list, repr=False)
    _closing: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def close(self) -> None:
        """Let the copy go, once or twice; it stays while there is room."""
        with self._closing:
            held, self._held = self._held, []
        for descriptor in held:
            os.close(descriptor)


def stage(path: str) -> StagedFile:
    """Give a slide as a file on this machine: itself, or a copy of what is at a URL.

    Raises `SlideError` where it cannot be read, or there is no room for it.
    """
    if not is_url(path):
        return StagedFile(path)
    name, files = files_of(path)
    total = sum(file.size for file in files.values())
    cache = cache_folder()

    def fill(folder: Path) -> None:
        for relative, file in files.items():
            write_whole(folder / relative, file)

    entry = cache / _entry_name(path, files)
    held, new = hold_copy(shown(path), entry, total, fill)
    how = f"{'copied whole' if new else 'read from the copy made before'} ({as_size(total)})"
    return StagedFile(str(entry / name), total, f"{how} in {cache}", [held])


def hold_copy(name: str, entry: Path, total: int, fill: Callable[[Path], None]) -> tuple[int, bool]:
    """Give a folder in the cache, filled if it is not there: what holds it, and whether it is new.

    While the descriptor is open, the folder stays. ``fill`` is given another folder, which becomes
    ``entry`` if it succeeds, and of which nothing is kept if it fails; ``total`` bytes need to fit.
    Raises `SlideError` where there is no room, and what ``fill`` raises.
    """
    new = False
    try:
        while (held := _hold(entry)) is None:
            held = _copy(name, entry, total, fill)
            if held is not None:
                new = True
                break
        with suppress(PermissionError):  # another user's copy
            os.utime(entry)
    except SlideError:
        raise
    except OSError as error:
        raise SlideError(
            f"{name}: cannot be copied into {entry.parent}: {error.strerror}; free "
            f"{as_size(total)} there, or set {CACHE_VARIABLE} to another folder"
        ) from error
    return held, new


def cache_folder() -> Path:
    """Give the folder of the copies."""
    told = os.environ.get(CACHE_VARIABLE)
    if told:
        folder = Path(told).expanduser()
    else:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
        folder /= "wsi-pipeline"
    return folder.absolute()


def _most_bytes() -> int:
    told = os.environ.get(SIZE_VARIABLE, str(DEFAULT_GB))
    try:
        return int(float(told) * 1e9)
    except (ValueError, OverflowError) as error:
        raise SlideError(f"{SIZE_VARIABLE}: {told}: not a number of gigabytes") from error


def _entry_name(path: str, files: Mapping[str, RemoteBytes]) -> str:
    versions = sorted((name, file.version) for name, file in files.items())
    return hashlib.sha256(f"{shown(path)} {versions}".encode()).hexdigest()[:24]


def _copy(name: str, entry: Path, total: int, fill: Callable[[Path], None]) -> int | None:
    """Make the copy and give what holds it; None where another was or is at it."""
    partial = entry.with_name(entry.name + _PARTIAL)
    make_folders(entry.parent, OWN)
    new = _made(partial)
    alone = _hold(partial, fcntl.LOCK_EX)
    if alone is None:
        time.sleep(_LOOK_AGAIN_S)
        return None
    with ExitStack() as failing:
        failing.callback(os.close, alone)
        if not new and not ours_alone(os.fstat(alone)):  # left by whom?
            _put_away(partial)
            return None
        failing.callback(shutil.rmtree, partial, ignore_errors=True)
        if entry.exists():  # finished between our looking and locking
            return None
        _make_room(name, entry.parent, total)
        _log.info("%s: copying %s into %s", name, as_size(total), entry.parent)
        fill(partial)
        partial.rename(entry)
        _lock(alone, fcntl.LOCK_SH)
        failing.pop_all()
    return alone


def write_whole(path: Path, file: RemoteBytes, tell: Callable[[int], None] | None = None) -> None:
    """Write all of a remote file; ``tell`` is told how many bytes are there."""
    make_folders(path.parent, FOLDER)
    with writing(path) as out:
        for start in range(0, file.size, _TOGETHER * PIECE):
            stop = min(start + _TOGETHER * PIECE, file.size)
            pieces = [(at, min(PIECE, stop - at)) for at in range(start, stop, PIECE)]
            out.writelines(file.read_many(pieces))
            if tell is not None:
                tell(stop)


def _made(folder: Path) -> bool:
    try:
        folder.mkdir(FOLDER)
    except FileExistsError:
        return False
    return True


def _put_away(folder: Path) -> None:
    gone = folder.with_name(f"{uuid.uuid4().hex}{_PARTIAL}")
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _make_room(name: str, cache: Path, total: int) -> None:
    """Remove what was used longest ago until ``total`` more bytes are allowed and fit."""
    most = _most_bytes()
    if total > most:
        raise SlideError(
            f"{name}: {as_size(total)} to copy are more than the {as_size(most)} that {cache} "
            f"may hold; set {SIZE_VARIABLE} to more"
        )
    ours = [entry for entry in cache.iterdir() if _OURS.fullmatch(entry.name)]
    entries = sorted(filter(None, map(_looked_at, ours)))
    held = sum(size for _, _, size, _ in entries)
    for whole, _, size, entry in entries:
        short = held + total > most or shutil.disk_usage(cache).free < total
        if (short or not whole) and _remove(entry):
            held -= size
    free = shutil.disk_usage(cache).free
    if held + total > most or free < total:
        raise SlideError(
            f"{name}: no room to copy {as_size(total)}: {cache} holds {as_size(held)} in use of "
            f"{as_size(most)}, its disk has {as_size(free)} free; set {SIZE_VARIABLE} to more, "
            f"or {CACHE_VARIABLE} to another folder"
        )


def _remove(entry: Path) -> bool:
    """Remove a copy unless somebody, in this process or another, uses it."""
    alone = _hold(entry, fcntl.LOCK_EX)
    if alone is None:
        return False
    try:
        _put_away(entry)
    finally:
        os.close(alone)
    return True


def _hold(folder: Path, how: int = fcntl.LOCK_SH) -> int | None:
    """Lock a folder and give the descriptor that holds it; None if it is gone or another's."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    with ExitStack() as failing:
        failing.callback(os.close, descriptor)
        with suppress(FileNotFoundError):
            # Between opening and locking it may have been removed, or renamed into its place.
            if _lock(descriptor, how) and os.path.samestat(os.fstat(descriptor), folder.stat()):
                failing.pop_all()
                return descriptor
    return None


def _lock(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # A network file system without locks: copies are whole all the same, but one in use
        # by another process may be removed under it.
        _log.debug("no locks in the cache of copies: %s", error.strerror)
    return True


def _looked_at(entry: Path) -> tuple[bool, float, int, Path] | None:
    """Give whether a copy is whole, when it was used, its bytes, itself; None if it is gone."""
    try:
        if not stat.S_ISDIR(entry.lstat().st_mode):  # whoever put it there
            return None
        size = sum(path.stat().st_size for path in entry.rglob("*") if path.is_file())
        return not entry.name.endswith(_PARTIAL), entry.stat().st_mtime, size, entry
    except (FileNotFoundError, NotADirectoryError):
        return None


def as_size(size: int) -> str:
    """Give bytes for people.

    >>> as_size(21_700_000), as_size(4_200_000_000)
    ('21.7 MB', '4.2 GB')
    """
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
