"""Faults on demand: failures of real feeds, injected into a stream at a chosen moment. The world itself is untouched.

==================  ==================================================================================================
kind                what happens
==================  ==================================================================================================
trade_price         for ``seconds`` trades are printed 20 % away from the book
drop_diff           the next depth diff is lost: a gap in the update ids
gap                 for ``seconds`` every depth diff is lost
duplicate_diff      the next depth diff is sent twice
reorder_diffs       the next two depth diffs are swapped
late_snapshot       the next snapshot in the stream comes ``seconds`` after it was taken: diffs have overtaken it
malformed           half of the next frame is sent before it, which is not JSON
clock_back          receive stamps step back by ``seconds`` once and continue from there, until the connection ends
clock_ahead         receive stamps step ahead by ``seconds``, likewise
silence             for ``seconds`` no frame is sent; the connection stays
slow_consumer       for ``seconds`` every frame is dropped, as by an exchange whose client does not read; then it cuts
disconnect          the connection is cut without a closing handshake
==================  ==================================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass

from market.clock import NS_PER_S
from market.errors import InputError
from market.simulator.frames import Line
from market.simulator.state import DIFF, TRADE
from market.simulator.world import Record

DEFAULT_SECONDS = {
    "trade_price": 5.0,
    "drop_diff": 0.0,
    "gap": 1.0,
    "duplicate_diff": 0.0,
    "reorder_diffs": 0.0,
    "late_snapshot": 3.0,
    "malformed": 0.0,
    "clock_back": 0.5,
    "clock_ahead": 0.5,
    "silence": 2.0,
    "slow_consumer": 1.0,
    "disconnect": 0.0,
}


@dataclass
class Faults:
    """The faults now active in the stream."""

    trade_price_until_ns: int = 0
    gap_until_ns: int = 0
    drop_diff: bool = False
    duplicate_diff: bool = False
    reorder_diffs: bool = False
    held_diff: bytes | None = None
    snapshot_delay_ns: int = 0
    malformed: bool = False
    disconnect: bool = False
    quiet_until_ns: int = 0
    cut_after_quiet: bool = False
    stamp_offset_ns: int = 0

    def inject(self, kind: str, seconds: float, now_ns: int) -> None:
        """Start a fault at world time ``now_ns``.

        Raises:
            InputError: no fault has this name.
        """
        check(kind)
        if kind == "trade_price":
            self.trade_price_until_ns = now_ns + int(seconds * NS_PER_S)
        elif kind == "gap":
            self.gap_until_ns = now_ns + int(seconds * NS_PER_S)
        elif kind == "late_snapshot":
            self.snapshot_delay_ns = int(seconds * NS_PER_S)
        elif kind == "clock_back":
            self.stamp_offset_ns -= int(seconds * NS_PER_S)
        elif kind == "clock_ahead":
            self.stamp_offset_ns += int(seconds * NS_PER_S)
        elif kind in ("silence", "slow_consumer"):
            self.quiet_until_ns = now_ns + int(seconds * NS_PER_S)
            self.cut_after_quiet = kind == "slow_consumer"
        else:
            setattr(self, kind, True)

    def distort(self, record: Record) -> Record:
        """The record as the faulty feed publishes it."""
        if record.kind == TRADE and record.t_ns < self.trade_price_until_ns:
            return record._replace(price=record.price * 6 // 5)
        return record

    def frames(self, record: Record, frame: bytes) -> list[bytes]:
        """The frames that go out instead of ``frame``."""
        if self.quiet_until_ns:
            if record.t_ns < self.quiet_until_ns or self.cut_after_quiet:
                self.disconnect |= record.t_ns >= self.quiet_until_ns
                return []
            self.quiet_until_ns = 0
        out = self._diffs(record.t_ns, frame) if record.kind == DIFF else [frame]
        if self.malformed:
            self.malformed, out = False, [frame[: len(frame) // 2], *out]
        return out

    def _diffs(self, t_ns: int, frame: bytes) -> list[bytes]:
        if self.drop_diff or t_ns < self.gap_until_ns:
            self.drop_diff = False
            return []
        if self.held_diff is not None:
            held, self.held_diff = self.held_diff, None
            return [frame, held]
        if self.reorder_diffs:
            self.reorder_diffs, self.held_diff = False, frame
            return []
        if self.duplicate_diff:
            self.duplicate_diff = False
            return [frame, frame]
        return [frame]

    def take_snapshot_delay(self) -> int:
        """How many ns of world time a snapshot taken now is delayed."""
        delay_ns, self.snapshot_delay_ns = self.snapshot_delay_ns, 0
        return delay_ns

    def stamped(self, lines: list[Line]) -> list[Line]:
        """The lines with the receive stamps of the faulty clock."""
        return [(recv_ns + self.stamp_offset_ns, payload) for recv_ns, payload in lines]

    def connection_ended(self) -> None:
        """Reset for the next client: healthy clock and connection, and nothing that was delayed for this one."""
        self.stamp_offset_ns = 0
        self.held_diff = None
        self.disconnect = self.cut_after_quiet = False
        self.quiet_until_ns = 0


def check(kind: str) -> None:
    """Raise InputError unless ``kind`` is a fault."""
    if kind not in DEFAULT_SECONDS:
        raise InputError(f"unknown fault {kind!r}; expected one of {', '.join(DEFAULT_SECONDS)}")
