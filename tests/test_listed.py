"""What a manifest lists, as CSV or Parquet, near or far; and what is wrong with it, all of it."""

from __future__ import annotations

import builtins
import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from pipeline.errors import MissingExtraError
from pipeline.files import places
from pipeline.manifest.listed import Listed, read_manifest
from tests import servers


def csv_of(folder: Path, text: str) -> str:
    path = folder / "slides.csv"
    path.write_bytes(text.encode())
    return str(path)


def parquet_of(folder: Path, columns: dict[str, Any]) -> str:
    path = folder / "slides.parquet"
    parquet.write_table(pa.table(columns), path)
    return str(path)


def listed(origin: str) -> list[Listed]:
    found, problems = read_manifest(origin)
    assert problems == []
    return found


def problems(origin: str) -> list[str]:
    """Give what is wrong, without the file, which each line begins with."""
    _, found = read_manifest(origin)
    assert all(each.startswith(f"{origin}: ") for each in found)
    return [each.removeprefix(f"{origin}: ") for each in found]


def test_a_manifest_names_slides_ids_scales_masks_and_what_else_there_is(tmp_path: Path) -> None:
    path = csv_of(
        tmp_path,
        "slide_id,stain, image_path ,mpp,mask_path\r\n"
        "first,HE,a.svs,0.25,masks/a.png\r\n"
        ",IHC,../b.svs,,\r\n"
        ' ,"H, E","s3://bucket/c,1.svs", 5e-1 ,s3://bucket/c.geojson\r\n'
        "\r\n"
        'last,"two\nlines",/slides/a.svs,,/masks/a.png\r\n'
        ",,x.svs,,\r\n",
    )
    assert listed(path) == [
        Listed(
            f"{tmp_path}/a.svs",
            f"{path}: line 2",
            "first",
            0.25,
            f"{tmp_path}/masks/a.png",
            {"stain": "HE"},
        ),
        Listed(f"{tmp_path.parent}/b.svs", f"{path}: line 3", columns={"stain": "IHC"}),
        Listed(
            "s3://bucket/c,1.svs",
            f"{path}: line 4",
            None,
            0.5,
            "s3://bucket/c.geojson",
            {"stain": "H, E"},
        ),
        Listed(
            "/slides/a.svs",
            f"{path}: line 6",
            "last",
            None,
            "/masks/a.png",
            {"stain": "two\nlines"},
        ),
        Listed(f"{tmp_path}/x.svs", f"{path}: line 8", columns={"stain": ""}),
    ]


def test_image_path_is_enough_and_what_spreadsheets_add_is_no_part_of_it(tmp_path: Path) -> None:
    path = csv_of(tmp_path, "\ufeffimage_path,,\na.svs,,\n,,\n ,,\n")
    assert listed(path) == [Listed(f"{tmp_path}/a.svs", f"{path}: line 2")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ["line 1: no column image_path; it has: none"]),
        ("slide,mpp\na.svs,1\n", ["line 1: no column image_path; it has: slide, mpp"]),
        ("image_path;mpp\na;1\n", ["line 1: no column image_path; it has: image_path;mpp"]),
        ("image_path,a,,a,\nx,,,,\n", ["line 1: column a is there twice; leave one"]),
        (
            "image_path,MPP,Mask Path,mpp\na.svs,1,b,no\n",
            [
                "line 1: column MPP would not be used; call it mpp",
                "line 1: column Mask Path would not be used; call it mask_path",
                "line 2: mpp: 'no' is no number; give um per pixel",
            ],
        ),
        ("image_path\n", ["names no slide; give one a line"]),
        (
            "image_path,mpp\na.svs,0.5\nb.svs,fine\nc.svs,nan\nd.svs,0\ne.svs,896\n",
            [
                "line 3: mpp: 'fine' is no number; give um per pixel",
                "line 4: mpp: nan um per pixel cannot be meant; give 0.01 to 100",
                "line 5: mpp: 0.0 um per pixel cannot be meant; give 0.01 to 100",
                "line 6: mpp: 896.0 um per pixel cannot be meant; give 0.01 to 100",
            ],
        ),
        (
            "image_path,slide_id,mpp\n,../x,no\n\nb.svs,CON,1\nc.svs,é,1\n",
            [
                "line 2: no image_path; name the slide",
                "line 2: slide_id '../x' cannot name a folder; use x",
                "line 2: mpp: 'no' is no number; give um per pixel",
                "line 4: slide_id 'CON' cannot name a folder; use slide-CON",
                "line 5: slide_id 'é' cannot name a folder; use e",
            ],
        ),
        (
            'image_path,mpp\na.svs\n"b\n.svs",1,2\nc.svs,no\n',
            [
                "line 2: not as many cells as there are columns; quote commas",
                "line 3: not as many cells as there are columns; quote commas",
                "line 5: mpp: 'no' is no number; give um per pixel",
            ],
        ),
        (
            'image_path,mpp\na.svs,no\n"b.svs,1\n',
            [
                "line 2: mpp: 'no' is no number; give um per pixel",
                "line 3: unexpected end of data; quote cells that hold commas or quotes",
            ],
        ),
        (
            "image_path,mask_path\na\0.svs,\0\n",
            [
                "line 2: image_path: 'a\\x00.svs' is no path; save the manifest again as CSV UTF-8",
                "line 2: mask_path: '\\x00' is no path; save the manifest again as CSV UTF-8",
            ],
        ),
    ],
)
def test_all_that_is_wrong_is_said_with_its_line(
    tmp_path: Path, text: str, said: list[str]
) -> None:
    assert problems(csv_of(tmp_path, text)) == said


def test_a_manifest_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    latin = tmp_path / "latin.csv"
    latin.write_bytes("image_path\né.svs\n".encode("latin-1"))
    assert problems(str(latin)) == ["not UTF-8 text; save the manifest as CSV UTF-8"]
    none = str(tmp_path / "none.csv")
    assert problems(none) == ["No such file or directory; name a manifest (CSV or Parquet)"]
    for content in (b"", b"image_path\na.svs\n", b"PAR1" + bytes(40) + b"PAR1"):
        (tmp_path / "broken.parquet").write_bytes(content)
        (said,) = problems(str(tmp_path / "broken.parquet"))
        assert said.startswith("not a table of text and numbers in Parquet (")
        assert "\n" not in said


def test_numbers_in_parquet_stay_what_they_say(tmp_path: Path) -> None:
    nan = float("nan")
    path = parquet_of(
        tmp_path,
        {
            "image_path": ["a.svs", "b.svs"],
            "slide_id": pa.array([7, None]),
            "mpp": pa.array([0.2528, nan], pa.float32()),
            "patient_id": pa.array([12.0, nan]),  # as pandas has integers of which some are missing
            "label": pa.array(["x", None]).dictionary_encode(),
            "fold": pa.array([3, 1], pa.int8()).dictionary_encode(),
            "dose": pa.array([1.5, nan]).dictionary_encode(),
            "seen": pa.array([True, None]),
            "on": pa.array([dt.date(2026, 1, 31), None]),
            "empty": pa.nulls(2),
            "name": ["nan", " "],
        },
    )
    columns = ("patient_id", "label", "fold", "dose", "seen", "on", "empty", "name")
    one, other = listed(path)
    assert (one.path, one.where, one.slide_id, one.mpp) == (
        f"{tmp_path}/a.svs",
        f"{path}: row 1",
        "7",
        0.2528,
    )
    first = ("12", "x", "3", "1.5", "true", "2026-01-31", "", "nan")
    assert list(one.columns.items()) == list(zip(columns, first, strict=True))
    assert (other.where, other.slide_id, other.mpp) == (f"{path}: row 2", None, None)
    assert tuple(other.columns.values()) == ("", "", "1", "", "", "", "", "")


def test_what_is_wrong_with_parquet_is_said_with_its_row(tmp_path: Path) -> None:
    path = parquet_of(tmp_path, {"image_path": ["a.svs", None, "c.svs"], "mpp": [1.0, 1.0, 200.0]})
    assert problems(path) == [
        "row 2: no image_path; name the slide",
        "row 3: mpp: 200.0 um per pixel cannot be meant; give 0.01 to 100",
    ]
    assert problems(parquet_of(tmp_path, {"slide": ["a.svs"]})) == [
        "columns: no column image_path; it has: slide"
    ]
    (said,) = problems(parquet_of(tmp_path, {"image_path": ["a.svs"], "boxes": [[1, 2]]}))
    assert "Unsupported cast from list<" in said


def test_parquet_without_pyarrow_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "pyarrow":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    path = parquet_of(tmp_path, {"image_path": ["a.svs"]})
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"wsi-pipeline\[objects\]', or save it as CSV"):
        read_manifest(path)


def test_a_manifest_in_a_bucket_has_its_slides_beside_it(bucket: str) -> None:
    places.write_whole(
        f"{bucket}/cohort/slides.csv",
        b"image_path,mask_path\nx/a.svs,\ns3://other/b.svs,m.geojson\n/slides/c.svs,\n",
    )
    found = listed(f"{bucket}/cohort/slides.csv")
    assert [each.path for each in found] == [
        f"{bucket}/cohort/x/a.svs",
        "s3://other/b.svs",
        "/slides/c.svs",
    ]
    assert found[1].mask == f"{bucket}/cohort/m.geojson"
    assert problems(f"{bucket}/none.csv") == [
        "no such object; check the URL; name a manifest (CSV or Parquet)"
    ]
    places.write_whole(f"{bucket}/up.csv", b"image_path\n../a.svs\n")
    assert problems(f"{bucket}/up.csv") == [
        "line 2: image_path: ../a.svs leaves the manifest's folder; give its URL"
    ]


def test_secrets_in_urls_reach_slides_and_no_text(web: servers.Web) -> None:
    """A web server's manifest may be signed, and what lies beside it is asked for likewise."""
    web.files["/cohort/slides.csv"] = (
        b"image_path,report\na b.svs,\nhttps://me:secret@host/b.svs,https://h/b?key=secret\n,x\n"
    )
    found, wrong = read_manifest(f"{web.url}/cohort/slides.csv?key=secret")
    assert [each.path for each in found] == [
        f"{web.url}/cohort/a%20b.svs?key=secret",
        "https://me:secret@host/b.svs",
        "",
    ]
    assert found[1].columns == {"report": "https://h/b"}
    assert wrong == [f"{web.url}/cohort/slides.csv: line 4: no image_path; name the slide"]
    assert "secret" not in f"{found} {wrong}"
