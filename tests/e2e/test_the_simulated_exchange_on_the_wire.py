"""The simulated exchange as a process of its own, through its sockets: the same bytes, the right book, faults."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager

import orjson
import pytest
from kit.simulated_market import INSTRUMENT, Line, LockstepClient, Reader, get, stream_url
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from market.clock import NS_PER_S, ManualClock
from market.errors import InputError, ServiceError
from market.events import BID, CLEAR, DEPTH, F_CLOCK_BACK, TRADE
from market.feeds import orders, websocket
from market.simulator.config import REGIMES
from pipelines.stack.exchange import Exchange, SimulateConfig, running_exchange

STEPS_A_SECOND = 100


def until(happened: Callable[[], bool]) -> None:
    """Wait for what another process does; the test's own limit is the patience."""
    while not happened():
        time.sleep(0.02)


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.fixture(scope="module")
def exchange() -> Iterator[Exchange]:
    """One exchange for all that only needs some market."""
    with running_exchange(SimulateConfig(seed=21)) as running:
        yield running


# -- the same bytes ---------------------------------------------------------------------------------------------------


def story(pace: str, seed: int = 7) -> list[Line]:
    """A calm second and a half, a volatile one and a thin one, each over a connection of its own."""
    lines: list[Line] = []
    with running_exchange(SimulateConfig(seed=seed)) as running:
        for regime in REGIMES:
            running.set_regime(regime)
            with LockstepClient(running.port, pace=pace, seconds=1.505, snapshot_every=0.4) as client:
                lines += client.rest()
    return lines


@pytest.fixture(scope="module")
def told() -> list[Line]:
    return story("lockstep")


@pytest.mark.parametrize("pace", ["lockstep", "max", "50"])
def test_the_same_story_gives_the_same_bytes_at_every_pace(told: list[Line], pace: str) -> None:
    assert len(told) > 150
    assert sum(b"lastUpdateId" in payload for _, payload in told) == 3 * 4
    assert story(pace) == told


def test_another_seed_tells_another_story(told: list[Line]) -> None:
    assert [payload for _, payload in story("max", seed=8)] != [payload for _, payload in told]


def test_without_stamps_a_message_is_a_frame_and_the_frames_are_the_same(told: list[Line]) -> None:
    with running_exchange(SimulateConfig(seed=7)) as running:
        url = stream_url(running.port, stamp=0, seconds=1.505, snapshot_every=0.4)
        with connect(url, compression=None, proxy=None) as connection:
            frames = [bytes(message, "ascii") for message in connection]
    assert b"keel@end" in frames.pop()
    assert frames == [payload for _, payload in told[: len(frames)]]
    assert len(frames) > 20


def traded(seed: int) -> tuple[list[Line], list[dict], list[dict]]:
    with (
        running_exchange(SimulateConfig(seed=seed)) as running,
        LockstepClient(running.port, snapshot_every=1) as client,
    ):
        lines = client.steps(20)
        for n in range(30):
            bids, asks = client.depth()[1]
            requests = [
                orders.place(INSTRUMENT, f"b{n}", side=BID, price=max(bids), size=40),
                orders.place(INSTRUMENT, f"a{n}", side=-BID, price=min(asks), size=40),
                *([orders.cancel(INSTRUMENT, f"b{n - 5}")] if n >= 5 else []),
            ]
            lines += client.step(*requests)
            lines += client.steps(19)
        return lines, client.reports, client.replies


def test_the_same_orders_in_lockstep_give_the_same_bytes_and_reports() -> None:
    first = traded(3)
    assert first == traded(3)
    assert {report["x"] for report in first[1]} == {"NEW", "TRADE", "CANCELED"}


# -- the right book ---------------------------------------------------------------------------------------------------


def follow(client: LockstepClient, reader: Reader, seconds: float) -> int:
    """Feed the stream to the reader; wherever its book stands at the exchange's update it must be the exchange's book.

    Returns how often that was.
    """
    compared = 0
    for _ in range(int(seconds * STEPS_A_SECOND)):
        lines = client.step()
        for line in lines:
            reader.feed(line)
        if reader.synced and any(b"depthUpdate" in payload for _, payload in lines):
            update, sides = client.depth()
            if update == reader.book.seq:
                assert reader.sides() == sides
                compared += 1
    return compared


def assert_right(client: LockstepClient, reader: Reader) -> None:
    """The reader's book is the exchange's, at one update at least."""
    assert reader.synced
    assert any(follow(client, reader, 1.0) for _ in range(20))


@pytest.mark.parametrize("regime", list(REGIMES))
def test_diffs_and_snapshot_rebuild_the_book_of_every_regime(exchange: Exchange, regime: str) -> None:
    exchange.set_regime(regime)
    reader = Reader()
    with LockstepClient(exchange.port) as client:
        assert follow(client, reader, 8.0) > 3
    stats = reader.stats
    assert (stats.gaps, stats.crossed, stats.locked, stats.snapshots, dict(stats.rejected)) == (0, 0, 0, 1, {})
    assert stats.diffs > 70


def test_whoever_joins_later_ends_up_with_the_same_book(exchange: Exchange) -> None:
    exchange.set_regime("volatile")
    early, late = Reader(), Reader()
    with LockstepClient(exchange.port) as client:
        for line in client.steps(2 * STEPS_A_SECOND):
            early.feed(line)
        for line in client.steps(30):
            early.feed(line)
            late.feed(line)
        body = client.get("/fapi/v1/depth?symbol=BTCUSDT&limit=1000")
        late.feed((line[0] + 1, body))
        compared = 0
        for line in client.steps(4 * STEPS_A_SECOND):
            early.feed(line)
            late.feed(line)
            if b"depthUpdate" in line[1]:
                assert late.sides() == early.sides()
                compared += 1
    assert compared == 40


# -- orders -----------------------------------------------------------------------------------------------------------


def test_orders_die_with_their_connection(exchange: Exchange) -> None:
    with LockstepClient(exchange.port) as client:
        client.step()
        far = max(client.depth()[1][0]) - 2000
        client.step(orders.place(INSTRUMENT, "far", side=BID, price=far, size=9))
        assert client.replies[0]["status"] == 200
        assert client.depth()[1][0][far] == 9
    with LockstepClient(exchange.port) as client:
        client.step()
        assert far not in client.depth()[1][0]
        client.step(orders.cancel(INSTRUMENT, "far"))
        assert client.replies[0]["error"]["code"] == -2011


def test_an_order_reaches_the_engine_two_milliseconds_after_its_step(exchange: Exchange) -> None:
    with LockstepClient(exchange.port) as client:
        client.step()
        sent_ms = client.time_ms()
        client.step(orders.place(INSTRUMENT, "a", side=BID, price=max(client.depth()[1][0]) - 1, size=9))
    assert client.reports[0]["T"] == sent_ms + 2


@pytest.mark.parametrize("goodbye", [True, False])
def test_the_world_stands_still_when_its_client_has_left(exchange: Exchange, goodbye: bool) -> None:
    with LockstepClient(exchange.port) as client:
        client.steps(5)
        left_ms = client.time_ms()
        if not goodbye:
            client.vanish()
    until(lambda: get(exchange.port, "/stream?streams=btcusdt@trade")[0] != 409)
    assert client.time_ms() == left_ms


# -- faults -----------------------------------------------------------------------------------------------------------


@contextmanager
def synced_client(exchange: Exchange, **query: object) -> Iterator[tuple[LockstepClient, Reader]]:
    """A client with a book in order, in a calm market."""
    exchange.set_regime("calm")
    reader = Reader()
    with LockstepClient(exchange.port, snapshot_every=2, **query) as client:
        while not reader.synced:
            for line in client.step():
                reader.feed(line)
        yield client, reader


def test_trades_at_impossible_prices_leave_the_book_alone(exchange: Exchange) -> None:
    with synced_client(exchange) as (client, reader):
        exchange.inject_fault("trade_price", seconds=3)
        off, right = [], []
        for _ in range(6 * STEPS_A_SECOND):
            for line in client.step():
                for trade in (e for e in reader.feed(line) if e["kind"] == TRADE):
                    (off if trade["price"] > 1.1 * reader.book.top()[2] else right).append(int(trade["exch_ns"]))
        assert off
        assert right
        assert max(off) < min(right), "it ended"
        assert max(off) - min(off) < 3 * NS_PER_S
        assert_right(client, reader)
    assert (reader.stats.gaps, reader.stats.crossed) == (0, 0)


@pytest.mark.parametrize(("kind", "missing"), [("drop_diff", 1), ("gap", 10), ("reorder_diffs", 1)])
def test_a_hole_empties_the_book_until_the_next_snapshot(exchange: Exchange, kind: str, missing: int) -> None:
    """Of two diffs that change places the first counts as missing: Binance's rule knows no waiting for it."""
    with synced_client(exchange) as (client, reader):
        follow(client, reader, 0.3)
        last = reader.book.seq
        exchange.inject_fault(kind, seconds=1)
        ids = []
        while not reader.stats.gaps:
            for line in client.step():
                events = reader.feed(line)
                ids += [line] if b"depthUpdate" in line[1] else []
                if reader.stats.gaps:
                    break
        assert events["kind"].tolist() == [CLEAR]
        assert reader.book.empty
        assert len(ids) == 1, "the first diff that came is the one that does not fit"
        assert reader.sides() == ({}, {})
        for _ in range(3 * STEPS_A_SECOND):
            for line in client.step():
                reader.feed(line)
        assert (reader.stats.gaps, reader.stats.resyncs) == (1, 1)
        assert_right(client, reader)
    assert reader.book.seq > last
    assert reader.stats.snapshots == 2


def test_a_gap_loses_every_diff_of_its_seconds_and_nothing_else(exchange: Exchange) -> None:
    def kinds(client: LockstepClient) -> dict[str, int]:
        lines = client.steps(STEPS_A_SECOND)
        return {kind: sum(kind.encode() in payload for _, payload in lines) for kind in ("depthUpdate", "bookTicker")}

    with synced_client(exchange) as (client, _):
        exchange.inject_fault("gap", seconds=1)
        during, after = kinds(client), kinds(client)
    assert during["depthUpdate"] == 0
    assert during["bookTicker"] > 5
    assert after["depthUpdate"] == 10


def test_swapped_diffs_are_both_there(exchange: Exchange) -> None:
    with LockstepClient(exchange.port, snapshot=0) as client:
        exchange.inject_fault("reorder_diffs", seconds=0)
        lines = client.steps(STEPS_A_SECOND)
    diffs = [orjson.loads(payload)["data"] for _, payload in lines if b"depthUpdate" in payload]
    assert len(diffs) == 10
    assert diffs[0]["pu"] == diffs[1]["u"]
    assert all(later["pu"] == sooner["u"] for sooner, later in itertools.pairwise([diffs[0], *diffs[2:]]))
    stamps = [stamp for stamp, _ in lines]
    assert stamps == sorted(stamps)


def test_a_diff_that_was_held_back_is_not_sent_to_the_next_client(exchange: Exchange) -> None:
    with synced_client(exchange) as (client, reader):
        exchange.inject_fault("reorder_diffs", seconds=0)
        while follow(client, reader, 0.1) or reader.stats.diffs < 2:
            pass
        client.steps(10)
    with synced_client(exchange) as (client, reader):
        assert_right(client, reader)
    assert reader.stats.gaps == 0


def test_a_repeated_diff_is_ignored_and_counted(exchange: Exchange) -> None:
    with synced_client(exchange) as (client, reader):
        exchange.inject_fault("duplicate_diff", seconds=0)
        follow(client, reader, 1.0)
        assert (reader.stats.duplicates, reader.stats.gaps) == (1, 0)
        assert_right(client, reader)


def test_half_a_frame_goes_to_quarantine_and_harms_nothing_else(exchange: Exchange) -> None:
    with synced_client(exchange) as (client, reader):
        exchange.inject_fault("malformed", seconds=0)
        follow(client, reader, 1.0)
        [rejected] = reader.normaliser.rejected
        assert rejected.reason == "not_json"
        assert rejected.payload.startswith(b'{"stream"')
        assert dict(reader.stats.rejected) == {"not_json": 1}
        assert reader.stats.gaps == 0
        assert_right(client, reader)


def test_a_clock_that_jumps_back_is_flagged_and_nothing_is_lost(exchange: Exchange) -> None:
    with synced_client(exchange) as (client, reader):
        before_ns = reader.stats.last_ns
        exchange.inject_fault("clock_back", seconds=2)
        lines = client.steps(20)
        assert before_ns - 2 * NS_PER_S < lines[0][0] < before_ns - 1.8 * NS_PER_S
        first, *later = [reader.feed(line)["flags"] & F_CLOCK_BACK > 0 for line in lines]
        assert first.all()
        assert not any(flags.any() for flags in later)
        client.step(orders.place(INSTRUMENT, "a", side=BID, price=max(client.depth()[1][0]) - 1, size=9))
        assert client.report_stamps[0] < before_ns, "order reports are stamped by the same clock"
        assert_right(client, reader)
        assert (reader.stats.clock_back, reader.stats.gaps) == (1, 0)
    with synced_client(exchange) as (_, healthy):
        assert healthy.stats.first_ns > lines[-1][0] + 2 * NS_PER_S - 1


def test_a_snapshot_that_comes_seconds_late_is_merged_with_the_diffs_that_overtook_it(exchange: Exchange) -> None:
    exchange.set_regime("calm")
    exchange.inject_fault("late_snapshot", seconds=3)
    reader = Reader()
    with LockstepClient(exchange.port) as client:
        while not reader.synced:
            for line in client.step():
                batch = reader.feed(line)
                assert reader.synced or DEPTH not in batch["kind"], "no diff comes out before the snapshot"
        assert reader.stats.before_snapshot in range(30, 33)
        assert reader.stats.diffs >= 30
        assert_right(client, reader)
    assert (reader.stats.gaps, reader.stats.snapshots) == (0, 1)


def test_a_connection_that_is_cut_is_opened_again_and_the_book_is_right(exchange: Exchange) -> None:
    """Every cut loses what was on its way; the client of the platform itself goes on, and its numbers count on."""
    exchange.set_regime("calm")
    reader = Reader()

    async def listen() -> list[int]:
        numbers = []
        url = stream_url(exchange.port, seconds=20, snapshot_every=2, pace=5)  # at full pace all lies in buffers
        async with aclosing(websocket.stream(url, clock=ManualClock(0))) as lines:
            async for number, recv_ns, payload in lines:
                numbers.append(number)
                reader.feed((recv_ns, payload))
                if number in (100, 300):
                    await websocket.snapshot(f"http://127.0.0.1:{exchange.port}/sim/fault?kind=disconnect")
        return numbers

    numbers = asyncio.run(listen())
    assert numbers == list(range(1, len(numbers) + 1))
    assert reader.stats.rejected == {"connection_lost": 2}
    assert reader.stats.interrupted == 2
    with LockstepClient(exchange.port, snapshot_every=1) as client:
        follow(client, reader, 3.0)
        assert_right(client, reader)
    assert reader.stats.resyncs == reader.stats.gaps


# -- what it refuses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/stream", "no streams requested; expected streams=btcusdt@depth@100ms/"),
        ("/stream?streams=ethusdt@trade", "unknown stream 'ethusdt@trade'; expected btcusdt@depth, "),
        ("/stream?streams=btcusdt@kline_1m", "unknown stream 'btcusdt@kline_1m'"),
        ("/stream?streams=btcusdt@trade&speed=2", "unknown parameters speed"),
        ("/stream?streams=btcusdt@trade&pace=fast", "pace: expected a number >= 0, saw 'fast'"),
        ("/stream?streams=btcusdt@trade&pace=0", "pace: expected max, lockstep or a multiple of real time above 0"),
        ("/stream?streams=btcusdt@trade&pace=", "pace: expected a number >= 0, saw ''"),
        ("/stream?streams=btcusdt@trade&pace=nan", "pace: expected a number"),
        ("/stream?streams=btcusdt@trade&seconds=-1", "seconds: expected a number >= 0, saw '-1'"),
        ("/stream?streams=btcusdt@trade&stamp=yes", "stamp: expected 0 or 1, saw 'yes'"),
        ("/sim/regime?name=wild", "unknown regime 'wild'; expected one of calm, volatile, thin"),
        ("/sim/regime", "unknown regime ''"),
        ("/sim/fault?kind=fire", "unknown fault 'fire'; expected one of trade_price, drop_diff, gap"),
        ("/sim/fault?kind=gap&seconds=soon", "seconds: expected a number"),
        ("/fapi/v1/depth?symbol=ETHUSDT", "unknown symbol 'ETHUSDT'; expected BTCUSDT"),
        ("/fapi/v1/depth?symbol=BTCUSDT&limit=all", "limit: expected a number"),
        ("/", "no such address /; expected one of /stream"),
    ],
)
def test_what_is_not_offered_is_answered_with_400_and_a_sentence(exchange: Exchange, path: str, words: str) -> None:
    status, body = get(exchange.port, path)
    assert (status, words in body.decode()) == (400, True), body


def test_the_platforms_client_passes_the_sentence_on(exchange: Exchange) -> None:
    with pytest.raises(InputError, match="unknown regime 'wild'; expected one of calm, volatile, thin"):
        exchange.set_regime("wild")
    with pytest.raises(InputError, match="unknown fault 'fire'"):
        exchange.inject_fault("fire", seconds=1)


def test_a_second_client_is_told_that_somebody_is_there(exchange: Exchange) -> None:
    with LockstepClient(exchange.port) as client:
        client.step()
        status, body = get(exchange.port, "/stream?streams=btcusdt@trade")
        assert (status, body) == (409, b"another client is connected; there is one world")
        assert client.step() is not None
    with LockstepClient(exchange.port) as client:
        client.step()


def test_of_two_clients_that_come_at_once_one_is_served(exchange: Exchange) -> None:
    async def race() -> list[str]:
        async def one() -> str:
            try:
                async with connect_async(stream_url(exchange.port, pace="lockstep"), proxy=None) as connection:
                    await connection.recv()
                    await asyncio.sleep(0.5)
                    return "served"
            except InvalidStatus as refused:
                return str(refused.response.status_code)

        return await asyncio.gather(*(one() for _ in range(8)))

    outcomes = asyncio.run(race())
    assert outcomes.count("served") == 1
    assert outcomes.count("409") == 7


def test_clients_that_vanish_without_a_word_do_no_harm(exchange: Exchange) -> None:
    for n in range(120):
        with socket.create_connection(("127.0.0.1", exchange.port)) as probe:
            probe.sendall(b"GET /stream HTTP/1.1\r\n" if n % 2 else b"\x00nonsense\r\n\r\n")
    for _ in range(30):
        with connect(stream_url(exchange.port, pace="lockstep"), compression=None, proxy=None) as connection:
            connection.recv(timeout=60)
            connection.socket.shutdown(socket.SHUT_RDWR)
        until(lambda: get(exchange.port, "/stream?streams=btcusdt@trade")[0] != 409)
    with synced_client(exchange) as (client, reader):
        assert_right(client, reader)


# -- how it starts and ends -------------------------------------------------------------------------------------------


def test_a_port_in_use_is_said(exchange: Exchange) -> None:
    words = f"port {exchange.port} is taken by another process; choose another one, or 0 for a free one"
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "simulate", "--port", str(exchange.port)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 6
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    with (
        pytest.raises(ServiceError, match=words),
        running_exchange(SimulateConfig(port=exchange.port)),
    ):
        pass


def start(*words: str) -> tuple[subprocess.Popen[str], int]:
    child = subprocess.Popen(
        [sys.executable, "-m", "market.simulator", "--with-parent", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    return child, int(child.stdout.readline())


@pytest.mark.parametrize("connected", [False, True])
def test_it_ends_when_its_standard_input_closes(connected: bool) -> None:
    child, port = start()
    if connected:
        with LockstepClient(port) as client:
            client.step()
            child.communicate(timeout=60)
    else:
        child.communicate(timeout=60)
    assert child.returncode == 0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_when_asked_to(how: signal.Signals) -> None:
    child, _ = start()
    child.send_signal(how)
    assert child.wait(timeout=60) == 0
    child.communicate()


def test_it_ends_although_a_client_has_stopped_reading() -> None:
    with running_exchange(SimulateConfig()) as running:
        silent = socket.create_connection(("127.0.0.1", running.port))
        path = stream_url(running.port).partition(str(running.port))[2]
        silent.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        assert silent.recv(12) == b"HTTP/1.1 101"
        states = [get(running.port, "/sim/state")[1]]

        def stands_still() -> bool:
            states.append(get(running.port, "/sim/state")[1])
            return len(states) > 9 and len(set(states[-9:])) == 1

        until(stands_still)
    silent.close()
    assert len(set(states)) > 1, "it had been sending until nobody took it any more"


def test_it_ends_when_its_parent_is_killed() -> None:
    parent_words = (
        "import time\n"
        "from pipelines.stack.exchange import SimulateConfig, running_exchange\n"
        "with running_exchange(SimulateConfig()) as exchange:\n"
        "    print(exchange.port, flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", parent_words], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        port = int(parent.stdout.readline())
        assert get(port, "/sim/state")[0] == 200
        os.kill(parent.pid, signal.SIGKILL)
    assert parent.returncode == -signal.SIGKILL
    until(lambda: not listens(port))


def test_wrong_words_at_the_start_are_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "market.simulator", "--port", "70000"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "expected a port from 0 to 65535, saw 70000" in done.stderr
    with pytest.raises(InputError, match="invalid choice: 'wild'"), running_exchange(SimulateConfig(regime="wild")):
        pass
