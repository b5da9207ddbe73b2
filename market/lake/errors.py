"""What went wrong with a table, as a sentence that says what to do."""

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
    """Say what went wrong with ``what``, and what to do."""
    try:
        yield
    except (DeltaError, OSError, pa.ArrowException) as error:
        raise LakeError(_explained(what, done, error)) from error


_S3_ADVICE: Final = (
    "Look at the bucket's name, AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and run the same "
    "command again; what was committed is safe."
)
_COLOURS: Final = re.compile(r"\x1b\[\d*m")
_RACES: Final = ("a concurrent transaction", "metadata changed", "protocol changed")
_GONE: Final = ("no such file", "not found", "path does not exist")
_FULL: Final = ("no space left", "os error 28", "disk quota", "file too large", "os error 27")


def _explained(what: str, done: str, error: Exception) -> str:
    if "concurrent transaction failed" in str(error).lower():  # another commit moved the position of the same source
        return two_writers(what, "the same source")
    said = " ".join(_COLOURS.sub("", str(error)).split())
    if "s3://" in what:
        return f"{what} cannot be {done}: {_of_s3(said)}. {_S3_ADVICE}"
    said = said[:400]
    if any(sign in said.lower() for sign in _FULL):
        return (
            f"{what} cannot be {done}: no space left on its disk. "
            "Free some and run the same command again; what was committed is safe."
        )
    if "permission denied" in said.lower():
        return f"{what} cannot be {done}: permission denied. Make it writable for this user, or set another KEEL_HOME."
    if any(sign in said.lower() for sign in _GONE):
        return (
            f"{what} cannot be {done}: a data file is not there. Of a version of before, keel lake vacuum has removed "
            f"it; of the newest, the table is damaged (keel lake verify): {said}"
        )
    return f"{what} cannot be {done}: {said}"


def _of_s3(said: str) -> str:
    """What the server said (XML, in the midst of who passed it on), else the last of the causes."""
    found = re.search(r"<Code>(.*?)</Code>.*?<Message>(.*?)</Message>", said)
    return f"{found[1]}: {found[2].rstrip('.')}" if found else said.rpartition(" \u21b3 ")[2][:400]


def lost_a_race(error: BaseException | None) -> bool:
    """Whether a commit failed because another one came first and changed what this one had looked at."""
    said = str(error).lower()
    return isinstance(error, CommitFailedError) and any(sign in said for sign in _RACES)


def two_writers(what: str, source: str) -> str:
    """The sentence for a source that somebody else lands as well."""
    return (
        f"{what}: another process lands {source} too; nothing of this commit was written. Let one of them end, "
        "then run the same command again: it goes on from what is there"
    )
