"""What obstore raises, told as an `OSError` that says what and what to do."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.files.urls import shown

__all__ = ["failures", "reason", "told", "too_large"]


def failures() -> tuple[type[Exception], ...]:
    """Give what a store of `root` raises besides `OSError`; for those who use one directly."""
    loaded = sys.modules.get("obstore.exceptions")
    return () if loaded is None else (loaded.BaseError,)


def reason(error: Exception) -> OSError:
    """Give the `OSError` that tells a failure of obstore in our words."""
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, "no such object; check the URL")
    text, kind = str(error), type(error).__name__
    if kind in ("AlreadyExistsError", "PreconditionError"):
        return FileExistsError(errno.EEXIST, "another was stored there meanwhile; try again")
    status = re.search(r"status code: (\d+ ?[A-Za-z ]*)", text)
    code = re.search(r"<Code>(\w+)</Code>", text)
    said = " ".join(part.group(1).strip() for part in (status, code) if part)
    if kind in ("PermissionDeniedError", "UnauthenticatedError"):
        return PermissionError(
            errno.EACCES, f"the server refuses access ({said}); check the credentials"
        )
    if "RangeNotSupported" in text:
        what = "the server cannot send parts of files; copy the file here, or use another server"
        return OSError(errno.EOPNOTSUPP, what)
    if "metadata endpoint" in text.lower() or "/latest/api/token" in text or "169.254." in text:
        what = (
            "no credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_SKIP_SIGNATURE=true for what is public (Google: GOOGLE_APPLICATION_CREDENTIALS, "
            "GOOGLE_SKIP_SIGNATURE=true)"
        )
        return PermissionError(errno.EACCES, what)
    if said.startswith("416"):
        return OSError(errno.EINVAL, "has no bytes there; copy the file again")
    if "redirect without LOCATION" in text or said.startswith("301"):
        what = "the server sends us elsewhere; set AWS_REGION to the bucket's region"
        return OSError(errno.EREMOTE, what)
    if said:
        return OSError(errno.EIO, f"the server fails ({said}); try again later")
    return _without_answer(text)


def _without_answer(text: str) -> OSError:
    if "UnexpectedRange" in text:
        return OSError(
            errno.EIO, "the server sent other bytes than were asked for; copy the file here"
        )
    if "dns error" in text:
        return ConnectionError(errno.EHOSTUNREACH, "no such host; check the URL")
    if "ConnectionRefused" in text or "Connection refused" in text:
        return ConnectionError(errno.ECONNREFUSED, "nobody answers there; check the URL")
    if "TimedOut" in text or "timed out" in text:
        return TimeoutError(errno.ETIMEDOUT, "the server does not answer in time; try again later")
    if "http is not allowed" in text.lower() or "URL scheme is not allowed" in text:
        return OSError(errno.EINVAL, "http is not allowed there; set AWS_ALLOW_HTTP=true")
    if "Body" in text or "error sending request" in text:
        return ConnectionError(errno.ECONNRESET, "the server drops the connection; try again later")
    # Foreign text may hold a URL, and a URL a signature.
    line = re.sub(r"\S+://\S+", "...", text.partition("\n")[0])
    return OSError(errno.EIO, f"{line}; check the URL and the credentials")


@contextmanager
def told(url: str) -> Iterator[None]:
    """Tell in our words what obstore raises in a ``with`` block about a URL."""
    try:
        yield
    except FileNotFoundError as error:
        raise reason(error) from (None if shown(url) != url else error)
    except ValueError as error:
        what = "no name of an object: empty parts, or characters that none can have"
        raise OSError(errno.EINVAL, f"{what}; check the URL") from error
    except failures() as error:
        # A cause is printed with its text, which names the URL.
        raise reason(error) from (None if shown(url) != url else error)


def too_large(most: int) -> OSError:
    """Give the error for a file of more bytes than are read."""
    return OSError(
        errno.EFBIG, f"larger than the {most / 2**20:,.0f} MiB that are read of such a file"
    )
