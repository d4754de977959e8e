"""Mutated slides for the direct reader: only `SlideError` may come out, and soon.

    python -m tests.fuzz_tiff FOLDER --seconds 60 --seed 0

Every file of FOLDER is a seed. Bytes of its directories and tiles are changed one to a few at a
time; the result is opened and a corner of each level read. The process may take no more memory
than `MOST_MEMORY` and each case no more than `MOST_SECONDS`: a hang is a failure too. Prints what
it did; the same seed makes the same cases.
"""

from __future__ import annotations

import argparse
import faulthandler
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

from pipeline.errors import SlideError
from pipeline.geometry import Box
from pipeline.readers.ranges import open_bytes
from pipeline.readers.tiff import open_reader
from pipeline.readers.tiff.tags import Directory, read_directories

MOST_SECONDS = 20
MOST_MEMORY = 6 * 2**30
WINDOW = 300

INTERESTING = (0, 1, 2, 3, 4, 7, 8, 0x7F, 0x80, 0xFE, 0xFF)


def places(path: Path) -> list[int]:
    """Give the offsets of a TIFF's header, directory entries and short values."""
    data = path.read_bytes()
    found = set(range(16))
    with closing(open_bytes(str(path))) as file:
        for directory in read_directories(file):
            found |= set(_of(directory, len(data)))
    return sorted(found)


def _of(directory: Directory, size: int) -> set[int]:
    found: set[int] = set()
    for tag in directory._tags.values():
        # An entry lies just before a value that fits into it; a longer one lies elsewhere.
        found |= {at for at in range(tag.offset - 12, tag.offset + 24) if 0 <= at < size}
    return found


def mutated(data: bytes, likely: list[int], rng: random.Random) -> bytes:
    """Change some bytes, mostly where they say something of the others."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.choice(likely) if rng.random() < 0.8 else rng.randrange(len(changed))
        width = rng.choice((1, 1, 2, 4, 8))
        for i in range(at, min(at + width, len(changed))):
            changed[i] = rng.choice(INTERESTING) if rng.random() < 0.7 else rng.randrange(256)
    if rng.random() < 0.05:
        del changed[rng.randrange(len(changed)) :]
    return bytes(changed)


def try_one(path: Path) -> str:
    """Open a file and read a corner of each level; say what became of it."""
    try:
        reader = open_reader(str(path))
        levels = reader.metadata.levels
    except SlideError:
        return "refused"
    said = "read"
    with closing(reader):
        for number, level in enumerate(levels):
            rows, columns = level.shape
            for y, x in ((0, 0), (max(rows - WINDOW, 0), max(columns - WINDOW, 0))):
                try:
                    reader.read(number, Box(y, x, WINDOW, WINDOW).clipped(level.shape))
                except SlideError:
                    said = "unreadable"
    return said


def main() -> None:
    """Mutate until the time is over."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    seeds = [(path.read_bytes(), places(path), path) for path in sorted(asked.folder.iterdir())]
    end, counts, number = time.monotonic() + asked.seconds, Counter[str](), 0
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end:
            rng = random.Random(asked.seed * 1_000_000 + number)
            data, likely, path = rng.choice(seeds)
            case = Path(folder) / f"case{path.suffix}"
            case.write_bytes(mutated(data, likely, rng))
            faulthandler.dump_traceback_later(MOST_SECONDS, exit=True)
            try:
                counts[try_one(case)] += 1
            except BaseException:
                print(f"seed {asked.seed}, case {number}, from {path.name}", file=sys.stderr)
                raise
            faulthandler.cancel_dump_traceback_later()
            number += 1
    print(f"{number} cases: {dict(counts)}")


if __name__ == "__main__":
    main()
