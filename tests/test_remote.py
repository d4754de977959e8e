"""Bytes behind URLs, from real servers: exact, few requests, one clear error per failure."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import SlideError
from pipeline.files import cloud
from pipeline.files.cloud import stores
from pipeline.files.urls import Private
from pipeline.readers import remote
from pipeline.readers.ranges import locate, open_bytes
from pipeline.readers.remote import AHEAD, GAP, PAGE, PIECE, START, RemoteBytes, spans
from tests.servers import Web

CONTENT = np.random.default_rng(0).bytes(3 * 2**20 + 7)

IMPATIENT = stores.Limits(connect_s=1, request_s=0.5, retries=2, all_retries_s=3)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "LIMITS", IMPATIENT)


@pytest.fixture
def url(web: Web) -> str:
    web.files["/slides/a (1).bin"] = CONTENT
    return f"{web.url}/slides/a%20(1).bin"


def test_a_web_server_gives_the_bytes_a_disk_would(web: Web, url: str) -> None:
    opened = open_bytes(url)
    assert (opened.name, opened.size) == (url, len(CONTENT))
    ranges = [(10**6, 50_000), (7, 3), (2**20, 0), (3 * 2**20, 7), (7, 3), (8, 100_000)]
    assert opened.read_many(ranges) == [CONTENT[a : a + n] for a, n in ranges]
    for offset, length in ranges:
        assert opened.read(offset, length) == CONTENT[offset : offset + length]
    opened.close()


def test_a_bucket_gives_the_bytes_a_disk_would(bucket: str) -> None:
    key = f"{bucket}/a #1?%41 (2).bin"
    cloud.write(key, CONTENT)
    opened = open_bytes(key)
    assert (opened.name, opened.size) == (key, len(CONTENT))
    ranges = [(2 * 10**6, 50_000), (7, 3), (3 * 2**20, 7)]
    assert opened.read_many(ranges) == [CONTENT[a : a + n] for a, n in ranges]
    assert opened.read(17, 40) == CONTENT[17:57]
    assert cloud.read(key) == CONTENT
    assert cloud.names(bucket) == ["a #1?%41 (2).bin"]
    assert list(cloud.below(bucket)) == [("a #1?%41 (2).bin", len(CONTENT))]


def test_bytes_past_the_end_are_refused_without_asking(web: Web, url: str) -> None:
    opened = open_bytes(url)
    web.forget()
    with pytest.raises(
        SlideError, match=r"truncated: bytes 3145730 to 3145740 are past the end of"
    ):
        opened.read(3145730, 10)
    with pytest.raises(SlideError, match="truncated"):
        opened.read_many([(0, 4), (0, 10**15)])
    with pytest.raises(SlideError, match="damaged"):
        opened.read(-5, 4)
    assert not web.requests


def test_small_reads_share_a_request_and_are_kept(web: Web, url: str) -> None:
    opened = RemoteBytes(url)
    assert web.requests == [f"/slides/a%20(1).bin bytes=0-{START - 1}"]  # its size, and its start
    for offset in range(0, START - 8, 1000):
        opened.read(offset, 8)
    assert len(web.requests) == 1
    opened.read(10**6, 8)
    opened.read(10**6 + AHEAD - 2 * PAGE, 8)
    assert len(web.requests) == 2
    # Ahead only up to what is there already.
    opened.read(10**6 - 2 * PAGE, 8)
    assert web.sent == START + AHEAD + 2 * PAGE
    assert (opened.requests, opened.moved) == (2, AHEAD + 2 * PAGE)
    assert RemoteBytes(url).read(10**6, 8) == CONTENT[10**6 : 10**6 + 8]
    assert RemoteBytes(url).read_many([(10**6, 9000)]) == [CONTENT[10**6 : 10**6 + 9000]]
    assert len(web.requests) == 3, "opened again at once, nothing is asked"


def test_the_pages_of_all_files_are_bounded(
    web: Web, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = remote._Pages(20 * PAGE)
    monkeypatch.setattr(remote, "_pages", pages)
    opened = RemoteBytes(url)
    for offset in (10**6, 2 * 10**6, 3 * 10**6):
        assert opened.read(offset, 9) == CONTENT[offset : offset + 9]
    assert len(pages._pages) == 20
    web.forget()
    assert opened.read(0, 9) == CONTENT[:9]
    assert len(web.requests) == 1, "the pages used longest ago went first"


def test_neighbours_are_one_request_and_far_ones_are_not(web: Web, url: str) -> None:
    opened = RemoteBytes(url)
    web.forget()
    near = [(10**6, 1000), (10**6 + 1000, 1000), (10**6 + 2000 + GAP, 5)]
    far = [(2 * 10**6 + GAP, 10)]
    assert opened.read_many([*far, *near]) == [CONTENT[a : a + n] for a, n in [*far, *near]]
    assert sorted(request.split("=")[1] for request in web.requests) == [
        f"{10**6}-{10**6 + 2004 + GAP}",
        f"{2 * 10**6 + GAP}-{2 * 10**6 + GAP + 9}",
    ]


def test_what_is_long_is_asked_for_in_pieces(web: Web) -> None:
    content = CONTENT * 6
    web.files["/long"] = content
    opened = RemoteBytes(f"{web.url}/long")
    web.forget()
    assert opened.read(5, 2 * PIECE + 10) == content[5 : 2 * PIECE + 15]
    assert len(web.requests) == 3
    assert spans([(0, PIECE), (PIECE, 10)], GAP, PIECE) == [(0, PIECE), (PIECE, PIECE + 10)]


def test_requests_wait_side_by_side(web: Web, url: str, impatient: None) -> None:
    opened = RemoteBytes(url)
    web.forget()
    # Each hangs until it is given up; one after another they would take eight times as long.
    web.trouble, web.times = "hang", 8
    begun = time.monotonic()
    ranges = [(k * 300_000, 10) for k in range(1, 9)]
    assert opened.read_many(ranges) == [CONTENT[a : a + n] for a, n in ranges]
    assert time.monotonic() - begun < 8 * IMPATIENT.request_s
    assert len(web.requests) == 16


def test_threads_read_one_file_together(web: Web, url: str) -> None:
    opened = open_bytes(url)
    starts = [7919 * i % (3 * 2**20) for i in range(300)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda start: opened.read(start, 7), starts))
    assert found == [CONTENT[start : start + 7] for start in starts]


@pytest.mark.parametrize("trouble", ["drop", "cut", "500", "503", "429"])
def test_a_passing_failure_is_not_seen(web: Web, url: str, trouble: str) -> None:
    opened = open_bytes(url)
    web.trouble, web.times = trouble, 2
    assert opened.read_many([(10**6, 1000)]) == [CONTENT[10**6 : 10**6 + 1000]]
    assert web.times == 0


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("drop", "the server drops the connection; try again later"),
        ("cut", "the server drops the connection; try again later"),
        ("hang", "the server does not answer in time; try again later"),
        ("whole", "the server cannot send parts of files; copy the file here"),
        ("shift", "the server sent other bytes than were asked for"),
        ("401", r"the server refuses access \(401 Unauthorized\); check the credentials"),
        ("403", r"the server refuses access \(403 Forbidden\); check the credentials"),
        ("404", "no such object; check the URL"),
        ("500", r"the server fails \(500 Internal Server Error\); try again later"),
    ],
)
def test_a_lasting_failure_is_one_clear_error(
    web: Web, url: str, impatient: None, trouble: str, message: str
) -> None:
    web.trouble = trouble
    with pytest.raises(SlideError, match=rf"\(1\)\.bin: {message}") as opening:
        open_bytes(f"{url}?signature=secret")
    assert "secret" not in str(opening.value)
    assert opening.value.__cause__.__cause__ is None, "its text would name the signature"  # type: ignore[union-attr]
    web.trouble = ""
    opened = open_bytes(url)
    web.trouble = trouble
    with pytest.raises(SlideError, match=rf"bytes 1000000 to 1000010: .*{message}"):
        opened.read_many([(10**6, 10)])


def test_a_length_that_is_a_lie_is_found_where_bytes_lack(web: Web, url: str) -> None:
    web.trouble = "lie"
    opened = open_bytes(url)
    assert opened.size == 2 * len(CONTENT)
    with pytest.raises(SlideError, match=r"sent other bytes than were asked for; copy the"):
        opened.read_many([(len(CONTENT) - 10, 20)])
    with pytest.raises(SlideError, match="has no bytes there"):
        opened.read_many([(len(CONTENT) + 10, 20)])


def test_an_empty_file_is_a_clear_error(web: Web) -> None:
    web.files["/empty.svs"] = b""
    with pytest.raises(SlideError, match=r"empty\.svs: has no bytes there; copy the file again"):
        open_bytes(f"{web.url}/empty.svs")


def test_a_file_replaced_while_it_is_read_is_an_error_and_then_read_anew(
    web: Web, url: str
) -> None:
    opened = open_bytes(url)
    new = CONTENT[::-1]
    web.files["/slides/a (1).bin"], web.tags["/slides/a (1).bin"] = new, '"new"'
    with pytest.raises(SlideError, match="was replaced while it was read"):
        opened.read(10**6, 10)
    assert open_bytes(url).read(0, 10) == new[:10]


def test_who_does_not_exist_or_listen_is_a_clear_error(impatient: None) -> None:
    with pytest.raises(SlideError, match="nobody answers there; check the URL"):
        open_bytes("http://127.0.0.1:9/a.svs")
    for url in ("s3://", "s3://bucket", "gs:///key", "s3://test/a//b"):
        with pytest.raises(SlideError, match=r"check the URL|names no object"):
            open_bytes(url)


def test_an_object_that_is_not_there_and_a_wrong_key_are_clear_errors(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SlideError, match=r"none\.svs: no such object; check the URL"):
        open_bytes(f"{bucket}/none.svs")
    with pytest.raises(SlideError, match=r"no such object; check the URL"):
        open_bytes("s3://no-such-bucket-here/none.svs")


def test_a_wrong_key_is_refused_and_not_repeated(
    seaweed: object, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    for name, value in request.getfixturevalue("seaweed").environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    with pytest.raises(
        SlideError, match=r"the server refuses access \(403 Forbidden .*\); check"
    ) as refused:
        open_bytes("s3://test/ready")
    assert "wrong-secret" not in str(refused.value)


def test_without_credentials_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SlideError, match=r"set AWS_ACCESS_KEY_ID and .*AWS_SKIP_SIGNATURE=true"):
        open_bytes("s3://bucket/a.svs")


def test_a_profile_of_the_aws_command_gives_the_keys(
    seaweed: object,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    told = request.getfixturevalue("seaweed").environment
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(
        f"[lab]\naws_access_key_id = {told['AWS_ACCESS_KEY_ID']}\n"
        f"aws_secret_access_key = {told['AWS_SECRET_ACCESS_KEY']}\n"
    )
    (tmp_path / ".aws" / "config").write_text("[profile lab]\nregion = us-east-1\n")
    for name in told:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", told["AWS_ENDPOINT_URL"])
    monkeypatch.setenv("AWS_PROFILE", "lab")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_bytes("s3://test/ready").read(0, 5) == b"ready"


def test_public_objects_need_no_signature(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    web.files["/public/a.bin"] = CONTENT
    monkeypatch.setenv("AWS_ENDPOINT_URL", web.url)
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    assert open_bytes("s3://public/a.bin").read(5, 9) == CONTENT[5:14]


def test_google_buckets_are_read(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    web.files["/slides/a b.bin"] = CONTENT
    account = tmp_path / "account.json"
    account.write_text(
        f'{{"gcs_base_url": "{web.url}", "disable_oauth": true, "client_email": "", '
        '"private_key": "", "private_key_id": ""}'
    )
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(account))
    monkeypatch.setenv("GOOGLE_ALLOW_HTTP", "true")
    assert open_bytes("gs://slides/a b.bin").read(5, 9) == CONTENT[5:14]


def test_a_stamp_names_the_content(web: Web, url: str, tmp_path: Path) -> None:
    path, stamp = locate(url)
    assert (path, stamp[0]) == (url, len(CONTENT))
    assert locate(url) == (path, stamp)
    web.tags["/slides/a (1).bin"] = '"new"'
    assert locate(url)[1] != stamp
    file = tmp_path / "a.bin"
    file.write_bytes(b"abc")
    assert locate(file) == (str(file), (3, file.stat().st_mtime_ns))


def test_a_signed_url_is_sent_whole_and_shown_without(web: Web, url: str) -> None:
    signed = f"{url}?X-Amz-Signature=secret&b=%2F"
    path, _ = locate(signed)
    assert isinstance(path, Private)
    assert "secret" not in f"{path} {path!r} {path!s} {[path]}"
    travelled = pickle.loads(pickle.dumps(path))
    web.forget()
    assert open_bytes(travelled).read(10**6, 5) == CONTENT[10**6 : 10**6 + 5]
    assert web.requests[-1].startswith("/slides/a%20(1).bin?X-Amz-Signature=secret&b=%2F bytes")


def test_whoever_waits_can_be_interrupted(web: Web, url: str) -> None:
    code = (
        # Whoever runs the tests in the background has its children deaf to Ctrl-C.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pipeline.readers.ranges import open_bytes\n"
        f"opened = open_bytes({url!r})\nprint('opened', flush=True)\nopened.read(10**6, 10)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    web.trouble_after = 1
    assert process.stdout.readline() == "opened\n"
    patient_until = time.monotonic() + 60
    while len(web.requests) < 2 and time.monotonic() < patient_until:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    # Long before the request itself is given up.
    assert "KeyboardInterrupt" in process.communicate(timeout=20)[1]


def test_a_forked_child_is_told_rather_than_left_waiting(url: str) -> None:
    assert open_bytes(url).size
    code = os.fork()
    if not code:
        signal.alarm(20)  # where it hangs after all
        try:
            open_bytes(f"{url}?again")
        except SlideError as error:
            os._exit(0 if "forked" in str(error) else 2)
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(code, 0)[1]) == 0


def test_without_obstore_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['obstore'] = None\n"
        "from pipeline.errors import MissingExtraError\n"
        "from pipeline.readers.ranges import open_bytes\n"
        "try:\n    open_bytes('s3://a/b')\n"
        "except MissingExtraError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'wsi-pipeline[remote]'" in done.stdout
