"""DVC's ``s3://`` remotes over Arrow's S3 client.

``dvc-s3`` does not install alongside this project's other libraries. What it would add is a file system, and Arrow has
one; DVC's own way of laying out a remote stays, so that a DVC with ``dvc-s3`` reads and writes the same remote.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from dvc.fs import known_implementations
from dvc_objects.fs.base import ObjectFileSystem
from fsspec.implementations.arrow import ArrowFSWrapper

from market.lake import storage


class _Objects(ArrowFSWrapper):  # type: ignore[misc]
    """S3 has no folders: none are made."""

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None: ...

    def makedirs(self, path: str, exist_ok: bool = False) -> None: ...


class S3FileSystem(ObjectFileSystem):  # type: ignore[misc]
    """What DVC asks of a remote's file system; keys and address are the environment's (:mod:`market.lake.storage`)."""

    protocol = "s3"
    PARAM_CHECKSUM = "etag"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix("s3://")

    def unstrip_protocol(self, path: str) -> str:
        return f"s3://{self._strip_protocol(path)}"

    @cached_property
    def fs(self) -> ArrowFSWrapper:
        return _Objects(storage.s3(), skip_instance_cache=True)

    @cached_property
    def fs_args(self) -> dict[str, Any]:
        return {"skip_instance_cache": True}


def register() -> None:
    """Let this process's DVC open ``s3://`` remotes."""
    known_implementations["s3"] = {"class": f"{__name__}.{S3FileSystem.__name__}", "err": "never said"}
