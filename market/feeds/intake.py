"""A bounded buffer between a socket and the consumer of its frames, so that a slow disk or an unreachable broker never
stops the reading of a socket.

A socket that is not read blocks its sender, which then cuts the connection without notice. So frames that do not fit
are *shed*: counted, and reported by a notice (:mod:`market.feeds.notices`) in their place among the frames. Nothing is
shed while the buffer has room, which is far more than a healthy lake needs. An exchange that waits for its reader (the
simulator's stamped stream) is made to wait instead.

The taker runs on its own thread from its first frame to its close.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Protocol, Self

from market.feeds.notices import notice
from market.instruments import Instrument

_AT_ONCE: Final = 512  # frames that are taken out together
_POLL_S: Final = 0.002
_REOPENED: Final = 0.5  # of the bound: frames are accepted again only below it, so that holes are few


@dataclass(frozen=True, kw_only=True)
class IntakeConfig:
    """The ``frames`` and ``bytes`` that may wait: minutes of a busy instrument."""

    frames: int = 200_000
    bytes: int = 256 * 2**20


@dataclass(kw_only=True)
class Shed:
    """Totals of what was shed: ``spans`` are ``(first, last)`` receive ns of each hole."""

    frames: int = 0
    bytes: int = 0
    spans: int = 0
    first_ns: int = 0
    last_ns: int = 0


class Taker(Protocol):
    """The consumer of one instrument's frames: a lander, or a sender to a topic. Its block ends with the feed."""

    @property
    def instrument(self) -> Instrument: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def feed(self, frame: int, recv_ns: int, payload: bytes) -> object:
        """Take a frame with its number, from 1."""


class Intake:
    """``async with Intake(taker) as intake: intake.offer(recv_ns, payload)``; leaving the block delivers what is
    waiting.

    ``tell`` is called on the taker's thread with the number of each frame. ``shed`` counts what was shed.
    """

    def __init__(
        self, taker: Taker, config: IntakeConfig | None = None, tell: Callable[[int], None] = lambda _number: None
    ) -> None:
        self.shed = Shed()
        self._taker = taker
        self._config = config or IntakeConfig()
        self._tell = tell
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._bytes = 0
        self._hole: Shed | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="intake")

    def offer(self, recv_ns: int, payload: bytes) -> bool:
        """Accept a frame, or shed it and return False. Never waits.

        Raises:
            KeelError: the taker failed with this error; no more frames are accepted.
        """
        self._check()
        with self._changed:
            if self._is_full(len(payload)):
                self._shed(recv_ns, len(payload))
                return False
            self._tell_hole()
            self._put(recv_ns, payload)
            return True

    async def room(self) -> None:
        """Wait until a frame can be accepted: for an exchange that waits for its reader."""
        while self._is_full(0):
            self._check()
            await asyncio.sleep(_POLL_S)

    async def __aenter__(self) -> Self:
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._tell_hole()
            self._closed = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join)  # other feeds of the process continue meanwhile
        self._check()

    def _is_full(self, more: int) -> bool:
        share = _REOPENED if self._hole is not None else 1.0
        frames, size = share * self._config.frames, share * self._config.bytes
        return len(self._waiting) >= frames or (self._bytes + more > size and bool(self._waiting))

    def _put(self, recv_ns: int, payload: bytes) -> None:
        self._waiting.append((recv_ns, payload))
        self._bytes += len(payload)
        self._changed.notify()

    def _shed(self, recv_ns: int, size: int) -> None:
        if self._hole is None:
            self._hole = Shed(first_ns=recv_ns)
        for each in (self._hole, self.shed):
            each.frames += 1
            each.bytes += size
            each.last_ns = recv_ns
        self.shed.first_ns = self.shed.first_ns or recv_ns

    def _tell_hole(self) -> None:
        hole, self._hole = self._hole, None
        if hole is not None:
            self.shed.spans += 1
            detail = (
                f"{self._taker.instrument.key}: {hole.frames} frames ({hole.bytes} bytes) received from "
                f"{hole.first_ns} to {hole.last_ns} ns were shed: there was no room for them"
            )
            self._put(hole.last_ns, notice("shed", detail))

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        try:
            with self._taker as taker:
                number = 0
                while batch := self._taken():
                    for recv_ns, payload in batch:
                        number += 1
                        taker.feed(number, recv_ns, payload)
                        self._tell(number)
        except BaseException as failure:  # noqa: BLE001 raised by the next offer, on the thread that can report it
            self._failure = failure

    def _taken(self) -> list[tuple[int, bytes]]:
        """The next frames; none once it is closed and empty."""
        with self._changed:
            while not self._waiting and not self._closed:
                self._changed.wait()
            batch = [self._waiting.popleft() for _ in range(min(_AT_ONCE, len(self._waiting)))]
            self._bytes -= sum(len(payload) for _, payload in batch)
            return batch
