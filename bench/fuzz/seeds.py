"""Good frames of every wire format, to be damaged: hand-made ones, and those of captures where they are available."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from market.errors import KeelError
from market.feeds import recordings
from market.feeds.increments import infer
from market.instruments import Instrument, find, is_known
from market.venues import binance_levels, deribit, fi2010, itch, registry
from market.venues.formats import parquet
from market.venues.protocol import NO_STAMP, SESSION, Venue

AT_NS = 1_700_000_000_000_000_000
AT_MS = AT_NS // 10**6
CAPTURES = Path(__file__).resolve().parents[3] / "shared" / "market"

_TAKEN = 600  # frames of an instrument of a capture
_LONGEST = 20_000  # bytes


@dataclass(frozen=True, kw_only=True)
class Seed:
    """Good frames of one instrument in order. ``name`` tells where they come from."""

    name: str
    venue: Venue
    instrument: Instrument
    frames: tuple[bytes, ...]


def hand_made() -> list[Seed]:
    """One or more seeds of every venue in the registry, in its order."""
    made = _made()
    return [
        Seed(name=f"{venue.name}/{instrument.symbol}", venue=venue, instrument=instrument, frames=tuple(frames))
        for venue in registry.VENUES
        for instrument, frames in made[venue.name]
    ]


def captured() -> list[Seed]:
    """A seed of every instrument of every capture; none where there are no captures."""
    if not CAPTURES.is_dir():
        return []
    paths = sorted(each for each in CAPTURES.rglob("*") if each.is_file() and each.suffix not in (".json", ".md"))
    return [seed for path in paths for seed in _captured(path)]


def _captured(path: Path) -> Iterator[Seed]:
    try:
        with recordings.opened([path]) as found:
            for recording in found:
                yield from _of(recording)
    except KeelError:
        return  # one file of several that belong together


def _of(recording: recordings.Recording) -> Iterator[Seed]:
    venue = recording.venue
    symbol_of = venue.route() if venue.route else lambda _payload: recording.key.partition(".")[2]
    kept: dict[str, list[tuple[int, int, bytes]]] = {}
    for frame in islice(venue.frames(recording.path), 20_000):
        mine = kept.setdefault(symbol_of(frame[2]) or SESSION, [])
        if frame[1] != NO_STAMP and len(mine) < _TAKEN and len(frame[2]) < _LONGEST:
            mine.append(frame)
    name = recording.key.partition(".")[0]
    for symbol, frames in list(kept.items())[:4]:
        key = f"{name}.{symbol}"
        instrument = find(key) if is_known(key) else infer(venue, key, frames)
        if instrument is not None and len(frames) > 3:
            payloads = tuple(payload for _, _, payload in frames)
            yield Seed(name=f"{recording.origin}/{symbol}", venue=venue, instrument=instrument, frames=payloads)


def _of_steps(key: str, tick: str, lot: str) -> Instrument:
    venue, _, symbol = key.partition(".")
    return Instrument(venue=venue, symbol=symbol, tick=Decimal(tick), lot=Decimal(lot))


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _made() -> dict[str, list[tuple[Instrument, list[bytes]]]]:
    return {**_rows(), **_tables(), **_streams(), **_recorded_streams()}


# -- rows of text and bytes -------------------------------------------------------------------------------------------

_SSE = b"//SecurityIDSource=101 MsgType=%d SecurityID=600519 BizIndex=%d TransactTime=9300000 "


def _rows() -> dict[str, list[tuple[Instrument, list[bytes]]]]:
    order = dict.fromkeys(itch.COLUMNS, "") | {
        "source_message_sequence": "5", "timestamp_ns": "5", "message_type": "U", "order_id": "7",
        "old_order_id": "6.0", "size": "10", "old_size": "10", "price": "163.3", "old_price": "163.2",
        "direction": "1", "stock": "AAPL", "bid_price_1": "163.3", "bid_size_1": "10.0",
    }  # fmt: skip
    added = order | {"message_type": "A", "order_id": "6", "old_order_id": "", "price": "163.2"}
    option = dict.fromkeys(deribit.COLUMNS, "1.0") | {
        "timestamp": "2025-12-30T17:31:15.944181+00:00", "option_type": "call", "currency": "BTC",
        "expiry_datetime": "2026-01-16T08:00:00+00:00",
    }  # fmt: skip
    column = ["1.5", "3", "1.4", "2"] + ["1.6", "1", "1.3", "1"] * 9 + ["0.5"] * (fi2010.ROWS - 40)
    for level in range(1, 10):
        column[4 * level] = f"{1.5 + level / 10:.1f}"
        column[4 * level + 2] = f"{1.4 - level / 10:.1f}"
    return {
        "bitstamp": [(find("bitstamp.BTCUSD"), [
            b'5 order_created {"price": "236.47", "amount": "2.0", "datetime": "1430438404", "id": 7, "order_type": 0}',
            b'1430438404645 trade {"price": 236.61000000000001, "amount": 9.9999999999999995e-07, "id": 9}',
            b'1430438405885 order_book {"bids": [["236.47", "1.7"]], "asks": []}',
            b'6 order_changed {"price": "236.47", "amount": "1.0", "datetime": "1430438404", "id": 7, "order_type": 0}',
            b'7 order_deleted {"price": "236.47", "amount": "1.0", "datetime": "1430438404", "id": 7, "order_type": 0}',
            b"2,1777689383201,1777689380521,78319.0,1.5e-05,created,ask",
            b"2,1777689383201,1777689380521,78319.0,1.5e-05,changed,ask",
            b"5,1777689383889,1777689383817,78319.0,0.121,11,22,buy",
        ])],
        "lobster": [(find("nasdaq.MSFT"), [
            b"34200.0,1,77,200,308700,1", b"34200.017459617,4,77,100,308700,1", b"34200.02,2,77,50,308700,1",
            b"34200.03,3,77,50,308700,1", b"34200.04,5,0,50,308700,1", b"34200.05,7,0,0,-1,-1",
            b"34200.1,1,7,21,2238100,1\n2239500,100,2238100,21",
        ])],
        "itch": [(find("nasdaq.AAPL"), [",".join(each.values()).encode() for each in (added, order)])],
        "sse": [(find("sse.600519"), [
            _SSE % (192, 7) + b"OrderNo=30 Price=1818880 OrderQty=100000 OrdType=65 Side=66",
            _SSE % (192, 8) + b"OrderNo=31 Price=1818880 OrderQty=100000 OrdType=65 Side=83",
            _SSE % (191, 9) + b"BidApplSeqNum=3 OfferApplSeqNum=4 LastPx=1818880 LastQty=100000 ExecType=78",
        ])],
        "nbbo": [(find("us-nbbo.IBM"), [b"14400554,1384000,700,0,0,P,1,0", b"14404499,1395050,500,P,20002020,0"])],
        "b3": [(find("b3.PETR4"), [
            b"PETR4,5,2025-03-05 15:30:00.072423823+00:00,book,,,,34.81,34.800000000000004",
            b"PETR4,5,2025-03-05 15:30:00.072423823+00:00,trade,35.02,13600.0,4.0,35.4,35.93",
        ])],
        "sgx": [(find("sgx.CN"), [
            b"TimeStamp,2014-01-09D04:21:26.224430600\n667500.0,1.0,683000.0,2.0\n"
            b"660000.0,1.0,684500.0,2.0\n640000.0,9.0,686000.0,2.0",
            b"TimeStamp,2014-01-09D04:21:27.224430600\n667500.0,3.0,683000.0,2.0\n"
            b"660000.0,1.0,684500.0,2.0\n640000.0,9.0,686000.0,2.0",
        ])],
        "deribit-options": [(find("deribit.BTC"), [",".join(option.values()).encode()])],
        "deribit-marks": [(find("deribit.BTC-PERPETUAL"), [
            b",1767115875944,,,BTC-PERPETUAL,,,,,,,,,,,,,,,,,,,88539.0,,,",
        ])],
        "gdax": [(find("coinbase.BTC-USD"), [
            b"2018-04-24T03:52:17.202Z\nbuy,99.0,1\nbuy,98.5,2.5\nsell,101.0,1\nsell,102.0,0.25",
            b"buy,99.5,2,2018-04-24T03:52:17.202Z", b"sell,101.0,0,2018-04-24T03:52:17.300Z",
            b"buy,99.5,2.5,2018-04-24T03:52:17.400Z",
        ])],
        "fi2010": [(_of_steps("fi2010.STOCKS", "0.0001", "0.000001"), [
            " ".join(column).encode(), " ".join(["1.5", "7", *column[2:]]).encode(),
        ])],
        "dbn": [(find("cme.ESH4"), _dbn())],
    }  # fmt: skip


def _dbn() -> list[bytes]:
    import databento_dbn as dbn

    times = {"publisher_id": 1, "instrument_id": 7, "ts_event": AT_NS, "ts_recv": AT_NS}
    price = 4_800 * 10**9
    ask = {"side": dbn.Side.ASK, "price": price + 25 * 10**7, "size": 3}
    orders = [
        dbn.MBOMsg(order_id=n, flags=128, action=action, side=side, price=price, size=5, sequence=n, **times)
        for n, action, side in (
            (1, dbn.Action.ADD, dbn.Side.BID),
            (1, dbn.Action.MODIFY, dbn.Side.BID),
            (1, dbn.Action.FILL, dbn.Side.BID),
            (1, dbn.Action.CANCEL, dbn.Side.BID),
            (2, dbn.Action.TRADE, dbn.Side.ASK),
            (3, dbn.Action.CLEAR, dbn.Side.NONE),
        )
    ]
    orders.append(dbn.MBOMsg(order_id=9, flags=160, action=dbn.Action.ADD, sequence=9, **ask, **times))
    trade = dbn.TradeMsg(
        action=dbn.Action.TRADE, side=dbn.Side.BID, depth=0, price=price, size=2, flags=128, sequence=9, **times
    )
    level = dbn.BidAskPair(bid_px=price, ask_px=price + 25 * 10**7, bid_sz=3, ask_sz=4, bid_ct=1, ask_ct=1)
    best = dbn.MBP1Msg(
        action=dbn.Action.ADD, side=dbn.Side.BID, depth=0, price=price, size=2, flags=128, sequence=9,
        levels=level, **times,
    )  # fmt: skip
    return [bytes(each) for each in (*orders, trade, best)]


# -- rows of tables ---------------------------------------------------------------------------------------------------


def _tables() -> dict[str, list[tuple[Instrument, list[bytes]]]]:
    levels = {
        f"{side}_{what}_{i}": 2000.0 + (i if side == "offer" else -1 - i) / 10 if what == "price" else 7.0
        for side in ("bid", "offer") for what in ("price", "quantity") for i in range(5)
    }  # fmt: skip
    session = {f"{side}{i}": 3000.0 + (i if side == "ask" else -i) for side in ("bid", "ask") for i in range(1, 6)}
    session |= {f"{side}Size{i}": 7.0 for side in ("bid", "ask") for i in range(1, 6)}
    depth = {
        "ts_ms": AT_MS, "exch_ts_ms": AT_MS, "symbol": "BTCUSDT", "market_type": "spot", "seq": 7,
        "bids_px": [60_000.0, 59_999.99], "bids_qty": [0.5, 1.25], "asks_px": [60_000.01], "asks_qty": [2.0],
    }  # fmt: skip
    trade = {
        "ts_ms": AT_MS, "exch_ts_ms": AT_MS, "symbol": "BTCUSDT", "market_type": "spot", "trade_id": "9",
        "price": 60_000.0, "qty": 0.5, "side": "buy",
    }  # fmt: skip
    assert binance_levels.VENUE.name == "binance-levels"
    return {
        "cme-levels": [(find("cme.GCM3"), [
            parquet.payload_of({"transact_time": AT_NS, **levels}),
            parquet.payload_of({"transact_time": AT_NS, **levels, "bid_price_0": 2000.0, "offer_quantity_1": 9.0}),
            parquet.payload_of({"transact_time": AT_NS, "side": "O", "price": 1995.6, "quantity": 1.0}),
        ])],
        "shfe-levels": [(find("shfe.rb2510"), [
            parquet.payload_of(
                {"instrumentID": "rb2510", "epochTime": AT_NS // 1000, "updateTime": "20:59:00.5", **session}
            ),
        ])],
        "binance-levels": [(find("binance-spot.BTCUSDT"), [
            parquet.payload_of(depth), parquet.payload_of({**depth, "seq": 8, "bids_qty": [0.25, 1.25]}),
            parquet.payload_of(trade),
        ])],
        "binance-rows": [
            (find("binance-spot.BTCUSDT"), _binance_rows(spot=True)),
            (find("binance-usdm.BTCUSDT"), _binance_rows(spot=False)),
        ],
    }  # fmt: skip


def _binance_rows(*, spot: bool) -> list[bytes]:
    times = {"TimestampOfReceive": str(AT_MS), "EventTime": str(AT_MS), "Symbol": "BTCUSDT"}

    def level(ask: str, price: str, size: str) -> dict[str, str]:
        return {"IsAsk": ask, "Price": price, "Quantity": size}

    both = [level("0", "60000.1", "1.5"), level("1", "60000.2", "2")]
    snapshot = [{"TimestampOfReceive": str(AT_MS), "LastUpdateId": "100", **each} for each in both]

    def diff(first: int, last: int) -> list[dict[str, str]]:
        ids = {"FirstUpdateId": str(first), "FinalUpdateId": str(last)}
        ids |= {} if spot else {"FinalUpdateIdInLastStream": str(first - 1), "TransactionTime": str(AT_MS)}
        return [{**times, **ids, **each} for each in both]

    trade = {**times, "TradeId": "9", "Price": "60000.1", "Quantity": "2", "IsBuyerMarketMaker": "1"}
    final = [{**times, "StreamType": "FINAL_DEPTH_SNAPSHOT", "FinalUpdateId": "7", **each} for each in both]
    return [orjson.dumps(each) for each in (snapshot, diff(100, 103), diff(104, 105), [trade], final)]


# -- streams ----------------------------------------------------------------------------------------------------------


def _binance(instrument: Instrument) -> list[bytes]:
    spot = instrument.venue == "binance-spot"
    stem = instrument.symbol.lower()
    times: dict[str, Any] = {"E": AT_MS, "s": instrument.symbol} | ({} if spot else {"T": AT_MS})

    def framed(stream: str, **data: Any) -> bytes:
        return _json({"stream": f"{stem}@{stream}", "data": data})

    def diff(first: int, last: int, previous: int) -> bytes:
        more: dict[str, Any] = {} if spot else {"pu": previous}
        levels = {"b": [["60000.1", "2"], ["59999.0", "0"]], "a": [["60000.2", "2"]]}
        return framed("depth@100ms", e="depthUpdate", **times, U=first, u=last, **more, **levels)

    best = {"u": 105, "s": instrument.symbol, "b": "60000.1", "B": "2", "a": "60000.2", "A": "3"}
    frames = [
        diff(95, 100, 94),
        _json({"lastUpdateId": 100, "bids": [["60000.1", "1"], ["60000.0", "2"]], "asks": [["60000.2", "3"]]}),
        diff(101, 105, 100), diff(106, 107, 105),
        framed("bookTicker", **best) if spot else framed("bookTicker", e="bookTicker", **{**times, **best}),
        framed("trade", e="trade", **times, t=7, p="60000.1", q="2", m=True),
    ]  # fmt: skip
    mark = {"p": "28155.10000000", "i": "28165.04857143", "r": "0.00002760"}
    if not spot:
        frames.append(framed("markPrice@1s", e="markPriceUpdate", E=AT_MS, s=instrument.symbol, T=AT_MS + 1000, **mark))
    return frames


def _streams() -> dict[str, list[tuple[Instrument, list[bytes]]]]:
    spot, usdm = find("binance-spot.BTCUSDT"), find("binance-usdm.BTCUSDT")
    coinm = find("binance-coinm.BTCUSD_PERP")
    plain = [(each, _binance(each)) for each in (spot, usdm, coinm)]
    address = b"https://api.binance.com/api/v3/depth?symbol=BTCUSDT&limit=1000 -> 1633998511.132921: "
    answered = [
        address + frame if frame.startswith(b'{"lastUpdateId"') else frame
        for frame in [b"wss://stream.binance.com:9443/stream <-> 1633998511.1", *_binance(spot)]
    ]
    bare = [_json(orjson.loads(frame).get("data", orjson.loads(frame))) for frame in _binance(spot)]
    return {
        "binance": plain,
        "binance-arrays": [(spot, bare)],
        "cryptofeed-binance": [(spot, answered)],
    }


def _okx() -> list[bytes]:
    def book(action: str, bids: list[list[str]], asks: list[list[str]], written: str) -> bytes:
        crc = zlib.crc32(written.encode())
        data = {"asks": asks, "bids": bids, "ts": str(AT_MS), "checksum": crc - 2**32 if crc >= 2**31 else crc}
        return _json({"arg": {"channel": "books", "instId": "BTC-USDT"}, "action": action, "data": [data]})

    trade = {"instId": "BTC-USDT", "tradeId": "9", "px": "100.5", "sz": "0.25", "side": "buy", "ts": str(AT_MS)}
    return [
        b'{"event":"subscribe","arg":{"channel":"books","instId":"BTC-USDT"}}',
        book("snapshot", [["100.4", "2", "0", "1"]], [["100.5", "1", "0", "1"]], "100.4:2:100.5:1"),
        book("update", [["100.4", "3", "0", "1"]], [], "100.4:3:100.5:1"),
        book("update", [["100.3", "1", "0", "1"]], [["100.5", "0", "0", "0"]], "100.4:3:100.3:1"),
        _json({"arg": {"channel": "trades", "instId": "BTC-USDT"}, "data": [trade]}),
        _json({"arg": {"channel": "tickers", "instId": "BTC-USDT"}, "data": [{}]}),
    ]


def _kraken() -> list[bytes]:
    at = f"{AT_MS // 1000}.123456"

    def crc(written: str) -> str:
        return str(zlib.crc32(written.encode()))

    return [
        b'{"event":"subscriptionStatus","pair":"XBT/USD","channelName":"book-10","status":"subscribed"}',
        _json([1, {"as": [["100.5", "1.00", at]], "bs": [["100.4", "2.00", at]]}, "book-10", "XBT/USD"]),
        _json([1, {"b": [["100.4", "3.00", at]], "c": crc("100510010043" + "00")}, "book-10", "XBT/USD"]),
        _json([1, {"a": [["100.6", "1.00", at, "r"]]}, {"b": [["100.3", "1.00", at]]}, "book-10", "XBT/USD"]),
        _json([2, [["100.5", "0.50", at, "b", "l", ""]], "trade", "XBT/USD"]),
        _json([3, {"a": ["100.5"]}, "ticker", "XBT/USD"]),
    ]


def _huobi() -> list[bytes]:
    def packed(value: Any) -> bytes:
        return repr(gzip.compress(_json(value), mtime=0)).encode()

    def depth(*bids: list[float]) -> bytes:
        tick = {"ts": AT_MS, "bids": bids, "asks": [[100.5, 7], [100.75, 1]]}
        return packed({"ch": "market.BTC-USD.depth.step0", "ts": AT_MS, "tick": tick})

    trade = {"id": 7, "ts": AT_MS, "price": 100.25, "amount": 2, "direction": "buy"}
    return [
        packed({"ping": AT_MS}), depth([100.25, 5]), depth([100.25, 4], [100.0, 2]),
        packed({"ch": "market.BTC-USD.trade.detail", "ts": AT_MS, "tick": {"id": 7, "ts": AT_MS, "data": [trade]}}),
    ]  # fmt: skip


def _recorded_streams() -> dict[str, list[tuple[Instrument, list[bytes]]]]:
    iso = "2021-07-22T22:36:07.865Z"
    return {
        "okx": [(_of_steps("okx.BTC-USDT", "0.1", "0.00000001"), _okx())],
        "kraken": [(_of_steps("kraken.XBT-USD", "0.1", "0.00000001"), _kraken())],
        "huobi": [(_of_steps("huobi-inverse.BTC-USD", "0.01", "1"), _huobi())],
        "bitfinex": [(_of_steps("bitfinex.tBTCUSD", "0.1", "0.00000001"), [
            b'{"event":"conf","status":"OK","flags":65536}',
            b'{"event":"subscribed","channel":"book","chanId":11,"symbol":"tBTCUSD","pair":"BTCUSD"}',
            b'{"event":"subscribed","channel":"trades","chanId":12,"symbol":"tBTCUSD","pair":"BTCUSD"}',
            b"[11,[[100.4,2,1.5],[100.5,1,-2.5]],1]", b"[11,[100.3,1,0.5],2]", b"[11,[100.5,0,-1],3]",
            b'[11,"hb",4]', b"[12,[[7,1700000000000,0.5,100.4]],5]", b'[12,"te",[8,1700000000000,-0.5,100.4],6]',
        ])],
        "bitmex": [(_of_steps("bitmex.XBTUSD", "0.5", "1"), [
            b'{"success":true,"subscribe":"orderBookL2:XBTUSD"}',
            _json({"table": "orderBookL2", "action": "partial", "filter": {"symbol": "XBTUSD"}, "data": [
                {"symbol": "XBTUSD", "id": 1, "side": "Sell", "size": 7, "price": 100.5},
                {"symbol": "XBTUSD", "id": 2, "side": "Buy", "size": 5, "price": 100},
            ]}),
            _json({"table": "orderBookL2", "action": "update", "data": [
                {"symbol": "XBTUSD", "id": 1, "side": "Sell", "size": 9},
            ]}),
            _json({"table": "orderBookL2", "action": "insert", "data": [
                {"symbol": "XBTUSD", "id": 3, "side": "Buy", "size": 5, "price": 99.5},
            ]}),
            _json({"table": "orderBookL2", "action": "delete", "data": [
                {"symbol": "XBTUSD", "id": 2, "side": "Buy"}, {"symbol": "XBTUSD", "id": 1, "side": "Sell"},
            ]}),
            _json({"table": "trade", "action": "insert", "data": [
                {"symbol": "XBTUSD", "timestamp": iso, "side": "Buy", "size": 3, "price": 100.5},
            ]}),
            _json({"table": "quote", "action": "insert", "data": [
                {"symbol": "XBTUSD", "timestamp": iso, "bidSize": 5, "bidPrice": 100, "askPrice": 100.5, "askSize": 7},
            ]}),
        ])],
        "bitstamp-levels": [(_of_steps("bitstamp.BTCUSD", "0.01", "0.00000001"), [
            b'https://www.bitstamp.net/api/v2/order_book/btcusd -> 1641343690.598303: {"timestamp":"1641343690",'
            b'"microtimestamp":"1641343690244908","bids":[["100.15","993.02588113"]],"asks":[["101.15","1.0"]]}',
            b'{"event":"bts:subscription_succeeded","channel":"diff_order_book_btcusd","data":{}}',
            b'{"data":{"timestamp":"1641343691","microtimestamp":"1641343691244908","bids":[["100.15","0.5"]],'
            b'"asks":[["101.15","0.00000000"],["101.2","3.5"]]},"channel":"diff_order_book_btcusd","event":"data"}',
            b'{"data":{"id":7,"timestamp":"1641343699","amount":0.0792,"amount_str":"0.07920000","price":100.44,'
            b'"price_str":"100.44","type":0,"microtimestamp":"1641343699596000"},"channel":"live_trades_btcusd",'
            b'"event":"trade"}',
        ])],
        "bybit": [(_of_steps("bybit-inverse.BTCUSD", "0.5", "1"), [
            b'{"success":true,"request":{"op":"subscribe","args":["trade.BTCUSD"]}}',
            _json({"topic": "orderBookL2_25.BTCUSD", "type": "snapshot", "timestamp_e6": AT_MS * 1000, "data": [
                {"price": "100.5", "symbol": "BTCUSD", "id": 1005000, "side": "Sell", "size": 7},
                {"price": "100", "symbol": "BTCUSD", "id": 1000000, "side": "Buy", "size": 5},
            ]}),
            _json({"topic": "orderBookL2_25.BTCUSD", "type": "delta", "timestamp_e6": str(AT_MS * 1000), "data": {
                "delete": [{"price": "100", "symbol": "BTCUSD", "id": 1000000, "side": "Buy"}],
                "update": [{"price": "100.5", "symbol": "BTCUSD", "id": 1005000, "side": "Sell", "size": 9}],
                "insert": [{"price": "99.5", "symbol": "BTCUSD", "id": 995000, "side": "Buy", "size": 1}],
            }}),
            _json({"topic": "trade.BTCUSD", "data": [
                {"symbol": "BTCUSD", "price": "100.5", "size": 3, "trade_time_ms": str(AT_MS), "side": "Buy"},
            ]}),
        ])],
        "coinbase": [(_of_steps("coinbase.BTC-GBP", "0.01", "0.00000001"), [
            b'{"type":"subscriptions","channels":[]}',
            b'{"type":"snapshot","product_id":"BTC-GBP","asks":[["100.5","1"]],"bids":[["100.25","2.5"]]}',
            b'{"type":"l2update","product_id":"BTC-GBP","changes":[["buy","100.25","0"],["sell","100.75","1.5"]],'
            b'"time":"2021-04-17T16:43:37.079420Z"}',
            b'{"type":"match","product_id":"BTC-GBP","trade_id":7,"side":"buy","size":"0.5","price":"100.5",'
            b'"time":"2021-04-17T16:43:37.079420Z"}',
        ])],
        "deribit-stream": [(_of_steps("deribit.ETH-PERPETUAL", "0.05", "1"), _deribit())],
        "dydx": [(_of_steps("dydx.ETH-USD", "0.1", "0.001"), [
            b'{"type":"connected","connection_id":"60a4","message_id":0}',
            b'{"type":"channel_data","message_id":1,"id":"ETH-USD","channel":"v3_orderbook",'
            b'"contents":{"offset":"5","bids":[["100.1","1"]],"asks":[]}}',
            b'{"type":"subscribed","message_id":2,"channel":"v3_orderbook","id":"ETH-USD","contents":{"bids":'
            b'[{"price":"100.1","offset":"4","size":"6.2"}],"asks":[{"price":"100.5","offset":"3","size":"1"}]}}',
            b'{"type":"channel_data","message_id":3,"id":"ETH-USD","channel":"v3_orderbook",'
            b'"contents":{"offset":"9","bids":[["100.1","0"]],"asks":[["100.6","13.34"]]}}',
            b'{"type":"channel_data","message_id":4,"id":"ETH-USD","channel":"v3_trades","contents":{"trades":'
            b'[{"price":"100.5","size":"1","side":"BUY","createdAt":"2021-10-28T18:03:50.000Z"}]}}',
        ])],
        "kraken-futures": [(_of_steps("kraken-futures.PI_XBTUSD", "0.5", "1"), [
            b'{"event":"subscribed","feed":"book","product_ids":["PI_XBTUSD"]}',
            b'{"feed":"book_snapshot","product_id":"PI_XBTUSD","timestamp":1626994925378,"seq":100,"tickSize":null,'
            b'"bids":[{"price":100.5,"qty":20}],"asks":[{"price":101.0,"qty":3.0}]}',
            b'{"feed":"book","product_id":"PI_XBTUSD","side":"buy","seq":101,"price":100,"qty":7,'
            b'"timestamp":1626994925379}',
            b'{"feed":"book","product_id":"PI_XBTUSD","side":"sell","seq":102,"price":101,"qty":0,'
            b'"timestamp":1626994925379}',
            b'{"feed":"trade","product_id":"PI_XBTUSD","uid":"7","side":"sell","type":"fill","seq":7,'
            b'"time":1626994925379,"qty":3,"price":100.5}',
        ])],
    }  # fmt: skip


def _deribit() -> list[bytes]:
    name = "ETH-PERPETUAL"

    def said(channel: str, data: Any) -> bytes:
        params = {"channel": f"{channel}.{name}.raw", "data": data}
        return _json({"jsonrpc": "2.0", "method": "subscription", "params": params})

    def book(kind: str, change: int, before: int, *bids: list[Any]) -> bytes:
        data = {"type": kind, "timestamp": AT_MS, "instrument_name": name, "change_id": change, "bids": bids}
        data |= {"asks": [["new", 100.5, 3]]} | ({"prev_change_id": before} if before else {})
        return said("book", data)

    ticker = {
        "instrument_name": name, "timestamp": AT_MS, "mark_price": 100.31, "index_price": 100.3,
        "best_bid_price": 100.25, "best_bid_amount": 5, "best_ask_price": None, "best_ask_amount": 0,
        "current_funding": 1.5e-05,
    }  # fmt: skip
    trade = {"instrument_name": name, "timestamp": AT_MS, "trade_seq": 7, "direction": "buy", "price": 100.5}
    return [
        b'{"jsonrpc":"2.0","id":0,"result":["trades.ETH-PERPETUAL.raw"]}',
        book("snapshot", 100, 0, ["new", 100.25, 5]), book("change", 101, 100, ["change", 100.25, 7]),
        book("change", 105, 101, ["delete", 100.25, 0]), said("ticker", ticker),
        said("trades", [trade | {"amount": 2}]),
    ]  # fmt: skip
