"""The simulated market as tests look at it: the bytes of a world, a reader of its stream, a client in lockstep."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import orjson
from websockets.sync.client import ClientConnection, connect

from market.books.price_book import Book
from market.events import Events
from market.feeds.normalise import Normaliser, Stats
from market.feeds.orders import USER_DATA_PREFIX
from market.feeds.websocket import STEP
from market.simulator.config import ExchangeConfig
from market.simulator.world import World

INSTRUMENT = ExchangeConfig().instrument
STREAMS = "btcusdt@depth@100ms/btcusdt@bookTicker/btcusdt@trade/btcusdt@markPrice@1s"

Line = tuple[int, bytes]
Sides = tuple[dict[int, int], dict[int, int]]  # bids and asks: ticks -> lots

_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def bytes_of_world(world: World) -> dict[str, bytes]:
    """Everything that the world's future depends on, by name; output that was taken already is no part of it."""
    core = world._core
    return {name: getattr(core, name).tobytes() for name in core._fields if name not in ("out", "levels", "changed")}


def sides_of_world(world: World) -> Sides:
    book = world.book()
    return dict(book.bids), dict(book.asks)


def sides_of_snapshot(body: bytes) -> tuple[int, Sides]:
    """Update id and levels of a depth snapshot."""
    said = orjson.loads(body)
    bids, asks = (
        {round(float(price) * 10): round(float(size) * 1000) for price, size in said[side]} for side in ("bids", "asks")
    )
    return said["lastUpdateId"], (bids, asks)


@dataclass
class Reader:
    """A client's book: the stream through a normaliser, and a second book that sees only its events."""

    normaliser: Normaliser = field(default_factory=lambda: Normaliser(INSTRUMENT, "simulated"))
    book: Book = field(default_factory=Book)
    frames: int = 0

    def feed(self, line: Line) -> Events:
        self.frames += 1
        events = self.normaliser.feed(self.frames, *line)
        self.book.apply_batch(events)
        return events

    @property
    def stats(self) -> Stats:
        return self.normaliser.stats

    @property
    def synced(self) -> bool:
        return self.normaliser.synced

    def sides(self) -> Sides:
        return dict(self.book.bids(9999).tolist()), dict(self.book.asks(9999).tolist())


def get(port: int, path: str) -> tuple[int, bytes]:
    """Status and body of a GET to an exchange on loopback."""
    try:
        with _NO_PROXY.open(f"http://127.0.0.1:{port}{path}", timeout=30) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read()


def stream_url(port: int, **query: object) -> str:
    """The stamped stream of an exchange on loopback, as :mod:`market.simulator.exchange` documents it."""
    said = {"streams": STREAMS, "stamp": 1, "snapshot": 1, **query}
    return f"ws://127.0.0.1:{port}/stream?" + "&".join(f"{name}={value}" for name, value in said.items())


class LockstepClient:
    """A client that the exchange stands still for between two calls of :meth:`step`.

    ``reports`` are the order objects of its user data, ``replies`` the answers to its requests, ``ended`` whether the
    stream has said so. At another ``pace`` a step is a message.
    """

    def __init__(self, port: int, **query: object) -> None:
        self._url = stream_url(port, **{"pace": "lockstep", **query})
        self._open = ExitStack()
        self._connection: ClientConnection | None = None
        self._ask = False  # the first step comes unasked
        self._port = port
        self.reports: list[dict] = []
        self.report_stamps: list[int] = []
        self.replies: list[dict] = []
        self.ended = False

    def __enter__(self) -> Self:
        self._connection = self._open.enter_context(
            connect(self._url, compression=None, proxy=None, max_size=None, close_timeout=2)
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def step(self, *requests: bytes) -> list[Line]:
        """Send requests, let one step pass; its market frames."""
        assert self._connection is not None
        if self._ask or requests:
            self._connection.send(b"\n".join([*requests, *([STEP] if self._ask else [])]), text=True)
        self._ask = "pace=lockstep" in self._url
        lines: list[Line] = []
        for line in self._connection.recv(timeout=60, decode=False).split(b"\n"):
            stamp, _, payload = line.partition(b" ")
            if payload.startswith(USER_DATA_PREFIX):
                self.reports.append(orjson.loads(payload)["data"]["o"])
                self.report_stamps.append(int(stamp))
            elif payload.startswith(b'{"id":'):
                self.replies.append(orjson.loads(payload))
            elif payload.startswith(b'{"stream":"keel@end"'):
                self.ended = True
            elif not payload.startswith(b'{"stream":"keel@step"'):
                lines.append((int(stamp), payload))
        return lines

    def steps(self, n: int) -> list[Line]:
        """Let ``n`` steps pass; their market frames."""
        return [line for _ in range(n) for line in self.step()]

    def rest(self) -> list[Line]:
        """Everything until the stream ends."""
        lines: list[Line] = []
        while not self.ended:
            lines += self.step()
        return lines

    def vanish(self) -> None:
        """Leave without a closing handshake."""
        assert self._connection is not None
        self._connection.socket.shutdown(socket.SHUT_RDWR)

    def get(self, path: str) -> bytes:
        """The body of a GET, answered while the exchange stands still."""
        status, body = get(self._port, path)
        assert status == 200, body
        return body

    def depth(self) -> tuple[int, Sides]:
        """Update id and levels of the exchange's book now."""
        return sides_of_snapshot(self.get("/fapi/v1/depth?symbol=BTCUSDT&limit=1000"))

    def time_ms(self) -> int:
        """World time."""
        return int(orjson.loads(self.get("/sim/state"))["time_ms"])
