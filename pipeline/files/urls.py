"""Names of places: which are URLs, what is in them, and how they are shown."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote, unquote

__all__ = ["Private", "beside", "file_name", "is_url", "join", "private", "shown", "split", "stem"]

_URL = re.compile(r"(s3|gs|https?)://", re.IGNORECASE)

_PARTS = re.compile("([^:]*)://([^/?#]*)([^?#]*)(.*)", re.DOTALL)
"""Scheme, place, path and the rest of a web address (RFC 3986, B), whatever each of them is."""


def is_url(path: str) -> bool:
    """Say whether a name is the URL of something that is reached over the network.

    >>> is_url("s3://slides/a.svs"), is_url("/slides/a.svs"), is_url("builtin:nuclei")
    (True, False, False)
    """
    return _URL.match(path) is not None


def split(url: str) -> tuple[str, str, str]:
    """Give scheme, bucket or host, and key or path of a URL.

    A bucket's key is taken as it stands: ``?``, ``#`` and ``%`` are characters of it.

    >>> split("s3://slides/2026/a #1.svs")
    ('s3', 'slides', '2026/a #1.svs')
    >>> split("https://me:secret@host:8443/a%20b.svs?signature=x")
    ('https', 'host:8443', 'a%20b.svs')

    What can be no URL is taken apart, too: whoever asks for it is told.

    >>> split("http://[a")
    ('http', '[a', '')
    """
    scheme, _, rest = url.partition("://")
    if scheme.lower().startswith("http"):
        _, place, path, _ = _parts(url)
        return scheme.lower(), place.rpartition("@")[2], path.lstrip("/")
    place, _, key = rest.partition("/")
    return scheme.lower(), place.rpartition("@")[2], key


def shown(path: str) -> str:
    """Give a path as it may be written down: a URL without passwords, signatures and queries.

    What has none of these stays as it is written, to the letter, also if no URL can be so.

    >>> shown("https://me:secret@host/a.svs?signature=x"), shown("a?.svs"), shown("HTTP://[a")
    ('https://host/a.svs', 'a?.svs', 'HTTP://[a')
    """
    if not is_url(path):
        return str(path)
    scheme, _, rest = path.partition("://")
    if scheme.lower().startswith("http"):
        rest = re.split("[?#]", rest, maxsplit=1)[0]
    place, slash, key = rest.partition("/")
    return f"{scheme}://{place.rpartition('@')[2]}{slash}{key}"


def file_name(path: str) -> str:
    """Give the last part of a path or URL.

    >>> file_name("https://host/a%20b.svs?signature=x"), file_name("s3://slides/study/")
    ('a b.svs', 'study')
    """
    if not is_url(path):
        return Path(path).name
    scheme, _, key = split(path)
    name = key.rstrip("/").rpartition("/")[2]
    return unquote(name) if scheme.startswith("http") else name


def stem(path: str) -> str:
    """Give the last part of a path or URL without its ending.

    >>> stem("s3://slides/a.svs"), stem("/slides/a.svs")
    ('a', 'a')
    """
    return Path(file_name(path)).stem


def join(folder: str, *names: str) -> str:
    """Give the path or URL of what is called so in a folder.

    >>> join("s3://results/run/", "a.zarr"), join("/results", "a.zarr", "0")
    ('s3://results/run/a.zarr', '/results/a.zarr/0')
    >>> join("https://host/a.zarr?x=1", "zarr.json")
    'https://host/a.zarr/zarr.json?x=1'
    """
    if not is_url(folder):
        return str(Path(folder, *names))
    whole = folder[:]
    if not whole.lower().startswith("http"):
        scheme, _, rest = whole.partition("://")
        return "/".join([f"{scheme}://{rest.rstrip('/')}", *names])
    scheme, place, path, rest = _parts(whole)
    return f"{scheme}://{place}{'/'.join([path.rstrip('/'), *map(_quoted, names)])}{rest}"


def beside(url: str, name: str) -> str:
    """Give the URL of what lies in the same folder, asked for with the same query.

    >>> beside("https://host/a/b%20c.mrxs?x=1", "b c/Index.dat"), beside("s3://slides/a.vms", "b")
    ('https://host/a/b%20c/Index.dat?x=1', 's3://slides/b')
    """
    whole = url[:]
    if not whole.lower().startswith("http"):
        scheme, _, rest = whole.partition("://")
        place, _, key = rest.partition("/")
        return f"{scheme}://{place}/{key[: key.rfind('/') + 1]}{name}"
    scheme, place, path, rest = _parts(whole)
    return f"{scheme}://{place}{path.rpartition('/')[0]}/{_quoted(name)}{rest}"


def _parts(url: str) -> tuple[str, str, str, str]:
    found = _PARTS.match(url[:])
    assert found is not None, url  # noqa: S101 - whoever asks has seen its ://
    return found[1].lower(), found[2], found[3], found[4]


def _quoted(name: str) -> str:
    return quote(name, errors="surrogatepass")


class Private(str):
    """A URL with a secret in it: used whole, shown without.

    It travels to the workers, which need the secret to read; messages, pictures and stores
    get what `shown` gives.

    >>> url = private("https://host/a.svs?signature=x")
    >>> f"{url}", repr(url), url == "https://host/a.svs?signature=x"
    ('https://host/a.svs', "'https://host/a.svs'", True)
    """

    __slots__ = ()

    def __str__(self) -> str:
        return shown(self[:])

    def __repr__(self) -> str:
        return repr(shown(self[:]))

    def __format__(self, spec: str) -> str:
        return format(shown(self[:]), spec)


def private(url: str) -> str:
    """Give a URL as it may travel: `Private` if anything in it is not to be shown."""
    whole = url[:]  # str(url) would be what is shown
    return Private(whole) if shown(whole) != whole else whole
