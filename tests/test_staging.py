"""Copies of remote slides: whole, once, bounded, and never removed while they are read."""

from __future__ import annotations

import logging
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import SlideError
from pipeline.files import cloud
from pipeline.files.cloud import stores
from pipeline.readers.staging import CACHE_VARIABLE, SIZE_VARIABLE, stage
from pipeline.slide import open_slide
from tests.servers import Web

CONTENT = np.random.default_rng(1).bytes(20 * 2**20 + 3)
SMALL = CONTENT[: 2**20]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    return folder


def _entries(cache: Path) -> list[Path]:
    return sorted(cache.iterdir())


def _staging(url: str, *, then: str = "") -> subprocess.Popen[str]:
    """Stage in a process of its own, print the path, then run ``then``."""
    code = (
        "import sys, time\nfrom pipeline.readers.staging import stage\n"
        f"staged = stage({url!r})\nprint(staged.path, staged.reason, sep='|', flush=True)\n{then}"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_a_local_slide_is_itself(cache: Path, tmp_path: Path) -> None:
    staged = stage(str(tmp_path / "a.svs"))
    assert (staged.path, staged.bytes, staged.reason) == (str(tmp_path / "a.svs"), 0, "")
    staged.close()
    assert not cache.exists()


def test_a_copy_is_exact_announced_and_made_once(
    web: Web, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    web.files["/a (1).ndpi"] = CONTENT
    url = f"{web.url}/a%20(1).ndpi?signature=secret"
    with caplog.at_level(logging.INFO, logger="pipeline"):
        staged = stage(url)
    assert Path(staged.path).name == "a (1).ndpi"
    assert Path(staged.path).read_bytes() == CONTENT
    assert (staged.bytes, staged.reason) == (len(CONTENT), f"copied whole (21.0 MB) in {cache}")
    assert "copying 21.0 MB into" in caplog.text
    assert "secret" not in caplog.text + staged.path + staged.reason
    staged.close()
    staged.close()
    web.forget()
    again = stage(url)
    assert (again.path, again.reason) == (
        staged.path,
        f"read from the copy made before (21.0 MB) in {cache}",
    )
    assert not web.requests
    again.close()


def test_a_slide_that_changed_is_copied_anew(
    web: Web, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.readers.remote.FRESH_S", 0.0)
    web.files["/a.ndpi"] = SMALL
    stage(f"{web.url}/a.ndpi").close()
    web.files["/a.ndpi"], web.tags["/a.ndpi"] = SMALL[::-1], '"new"'
    staged = stage(f"{web.url}/a.ndpi")
    assert Path(staged.path).read_bytes() == SMALL[::-1]
    staged.close()


def test_companions_come_along(bucket: str, cache: Path) -> None:
    files = {
        "a b.mrxs": b"jpeg",
        "a b/Slidedat.ini": b"\xef\xbb\xbf[GENERAL]\nSLIDE_ID = 1\n[HIERARCHICAL]\n"
        b"INDEXFILE = Index.dat\n[DATAFILE]\nFILE_COUNT = 2\n"
        b"FILE_0 = Data0000.dat\nFILE_1 = Data0001.dat\n",
        "a b/Index.dat": b"index",
        "a b/Data0000.dat": SMALL,
        "a b/Data0001.dat": SMALL[::-1],
    }
    for name, content in {**files, "a b/Other.dat": b"x", "other.mrxs": b"x"}.items():
        cloud.write(f"{bucket}/{name}", content)
    staged = stage(f"{bucket}/a b.mrxs")
    folder = Path(staged.path).parent
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert found == files
    assert staged.bytes == sum(map(len, files.values()))
    staged.close()


def test_companions_come_along_from_a_web_server(web: Web, cache: Path) -> None:
    web.files["/s/a.vms"] = (
        b"[Virtual Microscope Specimen]\nNoLayers=1\nImageFile=a.jpg\nImageFile(1,0)=sub\\b.jpg\n"
        b"MapFile=a_map.jpg\nOptimisationFile=a.opt\nAuthCode=x\n"
    )
    for name in ("a.jpg", "sub/b.jpg", "a_map.jpg", "a.opt"):
        web.files[f"/s/{name}"] = name.encode()
    staged = stage(f"{web.url}/s/a.vms")
    folder = Path(staged.path).parent
    assert (folder / "sub" / "b.jpg").read_bytes() == b"sub/b.jpg"
    assert sum(p.is_file() for p in folder.rglob("*")) == 5
    staged.close()


def test_a_missing_or_escaping_companion_is_a_clear_error(web: Web, cache: Path) -> None:
    web.files["/a.mrxs"] = b"jpeg"
    with pytest.raises(SlideError, match=r"a/Slidedat\.ini: no such object"):
        stage(f"{web.url}/a.mrxs")
    web.files["/a/Slidedat.ini"] = (
        b"[HIERARCHICAL]\nINDEXFILE=Index.dat\n[DATAFILE]\nFILE_0=D.dat\n"
    )
    web.files["/a/Index.dat"] = b"index"
    with pytest.raises(SlideError, match=r"a/D\.dat: no such object"):
        stage(f"{web.url}/a.mrxs")
    web.files["/b.vms"] = b"[x]\nImageFile=../../../etc/passwd.jpg\n"
    with pytest.raises(SlideError, match="names a file outside its folder"):
        stage(f"{web.url}/b.vms")
    web.files["/c.vms"] = b"ImageFile=a.jpg\n"
    with pytest.raises(SlideError, match="does not name the slide's files"):
        stage(f"{web.url}/c.vms")
    web.files["/d.dcm"] = b"dicom"
    with pytest.raises(SlideError, match="a web server does not list its files; use s3://"):
        stage(f"{web.url}/d.dcm")
    assert not cache.exists() or not _entries(cache)


def test_a_copy_that_fails_leaves_nothing(
    web: Web, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "LIMITS", stores.Limits(1, 1, 1, 2))
    web.files["/a.ndpi"] = CONTENT
    stage(f"{web.url}/a.ndpi").close()
    web.files["/b.ndpi"] = CONTENT
    opened = web.url + "/b.ndpi"
    from pipeline.readers.ranges import open_bytes

    assert open_bytes(opened).size
    web.trouble = "drop"
    with pytest.raises(SlideError, match=r"b\.ndpi: bytes 0 to .*drops the connection"):
        stage(opened)
    assert len(_entries(cache)) == 1
    web.trouble = ""
    staged = stage(opened)
    assert Path(staged.path).read_bytes() == CONTENT
    staged.close()


def test_processes_that_want_one_slide_copy_it_once(web: Web, cache: Path) -> None:
    web.files["/a.ndpi"] = CONTENT
    processes = [_staging(f"{web.url}/a.ndpi") for _ in range(3)]
    said = [process.communicate(timeout=60)[0].strip().split("|") for process in processes]
    assert len({path for path, _ in said}) == 1
    assert sorted(reason.split(" (")[0] for _, reason in said) == [
        "copied whole",
        "read from the copy made before",
        "read from the copy made before",
    ]
    assert Path(said[0][0]).read_bytes() == CONTENT
    assert sum("bytes=0-8388607" in request for request in web.requests) == 1


def test_a_copy_whose_process_was_killed_is_made_by_the_next(web: Web, cache: Path) -> None:
    web.files["/a.ndpi"] = CONTENT
    web.trouble_after = 2  # its size, its first piece, and then no answer
    killed = _staging(f"{web.url}/a.ndpi")
    patient_until = time.monotonic() + 60
    while len(web.requests) < 3 and time.monotonic() < patient_until:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    killed.communicate()
    assert [entry.name.endswith(".partial") for entry in _entries(cache)] == [True]
    web.trouble_after = None
    staged = stage(f"{web.url}/a.ndpi")
    assert Path(staged.path).read_bytes() == CONTENT
    assert [entry.name.endswith(".partial") for entry in _entries(cache)] == [False]
    staged.close()


def test_the_copy_used_longest_ago_makes_room(
    web: Web, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SIZE_VARIABLE, "0.0025")  # two of the three
    for name in "abc":
        web.files[f"/{name}.ndpi"] = SMALL
    a = stage(f"{web.url}/a.ndpi")
    b = stage(f"{web.url}/b.ndpi")
    for staged, used in ((a, 1000), (b, 2000)):
        staged.close()
        os.utime(Path(staged.path).parent, (used, used))
    stage(f"{web.url}/a.ndpi").close()  # used again, and so the later one
    c = stage(f"{web.url}/c.ndpi")
    assert {entry.name for entry in _entries(cache)} == {
        Path(staged.path).parent.name for staged in (a, c)
    }
    c.close()


def test_a_copy_in_use_stays(web: Web, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SIZE_VARIABLE, "0.0025")
    for name in "abc":
        web.files[f"/{name}.ndpi"] = SMALL
    ours = stage(f"{web.url}/a.ndpi")
    other = _staging(f"{web.url}/b.ndpi", then="sys.stdin.read()")
    assert other.stdout is not None
    theirs = other.stdout.readline().split("|")[0]
    with pytest.raises(
        SlideError, match=r"no room to copy 1\.0 MB: .* holds 2\.1 MB in use of 2\.5"
    ):
        stage(f"{web.url}/c.ndpi")
    assert Path(ours.path).exists()
    assert Path(theirs).exists()
    other.kill()
    other.communicate()
    stage(f"{web.url}/c.ndpi").close()
    assert Path(ours.path).exists()
    assert not Path(theirs).exists(), "its process ended, and with it its lock"
    ours.close()


def test_a_slide_larger_than_the_cache_is_refused(
    web: Web, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.files["/a.ndpi"] = SMALL
    monkeypatch.setenv(SIZE_VARIABLE, "0.001")
    with pytest.raises(SlideError, match=rf"1\.0 MB to copy are more than .* set {SIZE_VARIABLE}"):
        stage(f"{web.url}/a.ndpi")
    monkeypatch.setenv(SIZE_VARIABLE, "much")
    with pytest.raises(SlideError, match=f"{SIZE_VARIABLE}: much: not a number of gigabytes"):
        stage(f"{web.url}/a.ndpi")
    assert not _entries(cache)


def test_a_disk_that_takes_no_more_is_a_clear_error(web: Web, cache: Path) -> None:
    web.files["/a.ndpi"] = CONTENT
    code = (
        "import resource, signal\nfrom pipeline.readers.staging import stage\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10**7, 10**7))\n"
        f"stage({web.url + '/a.ndpi'!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert "a.ndpi: cannot be copied into" in done.stderr
    assert f"File too large; free 21.0 MB there, or set {CACHE_VARIABLE}" in done.stderr
    assert not _entries(cache)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] < 0, "only the child is limited"


def test_a_cache_that_cannot_be_made_is_a_clear_error(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.files["/a.ndpi"] = SMALL
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    with pytest.raises(SlideError, match=rf"cannot be copied .*; free .*, or set {CACHE_VARIABLE}"):
        stage(f"{web.url}/a.ndpi")


def test_openslide_reads_a_slide_in_a_bucket_as_on_a_disk(
    bucket: str, cache: Path, demo_slide: Path
) -> None:
    cloud.write(f"{bucket}/demo.svs", demo_slide.read_bytes())
    near, far = (
        open_slide(demo_slide, reader="openslide"),
        open_slide(f"{bucket}/demo.svs", reader="openslide"),
    )
    assert (far.name, far.path) == ("demo", f"{bucket}/demo.svs")
    assert far.metadata == near.metadata
    for here, there in zip(near.levels, far.levels, strict=True):
        assert (here.compute(scheduler="threads") == there.compute(scheduler="threads")).all()


def test_openslide_reads_dicom_in_a_bucket(bucket: str, cache: Path, shared_data: Path) -> None:
    folder = shared_data / "slides" / "CMU-1-Small-Region-dicom"
    for file in folder.iterdir():
        if file.suffix == ".dcm":
            cloud.write(f"{bucket}/{file.name}", file.read_bytes())
    first = min(file.name for file in folder.iterdir() if file.suffix == ".dcm")
    near = open_slide(folder / first, reader="openslide")
    far = open_slide(f"{bucket}/{first}", reader="openslide")
    assert far.shape == near.shape
    assert (far.thumbnail(300) == near.thumbnail(300)).all()


def test_what_openslide_cannot_read_is_named_by_its_url(web: Web, cache: Path) -> None:
    web.files["/a.svs"] = SMALL
    with pytest.raises(SlideError, match=rf"^{web.url}/a\.svs: not a slide that OpenSlide"):
        open_slide(f"{web.url}/a.svs?signature=secret", reader="openslide")
