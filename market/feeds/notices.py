"""Notices: frames that we put into a live source where frames of the market are missing.

A notice is landed as a frame with a number of its own, so that whatever is derived from raw says the same again. It is
none of the market's: it gives no event, goes to quarantine with its reason, and where the venue's updates have no
numbers it loses the book. Where they have, the numbers tell.

Reasons: ``connection_lost`` (it broke and was opened again), ``silent`` (nothing came for too long: it was cut and
opened again), ``shed`` (more came than could be taken: how many frames, and from when to when).
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
    """Reason and sentence of a notice; None where the frame is none."""
    if not payload.startswith(PREFIX):
        return None
    try:
        said = orjson.loads(payload)["data"]
        reason, detail = said["reason"], str(said["detail"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return (reason, detail) if reason in REASONS else None
