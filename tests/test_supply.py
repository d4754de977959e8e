"""What is loaded is data: no file makes this package run code, and downloads are what was meant."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import pickle
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import pipeline
from pipeline import notation
from pipeline.errors import ConfigError, ModelError, SlideError
from pipeline.model import load_model
from pipeline.model.download import downloaded
from pipeline.readers.staging import CACHE_VARIABLE
from pipeline.runfile import parse_config
from tests.servers import Web, web_server
from tests.toys import write_toy_model

ROOT = Path(__file__).parents[1]

LOADERS = {
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load", "cloudpickle.loads"),
    *("marshal.load", "marshal.loads", "shelve.open", "joblib.load", "torch.load", "dill.load"),
    *("eval", "exec", "compile", "__import__", "runpy.run_path", "os.system", "os.popen"),
    *("yaml.unsafe_load", "yaml.full_load", "pandas.read_pickle", "pd.read_pickle"),
    *("register_custom_ops_library", "numcodecs.pickles.enable_decode"),
}
"""What runs what it is given, or may."""

ALLOWED = {("tasks.py", "pickle.loads"): "a task of our own client's, which came over its network"}


def calls() -> Iterator[tuple[str, ast.Call, str]]:
    """Give every call in the package: its file, itself, and what is called, dots included."""
    package = Path(pipeline.__file__).parent
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield str(path.relative_to(package)), node, ast.unparse(node.func)


def test_nothing_that_is_loaded_can_run_code() -> None:
    found = {
        (path, name)
        for path, _, name in calls()
        if name in LOADERS or name.rpartition(".")[2] == "register_custom_ops_library"
    }
    assert found == set(ALLOWED)


def test_arrays_are_loaded_without_objects_and_yaml_by_a_safe_loader() -> None:
    for path, call, name in calls():
        given = {each.arg: ast.unparse(each.value) for each in call.keywords}
        assert given.get("allow_pickle", "False") == "False", path
        if name in ("yaml.load", "yaml.load_all"):
            assert given.get("Loader") == "Loader", path
    assert issubclass(notation.Loader, yaml.SafeLoader)


class Running:
    """What leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize(
    "metadata",
    [
        {"compressor": {"id": "pickle"}},
        {"filters": [{"id": "pickle"}]},
        {"filters": [{"id": "pickle"}, {"id": "vlen-utf8"}]},
        {"filters": [{"id": "zlib", "level": 1}], "compressor": {"id": "pickle"}},
        {"dtype": "|O", "fill_value": None, "filters": [{"id": "pickle"}]},
        {"dtype": "|O", "fill_value": None, "filters": [{"id": "vlen-utf8"}, {"id": "pickle"}]},
    ],
)
def test_a_slide_of_pickles_is_not_unpickled(metadata: dict[str, Any], tmp_path: Path) -> None:
    slide, mark = tmp_path / "a.zarr", tmp_path / "mark"
    (slide / "0" / "0" / "0").mkdir(parents=True)
    (slide / ".zgroup").write_text('{"zarr_format": 2}')
    scaled = [{"type": "scale", "scale": [1, 0.5, 0.5]}]
    image = {
        "version": "0.4",
        "axes": [{"name": "c", "type": "channel"}, *({"name": n, "type": "space"} for n in "yx")],
        "datasets": [{"path": "0", "coordinateTransformations": scaled}],
    }
    (slide / ".zattrs").write_text(json.dumps({"multiscales": [image]}))
    plain = {"zarr_format": 2, "shape": [3, 64, 64], "chunks": [3, 64, 64], "dtype": "|u1"}
    plain |= {"compressor": None, "fill_value": 0, "order": "C", "filters": None}
    array = {**plain, "dimension_separator": "/", **metadata}
    (slide / "0" / ".zarray").write_text(json.dumps(array))
    (slide / "0" / "0" / "0" / "0").write_bytes(pickle.dumps(Running(mark)))
    with pytest.raises(SlideError):
        pipeline.open_slide(slide).levels[0].compute(scheduler="synchronous")
    assert not mark.exists()
    pickle.loads(pickle.dumps(Running(mark)))
    assert mark.exists(), "the file would have done it"


def test_no_card_and_no_run_file_makes_anything_but_values(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for tag in ("!!python/object/apply:os.system", "!!python/object/new:os.system"):
        text = f"name: {tag} ['touch {mark}']\n"
        with pytest.raises(ConfigError, match="could not determine a constructor"):
            parse_config(text, "run.yaml", tmp_path)
        card = write_toy_model(tmp_path / "model", "per_patch")
        card.write_text(card.read_text().replace("name: toy-per_patch\n", text))
        with pytest.raises(ModelError, match="could not determine a constructor"):
            load_model(card)
    assert not mark.exists()


# Downloads


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr("pipeline.readers.remote.FRESH_S", 0.0)
    return tmp_path / "cache"


def test_wherever_a_download_is_sent_it_is_the_file_that_was_meant(web: Web, cache: Path) -> None:
    meant, other = os.urandom(10_000), os.urandom(10_000)
    digest = hashlib.sha256(meant).hexdigest()
    with web_server() as elsewhere:
        web.moved["/m.onnx"] = f"{elsewhere.url}/m.onnx"
        elsewhere.files["/m.onnx"] = other
        with pytest.raises(ModelError, match="is another file than the card was written for"):
            downloaded("card", f"{web.url}/m.onnx", digest)
        assert not list(cache.iterdir())
        elsewhere.files["/m.onnx"] = meant
        assert downloaded("card", f"{web.url}/m.onnx", digest).read_bytes() == meant


# What is installed with it

NAMED = re.compile(r"^[A-Za-z0-9._-]+", re.MULTILINE)


def test_every_dependency_is_listed_with_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = dict(project["optional-dependencies"])
    asked = {"": project["dependencies"], **extras}
    needed = {
        (name, extra) for extra, given in asked.items() for name in NAMED.findall("\n".join(given))
    }
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme.split("<!-- dependency table -->\n")[1].split("<!-- /dependency table -->")[0]
    listed = set()
    for line in table.splitlines()[2:]:
        names, where, reason = (cell.strip() for cell in line.strip("|").split("|"))
        assert len(reason.split()) > 1, line
        for name in re.findall(r"`([^`]+)`", names):
            for extra in where.split(", "):
                listed.add((name, "" if extra == "always" else extra.strip("`[]")))
    assert listed == needed
