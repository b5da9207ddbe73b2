"""The simulated exchange on a real WebSocket, loopback only, for one client at a time.

``GET /fapi/v1/depth?symbol=BTCUSDT&limit=1000``
    The depth snapshot, as Binance USD-M returns it.
``GET /sim/state``, ``/sim/regime?name=volatile``, ``/sim/fault?kind=drop_diff&seconds=5``
    Read or change the state of the world. See :mod:`.config` for regimes and :mod:`.faults` for faults.
``ws /stream?streams=btcusdt@depth@100ms/btcusdt@bookTicker/btcusdt@trade/btcusdt@markPrice@1s``
    Binance's combined stream, with these additions in the query:

    * ``pace``: ``max`` (as fast as the client reads; the default), ``lockstep``, or a multiple of real time.
    * ``seconds``: world time after which the stream sends ``keel@end`` and closes.
    * ``stamp=1``: every line is ``<receive ns> <json>`` and lines are joined by newlines into messages, as recordings
      have them. Without it a message is one frame.
    * ``snapshot=1``: the depth snapshot is sent as a line of the stream after the first diff and then every
      ``snapshot_every`` seconds.

World time passes only while a client is connected; the world outlives connections. It advances in steps of 10 ms, and
the lines are the same at every pace, except for the ``keel@step`` marks that end a message. In lockstep the exchange
sends one step and waits for ``{"method":"keel.step"}``. Order requests (Binance's WebSocket API form,
newline-separated) arrive on the same socket; they reach the matching engine ``order_latency_us`` of world time after
the step they were sent in, and are answered with replies and ``ORDER_TRADE_UPDATE`` lines.
"""

from __future__ import annotations

import asyncio
import errno
import http
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

import orjson
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from market.clock import NS_PER_MS, NS_PER_S
from market.errors import InputError, KeelError, PortInUseError, SettingsError
from market.simulator import frames
from market.simulator.config import ExchangeConfig
from market.simulator.desk import Desk
from market.simulator.faults import DEFAULT_SECONDS, Faults
from market.simulator.frames import Line
from market.simulator.state import DIFF
from market.simulator.world import World

HOST = "127.0.0.1"
_CONTROLS = ("/sim/state", "/sim/regime", "/sim/fault")
_STEPS_A_MESSAGE = 10  # of pace=max
_CLOSE_S = 1.0  # longest wait for a client that does not read
_KINDS = (frames.DEPTH_STREAM, frames.TICKER_STREAM, frames.TRADE_STREAM, frames.MARK_STREAM)


@dataclass(frozen=True, kw_only=True)
class Subscription:
    """A client's subscription. ``names``: subscribed stream name by kind; ``pace`` 0 is as fast as possible."""

    names: dict[str, str]
    lockstep: bool
    pace: float
    seconds: float | None
    stamped: bool
    snapshot: bool
    snapshot_every_ns: int

    @classmethod
    def of(cls, query: dict[str, list[str]], symbol: str) -> Subscription:
        """From the query of the URL.

        Raises:
            InputError: an unknown stream or an invalid value.
        """
        given = {name: values[-1] for name, values in query.items()}
        unknown = set(given) - {"streams", "pace", "seconds", "stamp", "snapshot", "snapshot_every"}
        if unknown:
            raise InputError(f"unknown parameters {', '.join(sorted(unknown))}")
        pace = given.get("pace", "max")
        return cls(
            names=_stream_names(given.get("streams", ""), symbol),
            lockstep=pace == "lockstep",
            pace=0.0 if pace in ("max", "lockstep") else _pace(pace),
            seconds=_number(given["seconds"], "seconds") if "seconds" in given else None,
            stamped=_flag(given, "stamp"),
            snapshot=_flag(given, "snapshot"),
            snapshot_every_ns=int(_number(given.get("snapshot_every", "60"), "snapshot_every") * NS_PER_S),
        )


class Exchange:
    """One world and the server in front of it."""

    def __init__(self, config: ExchangeConfig) -> None:
        self._config = config
        self._world = World(config)
        self._faults = Faults()
        self._connected = False
        self._steps = 0
        self.port = 0

    async def start(self) -> Server:
        """Listen.

        Raises:
            PortInUseError: the port is taken.
            SettingsError: the system does not allow listening on it.
        """
        try:
            server = await serve(
                self._talk,
                HOST,
                self._config.port,
                process_request=self._answer,
                compression=None,
                max_queue=256,
                close_timeout=_CLOSE_S,
            )
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise SettingsError(f"cannot listen on port {self._config.port}: {error.strerror}") from None
            raise PortInUseError(
                f"port {self._config.port} is taken by another process; choose another one, or 0 for a free one"
            ) from None
        self.port = next(iter(server.sockets)).getsockname()[1]
        return server

    # -- HTTP ---------------------------------------------------------------------------------------------------

    def _answer(self, _connection: ServerConnection, request: Request) -> Response | None:
        """Answer a plain GET; None lets a WebSocket handshake continue."""
        parts = urlsplit(request.path)
        query = parse_qs(parts.query, keep_blank_values=True)
        try:
            if parts.path == "/stream":
                Subscription.of(query, self._config.instrument.symbol)
                if self._connected:
                    return _response(http.HTTPStatus.CONFLICT, b"another client is connected; there is one world")
                return None
            return _response(http.HTTPStatus.OK, self._get(parts.path, {k: v[-1] for k, v in query.items()}))
        except KeelError as error:
            return _response(http.HTTPStatus.BAD_REQUEST, str(error).encode())

    def _get(self, path: str, query: dict[str, str]) -> bytes:
        if path == "/fapi/v1/depth":
            if query.get("symbol") != self._config.instrument.symbol:
                raise InputError(f"unknown symbol {query.get('symbol')!r}; expected {self._config.instrument.symbol}")
            return frames.snapshot_body(self._world.book(int(_number(query.get("limit", "500"), "limit"))))
        if path == "/sim/regime":
            self._world.set_regime(query.get("name", ""))
        elif path == "/sim/fault":
            kind = query.get("kind", "")
            seconds = _number(query.get("seconds", str(DEFAULT_SECONDS.get(kind, 0.0))), "seconds")
            self._faults.inject(kind, seconds, self._world.now_ns)
        elif path != "/sim/state":
            raise InputError(
                f"no such address {path}; expected one of /stream, /fapi/v1/depth, /sim/state, /sim/regime, /sim/fault"
            )
        state = {"time_ms": self._world.now_ns // NS_PER_MS, "regime": self._world.regime, "seed": self._config.seed}
        return orjson.dumps(state)

    # -- the stream ---------------------------------------------------------------------------------------------

    async def _talk(self, connection: ServerConnection) -> None:
        query = parse_qs(urlsplit(connection.request.path if connection.request else "").query)
        wanted = Subscription.of(query, self._config.instrument.symbol)
        desk = Desk(self._world, self._config.instrument, self._config.order_latency_us * 1000)
        self._connected = True
        stream = _Stream(connection, wanted, desk, self)
        listener = asyncio.create_task(stream.listen())
        try:
            await stream.run()
        except ConnectionClosed:
            pass  # the client left: the world stops until the next one connects
        finally:
            self._connected = False
            listener.cancel()
            desk.close()
            self._faults.connection_ended()

    def lines_until(self, until_ns: int, desk: Desk, wanted: Subscription) -> tuple[list[Line], bool]:
        """Advance the world; returns the lines it sends meanwhile, and whether a diff was among them."""
        lines: list[Line] = []
        saw_diff = False
        while True:
            arrival = desk.next_arrival_ns()
            due = arrival is not None and arrival <= until_ns
            for record in self._world.advance(arrival if due and arrival is not None else until_ns):
                saw_diff |= record.kind == DIFF
                frame = frames.market_frame(self._faults.distort(record), wanted.names, self._config.instrument.symbol)
                if frame is not None:
                    lines += [(record.recv_ns, each) for each in self._faults.frames(record, frame)]
                report = desk.report(record)
                if report is not None:
                    lines.append(report)
            if not due:
                return self._faults.stamped(lines), saw_diff
            lines += desk.execute_next()

    def take_snapshot(self) -> tuple[int, bytes]:
        """The whole book now, and the world time at which it may be sent."""
        body = frames.snapshot_body(self._world.book(1000))
        return self._world.now_ns + self._faults.take_snapshot_delay(), body

    def line(self, payload: bytes) -> Line:
        """A line that is sent now."""
        return self._faults.stamped([(self._world.stamp(), payload)])[0]

    def step_line(self) -> Line:
        """The mark at the end of a message."""
        self._steps += 1
        return self._mark(frames.step_line(self._world.now_ns, self._steps))

    def end_line(self) -> Line:
        """The mark at the end of a stream."""
        return self._mark(frames.end_line(self._world.now_ns, self._steps))

    def _mark(self, payload: bytes) -> Line:
        # its stamp is not drawn from the world's random numbers: the number of marks must not change what follows
        return self._faults.stamped([(self._world.last_stamp, payload)])[0]

    @property
    def now_ns(self) -> int:
        """World time."""
        return self._world.now_ns

    @property
    def next_step_ns(self) -> int:
        """World time at which the step that begins now ends."""
        return self._world.next_step_ns

    def take_disconnect(self) -> bool:
        """Whether to cut the connection now."""
        return self._faults.disconnect


class _Stream:
    """Sends the stream to one client."""

    def __init__(self, connection: ServerConnection, wanted: Subscription, desk: Desk, exchange: Exchange) -> None:
        self._connection = connection
        self._wanted = wanted
        self._desk = desk
        self._exchange = exchange
        self._snapshot_due_ns: int | None = exchange.now_ns if wanted.snapshot else None
        self._snapshots: list[tuple[int, bytes]] = []  # taken already, to be sent at a world time
        self._asked = asyncio.Semaphore(0)  # steps requested by the client, or its departure
        self._left = False

    async def listen(self) -> None:
        """Accept requests as they come."""
        try:
            async for message in self._connection:
                for _ in range(self._desk.receive(message)):
                    self._asked.release()
        finally:
            self._left = True
            self._asked.release()

    async def run(self) -> None:
        """Send until the time is over, or raise ConnectionClosed when the client leaves."""
        exchange, wanted = self._exchange, self._wanted
        started_ns, began = exchange.now_ns, time.monotonic()
        end_ns = started_ns + int(wanted.seconds * NS_PER_S) if wanted.seconds is not None else None
        steps = 1 if wanted.lockstep or wanted.pace else _STEPS_A_MESSAGE
        while end_ns is None or exchange.now_ns < end_ns:
            await self._send(self._message(steps, end_ns))
            if exchange.take_disconnect():
                self._connection.transport.abort()
                return
            if wanted.lockstep:
                await self._asked.acquire()
                if self._left:
                    return  # no request: the world stops at the last step
            elif wanted.pace:
                await asyncio.sleep(
                    (exchange.now_ns - started_ns) / NS_PER_S / wanted.pace - (time.monotonic() - began)
                )
            else:
                await asyncio.sleep(0)  # lets the listener accept orders
        await self._send([exchange.end_line()])
        await self._connection.close(1000, "the stream has ended")

    def _message(self, steps: int, end_ns: int | None) -> list[Line]:
        lines: list[Line] = []
        for _ in range(steps):
            until_ns = self._exchange.next_step_ns
            lines += self._step(until_ns if end_ns is None else min(until_ns, end_ns))
            if self._exchange.now_ns == end_ns:
                break
        if self._wanted.stamped:
            lines.append(self._exchange.step_line())
        return lines

    def _step(self, until_ns: int) -> list[Line]:
        lines, saw_diff = self._exchange.lines_until(until_ns, self._desk, self._wanted)
        if self._snapshot_due_ns is not None and saw_diff and self._exchange.now_ns >= self._snapshot_due_ns:
            self._snapshots.append(self._exchange.take_snapshot())
            self._snapshot_due_ns += self._wanted.snapshot_every_ns
        due = [body for at_ns, body in self._snapshots if at_ns <= self._exchange.now_ns]
        self._snapshots = [each for each in self._snapshots if each[0] > self._exchange.now_ns]
        lines += [self._exchange.line(body) for body in due]
        return lines

    async def _send(self, lines: list[Line]) -> None:
        if self._wanted.stamped:
            await self._connection.send(frames.joined(lines), text=True)
            return
        for _, payload in lines:
            await self._connection.send(payload, text=True)


def _response(status: http.HTTPStatus, body: bytes) -> Response:
    headers = Headers({"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"})
    return Response(status.value, status.phrase, headers, body)


def _stream_names(text: str, symbol: str) -> dict[str, str]:
    names: dict[str, str] = {}
    for name in filter(None, text.split("/")):
        stem, _, rest = name.partition("@")
        kind = rest.partition("@")[0]
        if stem != symbol.lower() or kind not in _KINDS:
            raise InputError(f"unknown stream {name!r}; expected {', '.join(f'{symbol.lower()}@{k}' for k in _KINDS)}")
        names[kind] = name
    if not names:
        raise InputError(f"no streams requested; expected streams={symbol.lower()}@depth@100ms/...")
    return names


def _flag(given: dict[str, str], name: str) -> bool:
    text = given.get(name, "0")
    if text not in ("0", "1"):
        raise InputError(f"{name}: expected 0 or 1, saw {text!r}")
    return text == "1"


def _pace(text: str) -> float:
    pace = _number(text, "pace")
    if pace == 0:
        raise InputError(f"pace: expected max, lockstep or a multiple of real time above 0, saw {text!r}")
    return pace


def _number(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise InputError(f"{name}: expected a number >= 0, saw {text!r}")
    return value


async def run(config: ExchangeConfig, announce: Callable[[int], None]) -> None:
    """Serve until cancelled; ``announce`` gets the port once it listens."""
    exchange = Exchange(config)
    server = await exchange.start()
    announce(exchange.port)
    async with server:
        await server.serve_forever()
