"""What is loaded is data: no file makes this package run code, and downloads are what was meant."""

from __future__ import annotations

import ast
import datetime as dt
import hashlib
import json
import os
import pickle
import re
import ssl
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

import pipeline
from pipeline.config.runfile import parse_config
from pipeline.errors import ConfigError, ModelError, SlideError
from pipeline.files import notation
from pipeline.model import load_model
from pipeline.model.download import downloaded
from pipeline.readers.staging import CACHE_VARIABLE
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

ALLOWED = {
    ("lazy/tasks.py", "pickle.loads"): "a task of our own client's, which came over its network"
}


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


def certificate_for_localhost(folder: Path) -> tuple[Path, Path]:
    """Write an authority's certificate, and one it vouches for with its key; give both files."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    authority, host = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("ours", "localhost")
    )
    now = dt.datetime.now(dt.UTC)
    written = []
    for key, subject in zip(keys, (authority, host), strict=True):
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(authority)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(subject is authority, None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(keys[0], hashes.SHA256())
        )
        written.append(made.public_bytes(Encoding.PEM))
    secret = keys[1].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "authority.pem").write_bytes(written[0])
    (folder / "host.pem").write_bytes(written[1] + secret)
    return folder / "authority.pem", folder / "host.pem"


class Moved(BaseHTTPRequestHandler):
    """Says of everything but ``/here`` that it has moved to a server without encryption."""

    elsewhere = ""

    def do_GET(self) -> None:
        if self.path == "/here":
            self.send_response(200)
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"here")
            return
        self.send_response(302)
        self.send_header("Location", self.elsewhere)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.mark.parametrize("environment", [{}, {"AWS_ENDPOINT": "http://127.0.0.1:1"}])
def test_no_address_with_encryption_leads_to_one_without(
    environment: dict[str, str], web: Web, tmp_path: Path
) -> None:
    authority, host = certificate_for_localhost(tmp_path)
    web.files["/there"] = b"there"
    handler = type("Handler", (Moved,), {"elsewhere": f"{web.url}/there"})
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(host)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"https://localhost:{server.server_port}"
        code = "import sys\nfrom pipeline.files import cloud\nprint(cloud.read(sys.argv[1]))"
        here, there = (
            subprocess.run(
                [sys.executable, "-c", code, f"{url}/{name}"],
                env={**os.environ, "SSL_CERT_FILE": str(authority), **environment},
                capture_output=True,
                text=True,
                check=False,
            )
            for name in ("here", "there")
        )
        server.shutdown()
    assert here.stdout == "b'here'\n", here.stderr
    assert "error following redirect" in there.stderr
    assert not web.requests


# What is installed with it

TRIED = ("cpu", "objects", "remote")
"""Extras that are installed where the oldest versions are tried."""

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


def test_the_oldest_versions_that_are_tried_are_the_oldest_that_are_allowed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *(each for n in TRIED for each in extras[n])]
    text = (ROOT / ".ci" / "constraints-oldest.txt").read_text()
    tried = dict(re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE))
    allowed = {re.split(r"[\[>]", each)[0]: each.split(">=")[1] for each in asked}
    assert tried.keys() == allowed.keys()
    for name, version in allowed.items():
        assert f"{tried[name]}.".startswith(f"{version}."), name
