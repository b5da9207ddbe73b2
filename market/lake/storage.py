"""The location of a lake: a folder of this machine, or a prefix in a bucket of S3 or of an S3-compatible server.

S3 is configured in the environment, under the names that every S3 client reads: ``AWS_ACCESS_KEY_ID``,
``AWS_SECRET_ACCESS_KEY``, ``AWS_SESSION_TOKEN``, ``AWS_REGION``, ``AWS_ENDPOINT_URL`` (a server that is not Amazon's)
and ``AWS_ALLOW_HTTP``. Nothing of it is stored anywhere or appears in an error, and keys are read from nowhere else.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pyarrow.fs as pafs

from market.errors import SettingsError

_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_ROLES: Final = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI")
_RETRIES: Final = {"connect_timeout": "5s", "timeout": "60s", "max_retries": "10", "retry_timeout": "30s"}


@dataclass(frozen=True, kw_only=True)
class Storage:
    """One address, without a slash at its end."""

    uri: str

    @property
    def folder(self) -> Path | None:
        """The folder, if it is on this machine."""
        return None if "://" in self.uri else Path(self.uri)

    def options(self) -> dict[str, str] | None:
        """Options for delta-rs, besides what it reads from the environment itself; None for a folder.

        A commit is a put that fails if another writer was first (``If-None-Match``), so no lock outside the bucket is
        needed. The server must support that; Amazon S3 and SeaweedFS do.
        """
        if self.folder is not None:
            return None
        _require_keys()
        plain = {"allow_http": "true"} if endpoint().startswith("http://") else {}
        return {"conditional_put": "etag", "region": region(), **_RETRIES, **plain}

    def filesystem(self, path: str = "") -> pafs.FileSystem:
        """Arrow's own file system for what lies under ``path``.

        deltalake's is written in Python: Arrow's threads may release it during interpreter shutdown, and the process
        then aborts.
        """
        below = f"/{path}" if path else ""
        if self.folder is not None:
            return pafs.SubTreeFileSystem(f"{self.uri}{below}", pafs.LocalFileSystem())
        return pafs.SubTreeFileSystem(self.uri.removeprefix("s3://") + below, s3())


def storage_of(uri: str | Path) -> Storage:
    """A folder or ``s3://bucket/prefix``.

    Raises:
        SettingsError: the address is of another kind, or has no bucket.
    """
    scheme, mark, rest = str(uri).partition("://")
    if mark and (scheme != "s3" or not rest.strip("/")):
        raise SettingsError(f"expected a folder or s3://bucket/prefix, saw {str(uri)!r}")
    return Storage(uri=str(uri).rstrip("/"))


def endpoint() -> str:
    """Address of the S3 server; empty for Amazon's.

    Raises:
        SettingsError: keys would go over a network unencrypted.
    """
    url = os.environ.get("AWS_ENDPOINT_URL", "").rstrip("/")
    if not url:
        return ""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SettingsError(f"AWS_ENDPOINT_URL: expected http(s)://host:port, saw {url!r}")
    allowed = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK and not allowed:
        raise SettingsError(
            f"AWS_ENDPOINT_URL is {url}: without TLS, and not on this machine; use https, or set AWS_ALLOW_HTTP=true"
        )
    return url


def region() -> str:
    """The region that requests are signed for; a server that is not Amazon's accepts any."""
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"


def s3() -> pafs.S3FileSystem:
    """Arrow's S3 client as the environment describes it.

    Raises:
        SettingsError: the environment has no credentials, or keys would go over a network unencrypted.
    """
    _require_keys()
    # the address with its scheme, else Amazon's
    return pafs.S3FileSystem(
        region=region(), endpoint_override=endpoint() or None, connect_timeout=5, request_timeout=60
    )


def _require_keys() -> None:
    """Without keys in the environment the clients would ask their host machine for some; that is not wanted."""
    if os.environ.get("AWS_ACCESS_KEY_ID") and os.environ.get("AWS_SECRET_ACCESS_KEY"):
        return
    if any(os.environ.get(name) for name in _ROLES):
        return
    raise SettingsError(
        "expected AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment (or a role, by "
        f"{' or '.join(_ROLES)}), saw none; keys are read from nowhere else"
    )
