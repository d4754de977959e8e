"""What the viewer answers: tiles in their places, stores that grow, and who may ask."""

from __future__ import annotations

import http.client
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import pipeline
from pipeline.demo import read_truth
from pipeline.errors import ConfigError, DamagedStoreError
from pipeline.geometry import Box
from pipeline.store import Coverage, withdraw
from pipeline.view import catalogue as catalogues
from pipeline.view.answers import UnknownQuestionError, answer
from pipeline.view.catalogue import Cohort, OneSlide, catalogue_of
from pipeline.view.guard import address, host_names, notes, refusal, token_fits
from pipeline.view.objects import CELLS, HIGHEST, ObjectLayer
from pipeline.view.page import module, widget_module
from pipeline.view.planes import TILE
from tests.viewing import Serving, run_nuclei, serving

Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def results(demo_slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_nuclei(demo_slide, tmp_path_factory.mktemp("view"))


@pytest.fixture
def growing(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give results as they are in the middle of a run: two blocks are there, no coarser level."""
    monkeypatch.setattr(catalogues, "_LOOK_S", 0.0)
    folder = tmp_path / "results"
    shutil.copytree(results, folder)
    store = folder / "demo.zarr"
    withdraw(str(store))
    for shard in store.glob("[0-9]/c/0/*/*"):
        if shard.relative_to(store).as_posix() not in ("0/c/0/0/1", "0/c/0/1/1"):
            shard.unlink()
    for part in store.glob("objects/nuclei/part-*"):
        if part.stem not in ("part-00000-00001", "part-00001-00001"):
            part.unlink()
    return folder


def ask(path: Path | OneSlide | Cohort, question: str) -> Any:
    catalogue = catalogue_of(path) if isinstance(path, Path) else path
    return json.loads(answer(catalogue, question).content)


def image(path: Path | OneSlide | Cohort, question: str) -> Pixels:
    catalogue = catalogue_of(path) if isinstance(path, Path) else path
    return np.asarray(Image.open(io.BytesIO(answer(catalogue, question).content)))


def whole(path: Path, slide_id: str, key: str, plane: int, shape: list[int]) -> Pixels:
    """Put the tiles of a plane together."""
    catalogue = catalogue_of(path)
    rows = [
        np.concatenate(
            [
                image(catalogue, f"tile/{slide_id}/{key}/{plane}/{i}/{j}")  # type: ignore[arg-type]
                for j in range(-(-shape[1] // TILE))
            ],
            axis=1,
        )
        for i in range(-(-shape[0] // TILE))
    ]
    return np.concatenate(rows)


def layer(spec: dict[str, Any], key: str) -> dict[str, Any]:
    return next(each for each in spec["layers"] if each["key"] == key)


@pytest.mark.parametrize("shape", [(1200, 1500), (1203, 1501)])
def test_tiles_are_the_slide_at_every_power_of_two(
    shape: tuple[int, int], tmp_path: Path, write_tiff: Callable[..., Path]
) -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (shape[0] // 24 + 1, shape[1] // 24 + 1, 3), np.uint8)
    rgb = np.asarray(Image.fromarray(coarse).resize(shape[::-1], Image.Resampling.BICUBIC))
    # One whose sides are no whole part of the slide's, and that lies between two powers.
    third = np.asarray(Image.fromarray(rgb).resize((493, 395)))
    path = write_tiff(tmp_path / "a.tiff", rgb, levels=[third] if shape[0] % 2 else 3)
    slide = pipeline.open_slide(path)
    if shape[0] % 2:
        assert slide.level(1).downsample[1] % 1
    planes = layer(ask(path, "slide/a"), "slide")["planes"]
    assert [plane["step"] for plane in planes] == [[1, 1], [2, 2], [4, 4]]
    for number, plane in enumerate(planes):
        tiles = whole(path, "a", "exact", number, plane["shape"])
        expected = slide.at(0.5 * 2**number).read(Box(0, 0, *plane["shape"]))
        np.testing.assert_array_equal(tiles, expected)
        lossy = whole(path, "a", "slide", number, plane["shape"])
        assert np.abs(lossy.astype(int) - expected).mean() < 4


def test_scores_lie_where_the_store_says(results: Path) -> None:
    stored = pipeline.open_results(results)["demo"]
    spec = ask(results, "slide/demo")
    scores = layer(spec, "scores-0-0")
    assert spec["mpp"] == [0.5, 0.5]
    assert scores["limits"] == [0, 1]
    for number, (level, plane) in enumerate(zip(stored.levels, scores["planes"], strict=True)):
        assert plane["step"] == [2**number, 2**number]
        assert plane["origin"] == [0, 0]
        tiles = whole(results, "demo", "scores-0-0", number, plane["shape"])
        np.testing.assert_array_equal(tiles, np.asarray(level[0]))


def test_tissue_and_coverage_are_classes_with_names(results: Path) -> None:
    stored = pipeline.open_results(results)["demo"]
    spec = ask(results, "slide/demo")
    tissue, coverage = layer(spec, "tissue"), layer(spec, "coverage")
    assert [each["name"] for each in tissue["classes"]] == ["tissue"]
    plane = tissue["planes"][0]
    shown = whole(results, "demo", "tissue", 0, plane["shape"])
    np.testing.assert_array_equal(shown.astype(bool), stored.tissue)
    assert {each["value"]: each["name"] for each in coverage["classes"]}[1] == "analysed"
    assert coverage["planes"][0]["step"] == [512, 512]
    np.testing.assert_array_equal(image(results, "tile/demo/coverage/0/0/0"), stored.coverage)


def test_objects_of_a_block_come_with_their_outlines(results: Path) -> None:
    table = pipeline.open_results(results)["demo"].objects()
    there = 0
    for row in range(3):
        for column in range(3):
            block = parsed(answer(catalogue_of(results), f"objects/demo/objects-1/{row}/{column}"))
            there += len(block.x)
            assert np.isin(block.x, table["x"].to_numpy().astype(np.float32)).all()
            for i in range(min(len(block.x), 5)):
                ring = block.points[slice(*block.starts[i : i + 2])]
                assert block.owners[i] == i
                np.testing.assert_array_equal(ring[0], ring[-1])
                assert (ring.min(axis=0) <= (block.x[i], block.y[i])).all()
                assert (ring.max(axis=0) >= (block.x[i], block.y[i])).all()
    assert there == len(table) > 100


@dataclass
class Parsed:
    x: NDArray[np.float32]
    y: NDArray[np.float32]
    starts: NDArray[np.uint32]
    owners: NDArray[np.uint32]
    points: NDArray[np.float32]


def parsed(reply: Any) -> Parsed:
    content = reply.content
    length = int.from_bytes(content[:4], "little")
    head = json.loads(content[4 : 4 + length])
    rest = memoryview(content)[4 + length :]
    count, rings, points = head["count"], head["rings"], head["points"]
    assert head["classes"] == []  # of one class only
    assert len(rest) == 4 * (4 * count + 2 * rings + 1 + 2 * points)
    numbers = np.frombuffer(rest, "<f4")
    whole_numbers = np.frombuffer(rest, "<u4")
    return Parsed(
        numbers[:count],
        numbers[count : 2 * count],
        whole_numbers[4 * count : 4 * count + rings + 1],
        whole_numbers[4 * count + rings + 1 : 4 * count + 2 * rings + 1],
        numbers[4 * count + 2 * rings + 1 :].reshape(-1, 2),
    )


def test_the_density_counts_every_object_where_it_is(results: Path) -> None:
    stored = pipeline.open_results(results)["demo"]
    table = stored.objects()
    found = catalogue_of(results).find("demo")
    assert found is not None
    objects = found.layer("objects-1")
    assert isinstance(objects, ObjectLayer)
    x, y = table["x"].to_numpy(), table["y"].to_numpy()
    for number, plane in enumerate(objects.planes):
        cell = 512 / CELLS * 2**number
        counts, _, _ = np.histogram2d(y, x, [np.arange(n + 1) * cell for n in plane.shape])
        density = counts / (cell * 0.5 / 1000) ** 2
        expected = np.sqrt(np.minimum(density / HIGHEST, 1)) * 255
        shown = image(results, f"tile/demo/objects-1/{number}/0/0")
        np.testing.assert_allclose(shown, expected, atol=0.51)


def test_blocks_appear_as_they_are_written(results: Path, growing: Path) -> None:
    catalogue = catalogue_of(growing)
    assert isinstance(catalogue, Cohort)
    before = ask(catalogue, "slide/demo")
    assert before["state"] == "unfinished"
    finished = np.asarray(pipeline.open_results(results)["demo"].levels[1][0])
    shown = image(catalogue, "tile/demo/scores-0-0/1/0/0")
    expected = np.zeros_like(shown)
    for rows in (slice(0, 256), slice(256, 512)):
        expected[rows, 256:512] = finished[rows, 256:512]
    np.testing.assert_array_equal(shown, expected)
    assert image(catalogue, "tile/demo/scores-0-0/1/0/1").max() == 0
    assert (image(catalogue, "tile/demo/coverage/0/0/0") == 1).sum() == 2
    new = "0/c/0/0/2"
    part = "objects/nuclei/part-00000-00002.parquet"
    for name in (new, part):
        shutil.copy(results / "demo.zarr" / name, growing / "demo.zarr" / name)
    state = ask(catalogue, "state/demo")
    assert state["stamp"] != before["stamp"]
    tile = image(catalogue, "tile/demo/scores-0-0/1/0/1")
    np.testing.assert_array_equal(tile[:256], finished[:256, 512:])
    assert tile[:256].max() > 100
    assert image(catalogue, "tile/demo/coverage/0/0/0")[0, 2] == Coverage.ANALYSED
    assert len(parsed(answer(catalogue, "objects/demo/objects-1/0/2")).x) > 0


def test_placements_are_the_same_before_the_end_as_after(results: Path, growing: Path) -> None:
    planes = [
        layer(ask(folder, "slide/demo"), "scores-0-0")["planes"] for folder in (results, growing)
    ]
    assert planes[0] == planes[1][: len(planes[0])]


def test_results_are_shown_without_their_slide(
    demo_slide: Path, results: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    shutil.copytree(results, folder)
    metadata = folder / "demo.zarr" / "zarr.json"
    metadata.write_text(metadata.read_text().replace(str(demo_slide), "/gone/demo.svs"))
    spec = ask(folder, "slide/demo")
    assert spec["shape"] == [1200, 1500]
    assert "/gone/demo.svs" in spec["notes"][0]
    assert "slide" not in [each["key"] for each in spec["layers"]]
    assert image(folder, "tile/demo/scores-0-0/1/0/0").max() > 100


def test_a_slide_that_changed_is_not_shown_under_its_old_results(
    results: Path, tmp_path: Path, demo_slide: Path
) -> None:
    folder = tmp_path / "results"
    shutil.copytree(results, folder)
    smaller = tmp_path / "smaller.svs"
    pipeline.demo.write_demo(smaller, 600, 600)
    metadata = folder / "demo.zarr" / "zarr.json"
    metadata.write_text(metadata.read_text().replace(str(demo_slide), str(smaller)))
    (note,) = ask(folder, "slide/demo")["notes"]
    assert "600 x 600 pixels now, and was 1500 x 1200" in note


def test_a_store_alone_and_a_slide_alone_can_be_looked_at(results: Path, demo_slide: Path) -> None:
    store = results / "demo.zarr"
    assert ask(store, "slides") == [{"id": "demo", "state": "done", "note": "", "shown": True}]
    assert "scores-0-0" in [each["key"] for each in ask(store, "slide/demo")["layers"]]
    alone = ask(demo_slide, "slide/demo")
    assert [each["key"] for each in alone["layers"]] == ["slide"]
    with pytest.raises(ConfigError, match="no such file or directory"):
        catalogue_of(results / "nothing")


@pytest.mark.parametrize(
    "question",
    [
        *("", "slide/", "slide/nobody", "slide/../demo", "tile/demo/slide/0/0", "files/demo"),
        *("tile/demo/slide/9/0/0", "tile/demo/slide/0/99/0", "tile/demo/other/0/0/0"),
        *("tile/demo/slide/-1/0/0", "objects/demo/slide/0/0", "tile/demo/slide/0/0/0/"),
        *("tile//etc/passwd/0/0/0", "slide/demo.zarr", "slide/demo\x00", "slide/\u0664"),
    ],
)
def test_what_is_no_question_has_no_answer(results: Path, question: str) -> None:
    with pytest.raises(UnknownQuestionError):
        answer(catalogue_of(results), question)


def test_links_out_of_the_results_are_not_followed(results: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    shutil.copy(results / "config.yaml", folder)
    (folder / "demo.zarr").symlink_to(results / "demo.zarr")
    (said,) = ask(folder, "slides")
    assert not said["shown"]
    assert "link" in said["note"]
    with pytest.raises(UnknownQuestionError, match="no such slide"):
        answer(catalogue_of(folder), "slide/demo")


@pytest.mark.parametrize(
    ("where", "old", "new", "said"),
    [
        ("zarr.json", '"channels": ["nucleus"]', '"channels": ["nucleus", "b"]', "has 1 channels"),
        ("zarr.json", '"channels": ["nucleus"]', '"channels": []', "its metadata name 0"),
        ("labels/tissue/zarr.json", '"label-value": ', '"label": ', "damaged"),
        ("labels/tissue/zarr.json", '"rgba": [', '"rgba": ["x", ', "damaged"),
    ],
)
def test_metadata_that_somebody_changed_are_damage(
    where: str, old: str, new: str, said: str, results: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    shutil.copytree(results, folder)
    file = folder / "demo.zarr" / where
    content = json.dumps(json.loads(file.read_text()))
    assert old in content
    file.write_text(content.replace(old, new))
    with pytest.raises(DamagedStoreError, match=said):
        answer(catalogue_of(folder), "slide/demo")


@pytest.fixture(scope="module")
def server(results: Path) -> Iterator[Serving]:
    with serving(catalogue_of(results)) as started:
        yield started


def test_who_has_the_token_is_answered(server: Serving) -> None:
    status, content = server.get("/ask/slides")
    assert status == 200
    assert json.loads(content)[0]["id"] == "demo"


@pytest.mark.parametrize("token", ["", "x", "\u00e4"])
def test_without_the_token_nothing_is_told(server: Serving, token: str) -> None:
    for path in ("/ask/slides", "/ask/maps", "/ask/nothing", "/ask/tile/demo/slide/0/0/0"):
        status, content = server.get(path, {"X-Viewer-Token": token.encode().decode("latin-1")})
        assert status == 403
        assert b"demo" not in content


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:80"},
        {"Host": "localhost@evil.example"},
        {"Host": "["},
        {"Host": "192.168.1.5"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_requests_of_elsewhere_are_refused_with_the_token_too(
    server: Serving, headers: dict[str, str]
) -> None:
    for path in ("/", "/viewer.js", "/ask/slides", "/nothing"):
        status, _ = server.get(path, headers)
        assert status in (400, 403)


def test_a_tunnels_port_and_localhost_are_this_server(server: Serving) -> None:
    for host in ("localhost:9999", "127.0.0.1:1", "[::1]:5"):
        status, _ = server.get("/ask/slides", {"Host": host, "Origin": f"http://{host}"})
        assert status == 200


@pytest.mark.parametrize(
    "path",
    [
        *("/../../etc/passwd", "/ask/../page.js", "/%2e%2e/%2e%2e/etc/passwd", "/ask/slide/.."),
        *("/ask/slide/%2e%2e%2f%2e%2e%2fetc", "/page/viewer.js", "/static/index.html"),
        *("/ask/slide/demo%2f..%2fdemo", "/ask/slide/demo%00", "/index.html", "//etc/passwd"),
        *("/ask/slide/%252e%252e%252fdemo", "/ask/slide/..%5c..%5cetc%5cpasswd", "/..%5cpage.js"),
        *("/ask/slide/..;/demo", "/%252e%252e/etc/passwd"),
        *("/ask/slide/..\\demo", "/ask/thumbnail/..%2f..%2fdemo.svs", "/ask/tile/../slide/0/0/0"),
    ],
)
def test_no_path_leads_out(server: Serving, path: str) -> None:
    status, content = server.get(path)
    assert status == 404
    assert b"root:" not in content


def test_every_answer_says_what_a_browser_must_not_do(server: Serving) -> None:
    for path in ("/", "/viewer.js", "/ask/slides", "/nothing"):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.request("GET", path)
        reply = connection.getresponse()
        reply.read()
        connection.close()
        assert reply.headers["Content-Security-Policy"].startswith("default-src 'self'; ")
        assert reply.headers["Referrer-Policy"] == "no-referrer"
        assert reply.headers["Cache-Control"] == "no-store"
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in reply.headers
        assert reply.headers["Server"] is None


def test_questions_nobody_waits_for_are_dropped_in_silence(
    server: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    lines = ["GET /ask/tile/demo/slide/0/0/0 HTTP/1.1", "Host: localhost"]
    request = "\r\n".join([*lines, f"X-Viewer-Token: {server.token}", "", ""])
    for _ in range(3):
        waiting = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
        for each in waiting:
            each.sendall(request.encode())
        for each in waiting:
            each.close()
    assert server.get("/ask/slides")[0] == 200
    assert not [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]


def test_only_asking_is_possible(server: Serving) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.request(method, "/ask/slides", headers={"X-Viewer-Token": server.token})
        assert connection.getresponse().status == 405
        connection.close()


def test_a_server_for_others_goes_by_its_addresses_and_its_name() -> None:
    names = host_names("0.0.0.0")  # noqa: S104 - nothing is bound
    assert refusal({"Host": "192.168.1.5:80"}, names) is None
    assert refusal({"Host": f"{socket.gethostname().lower()}:80"}, names) is None
    assert refusal({"Host": "evil.example"}, names) is not None
    assert "192.168.1.5" in (refusal({"Host": "192.168.1.5"}, host_names("127.0.0.1")) or "")


def test_tokens_are_compared_whole() -> None:
    assert token_fits("abc", "abc")
    assert not any(token_fits(given, "abc") for given in (None, "", "ab", "abcd", "\u00e4bc"))


def test_who_can_look_is_said() -> None:
    assert list(notes("127.0.0.1", 1, "t", {})) == []
    (tunnel,) = notes("127.0.0.1", 8765, "t", {"SSH_CONNECTION": "x"})
    assert "ssh -N -L 8765:127.0.0.1:8765" in tunnel
    (warning,) = notes("0.0.0.0", 1, "t", {})  # noqa: S104 - nothing is bound
    assert "whoever can reach this machine" in warning
    assert address("::1", 5, "t") == "http://[::1]:5/#t=t"


def test_a_port_that_is_taken_is_said(demo_slide: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = _command(demo_slide, "--port", str(port))
        assert done.wait(30) == 2
        assert done.stdout is not None
        assert "leave --port out" in done.stdout.read()
        done.stdout.close()


def test_the_command_says_where_and_ends_with_an_interrupt(demo_slide: Path) -> None:
    running = _command(demo_slide)
    assert running.stdout is not None
    line = running.stdout.readline()
    port = int(line.split("127.0.0.1:")[1].split("/")[0])
    token = line.strip().split("#t=")[1]
    assert Serving(port, token).get("/ask/slides")[0] == 200
    running.send_signal(signal.SIGINT)
    assert running.wait(20) == 0
    assert running.stdout.read() == "Ctrl-C ends it\n"
    running.stdout.close()


def _command(slide: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipeline", "view", str(slide), "--no-browser", *more]
    environment = {name: value for name, value in os.environ.items() if name != "SSH_CONNECTION"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


def test_the_module_stands_alone() -> None:
    for text in (module(), widget_module()):
        assert "import " not in text.replace("important ", "")
        assert "http" not in text
    assert module().count("export async function mount") == 1
    assert widget_module().count("export default") == 1


def test_truth_is_where_the_scores_are(results: Path, demo_slide: Path) -> None:
    truth = read_truth(demo_slide)
    scores = whole(results, "demo", "scores-0-0", 0, [1200, 1500])
    x, y = truth.nuclei.astype(int).T
    assert np.median(scores[y, x]) > 128
    assert np.median(scores) < 30
