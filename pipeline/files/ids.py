"""What a slide's results are called: names that are safe as files anywhere."""

from __future__ import annotations

import hashlib
import re
import unicodedata

__all__ = ["safe_id", "with_digest"]

_LONGEST = 128
"""Characters of an id: file systems allow 255 bytes, and results add endings to it."""

_DIGITS = 8

# Windows takes these for devices, whatever follows their first dot.
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)


def safe_id(name: str) -> str:
    """Give a name that is a safe file name anywhere and cannot leave its folder.

    It is ASCII, letters without their accents; a name of which nothing is left is a digest. What
    is safe already stays as it is.

    >>> safe_id("test3-DAPI-2-(387)"), safe_id("Läsion 3"), safe_id("con.1")
    ('test3-DAPI-2-_387', 'Lasion_3', 'slide-con.1')
    >>> safe_id("../.."), safe_id("病理")
    ('slide-0cfd1c96', 'slide-e27149c7')
    """
    # Before what is unsafe is looked for: there are dots and slashes of other widths.
    apart = unicodedata.normalize("NFKD", name)
    plain = "".join(letter for letter in apart if not unicodedata.combining(letter))
    kept = re.sub(r"[^A-Za-z0-9._-]+", "_", plain).lstrip("._-").rstrip("._")
    if not kept:
        return with_digest("slide", name)
    if _DEVICE.match(kept):
        kept = f"slide-{kept}"
    return kept if len(kept) <= _LONGEST else with_digest(kept, name)


def with_digest(slide_id: str, told_by: str) -> str:
    """Give an id that differs from those of the same name by a digest of what tells them apart.

    >>> with_digest("a", "/slides/x/a.svs")
    'a-7777b6eb'
    """
    # A file name may be no text: bytes that are not UTF-8 are lone surrogates in Python.
    digest = hashlib.sha256(told_by.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
    return f"{slide_id[: _LONGEST - _DIGITS - 1]}-{digest}"
