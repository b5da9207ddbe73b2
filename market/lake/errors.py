"""Errors of a table, as sentences that tell the user what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pyarrow as pa
from deltalake.exceptions import CommitFailedError, DeltaError

from market.errors import LakeError


@contextmanager
def sentences(what: str, done: str) -> Iterator[None]:
    """Describe the error with ``what``, and what to do."""
    try:
        yield
    except (DeltaError, OSError, pa.ArrowException) as error:
        raise LakeError(_explained(what, done, error)) from error


_S3_ADVICE: Final = (
    "Check the bucket's name, AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and run the same "
    "command again; what was committed is safe."
)
_COLOURS: Final = re.compile(r"\x1b\[\d*m")
_RACES: Final = ("a concurrent transaction", "metadata changed", "protocol changed")
_GONE: Final = ("no such file", "not found", "path does not exist")
_FULL: Final = ("no space left", "os error 28", "disk quota", "file too large", "os error 27")


def _explained(what: str, done: str, error: Exception) -> str:
    if "concurrent transaction failed" in str(error).lower():  # another commit advanced the position of the same source
        return two_writers(what, "the same source")
    text = " ".join(_COLOURS.sub("", str(error)).split())
    if "s3://" in what:
        return f"{what} cannot be {done}: {_of_s3(text)}. {_S3_ADVICE}"
    text = text[:400]
    if any(sign in text.lower() for sign in _FULL):
        return (
            f"{what} cannot be {done}: no space left on its disk. "
            "Free some space and run the same command again; what was committed is safe."
        )
    if "permission denied" in text.lower():
        return f"{what} cannot be {done}: permission denied. Make it writable for this user, or set another KEEL_HOME."
    if any(sign in text.lower() for sign in _GONE):
        return (
            f"{what} cannot be {done}: a data file is missing. For an old version, keel lake vacuum has removed "
            f"it; for the newest, the table is damaged (keel lake verify): {text}"
        )
    return f"{what} cannot be {done}: {text}"


def _of_s3(text: str) -> str:
    """The server's own message (XML, wrapped by the layers in between), else the last of the causes."""
    found = re.search(r"<Code>(.*?)</Code>.*?<Message>(.*?)</Message>", text)
    return f"{found[1]}: {found[2].rstrip('.')}" if found else text.rpartition(" \u21b3 ")[2][:400]


def lost_a_race(error: BaseException | None) -> bool:
    """Whether a commit failed because another one came first and changed what this one had read."""
    text = str(error).lower()
    return isinstance(error, CommitFailedError) and any(sign in text for sign in _RACES)


def two_writers(what: str, source: str) -> str:
    """The error for a source that another process lands as well."""
    return (
        f"{what}: another process lands {source} too; nothing of this commit was written. Let one of them finish, "
        "then run the same command again: it continues from what is there"
    )
