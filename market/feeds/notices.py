"""Notices: frames that we insert into a live source where market frames are missing.

A notice is landed as a frame with its own number, so that a derivation from raw gives the same result. It is not market
data: it produces no event, goes to quarantine with its reason, and clears the book if the venue's updates have no
numbers. If they have numbers, those show the gap.

Reasons: ``connection_lost`` (it broke and was reopened), ``silent`` (nothing came for too long: it was cut and
reopened), ``shed`` (more came than could be accepted: how many frames, and from when to when).
"""

from __future__ import annotations

from typing import Final, Literal, get_args

import orjson

Reason = Literal["connection_lost", "silent", "shed"]

PREFIX: Final = b'{"stream":"keel@lost","data":'
REASONS: Final[tuple[str, ...]] = get_args(Reason)


def notice(reason: Reason, detail: str) -> bytes:
    """The payload of a notice."""
    return PREFIX + orjson.dumps({"reason": reason, "detail": detail}) + b"}"


def read(payload: bytes) -> tuple[Reason, str] | None:
    """Reason and sentence of a notice; None if the frame is not a notice."""
    if not payload.startswith(PREFIX):
        return None
    try:
        data = orjson.loads(payload)["data"]
        reason, detail = data["reason"], str(data["detail"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return (reason, detail) if reason in REASONS else None
