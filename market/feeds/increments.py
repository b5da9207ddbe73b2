"""Infer the tick and lot of an unknown instrument: the decimals that its data are written with.

They are a bound, not the exchange's rule: a price in steps of 0.5 is read in steps of 0.1, five at a time. All
recordings that are landed together are scanned before the first is landed. A later value with more decimals is rejected
as off_tick or off_lot, never rounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from typing import Final

from market.errors import CaptureError, FrameError, InputError, MarketDataError
from market.feeds.recordings import Recording
from market.instruments import Instrument, find, is_known
from market.lake.lake import Lake
from market.lake.rows import rows_of
from market.venues.protocol import NO_STAMP, SESSION, Frame, Venue

_FINEST: Final = 12  # decimals
_LOOKED_AT: Final = 200_000  # frames of an instrument in a recording


def infer(venue: Venue, key: str, frames: Sequence[Frame], coarsest: Instrument | None = None) -> Instrument | None:
    """The instrument of ``key`` with the fewest decimals that all of its frames can be read with.

    It has no fewer than ``coarsest``, what other recordings of it need. None if there is neither that nor a frame with
    a readable price or size.

    Raises:
        MarketDataError: twelve decimals are not enough.
    """
    name, _, symbol = key.partition(".")
    decimals = {"off_tick": 0, "off_lot": 0}
    if coarsest is not None:
        decimals = {"off_tick": _decimals(coarsest.tick), "off_lot": _decimals(coarsest.lot)}
    while max(decimals.values()) <= _FINEST:
        instrument = Instrument(
            venue=name, symbol=symbol, tick=_step(decimals["off_tick"]), lot=_step(decimals["off_lot"])
        )
        short, produced = _tried(venue, instrument, frames)
        if short is None:
            return instrument if produced or coarsest or any(decimals.values()) else None
        decimals[short] += 1
    raise MarketDataError(f"{key}: prices or sizes have more than {_FINEST} decimals; give --tick and --lot")


def _step(decimals: int) -> Decimal:
    return Decimal(1).scaleb(-decimals)


def _decimals(step: Decimal) -> int:
    return max(0, -int(step.normalize().as_tuple().exponent))


def _tried(venue: Venue, instrument: Instrument, frames: Sequence[Frame]) -> tuple[str | None, bool]:
    """Which step is too coarse for the frames, if any, and whether any of them produced events."""
    parser = venue.parser(instrument)
    produced = False
    for number, recv_ns, payload in frames:
        try:
            produced |= len(parser.parse(payload, recv_ns, number).events) > 0
        except FrameError as error:
            if error.reason in ("off_tick", "off_lot"):
                return error.reason, produced
    return None, produced


@dataclass(frozen=True, kw_only=True)
class Settled:
    """An instrument; its steps are from the code (``known``), the user (``given``) or its data (``inferred``)."""

    instrument: Instrument
    origin: str


def settled(lake: Lake, key: str) -> Settled | None:
    """What is already known about an instrument: from the code, or from what was landed first."""
    if key.endswith(f".{SESSION}"):
        return _unsaid(key)
    if is_known(key):
        return Settled(instrument=find(key), origin="known")
    rows = lake.read("instruments", instrument=key, columns=["origin"])
    return Settled(instrument=lake.instrument(key), origin=rows["origin"][0].as_py()) if rows.num_rows else None


def settle(lake: Lake, found: Settled, source: str, recv_ns: int) -> Settled:
    """Store the steps of an instrument that the code does not know; those landed first stay in force.

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
                "leave out --tick and --lot, or choose another lake"
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


class Steps:
    """The steps of every instrument in recordings that are landed together, by key.

    Call ``look_at`` for each of them, then ``keep`` to store the result.
    """

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._found: dict[str, Settled | None] = {}
        self._first: dict[str, tuple[str, int]] = {}  # source and time they were inferred from

    def __getitem__(self, key: str) -> Settled:
        return self._found[key] or _unsaid(key)

    def look_at(self, recording: Recording, source: str, *, key: str, given: Instrument | None = None) -> None:
        """Infer the steps of its instruments: ``key`` is the recording's, or the name given by the user.

        Raises:
            InputError: the recording cannot be read.
            MarketDataError: the steps cannot be inferred.
        """
        if given is not None:
            self._found[key] = Settled(instrument=given, origin="given")
            self._first[key] = source, next((frame[1] for frame in _timed(recording)), 0)
            return
        unknown = self._several(recording) if recording.several else self._one(recording, key)
        for name, frames in unknown.items():
            before = self._found[name]
            found = infer(recording.venue, name, frames, before.instrument if before else None)
            if found is not None:
                self._found[name] = Settled(instrument=found, origin="inferred")
                self._first.setdefault(name, (source, frames[0][1] if frames else 0))

    def keep(self) -> None:
        """Write to the lake the steps that the code does not know; those landed first stay in force.

        Raises:
            InputError: the user gives other steps than the landed data have.
            LakeError: the lake cannot be written.
        """
        for key, (source, recv_ns) in self._first.items():
            self._found[key] = settle(self._lake, self[key], source, recv_ns)

    def _is_unknown(self, key: str) -> bool:
        """Whether its steps must be inferred from the data."""
        if key not in self._found:
            self._found[key] = settled(self._lake, key)
        found = self._found[key]
        return found is None or key in self._first

    def _one(self, recording: Recording, key: str) -> dict[str, list[Frame]]:
        return {key: list(islice(_timed(recording), _LOOKED_AT))} if self._is_unknown(key) else {}

    def _several(self, recording: Recording) -> dict[str, list[Frame]]:
        """The frames of unknown instruments. All frames are read: a symbol may come late, and a route keeps state."""
        name = recording.key.partition(".")[0]
        symbol_of = recording.venue.route() if recording.venue.route else lambda _payload: None
        keys: dict[str, str] = {}
        kept: dict[str, list[Frame]] = {}
        for frame in _undamaged(recording):
            symbol = symbol_of(frame[2]) or SESSION
            key = keys.get(symbol)
            if key is None:
                key = keys[symbol] = f"{name}.{symbol}"
                if self._is_unknown(key):
                    kept[key] = []
            if key in kept and frame[1] != NO_STAMP and len(kept[key]) < _LOOKED_AT:
                kept[key].append(frame)
        return kept


def _timed(recording: Recording) -> Iterator[Frame]:
    return (frame for frame in _undamaged(recording) if frame[1] != NO_STAMP)


def _undamaged(recording: Recording) -> Iterator[Frame]:
    """The frames before any damage; landing reports the damage."""
    try:
        yield from recording.venue.frames(recording.path)
    except CaptureError:
        return


def _unsaid(key: str) -> Settled:
    """A placeholder for the steps of an instrument whose frames carry no price or size. It is not stored."""
    venue, _, symbol = key.partition(".")
    return Settled(instrument=Instrument(venue=venue, symbol=symbol, tick=Decimal(1), lot=Decimal(1)), origin="none")
