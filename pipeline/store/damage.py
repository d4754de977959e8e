"""What zarr and the disk raise, told as a `StoreError` that names the store and what to do."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from pipeline.errors import StoreError
from pipeline.urls import is_url

__all__ = ["tells_the_store"]

P = ParamSpec("P")
R = TypeVar("R")

# zarr's own errors are ValueErrors, its codecs' are ValueErrors or RuntimeErrors; a metadata file
# that was cut short is no JSON, and one of another kind lacks keys.
_DAMAGE = (ValueError, KeyError, TypeError, RuntimeError, FileNotFoundError)


def tells_the_store(function: Callable[P, R]) -> Callable[P, R]:
    """Translate what a function raises; its first argument is a store's path, or an array."""

    @wraps(function)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except StoreError:
            raise
        except _DAMAGE as error:
            raise StoreError(
                f"{_name(args[0])}: damaged: {_line(error)}; remove the store and run again"
            ) from error
        except OSError as error:
            if is_url(_name(args[0])):
                raise StoreError(f"{_name(args[0])}: {error.strerror}") from error
            raise StoreError(
                f"{_name(args[0])}: cannot be read or written: {_line(error)}; check its "
                "permissions and the space on its disk, and run again"
            ) from error

    return told


def _name(first: object) -> str:
    store, name = getattr(first, "store", first), getattr(first, "name", "")
    return f"{store}/{name}" if name else str(store)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
