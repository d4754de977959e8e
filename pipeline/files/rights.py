"""Files that nobody else may read, and folders that nobody else may write to, whatever the umask.

Results are their user's to share, by the umask; secrets, and what is read back on trust, are not.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import BinaryIO

__all__ = [
    "FILE",
    "FOLDER",
    "OWN",
    "make_folders",
    "ours_alone",
    "scratch",
    "write_private",
    "writing",
]

OWN = 0o700
"""A folder of one user."""

FOLDER, FILE = 0o755, 0o644
"""What others may read, if the umask lets them, and never change."""

_OPEN_TO_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def make_folders(folder: Path, mode: int) -> None:
    """Make a folder and those around it that are not there, each with these rights at most."""
    for each in reversed((folder, *folder.parents)):
        if not each.is_dir():
            each.mkdir(mode, exist_ok=True)


def ours_alone(found: os.stat_result) -> bool:
    """Say whether nobody but this user, and root, can write to what was found."""
    return found.st_uid == os.geteuid() and not found.st_mode & _OPEN_TO_OTHERS


def writing(path: Path) -> BinaryIO:
    """Open a file to write anew: others cannot change it, and a link is not followed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    return os.fdopen(os.open(path, flags, FILE), "wb")


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its user can read. Raises `FileExistsError` if anything is there."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(content)


def scratch() -> Path:
    """Give a folder for temporary files of workers that only this user can enter.

    Dask's own, ``dask-scratch-space`` among all users' temporary files, is used whoever has made
    it, is where Python then looks for modules first, and holds what workers load again.
    """
    folder = Path(tempfile.gettempdir()) / f"wsi-pipeline-{os.geteuid()}"
    try:
        folder.mkdir(OWN)
    except FileExistsError:
        found = folder.lstat()
        if not (stat.S_ISDIR(found.st_mode) and ours_alone(found)):  # somebody else's, or a link
            return Path(tempfile.mkdtemp(prefix="wsi-pipeline-"))
    return folder
