"""Drivers of a quoting session: the steps of an exchange, or the frames of a recording."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass

from market.clock import NS_PER_MS, NS_PER_S
from market.errors import CaptureError, ServiceError
from market.feeds import websocket
from market.feeds.landing import Lander
from serving.session.session import Line, QuotingSession

STEP_NS = 10 * NS_PER_MS  # frames of a recording that are looked at together, as an exchange sends them
COOL_NS = 1_100 * NS_PER_MS  # listened on after the last quote, so that the later mids of the last fills are known


@dataclass(frozen=True, kw_only=True)
class Until:
    """How long: ``seconds`` of market time (None: to the end of what comes), until the market's ``end_ns``, or until
    ``stop`` is set.

    ``advance`` receives the seconds of market time that have passed since its last call. With ``endless`` a simulated
    exchange is asked for a stream without an end, regardless of ``seconds``.
    """

    seconds: float | None
    stop: threading.Event
    advance: Callable[[float], None]
    end_ns: int | None = None
    endless: bool = False

    @property
    def asked_s(self) -> float | None:
        """Seconds to ask a simulated exchange for; None: without an end."""
        return None if self.endless else self.seconds

    def reached(self, session: QuotingSession) -> bool:
        """Whether quoting should end."""
        totals = session.totals
        if self.stop.is_set() or (self.end_ns is not None and totals.last_ns >= self.end_ns):
            return True
        return self.seconds is not None and totals.last_ns - totals.first_ns >= self.seconds * NS_PER_S


async def trade(session: QuotingSession, exchange: websocket.Session, until: Until) -> None:
    """Quote at an exchange; at the end cancel everything, wait until that is confirmed, and listen on for a moment.

    Raises:
        ServiceError: the connection broke. What was decided until then is buffered as always.
    """
    clock = _Ticker(session, until)
    leave_ns: int | None = None
    async with exchange, aclosing(exchange.steps()) as steps:
        async for lines in steps:
            session.take(lines)
            session.hear(exchange.take_user_data(), exchange.take_replies())
            if leave_ns is not None and session.engine.open_orders == 0 and session.totals.last_ns >= leave_ns:
                return
            if leave_ns is None and until.reached(session):
                leave_ns = session.totals.last_ns + (0 if until.stop.is_set() else COOL_NS)
                await exchange.send(session.withdraw())
            else:
                await exchange.send(session.orders())
            session.flush()
            clock.tell()
    if session.engine.open_orders and leave_ns is None:
        raise ServiceError("the exchange ended the stream while we were quoting; its last orders died with it")


async def listen(lander: Lander, exchange: websocket.Session, until: Callable[[int], bool]) -> None:
    """Land what an exchange sends and quote nothing, until ``until``, given the newest receive time, says so.

    Raises:
        ServiceError: the connection broke; what came before is landed.
    """
    last_ns = 0
    async with exchange, aclosing(exchange.steps()) as steps:
        async for lines in steps:
            for recv_ns, payload in lines:
                last_ns = max(last_ns, recv_ns)
                lander.feed(lander.stats.frames + 1, recv_ns, payload)
            exchange.forget_private()
            if until(last_ns):
                return


def follow(session: QuotingSession, frames: Iterable[tuple[int, int, bytes]], until: Until) -> None:
    """Decide along a recording; nothing is sent to anybody.

    Raises:
        CaptureError: the recording cannot be read further; everything before was taken.
    """
    clock = _Ticker(session, until)
    for lines in _steps(frames):
        if until.end_ns is not None and lines[0][0] >= until.end_ns:
            return
        session.take(lines)
        session.flush()
        clock.tell()
        if until.reached(session):
            return


def _steps(frames: Iterable[tuple[int, int, bytes]]) -> Iterator[list[Line]]:
    """Frames that came in the same 10 ms. When reading breaks off, what was read goes out before the error does."""
    lines: list[Line] = []
    broken: CaptureError | None = None
    step = 0
    try:
        for _, recv_ns, payload in frames:
            if lines and recv_ns // STEP_NS != step:
                yield lines
                lines = []
            step = recv_ns // STEP_NS
            lines.append((recv_ns, payload))
    except CaptureError as error:
        broken = error
    if lines:
        yield lines
    if broken is not None:
        raise broken


class _Ticker:
    """Reports passing market time, at most once per second of it."""

    def __init__(self, session: QuotingSession, until: Until) -> None:
        self._session = session
        self._advance = until.advance
        self._told_ns = 0

    def tell(self) -> None:
        totals = self._session.totals
        self._told_ns = self._told_ns or totals.first_ns
        passed_ns = totals.last_ns - self._told_ns
        if passed_ns >= NS_PER_S:
            self._advance(passed_ns / NS_PER_S)
            self._told_ns = totals.last_ns
