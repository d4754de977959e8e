"""Stores, opened: one for each bucket or web file, by what the environment says."""

from __future__ import annotations

import configparser
import errno
import os
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import MissingExtraError
from pipeline.files.cloud.reasons import told
from pipeline.files.urls import split

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["LIMITS", "Limits", "check_writes", "engine", "opened", "root"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a server is waited for, and how often it is asked again."""

    connect_s: float = 10.0
    request_s: float = 60.0
    retries: int = 5
    all_retries_s: float = 120.0


LIMITS = Limits()
"""In force for every request; a request moves 8 MiB at most, so a minute is a slow line."""

_OURS = ("AWS_", "GOOGLE_", "HOME")
"""Beginnings of the environment's variables that say where stores are and who we are."""


def root(url: str) -> ObjectStore:
    """Give the obstore store whose keys lie below a URL."""
    scheme, place, key = split(url)
    if scheme.startswith("http"):
        return _store(scheme, url[:], "", _surroundings(), LIMITS)
    return _store(scheme, place, key.strip("/"), _surroundings(), LIMITS)


def engine() -> Any:
    """Give the obstore module, where it can be used.

    Raises `MissingExtraError` without it, `OSError` in a forked child.
    """
    try:
        import obstore
    except ImportError as error:
        raise MissingExtraError(
            "s3://, gs://, http:// and https:// need obstore, which is not installed; "
            "pip install 'wsi-pipeline[remote]'"
        ) from error
    if os.getpid() != _process_of_obstore():
        # Its threads are not in a forked child: a request would wait for ever.
        what = "obstore was used before this process was forked; start workers with spawn"
        raise OSError(errno.EDEADLK, what)
    return obstore


@lru_cache(maxsize=1)
def _process_of_obstore() -> int:
    return os.getpid()


def opened(url: str) -> tuple[ObjectStore, str]:
    """Give a store and the key in it.

    A web server's store is the file itself: its URL, which may be encoded and signed, is then
    sent as it was given.
    """
    scheme, place, key = split(url)
    if scheme.startswith("http"):
        return _store(scheme, url[:], "", _surroundings(), LIMITS), ""
    if not place or not key:
        raise FileNotFoundError(errno.ENOENT, "names no object; give scheme://bucket/key")
    return _store(scheme, place, "", _surroundings(), LIMITS), key


def check_writes(url: str) -> None:
    """Raise `OSError` where nothing can be written."""
    if split(url)[0].startswith("http"):
        what = "nothing can be written to a web server; name a folder, s3:// or gs://"
        raise OSError(errno.EOPNOTSUPP, what)


def _surroundings() -> tuple[tuple[str, str], ...]:
    return tuple(item for item in sorted(os.environ.items()) if item[0].startswith(_OURS))


_ALLOWING = ("AWS_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP")


@lru_cache(maxsize=64)
def _store(
    scheme: str, place: str, prefix: str, surroundings: tuple[tuple[str, str], ...], limits: Limits
) -> ObjectStore:
    """Open a store; one for the same place, environment and limits, for its connections."""
    engine()
    from obstore.store import GCSStore, HTTPStore, S3Store

    plain = [
        name.startswith("AWS_ENDPOINT") and value.startswith("http://")
        for name, value in surroundings
    ]
    plain += [value.lower() in ("1", "true") for name, value in surroundings if name in _ALLOWING]
    client: Any = {
        "connect_timeout": timedelta(seconds=limits.connect_s),
        "timeout": timedelta(seconds=limits.request_s),
    }
    # What is asked for by https:// is not followed to a server without encryption.
    if scheme == "http" or (scheme != "https" and any(plain)):
        client["allow_http"] = True
    backoff = {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=10),
        "base": 2,
    }
    retry: Any = {
        "max_retries": limits.retries,
        "retry_timeout": timedelta(seconds=limits.all_retries_s),
        "backoff": backoff,
    }
    with told(f"{scheme}://{place}"):
        if scheme.startswith("http"):
            return HTTPStore(place, client_options=client, retry_config=retry)
        kind: Any = S3Store if scheme == "s3" else GCSStore
        own = _profile(dict(surroundings)) if scheme == "s3" else {}
        store: ObjectStore = kind(
            place, prefix=prefix or None, client_options=client, retry_config=retry, **own
        )
        return store


_OTHER_WAYS = ("AWS_ACCESS_KEY_ID", "AWS_SKIP_SIGNATURE", "AWS_WEB_IDENTITY_TOKEN_FILE")


def _profile(variables: dict[str, str]) -> dict[str, str]:
    """Give the keys of the profile in ``~/.aws``, where the variables hold none.

    obstore reads the variables alone; most people have the files that ``aws configure`` wrote.
    """
    if any(name in variables for name in _OTHER_WAYS):
        return {}
    name = variables.get("AWS_PROFILE", "default")
    folder = Path("~/.aws").expanduser()
    found: dict[str, str] = {}
    for variable, file, section in (
        ("AWS_CONFIG_FILE", "config", name if name == "default" else f"profile {name}"),
        ("AWS_SHARED_CREDENTIALS_FILE", "credentials", name),
    ):
        parsed = configparser.RawConfigParser()
        try:
            parsed.read(variables.get(variable) or folder / file)
        except (configparser.Error, UnicodeDecodeError):
            continue
        if parsed.has_section(section):
            found.update(parsed.items(section))
    wanted = {
        "aws_access_key_id": "access_key_id",
        "aws_secret_access_key": "secret_access_key",
        "aws_session_token": "session_token",
    }
    own = {ours: found[theirs] for theirs, ours in wanted.items() if theirs in found}
    if "region" in found and not {"AWS_REGION", "AWS_DEFAULT_REGION"} & variables.keys():
        own["region"] = found["region"]
    return own
