"""Bytes of a file, from a disk: exact, or an error; one descriptor for all threads."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.errors import SlideError
from pipeline.readers.ranges import open_bytes

CONTENT = bytes(range(256)) * 64


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.bin"
    path.write_bytes(CONTENT)
    return path


def _descriptors() -> set[str]:
    return {
        str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()
    }


def test_ranges_are_what_the_file_holds(file: Path) -> None:
    opened = open_bytes(str(file))
    assert (opened.name, opened.size) == (str(file), len(CONTENT))
    assert opened.read(10, 300) == CONTENT[10:310]
    assert opened.read(len(CONTENT), 0) == b""
    ranges = [(5000, 7), (0, 1), (5000, 7), (4990, 20), (16383, 1)]
    assert opened.read_many(ranges) == [CONTENT[a : a + n] for a, n in ranges]
    assert opened.read_many([]) == []
    opened.close()


def test_bytes_past_the_end_are_an_error_that_names_them(file: Path) -> None:
    opened = open_bytes(str(file))
    with pytest.raises(
        SlideError, match=r"a\.bin: truncated: bytes 16380 to 16390 are past the end of 16384; copy"
    ):
        opened.read(16380, 10)
    with pytest.raises(SlideError, match="truncated"):
        opened.read_many([(0, 4), (0, 10**15)])
    with pytest.raises(SlideError, match="damaged: -1 bytes at 5 cannot be"):
        opened.read(5, -1)
    with pytest.raises(SlideError, match="damaged: 5 bytes at -1 cannot be"):
        opened.read(-1, 5)
    opened.close()


def test_a_file_cut_while_it_is_open_is_truncated_not_short(file: Path) -> None:
    opened = open_bytes(str(file))
    os.truncate(file, 1000)
    with pytest.raises(SlideError, match="truncated: bytes 990 to 1010 are past the end of 1000"):
        opened.read(990, 20)
    opened.close()


def test_what_is_no_readable_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="no such file; check the path"):
        open_bytes(str(tmp_path / "none.svs"))
    with pytest.raises(SlideError, match="not a file"):
        open_bytes(str(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SlideError, match="not a file"):
        open_bytes(str(tmp_path / "pipe"))
    with pytest.raises(SlideError, match="cannot be opened"):
        open_bytes("a\0b")


def test_threads_share_one_descriptor_and_closing_twice_is_harmless(file: Path) -> None:
    before = _descriptors()
    opened = open_bytes(str(file))
    assert _descriptors() - before == {str(file)}
    starts = [7 * i % 16000 for i in range(2000)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda start: opened.read(start, 300), starts))
    assert found == [CONTENT[start : start + 300] for start in starts]
    opened.close()
    opened.close()
    assert str(file) not in _descriptors()
    with pytest.raises(SlideError, match="cannot be read"):
        opened.read(0, 1)
