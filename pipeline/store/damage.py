"""What zarr and the disk raise, told as a `StoreError` that names the store and what to do."""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from pipeline.errors import DamagedStoreError, DiskFullError, StoreError, one_line
from pipeline.files.urls import is_url

__all__ = ["DAMAGE", "reason", "tells_the_store"]

P = ParamSpec("P")
R = TypeVar("R")

# zarr's own errors are ValueErrors, its codecs' are ValueErrors or RuntimeErrors; a metadata file
# that was cut short is no JSON, and one of another kind lacks keys or holds other types.
DAMAGE = (
    *(ValueError, LookupError, TypeError, RuntimeError, AttributeError, ArithmeticError),
    FileNotFoundError,
)
"""What is raised by what is torn or missing."""

_FULL = (errno.ENOSPC, errno.EDQUOT)


def tells_the_store(function: Callable[P, R]) -> Callable[P, R]:
    """Translate what a function raises; its first argument is a store's path, or an array."""

    @wraps(function)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except StoreError:
            raise
        except DAMAGE as error:
            raise DamagedStoreError(
                f"{_name(args[0])}: damaged: {one_line(error)}; mend it with wsi-pipeline status "
                "RESULTS --verify --repair, or remove the store, and run again"
            ) from error
        except OSError as error:
            if is_url(_name(args[0])):
                raise StoreError(f"{_name(args[0])}: {error.strerror}") from error
            if error.errno in _FULL:
                raise DiskFullError(
                    f"{_name(args[0])}: {one_line(error)}; make room, then run again to continue"
                ) from error
            raise StoreError(
                f"{_name(args[0])}: cannot be read or written: {one_line(error)}; check its "
                "permissions and the space on its disk, and run again"
            ) from error

    return told


def _name(first: object) -> str:
    store, name = getattr(first, "store", first), getattr(first, "name", "")
    return f"{store}/{name}" if name else str(store)


def reason(error: Exception) -> str:
    """Give what was raised first, without which store it is and what to do."""
    cause = error.__cause__
    return one_line(cause if isinstance(cause, Exception) else error)
