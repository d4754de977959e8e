"""Whether results can be written where they are to be, nobody else does, and there is room."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.books.lease import held
from pipeline.books.names import LEASE, shards_of
from pipeline.doctor.case import Case
from pipeline.doctor.findings import Finding
from pipeline.errors import StoreError
from pipeline.files import places
from pipeline.files.urls import is_url, join, shown
from pipeline.readers.staging import as_size

__all__ = ["lease", "probe_name", "probing", "results", "space"]

_RENEWED_S = 60.0
"""A lease that has not been renewed for so long is taken over; see `pipeline.books.lease`."""


def probe_name() -> str:
    """Give a name that no file has."""
    return f".wsi-pipeline-doctor-{uuid.uuid4().hex}"


@contextmanager
def probing(folder: str) -> Iterator[None]:
    """Leave a folder as it was after a ``with`` block: where there was none, there is none."""
    made = (
        []
        if is_url(folder)
        else [p for p in (Path(folder), *Path(folder).parents) if not p.exists()]
    )
    try:
        yield
    finally:
        for path in made:  # the innermost first
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def results(case: Case) -> Iterator[Finding]:
    """Write a small file into the results directory, read it back and remove it."""
    folder, content = case.folder, uuid.uuid4().bytes
    path = join(folder, probe_name())
    began = time.perf_counter()
    try:
        with probing(folder):
            places.write_whole(path, content)
            try:
                same = places.read(path) == content
            finally:
                places.remove(path)
    except OSError as error:
        yield Finding.problem(
            f"{shown(folder)}: cannot be written to: {error.strerror}",
            "mend that, or name another output.directory",
        )
        return
    seconds = time.perf_counter() - began
    if not same:
        raise StoreError(f"{shown(folder)}: a file reads back as another; name another directory")
    yield Finding.ok(
        f"{shown(folder)}: a file written, read back and removed in {seconds * 1e3:.3g} ms",
        directory=shown(folder),
        seconds=seconds,
    )


def lease(case: Case) -> Iterator[Finding]:
    """Say whether another run has the results directory."""
    folder, free = case.folder, True
    for shard in (None, *shards_of(LEASE, places.names(folder))):
        holder = held(folder, shard)
        if holder is None:
            continue
        free = False
        part = "" if shard is None else f"shard {shard[0]} of {shard[1]} of "
        said = f"{shown(folder)}: {part}a run {holder}"
        age_s = time.time() - holder.renewed
        if holder.here or age_s < _RENEWED_S:
            yield Finding.problem(said, "wait for it, or name another output.directory")
        else:
            yield Finding.warning(
                f"{said} and has not renewed it for {age_s:.0f} s",
                "if it is gone the next run takes over, after a minute at most",
            )
    if free:
        yield Finding.ok("no other run holds the results directory")


def space(case: Case) -> Iterator[Finding]:
    """Hold the room and the files that are left against what the slides are predicted to take."""
    made, slides = case.plan, len(case.jobs)
    bytes_, files = made.output_bytes * slides, made.output_files * slides
    takes = f"{as_size(bytes_)} before compression and {files:,} files"
    basis = "predicted" if slides == 1 else f"predicted for {slides} slides like the first"
    if is_url(case.folder):
        yield Finding.ok(f"{takes} {basis}; a bucket does not say what is left in it")
        return
    there = os.statvfs(_nearest(case.folder))
    free = there.f_bavail * there.f_frsize
    # A file system that makes them as they are needed (btrfs, many network ones) says 0 of 0.
    left = there.f_favail if there.f_files else None
    said = f"{as_size(free)} and {'any number of' if left is None else f'{left:,}'} files are free"
    numbers = {"free_bytes": free, "free_files": left, "bytes": bytes_, "files": files}
    if free < sum(array.block_bytes for array in made.layout.arrays):
        yield Finding.problem(
            f"{said}: no room for one block; {takes} {basis}",
            "make room, or name another output.directory",
            **numbers,
        )
    elif left is not None and left < files:
        yield Finding.problem(
            f"{said}; {takes} {basis}",
            f"ask for more files, or set output.block above {made.grid.cell}",
            **numbers,
        )
    elif free < bytes_:
        yield Finding.warning(
            f"{said}; {takes} {basis}",
            "make room, unless scores compress well or are stored already",
            **numbers,
        )
    else:
        yield Finding.ok(f"{said}; {takes} {basis}", **numbers)


def _nearest(folder: str) -> Path:
    """Give the innermost folder that is there."""
    path = Path(folder)
    return next(each for each in (path, *path.parents) if each.is_dir())
