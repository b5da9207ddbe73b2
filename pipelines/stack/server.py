"""What is said about a server so that it can be started, asked and stopped."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from market.errors import ServiceError

PROBE_SECONDS = 10.0  # a machine that is starting everything at once answers late


def nothing() -> None:
    """Nothing to prepare."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """One server process of the stack.

    ``needs`` names servers that must be well before this one is prepared. ``prepare`` runs before the start, ``settle``
    once the server is well; both are free to run again. ``probe`` asks the server through its own protocol and raises
    ServiceError. ``account`` is who it runs as when root starts the stack. ``page`` is what a person opens.
    """

    name: str
    what: str
    command: tuple[str, ...]
    probe: Callable[[], None]
    needs: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[], None] = nothing
    settle: Callable[[], None] = nothing
    account: str = ""
    page: str = ""
    stop_signal: str = "TERM"
    stop_seconds: int = 15
    start_seconds: float = 240.0  # a cold machine compiles, migrates and reads from a slow disk


@functools.cache
def certificates() -> ssl.SSLContext:
    """Those of the machine, read once: that takes longer than asking a server on loopback does."""
    return httpx.create_ssl_context()


def get(url: str, **options: Any) -> httpx.Response:
    """GET, with an answer of status 200 or nothing.

    Raises:
        ServiceError: no answer, or another status.
    """
    with spoken(url, httpx.HTTPError):
        answer = httpx.get(url, timeout=PROBE_SECONDS, trust_env=False, verify=certificates(), **options)
    if answer.status_code != httpx.codes.OK:
        raise ServiceError(f"{url} answered {answer.status_code}, expected 200: {answer.text[:200]}")
    return answer


@contextmanager
def spoken(where: str, *errors: type[Exception]) -> Iterator[None]:
    """Say these errors of a client library as a ServiceError that names the server."""
    try:
        yield
    except errors as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise ServiceError(f"{where} does not answer as it should: {said[:300]}") from error
