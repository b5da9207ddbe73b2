"""Source ids: the names of a recording, a stream or a stretch of a topic in the lake, independent of file names."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from market.clock import NS_PER_S, Clock
from market.errors import EmptyDataError, InputError
from market.venues.formats.line_files import frames

KAFKA_PREFIX: Final = "kafka-"  # frames of such a source are numbered by their position in the topic
TRUNCATED: Final = "truncated"  # the note on a source that can be read only in part, from its beginning

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.-]")


def source_of(path: Path) -> str:
    """The source id of a recording: ``file-`` and the first 16 hex digits of its sha256.

    Raises:
        InputError: the file is missing or cannot be read.
    """
    try:
        with path.open("rb") as file:
            return f"file-{hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror or error}; give the path of a recorded capture"
        ) from None


def source_of_growing(path: Path) -> str:
    """The source id of a recording that grows: ``grow-`` and the first 16 hex digits of its first line's sha256.

    Raises:
        InputError: the file is missing or cannot be read.
        CaptureError: it is damaged.
        EmptyDataError: it has no complete line yet.
    """
    for _, recv_ns, payload in frames(path, growing=True):
        return f"grow-{hashlib.sha256(b'%d %s' % (recv_ns, payload)).hexdigest()[:16]}"
    raise EmptyDataError(f"{path.name} has no complete line yet; try again when it does")


def source_of_symbol(source: str, symbol: str) -> str:
    """The source id of one instrument of a recording."""
    return f"{source}-{_UNSAFE.sub('-', symbol)}"


def live_source(url: str, clock: Clock) -> str:
    """``live-<UTC time>-<4 hex>`` for a stream that starts now."""
    now_ns = clock.now_ns()
    stamp = datetime.fromtimestamp(now_ns // NS_PER_S, tz=UTC).strftime("%Y%m%dT%H%M%S")
    return f"live-{stamp}-{hashlib.sha256(f'{url} {now_ns}'.encode()).hexdigest()[:4]}"
