"""Cards and ONNX files from the network; an ONNX file is copied once per machine, and checked.

``hf://OWNER/REPO[@REVISION]/FILE`` is a file of a model on Hugging Face, as huggingface_hub has it
(https://huggingface.co/docs/huggingface_hub/package_reference/hf_uris). Copies lie beside those of
slides, in `pipeline.readers.staging`, in folders named after their digests.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, unquote

from pipeline.errors import ModelError, SlideError
from pipeline.files import cloud
from pipeline.files.notation import MOST_YAML_BYTES
from pipeline.files.urls import is_url, private, shown
from pipeline.readers.remote import RemoteBytes
from pipeline.readers.staging import as_size, cache_folder, hold_copy, write_whole

__all__ = ["ENDPOINT_VARIABLE", "as_url", "downloaded", "is_remote", "read_card"]

ENDPOINT_VARIABLE = "HF_ENDPOINT"
"""Names another server than Hugging Face's, such as a mirror."""

_HF = "hf://"
_HF_FILE = re.compile(r"(?:models/)?([^/@]+/[^/@]+)(?:@((?:refs/(?:convert|pr)/)?[^/]+))?/(.+)")

_TOLD_FROM = 64 * 10**6
"""Bytes from which on it is said how far the download is."""

_log = logging.getLogger("pipeline")
_holding = threading.Lock()
_held: dict[Path, int] = {}
"""What this process has loaded, and what keeps it from being removed until the process ends."""


def is_remote(path: str) -> bool:
    """Say whether a name is that of something on the network.

    >>> is_remote("hf://owner/repo/card.yaml"), is_remote("s3://models/a.onnx"), is_remote("a.onnx")
    (True, True, False)
    """
    return path.startswith(_HF) or is_url(path)


def as_url(path: str) -> str:
    """Give the URL of what is on the network.

    Raises `ModelError` for an ``hf://`` that names no file.

    >>> as_url("hf://owner/repo@v1.0/onnx/model.onnx")
    'https://huggingface.co/owner/repo/resolve/v1.0/onnx/model.onnx'
    """
    if not path.startswith(_HF):
        return private(path)
    found = _HF_FILE.fullmatch(path.removeprefix(_HF))
    if found is None:
        raise ModelError(f"{path}: names no file; give hf://OWNER/REPO[@REVISION]/FILE")
    repository, revision, file = found.groups()
    endpoint = os.environ.get(ENDPOINT_VARIABLE) or "https://huggingface.co"
    version = quote(unquote(revision or "main"), safe="")
    return private(f"{endpoint.rstrip('/')}/{repository}/resolve/{version}/{quote(file)}")


def read_card(url: str) -> bytes:
    """Give the content of a card at a URL. Raises `ModelError` where it cannot be read."""
    try:
        return cloud.read(url, MOST_YAML_BYTES)
    except OSError as error:
        raise ModelError(f"{shown(url)}: {error.strerror or error}; name a model card") from error


def downloaded(source: str, url: str, sha256: str | None) -> Path:
    """Give the ONNX file at a URL as a file on this machine that stays until this process ends.

    Raises `ModelError`, naming the card ``source``, where it cannot be had or is another one.
    """
    if sha256 is None:
        raise ModelError(
            f"{source}: sha256: missing; {shown(url)} is downloaded, so give the digest that the "
            "file must have (sha256sum of a copy you trust)"
        )
    entry = cache_folder() / sha256
    onnx = entry / "model.onnx"
    with _holding:
        if entry in _held and onnx.is_file():
            return onnx
        try:
            file = None if onnx.is_file() else RemoteBytes(url)
            _held[entry], _ = hold_copy(
                shown(url), entry, file.size if file else 0, _filling(source, url, sha256)
            )
        except SlideError as error:
            raise ModelError(f"{source}: onnx: {error}") from error
    return onnx


def _filling(source: str, url: str, sha256: str) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        file = RemoteBytes(url)
        onnx = folder / "model.onnx"
        write_whole(onnx, file, _telling(shown(url), file.size))
        with onnx.open("rb") as written:
            found = hashlib.file_digest(written, "sha256").hexdigest()
        if found != sha256:
            raise ModelError(
                f"{source}: sha256: the card says {sha256}, {shown(url)} has {found}; it is "
                "another file than the card was written for, and is not kept"
            )

    return fill


def _telling(name: str, total: int) -> Callable[[int], None]:
    """Give what says how far a large download is, every tenth of it."""
    told = 0

    def tell(written: int) -> None:
        nonlocal told
        tenths = 10 * written // max(total, 1)
        if total >= _TOLD_FROM and tenths > told:
            told = tenths
            _log.info("%s: %d %% of %s", name, 10 * tenths, as_size(total))

    return tell
