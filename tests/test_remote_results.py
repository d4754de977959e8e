"""Slides from buckets, results into buckets: as on a disk, killed or not, and no key in them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import pipeline
from pipeline.batch.converting import convert
from pipeline.books.names import CONFIG
from pipeline.cli import cli
from pipeline.config.runfile import load_config
from pipeline.errors import ConfigError, SlideError, StoreError
from pipeline.files import cloud, places
from pipeline.files.cloud import stores
from pipeline.manifest.jobs import jobs
from pipeline.readers.staging import CACHE_VARIABLE
from pipeline.results import StoredSlide, open_results
from pipeline.store import look, withdraw
from pipeline.store.array import done, drop
from tests import servers
from tests.toys import noise, write_tiff

BLOCKS = 16  # 400 x 500 in blocks of 128


@pytest.fixture
def run_file(tmp_path: Path, toy_model: Callable[..., Path]) -> Path:
    write_tiff(tmp_path / "noise.tiff", noise(400, 500))
    path = tmp_path / "run.yaml"
    path.write_text(
        f"slides: noise.tiff\nmodel: {toy_model('neighbours', outputs={'range': [0, 128]})}\n"
        "output: {block: 128, directory: results}\ntissue: {method: none}\nexport: [overview]\n"
        "cluster: {kind: threads, workers: 2, dashboard: none}\n"
    )
    return path


def run(run_file: Path, directory: str, *overrides: str) -> StoredSlide:
    summary = pipeline.run(load_config(run_file, [f"output.directory={directory}", *overrides]))
    assert summary.complete, summary.outcomes[0].reason
    assert summary.directory == directory
    return open_results(directory)["noise"]


def assert_same(one: StoredSlide, other: StoredSlide) -> None:
    assert (one.state, one.channels, one.placements) == (
        other.state,
        other.channels,
        other.placements,
    )
    np.testing.assert_array_equal(one.coverage, other.coverage)
    np.testing.assert_array_equal(one.tissue, other.tissue)
    for a, b in zip(one.levels, other.levels, strict=True):
        np.testing.assert_array_equal(
            a.compute(scheduler="synchronous"), b.compute(scheduler="synchronous")
        )


def test_results_in_a_bucket_are_those_on_a_disk(
    bucket: str, run_file: Path, tmp_path: Path
) -> None:
    local = run(run_file, str(tmp_path / "results"))
    remote = run(run_file, bucket)
    assert remote.path == f"{bucket}/noise.zarr"
    assert_same(local, remote)
    objects = {name for name, _ in cloud.below(bucket)}
    folder = tmp_path / "results"
    assert objects == {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert cloud.read(f"{bucket}/noise.overview.png").startswith(b"\x89PNG")
    everything = b"".join(cloud.read(f"{bucket}/{name}") for name in objects)
    for secret in (servers.ACCESS, servers.SECRET):
        assert secret.encode() not in everything
    told = CliRunner().invoke(cli, ["status", bucket])
    assert told.exit_code == 0, told.output
    assert "noise" in told.output


def test_a_finished_run_in_a_bucket_is_left_alone_and_a_stale_one_refused(
    bucket: str, run_file: Path
) -> None:
    run(run_file, bucket)
    before = {name: cloud.fetch(f"{bucket}/{name}", 0, 1)[1] for name, _ in cloud.below(bucket)}
    run(run_file, bucket)
    shards = [name for name in before if "/c/" in name]
    assert len(shards) > BLOCKS
    assert {name: cloud.fetch(f"{bucket}/{name}", 0, 1)[1] for name in shards} == {
        name: before[name] for name in shards
    }
    with pytest.raises(AssertionError, match=r"was begun with output\.dtype = 'uint8'"):
        run(run_file, bucket, "output.dtype=float32")
    assert "dtype: uint8" in places.read_text(f"{bucket}/{CONFIG}"), "refused, it keeps its own"


def test_dropped_blocks_in_a_bucket_are_computed_again(bucket: str, run_file: Path) -> None:
    first = run(run_file, bucket)
    array = first.outputs[0]
    whole = first.levels[0].compute(scheduler="synchronous")
    withdraw(first.path)
    drop(array, [(0, 1), (3, 3)])
    assert len(done(array)) == BLOCKS - 2
    assert open_results(bucket)["noise"].state == "unfinished"
    again = run(run_file, bucket)
    assert again.state == "done"
    np.testing.assert_array_equal(again.levels[0].compute(scheduler="synchronous"), whole)


def test_worker_processes_write_to_a_bucket(bucket: str, run_file: Path, tmp_path: Path) -> None:
    local = run(run_file, str(tmp_path / "results"))
    remote = run(run_file, bucket, "cluster.kind=local", "cluster.workers=2")
    assert_same(local, remote)


def test_a_run_into_a_bucket_that_was_killed_goes_on_where_it_was(
    seaweed: servers.S3, run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    directory = f"s3://test/{tmp_path.name}"
    write_tiff(tmp_path / "noise.tiff", noise(1200, 1500))
    overrides = ["cluster.workers=1", "output.block=128"]
    command = [sys.executable, "-m", "pipeline", "run", str(run_file)]
    for override in (f"output.directory={directory}", *overrides):
        command += ["-o", override]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    patient_until = time.monotonic() + 120
    while _shards(directory) < 5:
        assert process.poll() is None
        assert time.monotonic() < patient_until
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    left = 10 * 12 - _shards(directory)
    assert 0 < left <= 115
    seen = look(f"{directory}/noise.zarr")
    assert seen is not None
    assert not seen.committed
    summary = pipeline.run(load_config(run_file, [f"output.directory={directory}", *overrides]))
    assert summary.outcomes[0].computed == left
    local = run(run_file, str(tmp_path / "whole"), *overrides)
    assert_same(local, open_results(directory)["noise"])


def _shards(directory: str) -> int:
    names = [name for name, _ in cloud.below(f"{directory}/noise.zarr/0")]
    return sum(name.startswith("c/") for name in names)


def test_a_store_killed_while_it_was_made_starts_anew(bucket: str, run_file: Path) -> None:
    whole = run(run_file, bucket)
    begun = places.read_text(f"{whole.path}/zarr.json")
    cloud.write(f"{whole.path}/zarr.json", begun.replace('"settings"', '"never"').encode())
    seen = look(whole.path)
    assert seen is not None
    assert seen.settings is None
    assert run(run_file, bucket).state == "done"


def test_what_is_no_store_is_left_alone(bucket: str, run_file: Path) -> None:
    cloud.write(f"{bucket}/noise.zarr/important.txt", b"mine")
    with pytest.raises(AssertionError, match="exists and is not a results store; move it away"):
        run(run_file, bucket)
    assert cloud.read(f"{bucket}/noise.zarr/important.txt") == b"mine"


def test_a_damaged_store_in_a_bucket_is_one_clear_error(bucket: str, run_file: Path) -> None:
    stored = run(run_file, bucket)
    cloud.write(f"{stored.path}/coverage/zarr.json", b"{")
    with pytest.raises(StoreError, match=rf"{stored.path}: damaged: .*, or remove the store"):
        _ = stored.coverage


def test_where_no_results_can_be_is_said_before_anything_is_read(
    bucket: str, run_file: Path, monkeypatch: pytest.MonkeyPatch, web: servers.Web
) -> None:
    with pytest.raises(StoreError, match="no such directory; run first"):
        open_results(f"{bucket}/none")
    with pytest.raises(ConfigError, match="web server"):
        run(run_file, f"{web.url}/results")
    monkeypatch.setattr(stores, "LIMITS", stores.Limits(1, 1, 1, 2))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"output\.directory: s3://.*: nobody answers there"):
        run(run_file, bucket)
    with pytest.raises(StoreError, match="nobody answers there"):
        open_results(bucket)


def test_a_bucket_lost_on_the_way_costs_the_slide_a_clear_line(
    seaweed: servers.S3, run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    stored = run(run_file, f"s3://test/{tmp_path.name}")
    array = stored.outputs[0]
    monkeypatch.setattr(stores, "LIMITS", stores.Limits(1, 1, 1, 2))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match=r"noise\.zarr.*: nobody answers there"):
        drop(array, [(0, 0)])


def test_slides_in_a_bucket_are_found_by_folder_and_pattern(bucket: str, run_file: Path) -> None:
    for name in ("a.svs", "b.tiff", ".hidden.svs", "notes.txt", "deep/er/c.svs", "deep/d.svs"):
        cloud.write(f"{bucket}/{name}", b"x")

    def found(*slides: str) -> list[str]:
        config = load_config(run_file).model_copy(update={"slides": list(slides)})
        return [job.path.removeprefix(f"{bucket}/") for job in jobs(config)]

    assert found(f"{bucket}/") == found(bucket) == ["a.svs", "b.tiff"]
    assert found(f"{bucket}/*.svs") == [".hidden.svs", "a.svs"]
    assert found(f"{bucket}/deep/**/*.svs") == ["deep/d.svs", "deep/er/c.svs"]
    assert found(f"{bucket}/a.svs", f"{bucket}/*.tiff") == ["a.svs", "b.tiff"]
    with pytest.raises(ConfigError, match="no object matches; check the pattern"):
        found(f"{bucket}/*.ndpi")
    with pytest.raises(ConfigError, match="no slide in this folder; endings looked for"):
        found(f"{bucket}/none/")


def test_a_slide_behind_a_signed_url_is_run_and_its_signature_kept_nowhere(
    web: servers.Web, run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    web.files["/slides/noise.tiff"] = (tmp_path / "noise.tiff").read_bytes()
    url = f"{web.url}/slides/noise.tiff?signature=secret"
    local = run(run_file, str(tmp_path / "local"))
    remote = run(run_file, str(tmp_path / "list"), f"slides=['{url}']", "cluster.kind=local")
    assert_same(local, remote)
    run(run_file, str(tmp_path / "one"), f"slides={url}")
    for folder in ("list", "one", "cache"):
        for file in (tmp_path / folder).rglob("*"):
            assert file.is_dir() or b"secret" not in file.read_bytes()
    kept = [(tmp_path / folder / CONFIG).read_text() for folder in ("list", "one")]
    assert [f"{web.url}/slides/noise.tiff\n" in text for text in kept] == [True, True]
    web.trouble = "404"
    monkeypatch.setattr("pipeline.readers.remote.FRESH_S", 0.0)
    gone = [f"slides={url}", f"output.directory={tmp_path / 'gone'}"]
    (outcome,) = pipeline.run(load_config(run_file, gone)).outcomes
    assert outcome.reason == f"{web.url}/slides/noise.tiff: no such object; check the URL"


def test_a_slide_in_a_bucket_is_read_tile_by_tile(
    bucket: str, run_file: Path, tmp_path: Path
) -> None:
    cloud.write(f"{bucket}/slides/noise.tiff", (tmp_path / "noise.tiff").read_bytes())
    near, far = (
        pipeline.open_slide(tmp_path / "noise.tiff"),
        pipeline.open_slide(f"{bucket}/slides/noise.tiff"),
    )
    assert (far.ref.reader, far.name, far.path) == ("tiff", "noise", f"{bucket}/slides/noise.tiff")
    np.testing.assert_array_equal(near.levels[0].compute(), far.levels[0].compute())
    local = run(run_file, str(tmp_path / "results"))
    remote = run(run_file, f"{bucket}/results", f"slides={bucket}/slides/*.tiff")
    assert_same(local, remote)


def test_opening_a_slide_over_http_and_reading_a_region_moves_little(
    web: servers.Web, shared_data: Path
) -> None:
    """The issue's bound: at most 10 requests and less than 1 MB, of 24 MB."""
    file = shared_data / "slides" / "erosion-HE.svs"
    web.files["/erosion.svs"] = file.read_bytes()
    slide = pipeline.open_slide(f"{web.url}/erosion.svs")
    region = slide.levels[0][8100:9124, 6000:7024].compute()  # 6 x 5 tiles
    assert len(web.requests) <= 10, web.requests
    assert web.sent < 10**6
    expected = pipeline.open_slide(file, reader="openslide").levels[0][8100:9124, 6000:7024]
    np.testing.assert_array_equal(region, expected.compute())


def test_a_slide_is_converted_into_a_bucket_and_read_from_it(
    bucket: str, run_file: Path, tmp_path: Path
) -> None:
    near = pipeline.open_slide(tmp_path / "noise.tiff")
    converted = convert(near, f"{bucket}/noise.zarr", block=256)
    assert converted.complete
    far = pipeline.open_slide(f"{bucket}/noise.zarr/")
    assert (far.ref.reader, far.name) == ("zarr", "noise")
    np.testing.assert_array_equal(near.levels[0].compute(), far.levels[0].compute())
    assert convert(near, f"{bucket}/noise.zarr", block=256).computed == 0
    shard = f"{bucket}/noise.zarr/0/c/0/0/0"
    cloud.write(shard, cloud.read(shard)[:1000])
    with pytest.raises(SlideError, match=rf"{bucket}/noise\.zarr: cannot read level 0"):
        pipeline.open_slide(f"{bucket}/noise.zarr").levels[0].compute()


def test_ome_zarr_is_read_from_a_web_server(
    web: servers.Web, run_file: Path, tmp_path: Path
) -> None:
    near = pipeline.open_slide(tmp_path / "noise.tiff")
    convert(near, tmp_path / "noise.zarr", block=256)
    for file in (tmp_path / "noise.zarr").rglob("*"):
        if file.is_file():
            web.files[f"/slides/{file.relative_to(tmp_path)}"] = file.read_bytes()
    far = pipeline.open_slide(f"{web.url}/slides/noise.zarr?signature=secret")
    assert far.path == f"{web.url}/slides/noise.zarr"
    np.testing.assert_array_equal(near.levels[0].compute(), far.levels[0].compute())
    assert all("signature=secret" in request for request in web.requests)
    with pytest.raises(SlideError, match=r"none\.zarr: no zarr group there; check the URL"):
        pipeline.open_slide(f"{web.url}/none.zarr")
    web.trouble = "403"
    with pytest.raises(SlideError, match="the server refuses access"):
        far.levels[0].compute()


def test_ome_zarr_in_a_bucket_is_a_slide_where_results_are_none(
    bucket: str, run_file: Path, tmp_path: Path
) -> None:
    near = pipeline.open_slide(tmp_path / "noise.tiff")
    convert(near, f"{bucket}/image.zarr", block=256)
    run(run_file, bucket)
    config = load_config(run_file).model_copy(update={"slides": f"{bucket}/"})
    assert [job.path for job in jobs(config)] == [f"{bucket}/image.zarr"]
