"""The bytes of one file, any part at a time, from a disk or from the network.

A reader that parses a format itself asks for ranges and does not know where the file is.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from pipeline.errors import SlideError
from pipeline.files.urls import is_url, join, private, shown

__all__ = ["Bytes", "LocalBytes", "Range", "check_range", "is_url", "locate", "open_bytes"]

Range = tuple[int, int]
"""Where bytes begin, and how many they are."""


class Bytes(Protocol):
    """One open file of a known size. Its methods may be called from several threads at once."""

    @property
    def name(self) -> str:
        """Where it is, for messages: without a password or a signature."""
        ...

    @property
    def size(self) -> int:
        """How many bytes there are."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Give exactly ``length`` bytes from ``offset`` on.

        Raises `SlideError` where they are not all there; nothing is allocated for them then.
        """
        ...

    def read_many(self, ranges: Sequence[Range]) -> list[bytes]:
        """Give the bytes of each ``(offset, length)``, in the order asked for.

        The way to read what is needed at once: over a network it takes one round trip or few.
        """
        ...

    def close(self) -> None:
        """Release the file; once is enough, twice does no harm."""
        ...


def open_bytes(path: str) -> Bytes:
    """Open the file at a path, or at an ``s3://``, ``gs://``, ``http://`` or ``https://`` URL.

    Raises `SlideError` where it is not there or may not be read.
    """
    if not is_url(path):
        return LocalBytes(path)
    from pipeline.readers.remote import RemoteBytes

    return RemoteBytes(path)


def locate(path: str | os.PathLike[str]) -> tuple[str, tuple[int, int]]:
    """Give a slide's absolute path or its URL, and a stamp that changes when the slide does.

    Of a file the stamp is its bytes and when it was changed, in ns; of a URL its bytes and a
    digest of what the server calls its version. Raises `SlideError` where nothing is there.
    """
    if isinstance(path, str) and is_url(path):
        return _locate_url(path)
    given = Path(path).expanduser().absolute()
    try:
        stat_ = given.stat()
        if given.is_file():
            # OpenSlide says of a file that may not be read that it is no slide.
            given.open("rb").close()
    except FileNotFoundError as error:
        raise SlideError(f"{given}: no such file; check the path") from error
    except OSError as error:
        what = "permissions" if isinstance(error, PermissionError) else "path"
        raise SlideError(f"{given}: {error.strerror}; check the {what}") from error
    except ValueError as error:  # a NUL, or half a character
        raise SlideError(f"{str(given)!r}: no path can be so; check it") from error
    return str(given), (stat_.st_size, stat_.st_mtime_ns)


def _locate_url(url: str) -> tuple[str, tuple[int, int]]:
    from pipeline.readers.multiscales import GROUP_FILES, is_ome_zarr
    from pipeline.readers.remote import version_of

    zarr = is_ome_zarr(url)
    url = url.rstrip("/") if zarr else url
    for name in GROUP_FILES if zarr else ("",):
        try:
            version = version_of(join(url, name) if name else url)
        except SlideError as error:
            if name and isinstance(error.__cause__, FileNotFoundError):
                continue
            raise
        told = hashlib.sha256(f"{version.tag} {version.modified}".encode()).digest()
        return private(url), (version.size, int.from_bytes(told[:7], "big"))
    raise SlideError(f"{shown(url)}: no zarr group there; check the URL")


def check_range(name: str, size: int, offset: int, length: int) -> None:
    """Raise `SlideError` where bytes are asked for that a file of ``size`` cannot have."""
    if offset < 0 or length < 0:
        raise SlideError(
            f"{name}: damaged: {length} bytes at {offset} cannot be; copy the file again from "
            "where it comes from"
        )
    if offset + length > size:
        raise SlideError(
            f"{name}: truncated: bytes {offset} to {offset + length} are past the end of {size}; "
            "copy the file again from where it comes from"
        )


class LocalBytes:
    """A file on a disk: one descriptor, which threads share without a lock."""

    def __init__(self, path: str) -> None:
        self.name = path
        try:
            # Before opening: a named pipe would wait for its writer.
            mode = os.stat(path).st_mode  # noqa: PTH116 - it is os.open that follows
            self._descriptor = os.open(path, os.O_RDONLY) if stat.S_ISREG(mode) else -1
        except FileNotFoundError as error:
            raise SlideError(f"{path}: no such file; check the path") from error
        except (OSError, ValueError) as error:
            raise SlideError(f"{path}: cannot be opened: {_why(error)}; check the path") from error
        if self._descriptor < 0:
            raise SlideError(f"{path}: not a file; name the slide's own file")
        self._closing = threading.Lock()
        self.size = os.fstat(self._descriptor).st_size

    def read(self, offset: int, length: int) -> bytes:
        """Give exactly ``length`` bytes from ``offset`` on; see `Bytes`."""
        check_range(self.name, self.size, offset, length)
        try:
            found = os.pread(self._descriptor, length, offset)
            # Linux gives 2 GiB at most, network file systems less when they like.
            while len(found) < length:
                more = os.pread(self._descriptor, length - len(found), offset + len(found))
                if not more:
                    check_range(self.name, offset + len(found), offset, length)
                found += more
        except SlideError:
            raise
        except OSError as error:
            raise SlideError(
                f"{self.name}: bytes {offset} to {offset + length} cannot be read: "
                f"{_why(error)}; check the disk"
            ) from error
        return found

    def read_many(self, ranges: Sequence[Range]) -> list[bytes]:
        """Give the bytes of each ``(offset, length)``; see `Bytes`."""
        return [self.read(offset, length) for offset, length in ranges]

    def close(self) -> None:
        """Release the descriptor."""
        with self._closing:  # closed twice, its number may be another file's by then
            descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
