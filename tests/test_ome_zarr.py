"""OME-Zarr as slides: written by tools not ours, or by hand in every way the format allows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ngff_zarr
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numcodecs import Blosc

from pipeline.config.runfile import load_config
from pipeline.errors import SlideError
from pipeline.geometry import Box
from pipeline.manifest.jobs import jobs
from pipeline.readers.multiscales import is_ome_zarr
from pipeline.readers.ome_zarr import OmeZarrReader, open_reader
from pipeline.slide import open_slide
from tests.contracts import check_opener, check_reader
from tests.toys import Pixels, halved, noise

RGB = noise(330, 401)


def write(
    path: Path,
    rgb: Pixels = RGB,
    *,
    axes: str = "cyx",
    named: str | None = None,
    version: str = "0.5",
    levels: int = 2,
    scale: float | None = 0.25,
    unit: str | None = "micrometer",
    **array: Any,
) -> Path:
    """Write ``(y, x, c)`` pixels by hand, as zarr v2 for 0.4 and v3 for 0.5."""
    group = zarr.open_group(str(path), mode="w", zarr_format=2 if version == "0.4" else 3)
    datasets = []
    for level in range(levels):
        rgb = halved(rgb) if level else rgb
        planes = {"y": rgb.shape[0], "x": rgb.shape[1], "c": rgb.shape[2]}
        order = ["yxc".index(axis) for axis in axes if axis in "yxc"]
        spatial = (rgb if "c" in axes else rgb[..., 0]).transpose(order)
        stored = spatial.reshape([planes.get(axis, 1) for axis in axes])
        chunks = tuple({"y": 128, "x": 100, "c": 1}.get(axis, 1) for axis in axes)
        options = {"chunks": chunks, "chunk_key_encoding": _separator(version), **array}
        made = group.create_array(str(level), shape=stored.shape, dtype=stored.dtype, **options)
        made[:] = stored
        sizes = [
            (scale if scale is not None else 1) * 2**level if axis in "yx" else 1.0 for axis in axes
        ]
        dataset: dict[str, Any] = {"path": str(level)}
        if scale is not None:
            dataset["coordinateTransformations"] = [{"type": "scale", "scale": sizes}]
        datasets.append(dataset)
    describe(group, version, [_axis(axis, unit) for axis in named or axes], datasets)
    return path


def _separator(version: str) -> dict[str, Any]:
    return {"name": "v2" if version == "0.4" else "default", "separator": "/"}


def _axis(name: str, unit: str | None) -> dict[str, str]:
    kind = {"c": "channel", "t": "time"}.get(name, "space")
    return {"name": name, "type": kind, **({"unit": unit} if unit and name in "yx" else {})}


def describe(group: zarr.Group, version: str, axes: Any, datasets: Sequence[Any]) -> None:
    described = {"name": "by hand", "axes": axes, "datasets": datasets}
    if version == "0.4":
        group.attrs["multiscales"] = [{**described, "version": "0.4"}]
    else:
        group.attrs["ome"] = {"version": version, "multiscales": [described]}


def whole(reader: OmeZarrReader, level: int = 0) -> Pixels:
    return reader.read(level, Box(0, 0, *reader.metadata.levels[level].shape))


@pytest.mark.parametrize(("version", "sharded"), [("0.4", False), ("0.5", False), ("0.5", True)])
def test_what_ngff_zarr_writes_is_a_slide(version: str, sharded: bool, tmp_path: Path) -> None:
    image = ngff_zarr.to_ngff_image(
        RGB,
        dims=("y", "x", "c"),
        scale={"y": 0.5, "x": 0.25},
        axes_units={"y": "micrometer", "x": "micrometer"},
    )
    pyramid = ngff_zarr.to_multiscales(image, scale_factors=[2, 4], chunks=128)
    path = tmp_path / "a.zarr"
    options: dict[str, Any] = {"chunks_per_shard": 2} if sharded else {}
    ngff_zarr.to_ngff_zarr(str(path), pyramid, version=version, **options)
    stored_in = zarr.open_array(str(path), path=pyramid.metadata.datasets[0].path, mode="r")
    assert (stored_in.shards is not None) == sharded
    reader = open_reader(str(path))
    check_reader(reader)
    np.testing.assert_array_equal(whole(reader), RGB)
    mpp = reader.metadata.mpp
    assert mpp is not None
    assert (mpp.y, mpp.x, mpp.source) == (0.5, 0.25, "header")
    assert [level.downsample for level in reader.metadata.levels] == [(1, 1), (2, 2), (4, 4)]
    assert reader.metadata.levels[0].tile == (128, 128)
    coarse = np.asarray(pyramid.images[2].data).astype(int)
    stored = coarse if coarse.shape[-1] == 3 else coarse.transpose(1, 2, 0)
    np.testing.assert_array_equal(whole(reader, 2), stored)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["cyx", "yxc", "tczyx", "cxy", "zyxc"])
def test_axes_may_come_in_any_order(axes: str, version: str, tmp_path: Path) -> None:
    reader = open_reader(str(write(tmp_path / "a.zarr", axes=axes, version=version)))
    check_reader(reader)
    np.testing.assert_array_equal(whole(reader), RGB)
    np.testing.assert_array_equal(whole(reader, 1), halved(RGB))


@pytest.mark.parametrize("axes", ["yx", "cyx", "tczyx"])
def test_grey_is_given_three_times(axes: str, tmp_path: Path) -> None:
    reader = open_reader(str(write(tmp_path / "a.zarr", RGB[..., :1], axes=axes, levels=1)))
    check_reader(reader)
    np.testing.assert_array_equal(whole(reader), np.repeat(RGB[..., :1], 3, axis=2))


def test_shards_and_the_compressors_of_others_are_read(tmp_path: Path) -> None:
    sharded = write(tmp_path / "s.zarr", shards=(3, 256, 200), chunks=(3, 128, 100))
    blosc = write(tmp_path / "b.zarr", version="0.4", compressors=Blosc(cname="lz4"))
    for path in (sharded, blosc):
        reader = open_reader(str(path))
        np.testing.assert_array_equal(whole(reader), RGB)
        assert reader.metadata.levels[0].tile == (128, 100)


@pytest.mark.parametrize(
    ("unit", "scale", "mpp"),
    [
        ("micrometer", 0.25, 0.25),
        ("nanometer", 250, 0.25),
        ("millimeter", 0.0005, 0.5),
        ("µm", 0.25, 0.25),
        ("Micrometres", 0.25, 0.25),
        (None, 0.25, None),
        ("pixel", 1, None),
        ("furlong", 1, None),
        ("micrometer", 0, None),
        ("micrometer", -1, None),
        ("micrometer", float("nan"), None),
        ("micrometer", None, None),
    ],
)
def test_micrometres_come_from_scale_and_unit(
    unit: str | None, scale: float | None, mpp: float | None, tmp_path: Path
) -> None:
    reader = open_reader(str(write(tmp_path / "a.zarr", unit=unit, scale=scale)))
    found = reader.metadata.mpp
    if mpp is None:
        assert found is None
    else:
        assert found is not None
        assert (found.y, found.x) == pytest.approx((mpp, mpp), rel=1e-12)
    assert reader.metadata.levels[1].downsample == (2.0, 2.0)


def test_transformations_of_the_whole_image_count(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", scale=1.0)
    group = zarr.open_group(str(path), mode="r+")
    ome: Any = group.attrs["ome"]
    ome["multiscales"][0]["coordinateTransformations"] = [
        {"type": "scale", "scale": [1.0, 0.5, 0.25]}
    ]
    group.attrs["ome"] = ome
    mpp = open_reader(str(path)).metadata.mpp
    assert mpp is not None
    assert (mpp.y, mpp.x) == (0.5, 0.25)


def test_the_largest_image_of_a_bioformats2raw_folder_is_the_slide(tmp_path: Path) -> None:
    root = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    write(tmp_path / "a.zarr" / "0", noise(200, 150, 1), axes="tczyx", version="0.4")
    write(tmp_path / "a.zarr" / "1", axes="tczyx", version="0.4")
    unlisted = open_reader(str(tmp_path / "a.zarr"))
    np.testing.assert_array_equal(whole(unlisted), RGB)
    root.create_group("OME").attrs["series"] = ["0"]
    listed = open_reader(str(tmp_path / "a.zarr"))
    np.testing.assert_array_equal(whole(listed), noise(200, 150, 1))
    assert dict(listed.metadata.properties)["ome-zarr.path"] == "0"


def test_a_chunk_that_is_not_stored_is_what_the_array_says(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", fill_value=255)
    (path / "0" / "c" / "1" / "0" / "0").unlink()
    pixels = whole(open_reader(str(path)))
    expected = RGB.copy()
    expected[:128, :100, 1] = 255
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("damage", ["empty", "cut", "noise"])
def test_a_broken_chunk_is_named_and_the_others_are_read(
    damage: str, sharded: bool, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"shards": (3, 256, 200)} if sharded else {}
    path = write(tmp_path / "a.zarr", **options)
    broken = path / "0" / "c" / "0" / "0" / "0"
    good = broken.read_bytes()
    broken.write_bytes({"empty": b"", "cut": good[: len(good) // 2], "noise": b"x" * 999}[damage])
    reader = open_reader(str(path))
    with pytest.raises(SlideError, match=r"a\.zarr: cannot read level 0, rows 7:17, columns 3:9"):
        reader.read(0, Box(7, 3, 10, 6))
    np.testing.assert_array_equal(reader.read(0, Box(257, 300, 70, 99)), RGB[257:327, 300:399])


def test_the_identity_stays_with_a_copy_and_changes_with_the_pixels(tmp_path: Path) -> None:
    def identity(path: Path) -> str:
        return open_reader(str(path)).metadata.identity

    one, same = write(tmp_path / "one.zarr"), write(tmp_path / "same.zarr")
    group = zarr.open_group(str(same), mode="r+")
    group.attrs["omero"] = {"channels": []}
    assert identity(one) == identity(same)
    changed = RGB.copy()
    changed[200:300, 200:300] += 40
    others = [
        write(tmp_path / "a.zarr", changed),
        write(tmp_path / "b.zarr", scale=0.5),
        write(tmp_path / "c.zarr", levels=1),
        write(tmp_path / "d.zarr", RGB[:-2]),
    ]
    assert len({identity(path) for path in [one, *others]}) == 5


def test_a_large_coarsest_level_is_sampled_for_the_identity(tmp_path: Path) -> None:
    large = noise(2100, 2200)
    path = write(tmp_path / "a.zarr", large, levels=1)
    before = open_reader(str(path)).metadata.identity
    zarr.open_array(str(path), path="0", mode="r+")[:, 2000:, 2100:] = 0
    assert open_reader(str(path)).metadata.identity != before


def _with(change: Callable[[zarr.Group, dict[str, Any]], None]) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        write(path)
        group = zarr.open_group(str(path), mode="r+")
        ome: Any = group.attrs["ome"]
        change(group, ome["multiscales"][0])
        group.attrs["ome"] = ome
        return path

    return make


def _far(_: zarr.Group, image: dict[str, Any]) -> None:
    moved = {"type": "translation", "translation": [0, 50.0, 0]}
    image["datasets"][1]["coordinateTransformations"].append(moved)


def _swapped(_: zarr.Group, image: dict[str, Any]) -> None:
    image["datasets"].reverse()


REFUSED: Mapping[str, tuple[Callable[[Path], Any], str]] = {
    "16 bits": (lambda p: write(p, RGB.astype(np.uint16)), "pixels are uint16; a slide is uint8"),
    "channels": (
        lambda p: write(p, noise(64, 64)[..., [0, 1]], levels=1),
        "2 channels; a slide has 3",
    ),
    "depth": (lambda p: write(p, named="zyx"), "3 along z; a slide is one plane"),
    "strange axes": (
        _with(lambda _, image: image.update(axes=[{"name": n} for n in ("c", "row", "x")])),
        "axes c, row, x",
    ),
    "no axes": (_with(lambda _, image: image.pop("axes")), "without axes; 0.4 and 0.5 are read"),
    "missing level": (_with(lambda group, _: group.__delitem__("1")), "cannot be opened"),
    "other area": (_with(_far), r"level 1 begins 100, 0 .* from the first"),
    "coarse first": (_with(_swapped), "cannot show the same area"),
    "no datasets": (_with(lambda _, image: image.update(datasets=[])), "no datasets"),
    "an array": (lambda p: zarr.open_array(str(p), mode="w", shape=(3, 3), dtype="u1"), "one zarr"),
    "no image": (lambda p: zarr.open_group(str(p), mode="w"), "without an OME-Zarr image"),
    "plate": (
        lambda p: zarr.open_group(str(p), mode="w", attributes={"ome": {"plate": {}}}),
        "a plate of many images",
    ),
    "results": (
        lambda p: zarr.open_group(str(p), mode="w", attributes={"wsi_pipeline": {"format": 1}}),
        "the results of a model, not a slide",
    ),
    "huge chunks": (
        lambda p: zarr.open_group(str(write(p)), mode="r+").create_array(
            "0", shape=(3, 10**5, 10**5), chunks=(3, 10**5, 10**5), dtype="u1", overwrite=True
        ),
        "more than 1 GiB each",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_slide_is_refused_with_the_reason(what: str, tmp_path: Path) -> None:
    make, reason = REFUSED[what]
    make(tmp_path / "a.zarr")
    with pytest.raises(SlideError, match=rf"a\.zarr.*{reason}"):
        open_reader(str(tmp_path / "a.zarr"))


def test_a_fill_value_that_its_type_cannot_hold_is_a_slide_s_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", version="0.5")
    metadata = path / "0" / "zarr.json"
    metadata.write_text(json.dumps({**json.loads(metadata.read_text()), "fill_value": -1}))
    with pytest.raises(SlideError, match=r"a\.zarr"):
        open_slide(path)


@pytest.mark.parametrize("name", ["zarr.json", "0/zarr.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"zarr_format": 3}'])
def test_damaged_metadata_are_a_slide_error(name: str, content: bytes, tmp_path: Path) -> None:
    write(tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / name).write_bytes(content)
    with pytest.raises(SlideError, match=r"a\.zarr"):
        open_reader(str(tmp_path / "a.zarr"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 5) | st.floats() | st.text("0cyxtz", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=4,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_whatever_the_metadata_say_only_a_slide_error_comes_out(
    data: st.DataObject, small_store: Path
) -> None:
    metadata = json.loads((small_store / "original.json").read_text())
    place: Any = metadata["attributes"]["ome"]["multiscales"]
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(json_values)
    (small_store / "a.zarr" / "zarr.json").write_text(json.dumps(metadata))
    try:
        reader = open_reader(str(small_store / "a.zarr"))
        whole(reader, len(reader.metadata.levels) - 1)
    except SlideError as error:
        assert "a.zarr" in str(error)  # noqa: PT017 - either way is right


@pytest.fixture(scope="module")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    path = write(folder / "a.zarr", RGB[:80, :60])
    (folder / "original.json").write_text((path / "zarr.json").read_text())
    return folder


def test_what_is_not_ome_zarr_is_a_slide_error(tmp_path: Path) -> None:
    check_opener(open_reader, tmp_path)


def test_an_ome_zarr_is_told_from_other_paths(tmp_path: Path) -> None:
    assert is_ome_zarr(str(write(tmp_path / "named as you like")))
    assert is_ome_zarr(str(write(tmp_path / "v2", version="0.4")))
    (tmp_path / "a.zarr").mkdir()
    assert not is_ome_zarr(str(tmp_path / "a.zarr"))
    assert not is_ome_zarr(str(tmp_path))
    assert is_ome_zarr("s3://bucket/a.ome.zarr/")
    assert is_ome_zarr("https://host/a.zarr?signature=1")
    assert not is_ome_zarr("https://host/a.svs")


def test_a_folder_of_slides_may_hold_ome_zarr_and_results_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "slides" / "a.zarr")
    write(tmp_path / "slides" / "b.zarr", version="0.4")
    (tmp_path / "slides" / "c.zarr").mkdir()
    results = write(tmp_path / "slides" / "d.zarr")
    zarr.open_group(str(results), mode="r+").attrs["wsi_pipeline"] = {"format": 1}
    (tmp_path / "run.yaml").write_text("slides: slides\nmodel: builtin:nuclei\n")
    (tmp_path / "one.yaml").write_text("slides: slides/a.zarr\nmodel: builtin:nuclei\n")
    found = jobs(load_config(tmp_path / "run.yaml"))
    assert [job.slide_id for job in found] == ["a", "b"]
    assert [job.slide_id for job in jobs(load_config(tmp_path / "one.yaml"))] == ["a"]


def test_an_ome_zarr_is_a_slide_like_any_other(tmp_path: Path) -> None:
    slide = open_slide(write(tmp_path / "a.zarr"), reader="zarr")
    np.testing.assert_array_equal(
        slide.levels[0][300:, 350:].compute(scheduler="synchronous"), RGB[300:, 350:]
    )
    assert slide.thumbnail(100).shape == (82, 100, 3)
    assert slide.facts()["mpp"] == "0.25 x 0.25 um/px (header)"
    with pytest.raises(SlideError, match="no-such"):
        slide.associated_image("no-such")
