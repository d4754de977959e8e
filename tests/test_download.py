"""Cards and ONNX files on the network: once per machine, checked, nothing wrong is kept."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.errors import ModelError
from pipeline.model import download, load_model
from pipeline.model.download import ENDPOINT_VARIABLE, as_url, downloaded
from pipeline.readers.staging import CACHE_VARIABLE, SIZE_VARIABLE, stage
from tests.servers import Web
from tests.test_load import external

ToyModel = Callable[..., Path]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "cache"
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    # Another test's server may have had the same port.
    monkeypatch.setattr("pipeline.readers.remote.FRESH_S", 0.0)
    yield folder
    for descriptor in download._held.values():
        os.close(descriptor)
    download._held.clear()


@pytest.fixture
def served(web: Web, toy_model: ToyModel) -> Callable[..., Path]:
    """Give ``served(onnx, **changes) -> card``: a toy's, whose ONNX file is served."""

    def write(onnx: str, **changes: Any) -> Path:
        card = toy_model("neighbours", onnx=onnx, **changes)
        content = card.with_name("toy.onnx").read_bytes()
        card.with_name("toy.onnx").unlink()
        web.files["/models/toy.onnx"] = content
        raw = yaml.safe_load(card.read_text())
        raw.setdefault("sha256", hashlib.sha256(content).hexdigest())
        card.write_text(yaml.safe_dump(raw))
        return card

    return write


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir()) if folder.exists() else []


def test_a_file_on_hugging_face_is_found_by_owner_repository_revision_and_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(ENDPOINT_VARIABLE, raising=False)
    hub = "https://huggingface.co"
    assert as_url("hf://own/er/a b.onnx") == f"{hub}/own/er/resolve/main/a%20b.onnx"
    assert as_url("hf://models/own/er@v1/x/m.onnx") == f"{hub}/own/er/resolve/v1/x/m.onnx"
    assert as_url("hf://own/er@refs/pr/2/m.onnx") == f"{hub}/own/er/resolve/refs%2Fpr%2F2/m.onnx"
    monkeypatch.setenv(ENDPOINT_VARIABLE, "http://mirror:8080/")
    assert as_url("hf://own/er/m.onnx") == "http://mirror:8080/own/er/resolve/main/m.onnx"
    for wrong in ("hf://own", "hf://own/er", "hf://own/er@v1"):
        with pytest.raises(ModelError, match=f"^{wrong}: names no file; give hf://OWNER/REPO"):
            as_url(wrong)


def test_an_onnx_file_is_downloaded_once(
    web: Web, served: Callable[..., Path], cache: Path
) -> None:
    card = served(f"{web.url}/models/toy.onnx")
    ref = load_model(card).ref
    digest = ref.digest
    assert Path(ref.members[0].onnx) == cache / digest / "model.onnx"
    assert names(cache) == [digest]
    web.forget()
    assert load_model(card).ref == ref
    assert not web.requests


def test_a_file_that_was_downloaded_by_another_process_is_not_asked_for(
    web: Web, served: Callable[..., Path], cache: Path
) -> None:
    card = served(f"{web.url}/models/toy.onnx")
    load_model(card)
    for descriptor in download._held.values():
        os.close(descriptor)
    download._held.clear()
    web.files.clear()
    assert load_model(card).ref.patch == 34


def test_hf_files_come_from_the_endpoint_that_is_named(
    web: Web, served: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENDPOINT_VARIABLE, web.url)
    card = served("hf://owner/repo@v2/toy.onnx")
    # What is large lies elsewhere.
    web.moved["/owner/repo/resolve/v2/toy.onnx"] = f"{web.url}/models/toy.onnx?signed=1"
    assert load_model(card).ref.patch == 34


def test_a_card_may_be_at_a_url_and_its_file_beside_it(
    web: Web, served: Callable[..., Path], cache: Path
) -> None:
    card = served("toy.onnx")
    web.files["/models/card.yaml"] = card.read_bytes()
    url = f"{web.url}/models/card.yaml?signature=secret"
    model = load_model(url)
    assert model.ref.patch == 34
    assert "secret" not in f"{model.path} {model!r}"
    assert "/models/toy.onnx?signature=secret" in " ".join(web.requests)
    with pytest.raises(ModelError, match=r"^http://.*/none\.yaml: no such object; check the URL"):
        load_model(f"{web.url}/models/none.yaml")


def test_a_file_to_download_needs_its_digest(web: Web, served: Callable[..., Path]) -> None:
    card = served(f"{web.url}/models/toy.onnx")
    card.write_text(card.read_text().replace("sha256:", "description:"))
    with pytest.raises(
        ModelError, match=rf"^{card}: sha256: missing; {web.url}/models/toy\.onnx is"
    ):
        load_model(card)


def test_another_file_is_refused_with_both_digests_and_not_kept(
    web: Web, served: Callable[..., Path], cache: Path
) -> None:
    card = served(f"{web.url}/models/toy.onnx", sha256="0" * 64)
    found = hashlib.sha256(web.files["/models/toy.onnx"]).hexdigest()
    with pytest.raises(ModelError, match=rf"says {'0' * 64}, {web.url}.* has {found}; .*not kept"):
        load_model(card)
    assert names(cache) == []


@pytest.mark.parametrize(("trouble", "said"), [("404", "no such object"), ("cut", "server")])
def test_a_server_that_fails_leaves_nothing_behind(
    web: Web,
    served: Callable[..., Path],
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    trouble: str,
    said: str,
) -> None:
    from pipeline.files.cloud import stores

    monkeypatch.setattr(stores, "LIMITS", stores.Limits(retries=0, all_retries_s=1))
    card = served(f"{web.url}/models/toy.onnx")
    web.trouble = trouble
    with pytest.raises(ModelError, match=rf"^{card}: onnx: {web.url}/models/toy\.onnx: .*{said}"):
        load_model(card)
    assert names(cache) == []
    web.trouble = ""
    assert load_model(card).ref.patch == 34


def test_threads_that_want_one_file_download_it_once(web: Web, cache: Path) -> None:
    content = os.urandom(3 * 10**6)
    web.files["/m.onnx"] = content
    digest = hashlib.sha256(content).hexdigest()
    with ThreadPoolExecutor(4) as pool:
        wanted = [pool.submit(downloaded, "c", f"{web.url}/m.onnx", digest) for _ in range(4)]
    assert {each.result() for each in wanted} == {cache / digest / "model.onnx"}
    assert (cache / digest / "model.onnx").read_bytes() == content
    assert web.sent < 1.2 * len(content)


def test_a_model_in_use_stays_when_room_is_made_and_strangers_always(
    web: Web, served: Callable[..., Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = load_model(served(f"{web.url}/models/toy.onnx")).ref
    (cache / "theirs").mkdir()
    monkeypatch.setenv(SIZE_VARIABLE, "0.001")
    for name in ("a", "b"):
        web.files[f"/{name}.ndpi"] = name.encode() * 900_000
        stage(f"{web.url}/{name}.ndpi").close()
    assert Path(ref.members[0].onnx).is_file()
    assert len(names(cache)) == 3
    assert "theirs" in names(cache)


def test_weights_in_files_of_their_own_are_not_downloaded(web: Web, toy_model: ToyModel) -> None:
    card = external(toy_model("per_patch"), 0.5)
    content = card.with_name("toy.onnx").read_bytes()
    web.files["/toy.onnx"] = content
    raw = yaml.safe_load(card.read_text())
    raw |= {"onnx": f"{web.url}/toy.onnx", "sha256": hashlib.sha256(content).hexdigest()}
    card.write_text(yaml.safe_dump(raw))
    with pytest.raises(
        ModelError, match=r"has weights in w\.bin; download them all into one folder"
    ):
        load_model(card)


def test_a_large_download_says_how_far_it_is(
    web: Web, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_TOLD_FROM", 10**6)
    content = bytes(40 * 10**6)
    web.files["/m.onnx"] = content
    with caplog.at_level(logging.INFO, "pipeline"):
        downloaded("card.yaml", f"{web.url}/m.onnx", hashlib.sha256(content).hexdigest())
    told = [record.getMessage() for record in caplog.records]
    assert told[-1] == f"{web.url}/m.onnx: 100 % of 40.0 MB"
    assert len(told) >= 3
