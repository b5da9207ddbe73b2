"""The exchange's order desk: what it accepts, what it rejects and with which Binance code, and what it reports."""

from __future__ import annotations

import orjson
import pytest
from kit.simulated_market import INSTRUMENT

from market.clock import NS_PER_MS
from market.events import ASK, BID
from market.feeds import orders
from market.simulator.config import ExchangeConfig
from market.simulator.desk import Desk
from market.simulator.world import World

LATENCY_NS = 2 * NS_PER_MS


class Client:
    """Requests of one client at a desk; time passes only in :meth:`say` and :meth:`wait`."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.desk = Desk(world, INSTRUMENT, LATENCY_NS)
        self.reports: list[orders.Report] = []

    def say(self, *messages: bytes) -> list[dict]:
        """Send, wait until it has arrived; the replies."""
        for message in messages:
            self.desk.receive(message)
        replies = []
        while (arrival_ns := self.desk.next_arrival_ns()) is not None:
            self.wait(arrival_ns - self.world.now_ns)
            for recv_ns, payload in self.desk.execute_next():
                if payload.startswith(orders.USER_DATA_PREFIX):
                    self._report(recv_ns, payload)
                else:
                    replies.append(orjson.loads(payload))
        return replies

    def wait(self, ns: int) -> None:
        for record in self.world.advance(self.world.now_ns + ns):
            line = self.desk.report(record)
            if line is not None:
                self._report(*line)

    def _report(self, recv_ns: int, payload: bytes) -> None:
        report = orders.read_report(INSTRUMENT, recv_ns, payload)
        assert report is not None
        self.reports.append(report)

    def touch(self, side: int) -> int:
        book = self.world.book(1)
        return (book.bids if side == BID else book.asks)[0][0]


@pytest.fixture
def client() -> Client:
    return Client(World(ExchangeConfig()))


def place(client_id: str, ticks: int, /, *, on: int = BID, lots: int = 10, **changes: object) -> bytes:
    request = orjson.loads(orders.place(INSTRUMENT, client_id, side=on, price=ticks, size=lots))
    request["params"].update(changes)
    return orjson.dumps(request)


def refusal(reply: dict) -> int:
    assert reply["status"] == 400
    assert reply["error"]["msg"]
    return int(reply["error"]["code"])


def test_a_placed_order_is_answered_and_reported_when_it_arrives(client: Client) -> None:
    sent_ns, price = client.world.now_ns, client.touch(BID)
    [reply] = client.say(place("a", price))
    assert client.world.now_ns == sent_ns + LATENCY_NS
    assert (reply["id"], reply["status"]) == ("a", 200)
    assert reply["result"]["clientOrderId"] == "a"
    [report] = client.reports
    assert (report.execution, report.status, report.price, report.size) == ("NEW", "NEW", price, 10)
    assert report.exch_ms == client.world.now_ns // NS_PER_MS
    assert list(client.world.resting()) == [report.order_id]


def test_fills_are_reported_until_the_order_is_full_and_then_its_id_is_free_again(client: Client) -> None:
    for side in (BID, ASK):
        client.say(place(f"o{side}", client.touch(side), on=side, lots=40))
    while client.world.resting():
        client.wait(100 * NS_PER_MS)
    for side in (BID, ASK):
        mine = [r for r in client.reports if r.client_id == f"o{side}"]
        trades = [r for r in mine if r.execution == "TRADE"]
        assert [r.execution for r in mine] == ["NEW"] + ["TRADE"] * len(trades)
        assert [r.status for r in trades] == ["PARTIALLY_FILLED"] * (len(trades) - 1) + ["FILLED"]
        assert sum(r.last_size for r in trades) == trades[-1].filled_size == 40
        assert {r.last_price for r in trades} == {mine[0].price}
        assert all(r.trade_id > 0 for r in trades)
    [reply] = client.say(place("o1", client.touch(BID)))
    assert reply["status"] == 200


def test_a_crossing_order_is_rejected_with_5022_and_never_matched(client: Client) -> None:
    book = client.world.book(1)
    for side, price in ((BID, book.asks[0][0]), (BID, book.asks[0][0] + 50), (ASK, book.bids[0][0])):
        [reply] = client.say(place("x", price, on=side, lots=10**6))
        assert refusal(reply) == -5022
    assert client.reports == []
    assert client.world.resting() == {}


def test_a_cancelled_order_is_gone_and_cancelling_it_again_is_rejected(client: Client) -> None:
    client.say(place("a", client.touch(BID) - 5))
    [reply] = client.say(orders.cancel(INSTRUMENT, "a"))
    assert (reply["id"], reply["result"]["status"]) == ("c-a", "CANCELED")
    assert [r.execution for r in client.reports] == ["NEW", "CANCELED"]
    assert client.world.resting() == {}
    for name in ("a", "never-sent"):
        [reply] = client.say(orders.cancel(INSTRUMENT, name))
        assert refusal(reply) == -2011


def test_a_client_id_in_use_is_rejected(client: Client) -> None:
    price = client.touch(BID) - 3
    replies = client.say(place("a", price), place("a", price - 1))
    assert replies[0]["status"] == 200
    assert refusal(replies[1]) == -4116
    assert len(client.world.resting()) == 1


def test_a_client_id_that_is_a_number_is_its_text(client: Client) -> None:
    price = client.touch(BID) - 3
    replies = client.say(*(place("a", price, newClientOrderId=given) for given in (7, 7, "7")))
    assert replies[0]["result"]["clientOrderId"] == "7"
    assert [refusal(reply) for reply in replies[1:]] == [-4116, -4116]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"price": "60000.05"}, -4014),
        ({"price": "0"}, -4014),
        ({"price": "-60000.0"}, -4014),
        ({"price": "cheap"}, -4014),
        ({"price": None}, -4014),
        ({"price": "NaN"}, -4014),
        ({"price": "Infinity"}, -4014),
        ({"price": "1e999999"}, -4014),
        ({"price": ["1"]}, -4014),
        ({"quantity": "0.0005"}, -4003),
        ({"quantity": "0"}, -4003),
        ({"quantity": "-1"}, -4003),
        ({"quantity": "9e99"}, -4003),
        ({"symbol": "ETHUSDT"}, -1121),
        ({"side": "LONG"}, -1117),
        ({"type": "MARKET"}, -1115),
        ({"timeInForce": "GTC"}, -1115),
        ({"price": "10000.0"}, -4131),
    ],
    ids=str,
)
def test_an_invalid_order_is_rejected_with_its_code(client: Client, changes: dict, code: int) -> None:
    [reply] = client.say(place("a", client.touch(BID), **changes))
    assert refusal(reply) == code
    assert client.world.resting() == {}
    assert client.reports == []


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"hello", -1102),
        (b"", -1102),
        (b"[1]", -1102),
        (b"\xff\xfe", -1102),
        (b'{"id":1}', -1102),
        (b'{"method":"order.place","params":5}', -1102),
        (b'{"method":""}', -1020),
        (b'{"method":null}', -1020),
        (b'{"method":["order.place"]}', -1020),
        (b'{"method":"order.modify"}', -1020),
        (b'{"method":"order.place"}', -1121),
        (b'{"method":"order.cancel"}', -2011),
        (b'{"method":"order.cancel","params":{"origClientOrderId":["a"]}}', -2011),
    ],
    ids=repr,
)
def test_an_invalid_request_is_answered_and_the_next_one_is_served(client: Client, message: bytes, code: int) -> None:
    replies = client.say(message + b"\n" + place("a", client.touch(BID)))
    assert refusal(replies[0]) == code
    assert replies[1]["status"] == 200


def test_a_client_id_of_a_wrong_type_does_no_harm(client: Client) -> None:
    replies = client.say(place("a", client.touch(BID), newClientOrderId=[1]), place("b", client.touch(BID)))
    assert [reply["status"] for reply in replies] == [200, 200]


def test_steps_are_counted_and_are_not_requests(client: Client) -> None:
    step = b'{"method":"keel.step"}'
    assert client.desk.receive(step) == 1
    assert client.desk.receive(b"\n".join([place("a", client.touch(BID)), step, step]).decode()) == 2
    assert len(client.say()) == 1


def test_closing_the_desk_cancels_everything_and_drops_what_had_not_arrived(client: Client) -> None:
    price = client.touch(BID)
    client.say(place("a", price), place("b", price - 2))
    client.desk.receive(place("c", price))
    sizes = dict(client.world.book().bids)
    client.desk.close()
    assert client.world.resting() == {}
    assert client.desk.next_arrival_ns() is None
    after = dict(client.world.book().bids)
    assert (after[price], after[price - 2]) == (sizes[price] - 10, sizes[price - 2] - 10)


def test_fills_of_an_earlier_client_do_not_reach_the_next_one(client: Client) -> None:
    client.say(place("a", client.touch(BID), lots=40))
    stranger = Client(client.world)
    while client.world.resting():
        stranger.wait(100 * NS_PER_MS)
    assert stranger.reports == []
