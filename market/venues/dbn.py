"""Databento Binary Encoding: market by order (MBO), by price (MBP-1, MBP-10) and trades of one instrument.

A frame is a record's own bytes, as the library writes them in the current version of the format. Actions as Databento
documents them: Add, Cancel (by so many lots), Modify (to a price and size), cleaR, Trade (the aggressor's side; no
effect on the book), Fill (a resting order's part in it; what that leaves of it follows as a Cancel or Modify), None.

* A day begins with a snapshot: the orders that rest, with the time each one was entered as ``ts_event``, so that their
  exchange times are old. It may come without a clear: then one is told before its first order.
* Before the open and in a halt the book may be crossed.
* Prices are fixed-point, 1e-9. Records that are not about a book or a trade (definitions, status) give no event.

Reasons: ``not_dbn``, ``unknown_frame``, ``bad_side``, ``bad_time``, ``bad_number``, ``zero_size``, ``negative``,
``off_tick``, ``off_lot``, ``out_of_range``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from market.books.order_book import OrderBook
from market.errors import CaptureError, FrameError, InputError
from market.events import (
    ADD,
    ASK,
    BID,
    CHANGE,
    CLEAR,
    F_LAST,
    F_NO_EXCH_TIME,
    F_SNAPSHOT,
    FILL,
    NO_SIDE,
    REDUCE,
    TRADE,
)
from market.instruments import Instrument
from market.venues.formats.archives import first_bytes
from market.venues.formats.depth_rows import Levels, View
from market.venues.formats.text_rows import Words, events_of, positive, priced, steps_of_scaled, units, words
from market.venues.protocol import NO_STAMP, Parsed, Venue, always, listed

_START, _ZSTD_START = b"DBN", b"\x28\xb5\x2f\xfd"
_VENUES: Final = {"GLBX.MDP3": "cme"}
_KINDS: Final = {"A": ADD, "C": REDUCE, "M": CHANGE, "R": CLEAR, "T": TRADE, "F": FILL}
_SIDES: Final = {"B": BID, "A": ASK, "N": NO_SIDE}
_DECIMALS: Final = 9
_CHUNK: Final = 1 << 16
# of the format: flags, and what stands for no price and for no time
_LAST, _SNAPSHOT = 128, 32
_NO_PRICE: Final = 2**63 - 1
_NO_TIME: Final = 2**64 - 1


def recognise(path: Path) -> str | None:
    """``venue.SYMBOL`` of the file's metadata; None where it is no DBN file.

    Raises:
        InputError: the file may not be read, or the library is not installed.
        CaptureError: it holds more than one instrument, or is damaged.
    """
    if not first_bytes(path, len(_ZSTD_START)).startswith((_START, _ZSTD_START)):
        return None
    first = next(_decoded(path), None)
    if not isinstance(first, _library().Metadata):
        return None
    symbols = list(first.mappings)
    if len(symbols) != 1:
        raise CaptureError(f"{path.name} holds {len(symbols)} instruments; expected one, ask for one symbol a file")
    return f"{_VENUES.get(first.dataset, first.dataset.lower())}.{symbols[0]}"


def frames(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Frame number, receive ns, record.

    Raises:
        InputError: the file may not be read, or the library is not installed.
        CaptureError: after the last readable record, where it is damaged or truncated.
    """
    metadata = _library().Metadata
    records = (record for record in _decoded(path) if not isinstance(record, metadata))
    for frame, record in enumerate(records, 1):
        try:
            recv_ns = _time(getattr(record, "ts_recv", record.ts_event))
        except FrameError:
            recv_ns = NO_STAMP
        yield frame, recv_ns, bytes(record)


def _library() -> Any:
    """Databento's own library: imported by whoever reads this format."""
    try:
        import databento_dbn
    except ModuleNotFoundError:
        raise InputError(
            "DBN recordings are read by databento-dbn, which is not installed; run `make install`"
        ) from None
    return databento_dbn


def _decoded(path: Path) -> Iterator[Any]:
    """Metadata, then records."""
    dbn = _library()
    try:
        with path.open("rb") as file:
            zipped = file.read(4) == _ZSTD_START
            file.seek(0)
            decoder = dbn.DBNDecoder(compression=dbn.Compression.ZSTD if zipped else dbn.Compression.NONE)
            while piece := file.read(_CHUNK):
                yield from _records(decoder, piece)
            if decoder.buffer():
                raise CaptureError(f"{path.name}: truncated, its last record is not whole")
    except dbn.DBNError as error:
        raise CaptureError(f"{path.name}: damaged, it cannot be read further ({error})") from None
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror or error}; give the path of a recorded capture"
        ) from None


def _records(decoder: Any, piece: bytes) -> list[Any]:
    """The records that are whole with the next bytes.

    Raises:
        DBNError: they are none. Of a record shorter than its kind the library panics, of damaged compressed data it
            raises RuntimeError: both are said as this.
    """
    try:
        decoder.write(piece)
        return list(decoder.decode())
    except BaseException as error:
        if not isinstance(error, RuntimeError) and type(error).__module__ != "pyo3_runtime":
            raise
        raise _library().DBNError(str(error)) from None


class Parser:
    """Reads the records of one instrument; remembers whether the book was cleared, and the levels of MBP records."""

    def __init__(self, instrument: Instrument) -> None:
        dbn = _library()
        self._tick, self._lot = units(instrument)
        self._view = View()
        self._begun = False
        self._orders, self._trades = dbn.MBOMsg, dbn.TradeMsg
        self._known = (dbn.MBOMsg, dbn.MBP1Msg, dbn.MBP10Msg, dbn.TradeMsg)

    def parse(self, payload: bytes, recv_ns: int, frame: int) -> Parsed:
        """Read one record.

        Raises:
            FrameError: see the module.
        """
        record = _record(payload)
        if not isinstance(record, self._known):
            return Parsed("other")
        exch_ns = _time(record.ts_event)
        head = (exch_ns, recv_ns, record.sequence, frame)
        flags = (F_LAST if record.flags & _LAST else 0) | (0 if exch_ns else F_NO_EXCH_TIME)
        flags |= F_SNAPSHOT if record.flags & _SNAPSHOT else 0
        if isinstance(record, self._orders):
            return self._order(record, head, flags)
        traded = [self._event(record, head, flags & ~F_LAST)] if str(record.action) == "T" else []
        if isinstance(record, self._trades):
            if not traded:
                raise FrameError("unknown_frame", f"expected a trade's action T, saw {str(record.action)!r}")
            return Parsed("trade", events_of(self._event(record, head, flags | F_LAST)), exch_ns=exch_ns)
        bids, asks = self._levels(record.levels, "bid"), self._levels(record.levels, "ask")
        events = self._view.changes(head, flags & ~F_LAST, bids, asks, first=traded)
        return Parsed("diff", events, exch_ns=exch_ns)

    def _order(self, record: Any, head: tuple[int, int, int, int], flags: int) -> Parsed:
        action = str(record.action)
        if action == "N":
            return Parsed("other")
        event = self._event(record, head, flags)
        begins = flags & F_SNAPSHOT and not self._begun and action != "R"
        clear = [words(head, 0, (0, 0, 0), (CLEAR, flags & ~F_LAST))] if begins else []
        self._begun = True
        if action == "T":
            return Parsed("trade", events_of(event), exch_ns=head[0])
        return Parsed("snapshot" if begins or action == "R" else "diff", events_of(*clear, event), exch_ns=head[0])

    def _event(self, record: Any, head: tuple[int, int, int, int], flags: int) -> Words:
        """The event of an action on an order, or of a trade."""
        action, side = str(record.action), str(record.side)
        if action not in _KINDS:
            raise FrameError("unknown_frame", f"expected an action of {', '.join(_KINDS)}, saw {action!r}")
        if side not in _SIDES or (side == "N" and action in "ACM"):
            raise FrameError("bad_side", f"expected the side of an order, saw {side!r}")
        kind = _KINDS[action]
        if kind == CLEAR:
            return words(head, 0, (0, 0, 0), (CLEAR, flags))
        place = (_SIDES[side], self._price(record.price), positive(self._lot.of(str(record.size))))
        return words(head, _order_id(record) if kind != TRADE else 0, place, (kind, flags))

    def _levels(self, levels: list[Any], side: str) -> Levels:
        shown = [(getattr(level, f"{side}_px"), getattr(level, f"{side}_sz")) for level in levels]
        return {self._price(price): positive(self._lot.of(str(size))) for price, size in shown if price != _NO_PRICE}

    def _price(self, price: int) -> int:
        return priced(steps_of_scaled(self._tick, str(price), _DECIMALS))


def _record(payload: bytes) -> Any:
    """The one record in a frame."""
    dbn = _library()
    decoder = dbn.DBNDecoder(has_metadata=False)
    try:
        records = _records(decoder, payload)
    except dbn.DBNError as error:
        raise FrameError("not_dbn", f"expected a DBN record: {error}") from None
    if len(records) != 1 or decoder.buffer():
        raise FrameError("not_dbn", f"expected one DBN record, saw {len(payload)} bytes with {len(records)} whole ones")
    return records[0]


def _time(ns: int) -> int:
    """A time, 0 where the record has none.

    Raises:
        FrameError: ``bad_time``.
    """
    if ns == _NO_TIME:
        return 0
    if ns >= 2**63:
        raise FrameError("bad_time", f"expected ns since 1970 in 63 bits, saw {ns}")
    return ns


def _order_id(record: Any) -> int:
    if not 0 < record.order_id < 2**63:
        raise FrameError("out_of_range", f"expected an order id of 63 bits, saw {record.order_id}")
    return int(record.order_id)


VENUE: Final = Venue(
    name="dbn",
    parser=Parser,
    reasons=listed(
        "bad_number bad_side bad_time negative not_dbn off_lot off_tick out_of_range unknown_frame zero_size"
    ),
    rule=always("open"),
    frames=frames,
    recognise=recognise,
    book=OrderBook,
)
