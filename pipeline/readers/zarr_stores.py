"""What zarr opens: a path as it is, a URL as an object store whose failures are told as ours."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from zarr.storage import ObjectStore

from pipeline.files import cloud
from pipeline.files.urls import is_url

__all__ = ["zarr_at"]


def zarr_at(path: str) -> Any:
    """Give what zarr takes for the store at a path or a URL."""
    return _Told(cloud.root(path), url=path) if is_url(path) else path


class _Told(ObjectStore[Any]):
    """A store behind a URL: it raises the `OSError` a disk would, see `pipeline.files.cloud`."""

    def __init__(self, store: Any, *, read_only: bool = False, url: str) -> None:
        super().__init__(store, read_only=read_only)
        self._url = url

    def with_read_only(self, read_only: bool = False) -> _Told:
        return _Told(self.store, read_only=read_only, url=self._url)

    async def get(self, key: str, *given: Any, **named: Any) -> Any:
        with cloud.told(self._url):
            return await super().get(key, *given, **named)

    async def get_partial_values(self, *given: Any, **named: Any) -> Any:
        with cloud.told(self._url):
            return await super().get_partial_values(*given, **named)

    async def exists(self, key: str) -> bool:
        with cloud.told(self._url):
            return await super().exists(key)

    async def set(self, key: str, value: Any) -> None:
        with cloud.told(self._url):
            await super().set(key, value)

    async def delete(self, key: str) -> None:
        with cloud.told(self._url):
            await super().delete(key)

    async def delete_dir(self, prefix: str) -> None:
        with cloud.told(self._url):
            await super().delete_dir(prefix)

    async def list_prefix(self, prefix: str) -> AsyncGenerator[str, None]:
        with cloud.told(self._url):
            async for key in super().list_prefix(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncGenerator[str, None]:
        with cloud.told(self._url):
            async for key in super().list_dir(prefix):
                yield key
