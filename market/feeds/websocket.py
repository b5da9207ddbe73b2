"""Market data and orders over a WebSocket: a real exchange's combined stream, or the simulator's stamped one.

:func:`stream` is for callers that only listen: raw frames, numbered, with reconnection. :class:`Session` is for callers
that also trade: one list of frames per step, orders out, reports and replies in.

A *stamped* stream (query ``stamp=1``, simulator only) carries the receive time in every line, ``<recv ns> <json>``, and
may join many lines into one message. On any other stream a message is one frame and the receive time is the injected
clock's. Lines that are not market data (``keel@step``, ``keel@end``, user data, replies) are never numbered.
"""

from __future__ import annotations

import asyncio
import math
import random
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from types import TracebackType
from urllib.parse import SplitResult, parse_qs, parse_qsl, urlencode, urlsplit, urlunsplit

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from market.clock import NS_PER_S, Clock
from market.errors import InputError, ServiceError
from market.feeds.notices import Reason, notice
from market.feeds.orders import USER_DATA_PREFIX

STEP = b'{"method":"keel.step"}'

_STEP_PREFIX = b'{"stream":"keel@step"'
_END_PREFIX = b'{"stream":"keel@end"'
_REPLY_PREFIX = b'{"id":'
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_DOUBT_S = 1.0
_TRANSIENT_STATUS = (409, 418, 429)  # busy with an earlier connection; rate limits


@dataclass(frozen=True, kw_only=True)
class ConnectionConfig:
    """How a connection is opened, kept alive and reopened.

    ``snapshot_url``: fetched over HTTP once the first frame of every connection has come, then every
    ``snapshot_every_s``, and every ``snapshot_retry_s`` while ``wants_snapshot`` returns that the book has none to
    follow; the body is yielded as a separate frame, as in recordings. A connection on which nothing comes for
    ``silence_s`` is cut and reopened (not one on which the exchange waits for us). ``first_patience_s`` is how long to
    try for the first connection, ``patience_s`` how long for a lost one.
    """

    snapshot_url: str | None = None
    snapshot_every_s: float = 600.0
    snapshot_retry_s: float = 5.0
    wants_snapshot: Callable[[], bool] = lambda: False
    silence_s: float = 30.0
    open_timeout_s: float = 10.0
    ping_s: float = 20.0
    max_message_bytes: int = 64 * 2**20
    first_patience_s: float = 3.0
    patience_s: float = 60.0
    first_delay_s: float = 0.1
    max_delay_s: float = 15.0
    jitter: random.Random = field(default_factory=random.Random)


async def stream(
    url: str, *, clock: Clock, config: ConnectionConfig | None = None
) -> AsyncGenerator[tuple[int, int, bytes]]:
    """Raw market frames as ``(frame number from 1, receive ns, payload)`` until the stream announces its end.

    A lost connection is reopened with a growing, jittered delay; frame numbers continue. A notice
    (:mod:`market.feeds.notices`) is the first frame of the new connection; what was missed also shows as a gap in the
    venue's update ids. The connection is closed when the iterator is closed (``aclosing``) or ends.

    Raises:
        InputError: the URL is not a WebSocket URL, or the server rejects the request as wrong.
        ServiceError: the server cannot be reached, or stays unreachable for longer than the patience.
    """
    config = config or ConnectionConfig()
    number, first_ns, last_ns = 0, 0, 0
    backoff = _Backoff(config)
    lost_by: ConnectionLostError | None = None
    while True:
        session = Session(_remaining(url, last_ns - first_ns), clock=clock, config=config)
        try:
            async with session, aclosing(session.steps()) as steps:
                async for lines in steps:
                    if lost_by is not None and lines and number:
                        number += 1
                        yield number, lines[0][0], notice(lost_by.reason, str(lost_by))
                    lost_by = None if lines else lost_by
                    for recv_ns, payload in lines:
                        number += 1
                        first_ns, last_ns = first_ns or recv_ns, max(last_ns, recv_ns)
                        yield number, recv_ns, payload
                    session.forget_private()
                    if lines:
                        backoff.worked()
            if session.ended:
                return
        except ConnectionLostError as lost:
            lost_by = lost
            await backoff.wait(lost)


def waits_for_us(url: str) -> bool:
    """Whether the exchange advances only as fast as its stream is read (the simulator's stamped one)."""
    return parse_qs(urlsplit(url).query).get("stamp") == ["1"]


async def snapshot(url: str, *, timeout_s: float = 10.0) -> bytes:
    """The body of a depth snapshot (or of any other GET) over HTTP.

    Raises:
        InputError: the URL is not http(s), or the server rejects the request as wrong (its text is in the message).
        ServiceError: the server cannot be reached.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise InputError(f"expected an http:// or https:// address, saw {url!r}")
    return await asyncio.to_thread(_get, url, timeout_s)


def _get(url: str, timeout_s: float) -> bytes:
    handlers = [urllib.request.ProxyHandler({})] if urlsplit(url).hostname in _LOOPBACK else []
    opener = urllib.request.build_opener(*handlers)
    try:
        with opener.open(url, timeout=timeout_s) as response:
            return bytes(response.read())
    except urllib.error.HTTPError as error:
        body = error.read()[:300].decode(errors="replace").strip()
        if error.code >= 500 or error.code in _TRANSIENT_STATUS:
            raise ServiceError(f"{url} answered {error.code}: {body}; try again later") from None
        raise InputError(f"{url} answered {error.code}: {body}") from None
    except (OSError, TimeoutError) as error:
        raise ServiceError(f"cannot reach {url}: {error}; is the exchange running?") from None


class ConnectionLostError(ServiceError):
    """The connection broke or could not be opened; reopening it may help."""

    reason: Reason = "connection_lost"


class SilenceError(ConnectionLostError):
    """Nothing came for too long; the connection was cut."""

    reason: Reason = "silent"


class Session:
    """One WebSocket connection, step by step.

    ``async with Session(url, clock=clock) as session: async for lines in session.steps(): ...``. ``lines`` are the
    market frames ``(receive ns, payload)`` of one step (of one message where the stream has no steps). User data and
    replies that came with the step are taken with :meth:`take_user_data` and :meth:`take_replies`. With
    ``pace=lockstep`` the exchange stands still until the loop asks for the next step, and what was passed to
    :meth:`send` before goes out with that request.

    ``ended`` is True once the exchange has announced the end of the stream; ``exch_ms`` is its time at the last step.
    """

    def __init__(self, url: str, *, clock: Clock, config: ConnectionConfig | None = None) -> None:
        self._url = url
        self._clock = clock
        self._config = config or ConnectionConfig()
        query = parse_qs(urlsplit(url).query)
        self._stamped = waits_for_us(url)
        self._lockstep = query.get("pace") == ["lockstep"]
        self._outbox: list[bytes] = []
        self._user_data: list[tuple[int, bytes]] = []
        self._replies: list[tuple[int, bytes]] = []
        self._connection: ClientConnection | None = None
        self.ended = False
        self.exch_ms = 0

    async def __aenter__(self) -> Session:
        self._connection = await _open(self._url, self._config)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connection is not None:
            await self._connection.close()

    async def steps(self) -> AsyncGenerator[list[tuple[int, bytes]]]:
        """The frames of each step, until the stream ends.

        Raises:
            ConnectionLostError: the connection broke before the stream ended.
            ServiceError: a line of a stamped stream carries no stamp.
        """
        connection = self._open_connection()
        snapshots = _Snapshots(self._config, self._clock)
        silence = _Silence(connection, math.inf if self._stamped else self._config.silence_s)
        try:
            async for message in _messages(connection):
                silence.broken()
                lines = self._read(message)
                lines += await snapshots.due(bool(lines))
                yield lines
                if self.ended:
                    return
                if self._lockstep:
                    await connection.send(b"\n".join([*self._outbox, STEP]), text=True)
                    self._outbox.clear()
        except ConnectionClosed as closed:
            if silence.too_long:
                raise SilenceError(f"{self._url} sent nothing for {self._config.silence_s:g} s") from None
            raise ConnectionLostError(f"the connection to {self._url} broke: {closed}") from None
        finally:
            snapshots.stop()
            silence.stop()
        if not self.ended:
            raise ConnectionLostError(f"{self._url} closed the connection before the stream had ended")

    async def send(self, requests: Sequence[bytes]) -> None:
        """Send order requests (:mod:`market.feeds.orders`): with the next step in lockstep, at once otherwise."""
        if self._lockstep:
            self._outbox.extend(requests)
        elif requests:
            try:
                await self._open_connection().send(b"\n".join(requests), text=True)
            except ConnectionClosed as closed:
                raise ConnectionLostError(f"the connection to {self._url} broke: {closed}") from None

    def take_user_data(self) -> list[tuple[int, bytes]]:
        """``(receive ns, payload)`` of the order reports since the last call, for :func:`orders.read_report`."""
        taken, self._user_data = self._user_data, []
        return taken

    def take_replies(self) -> list[tuple[int, bytes]]:
        """``(receive ns, payload)`` of the replies to our requests since the last call."""
        taken, self._replies = self._replies, []
        return taken

    def forget_private(self) -> None:
        """Drop user data and replies, for callers that only listen."""
        self._user_data.clear()
        self._replies.clear()

    def _open_connection(self) -> ClientConnection:
        if self._connection is None:
            raise ServiceError("the session is not connected; use it as `async with Session(...) as session`")
        return self._connection

    def _read(self, message: bytes) -> list[tuple[int, bytes]]:
        """Market frames of one message; everything else is sorted into its queue."""
        if not self._stamped:
            now_ns = self._clock.now_ns()
            return [] if self._private(now_ns, message) else [(now_ns, message)]
        lines: list[tuple[int, bytes]] = []
        for line in message.split(b"\n"):
            stamp, _, payload = line.partition(b" ")
            if not (stamp.isdigit() and len(stamp) < 20 and int(stamp) < 2**63):
                raise ServiceError(f"{self._url}: expected lines `<receive ns> <json>`, saw {line[:80]!r}")
            if not self._private(int(stamp), payload):
                lines.append((int(stamp), payload))
        return lines

    def _private(self, recv_ns: int, payload: bytes) -> bool:
        if payload.startswith(USER_DATA_PREFIX):
            self._user_data.append((recv_ns, payload))
        elif payload.startswith(_STEP_PREFIX):
            self.exch_ms = orjson.loads(payload)["data"]["E"]
        elif payload.startswith(_END_PREFIX):
            self.ended = True
        elif payload.startswith(_REPLY_PREFIX):
            self._replies.append((recv_ns, payload))
        else:
            return False
        return True


class _Snapshots:
    """Fetches depth snapshots alongside the stream: after a connection's first frame, then at intervals."""

    def __init__(self, config: ConnectionConfig, clock: Clock) -> None:
        self._url = config.snapshot_url
        self._every_ns = int(config.snapshot_every_s * NS_PER_S)
        self._retry_ns = int(config.snapshot_retry_s * NS_PER_S)
        self._wanted = config.wants_snapshot
        self._clock = clock
        self._asked_ns: int | None = None
        self._fetching: asyncio.Task[bytes] | None = None

    async def due(self, has_frames: bool) -> list[tuple[int, bytes]]:
        """What arrived since the last call, as lines."""
        if self._url is None:
            return []
        now_ns = self._clock.now_ns()
        if self._fetching is not None and self._fetching.done():
            done, self._fetching = self._fetching, None
            try:
                return [(now_ns, await done)]
            except ServiceError:
                return []  # the stream continues, and the snapshot is requested again
        every_ns = self._retry_ns if self._wanted() else self._every_ns
        overdue = self._asked_ns is None or now_ns - self._asked_ns >= every_ns
        if has_frames and overdue and self._fetching is None:
            self._asked_ns = now_ns
            self._fetching = asyncio.create_task(snapshot(self._url))
        return []

    def stop(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()


class _Silence:
    """Cuts a silent connection: a timer checks, so that a message costs next to nothing."""

    def __init__(self, connection: ClientConnection, limit_s: float) -> None:
        self._connection = connection
        self._limit_s = limit_s
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._doubted = False
        self._timer = None if math.isinf(limit_s) else self._loop.call_later(limit_s, self._look)
        self.too_long = False

    def broken(self) -> None:
        self._last = self._loop.time()
        self._doubted = False

    def _look(self) -> None:
        left = self._last + self._limit_s - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
            return
        if not self._doubted:  # messages may be waiting, and it was the loop that stalled
            self._doubted = True
            self._timer = self._loop.call_later(min(_DOUBT_S, self._limit_s), self._look)
            return
        self.too_long = True
        self._connection.transport.abort()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class _Backoff:
    """Growing, jittered delays; raises when no attempt succeeds for too long."""

    def __init__(self, config: ConnectionConfig) -> None:
        self._config = config
        self._attempts = 0
        self._waited_s = 0.0
        self._patience_s = config.first_patience_s

    def worked(self) -> None:
        self._attempts, self._waited_s, self._patience_s = 0, 0.0, self._config.patience_s

    async def wait(self, lost: ConnectionLostError) -> None:
        if self._waited_s >= self._patience_s:
            raise ServiceError(
                f"{lost}; gave up after waiting {self._waited_s:.1f} s. Is the exchange running?"
            ) from lost
        ceiling_s = min(self._config.max_delay_s, self._config.first_delay_s * 2**self._attempts)
        delay_s = ceiling_s * (0.5 + 0.5 * self._config.jitter.random())
        self._attempts += 1
        self._waited_s += delay_s
        await asyncio.sleep(delay_s)


async def _messages(connection: ClientConnection) -> AsyncGenerator[bytes]:
    """Messages as bytes until the server closes with 1000 or 1001; raises ConnectionClosed on anything else."""
    while True:
        try:
            yield await connection.recv(decode=False)
        except ConnectionClosed as closed:
            if closed.rcvd is not None and closed.rcvd.code in (1000, 1001):
                return
            raise


async def _open(url: str, config: ConnectionConfig) -> ClientConnection:
    parts = _websocket_url(url)
    try:
        return await connect(
            url,
            compression=None,
            proxy=None if parts.hostname in _LOOPBACK else True,
            open_timeout=config.open_timeout_s,
            ping_interval=config.ping_s,
            ping_timeout=config.ping_s,
            close_timeout=2,
            max_size=config.max_message_bytes,
            max_queue=64,
        )
    except InvalidStatus as refused:
        status = refused.response.status_code
        body = bytes(refused.response.body)[:300].decode(errors="replace").strip()
        if status >= 500 or status in _TRANSIENT_STATUS:
            raise ConnectionLostError(f"{url} answered {status}: {body}") from None
        raise InputError(f"{url} answered {status}: {body}") from None
    except (OSError, TimeoutError, InvalidHandshake) as error:
        raise ConnectionLostError(f"cannot connect to {url}: {error or type(error).__name__}") from None


def _websocket_url(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        if parts.scheme in ("ws", "wss") and parts.hostname:
            return parts
    except (ValueError, InvalidURI):
        pass
    raise InputError(f"expected a ws:// or wss:// address, saw {url!r}")


def _remaining(url: str, done_ns: int) -> str:
    """``url`` with ``seconds`` reduced by what was received, so that a reconnection does not request it again."""
    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    if done_ns <= 0 or not any(name == "seconds" for name, _ in query):
        return url
    try:
        left = [(n, f"{max(0.01, float(v) - done_ns / NS_PER_S):.2f}" if n == "seconds" else v) for n, v in query]
    except ValueError:
        return url  # the server reports what is wrong with it
    return urlunsplit(parts._replace(query=urlencode(left, safe="@/")))
