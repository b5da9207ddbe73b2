"""Tick and lot of an instrument that nobody has told us: the decimals that its data are written with.

They are a bound, not the exchange's rule: a price of 0.5 steps is read as one of five steps of 0.1. What is read later
with more decimals is refused as off_tick or off_lot, never rounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from market.errors import FrameError, InputError, MarketDataError
from market.instruments import Instrument, find, is_known
from market.lake import Lake, rows_of
from market.venues.protocol import SESSION, Frame, Venue

_FINEST: Final = 12  # decimals


def infer(venue: Venue, key: str, frames: Sequence[Frame]) -> Instrument:
    """The instrument of ``key`` with the fewest decimals that all of its frames can be read with.

    Raises:
        MarketDataError: twelve decimals are not enough.
    """
    name, _, symbol = key.partition(".")
    decimals = {"off_tick": 0, "off_lot": 0}
    while max(decimals.values()) <= _FINEST:
        instrument = Instrument(
            venue=name, symbol=symbol, tick=_step(decimals["off_tick"]), lot=_step(decimals["off_lot"])
        )
        short = _short_of(venue, instrument, frames)
        if short is None:
            return instrument
        decimals[short] += 1
    raise MarketDataError(f"{key}: prices or sizes have more than {_FINEST} decimals; say --tick and --lot")


def _step(decimals: int) -> Decimal:
    return Decimal(1).scaleb(-decimals)


def _short_of(venue: Venue, instrument: Instrument, frames: Sequence[Frame]) -> str | None:
    """Which step is too wide for the frames, if any."""
    parser = venue.parser(instrument)
    for number, recv_ns, payload in frames:
        try:
            parser.parse(payload, recv_ns, number)
        except FrameError as error:
            if error.reason in ("off_tick", "off_lot"):
                return error.reason
    return None


@dataclass(frozen=True, kw_only=True)
class Settled:
    """An instrument; its steps are from the code (``known``), the user (``given``) or its data (``inferred``)."""

    instrument: Instrument
    origin: str


def settled(lake: Lake, key: str) -> Settled | None:
    """What is already known of an instrument: from the code, or from what was landed first."""
    if key.endswith(f".{SESSION}"):
        venue, _, symbol = key.partition(".")
        return Settled(
            instrument=Instrument(venue=venue, symbol=symbol, tick=Decimal(1), lot=Decimal(1)), origin="none"
        )
    if is_known(key):
        return Settled(instrument=find(key), origin="known")
    rows = lake.read("instruments", instrument=key, columns=["origin"])
    return Settled(instrument=lake.instrument(key), origin=rows["origin"][0].as_py()) if rows.num_rows else None


def settle(lake: Lake, found: Settled, source: str, recv_ns: int) -> Settled:
    """Keep the steps of an instrument that the code does not know; those landed first stand.

    Raises:
        InputError: the user gives other steps than its landed data have.
        LakeError: the lake cannot be written.
    """
    key = found.instrument.key
    before = settled(lake, key)
    if before is not None:
        if found.origin == "given" and before.instrument != found.instrument:
            raise InputError(
                f"{key} has tick {before.instrument.tick} and lot {before.instrument.lot} ({before.origin}); "
                "leave --tick and --lot away, or choose another lake"
            )
        return before
    columns = {
        "source": source,
        "recv_ns": [max(0, recv_ns)],
        "tick": format(found.instrument.tick, "f"),
        "lot": format(found.instrument.lot, "f"),
        "origin": found.origin,
    }
    lake.append("instruments", rows_of("instruments", found.instrument, columns))
    return found
