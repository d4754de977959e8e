"""OME-Zarr in buckets and behind web servers: written there, and read as any slide."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.batch.converting import convert
from pipeline.errors import SlideError, StaleStoreError
from pipeline.files.cloud import stores
from pipeline.geometry import Box
from pipeline.readers.ome_zarr import open_reader
from pipeline.slide import Slide, open_slide
from tests.contracts import check_reader
from tests.servers import Web
from tests.test_ome_zarr import write
from tests.toys import noise, write_tiff

RGB = noise(330, 401)

pytestmark = pytest.mark.usefixtures("in_threads")


@pytest.fixture
def slide(tmp_path: Path) -> Slide:
    return open_slide(write_tiff(tmp_path / "a.tif", RGB))


def test_a_slide_is_converted_into_a_bucket_and_read_from_there(bucket: str, slide: Slide) -> None:
    url = f"{bucket}/a.zarr"
    made = convert(slide, url, block=128)
    assert (made.path, made.complete, made.computed) == (url, True, 12)
    assert convert(slide, url, block=128).computed == 0
    with pytest.raises(StaleStoreError, match=r"image\.block"):
        convert(slide, url, block=256)
    stored = open_slide(url)
    assert stored.ref.reader == "zarr"
    assert stored.metadata.vendor == slide.metadata.vendor
    np.testing.assert_array_equal(stored.levels[0].compute(), RGB)
    check_reader(open_reader(url))
    again = open_slide(url)
    assert again.ref == stored.ref
    convert(replace(slide, crop=Box(0, 0, 100, 100)), f"{bucket}/b.zarr")
    assert open_slide(f"{bucket}/b.zarr").ref.stamp != stored.ref.stamp


def serve(web: Web, path: Path, name: str) -> str:
    for file in path.rglob("*"):
        if file.is_file():
            web.files[f"/{name}/{file.relative_to(path).as_posix()}"] = file.read_bytes()
    return f"{web.url}/{name}"


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_ome_zarr_on_a_web_server_is_a_slide(version: str, web: Web, tmp_path: Path) -> None:
    url = serve(web, write(tmp_path / "a.zarr", RGB, version=version), "a b.zarr")
    url = url.replace(" ", "%20")
    slide = open_slide(f"{url}/")
    assert slide.ref.reader == "zarr"
    np.testing.assert_array_equal(slide.levels[0].compute(), RGB)


def test_of_a_shard_only_the_chunks_are_read_that_are_asked_for(
    web: Web, slide: Slide, tmp_path: Path
) -> None:
    convert(slide, tmp_path / "a.zarr", block=512, chunk=64)
    reader = open_reader(serve(web, tmp_path / "a.zarr", "a.zarr"))
    web.forget()
    np.testing.assert_array_equal(reader.read(0, Box(70, 70, 50, 50)), RGB[70:120, 70:120])
    assert len(web.requests) == 2  # the index, and one chunk
    assert web.sent < 2 * 3 * 64 * 64


def test_what_is_not_there_or_not_given_is_one_clear_error(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "LIMITS", stores.Limits(5.0, 5.0, 1, 5.0))
    with pytest.raises(SlideError, match=r"none\.zarr: no zarr group there; check the URL"):
        open_slide(f"{web.url}/none.zarr")
    with pytest.raises(SlideError, match=r"none\.zarr: no OME-Zarr is there; check the URL"):
        open_reader(f"{web.url}/none.zarr")
    url = serve(web, write(tmp_path / "a.zarr", RGB), "a.zarr")
    reader = open_reader(url)
    del web.files["/a.zarr/0/c/0/0/0"]  # a chunk that is not stored
    assert (reader.read(0, Box(0, 0, 9, 9))[..., 0] == 0).all()
    web.trouble = "503"
    with pytest.raises(
        SlideError, match=r"a\.zarr: cannot read level 0, .*: the server fails .503.*again later"
    ):
        reader.read(0, Box(0, 0, 9, 9))
