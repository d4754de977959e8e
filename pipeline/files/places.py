"""Where results lie: a folder on a disk, or a prefix of a bucket, by the same few verbs.

What fails is an `OSError` whose ``strerror`` says why, on both.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from pipeline.files import cloud
from pipeline.files.urls import file_name, is_url, split

__all__ = [
    "absolute",
    "below",
    "exists",
    "names",
    "read",
    "read_text",
    "remove",
    "write_whole",
    "written",
]


def absolute(path: str | os.PathLike[str]) -> str:
    """Give a place as it may be kept: an absolute path, or a URL without a slash at its end.

    >>> absolute("s3://results/run/")
    's3://results/run'
    """
    if isinstance(path, str) and is_url(path):
        return path.rstrip("/")
    return str(Path(path).expanduser().absolute())


def exists(path: str) -> bool:
    """Say whether there is a file, or anything in a folder of that name."""
    if not is_url(path):
        return Path(path).exists()
    try:
        # A prefix alone is a folder once something is in it; the bucket itself always is.
        if not split(path)[2] or next(cloud.below(path), None) is not None:
            return True
        cloud.fetch(path, 0, 1)
    except FileNotFoundError:
        return False
    return True


def names(folder: str) -> list[str]:
    """Give the names of files and folders in a folder, sorted; none where it is not there."""
    if is_url(folder):
        return [name.rstrip("/") for name in cloud.names(folder)]
    return sorted(entry.name for entry in Path(folder).iterdir()) if exists(folder) else []


def below(folder: str) -> Iterator[tuple[str, int]]:
    """Give the files in a folder and in the folders in it: name from there, and bytes.

    A file that is renamed or removed meanwhile may be missing; none where there is no folder.
    """
    if is_url(folder):
        yield from cloud.below(folder)
        return
    waiting = [("", folder)]
    while waiting:
        prefix, path = waiting.pop()
        with contextlib.suppress(FileNotFoundError), os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir():
                    waiting.append((f"{prefix}{entry.name}/", entry.path))
                    continue
                with contextlib.suppress(FileNotFoundError):
                    yield f"{prefix}{entry.name}", entry.stat().st_size


def read(path: str, most: int | None = None) -> bytes:
    """Give a file's content; `OSError` where that is more than ``most`` bytes."""
    if is_url(path):
        return cloud.read(path, most)
    with Path(path).open("rb") as file:
        content = file.read(-1 if most is None else most + 1)
    if most is not None and len(content) > most:
        raise cloud.too_large(most)
    return content


def read_text(path: str, most: int | None = None) -> str:
    """Give a text file's content; see `read`."""
    return read(path, most).decode()


def remove(path: str) -> None:
    """Remove a file; one that is not there is removed already."""
    if is_url(path):
        cloud.remove(path)
    else:
        Path(path).unlink(missing_ok=True)


def write_whole(path: str, content: bytes) -> None:
    """Write a file, its folder too if need be; it is there whole or not at all."""
    if is_url(path):
        cloud.write(path, content)
        return
    with written(path) as partial:
        partial.write_bytes(content)


@contextlib.contextmanager
def written(path: str) -> Iterator[Path]:
    """Give a file to write in a ``with`` block; after it ``path`` is that, whole, or as it was.

    Of what goes to a bucket it is a temporary file of this machine, which is sent at the end, a
    few megabytes at a time.
    """
    if is_url(path):
        with tempfile.TemporaryDirectory(prefix="wsi-pipeline-") as folder:
            local = Path(folder, file_name(path))
            yield local
            cloud.send(path, local)
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
