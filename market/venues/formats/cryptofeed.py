"""Recordings as the program cryptofeed writes them: what came over each connection of an exchange, a file each.

``EXCHANGE.ws.<n>.<m>`` holds a WebSocket's lines ``<seconds>: <message>``, and what was opened and sent (``<address>
<-> <seconds>``, ``<address> <- <seconds>: <message>``). ``EXCHANGE.http.<n>.<m>`` and ``EXCHANGE.<m>`` hold REST
answers, ``<address> -> <seconds>: <body>``. Both kinds of an exchange are one recording, merged by their times; the
first WebSocket of an exchange takes the REST answers.

A message's payload is the message; that of every other line is the whole line.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from market.errors import FrameError
from market.instruments import Instrument
from market.venues.formats.archives import lines
from market.venues.formats.json_frames import ns_of_seconds
from market.venues.protocol import NO_STAMP, SEVERAL, Frame, Parsed, Parser, Route, Rule, Venue, always

_LINE: Final = re.compile(rb"(?:(\S+) (<->|<-|->) )?(\d+(?:\.\d+)?)(?:: |$)", re.DOTALL)
_NAME: Final = re.compile(r"(?P<exchange>.+)\.ws\.(?P<number>\d+)\.(?P<part>\d+)")

Unpack = Callable[[bytes], bytes]
Answer = Callable[[str, bytes], bytes | None]


def recorded(  # noqa: PLR0913 one row of the table of venues, by name
    *,
    name: str,
    addresses: Mapping[str, str],
    parser: Callable[[Instrument], Parser],
    reasons: frozenset[str],
    rule: Rule | Callable[[Instrument], Rule],
    route: Callable[[], Route],
    unpack: Unpack | None = None,
    answer: Answer | None = None,
) -> Venue:
    """A venue that cryptofeed recorded.

    ``addresses`` are beginnings of WebSocket addresses and the venue name of their instruments' keys. ``unpack`` turns
    a message into JSON. ``answer`` turns a REST answer (address, body) into a frame that ``parser`` and ``route`` read,
    or into None where it is none of its business.
    """
    opened = _Opened(unpack=unpack, answer=answer)

    return Venue(
        name=name,
        parser=lambda instrument: _Recorded(parser(instrument), opened),
        reasons=reasons,
        rule=rule if callable(rule) else always(rule),
        frames=frames,
        recognise=lambda path: _recognised(path, addresses),
        parts=parts,
        route=lambda: _Routed(route(), opened),
    )


class _Opened:
    """From the payload of a line to the venue's own frame."""

    def __init__(self, *, unpack: Unpack | None, answer: Answer | None) -> None:
        self._unpack = unpack
        self._answer = answer

    def frame(self, payload: bytes) -> bytes | None:
        """The frame; None where the line says what was opened, sent or answered."""
        match = _LINE.match(payload)
        if match is None or match[1] is None:
            return self._unpack(payload) if self._unpack else payload
        if match[2] != b"->" or self._answer is None:
            return None
        return self._answer(match[1].decode("ascii", "replace"), payload[match.end() :])


class _Routed:
    """A route that also takes the other lines of a recording."""

    def __init__(self, inner: Route, opened: _Opened) -> None:
        self._inner = inner
        self._opened = opened
        self.missed = False

    def __call__(self, payload: bytes) -> str | None:
        self.missed = False
        try:
            frame = self._opened.frame(payload)
        except FrameError:
            return None
        symbol = self._inner(frame) if frame is not None else None
        self.missed = frame is not None and getattr(self._inner, "missed", False)
        return symbol


class _Recorded:
    """A parser of a venue's frames that also takes the other lines of a recording."""

    def __init__(self, inner: Parser, opened: _Opened) -> None:
        self._inner = inner
        self._opened = opened

    def parse(self, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        """As the inner parser; what was opened, sent or answered is ``other``."""
        own = self._opened.frame(payload)
        return Parsed("other") if own is None else self._inner.parse(own, recv_ns, frame)


def frames(path: Path) -> Iterator[Frame]:
    """Numbered payloads of a recording, its parts merged by their times."""
    merged = heapq.merge(*(_stamped(part) for part in parts(path)), key=lambda each: each[0])
    for number, (_, recv_ns, payload) in enumerate(merged, 1):
        yield number, recv_ns, payload


def _stamped(path: Path) -> Iterator[Frame]:
    """``(place in time, receive ns, payload)``; the place never runs back: the order of a file is kept."""
    place = 0
    for _, line in lines(path):
        match = _LINE.match(line)
        try:
            recv_ns = ns_of_seconds(match[3].decode()) if match else NO_STAMP
        except FrameError:
            recv_ns = NO_STAMP
        place = max(place, recv_ns)
        whole = match is None or match[1] is not None or recv_ns == NO_STAMP
        yield place, recv_ns, line if match is None or whole else line[match.end() :]


def parts(path: Path) -> tuple[Path, ...]:
    """The WebSocket's file and, for the first one of its exchange, the files of REST answers beside it."""
    name = _NAME.fullmatch(path.name)
    if name is None:
        return (path,)
    pattern = re.compile(re.escape(name["exchange"]) + r"\.ws\.(\d+)\." + name["part"])
    numbers = [int(found[1]) for each in path.parent.iterdir() if (found := pattern.fullmatch(each.name))]
    if int(name["number"]) != min(numbers):
        return (path,)
    rest = re.compile(re.escape(name["exchange"]) + r"(\.http\.\d+)?\." + name["part"])
    return (path, *sorted(each for each in path.parent.iterdir() if rest.fullmatch(each.name)))


def _recognised(path: Path, addresses: Mapping[str, str]) -> str | None:
    """The key of the venue whose WebSocket the first line opens."""
    for _, line in lines(path):
        match = _LINE.match(line)
        if match is None or match[2] != b"<->":
            return None
        address = match[1].decode("ascii", "replace")
        longest = max((each for each in addresses if address.startswith(each)), key=len, default=None)
        return f"{addresses[longest]}.{SEVERAL}" if longest else None
    return None
