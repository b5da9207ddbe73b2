"""One session from its first frame to its last row: opened, driven, recorded and closed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from market.clock import Clock
from market.errors import CaptureError, ServiceError
from market.feeds import websocket
from market.feeds.landing import Lander
from market.instruments import Instrument
from market.lake.lake import Lake
from market.sources import TRUNCATED
from market.venues.binance import snapshot_url
from market.venues.formats import line_files
from serving.bundle import Bundle
from serving.hotpath.loop import HotPath
from serving.quoting.policy import PolicyConfig
from serving.session import drivers
from serving.session.recorder import Recorder
from serving.session.session import Parts, Plan, QuotingSession

_SIMULATED = "sim-"
_SPARE_S = 30  # asked for beyond ``seconds``: for cancels to be confirmed and for the last fills' later mids


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where sessions of an instrument run: at the exchange behind ``url``, or along the recording ``capture``.

    A simulated exchange runs at ``pace`` times real time (None: in lockstep). ``ring`` names the session's shared
    memory: the next session of that name replaces what a killed one left there.
    """

    instrument: Instrument
    lake_uri: str
    clock: Clock
    ring: str
    url: str | None = None
    capture: str | None = None
    pace: float | None = None

    @property
    def sends_orders(self) -> bool:
        """Whether orders are sent; outside simulated exchanges quotes are recorded only."""
        return self.url is not None and self.instrument.venue.startswith(_SIMULATED)

    def connection(self, seconds: float | None) -> websocket.Session:
        """A connection to the exchange; ``seconds`` are asked for, None for an endless stream."""
        url = str(self.url)
        if self.sends_orders:
            url = simulated_stream(url, self.instrument, seconds, pace=self.pace)
        connection = websocket.ConnectionConfig(snapshot_url=snapshot_url(self.instrument, url))
        return websocket.Session(url, clock=self.clock, config=connection)


def run_session(
    place: Place,
    plan: Plan,
    bundles: tuple[Bundle, ...],
    policy: PolicyConfig,
    until: drivers.Until,
    *,
    begin: Callable[[QuotingSession], None] = lambda _session: None,
) -> tuple[QuotingSession, bool]:
    """Run a session; returns it once it is over and recorded, and whether the recording was truncated. ``begin`` is
    called with the session before its first frame. Without seconds in ``until`` an endless stream is requested.

    Raises:
        ServiceError: the exchange is unreachable or the connection broke; what came before is in the lake.
        LakeError: a table cannot be written.
    """
    lake = Lake(place.lake_uri)
    recorder = Recorder(
        lake=lake, instrument=plan.instrument, session=plan.session, feature_set=bundles[0].manifest.feature_set
    )
    truncated = False
    with (
        HotPath(bundles, policy, plan.instrument, name=place.ring) as hotpath,
        Lander(plan.session, plan.instrument, lake, clock=place.clock) as lander,
    ):
        session = QuotingSession(plan, bundles, Parts(lander=lander, hotpath=hotpath, recorder=recorder))
        begin(session)
        try:
            if place.url is not None:
                asyncio.run(drivers.trade(session, place.connection(until.asked_s), until))
            else:
                drivers.follow(session, line_files.frames(Path(str(place.capture))), until)
        except CaptureError as error:
            truncated = True
            lander.note(TRUNCATED, str(error))
        except ServiceError:
            session.flush(final=True)
            raise
        session.flush(final=True)
    return session, truncated


def simulated_stream(url: str, instrument: Instrument, seconds: float | None, *, pace: float | None = None) -> str:
    """The full stream address of a simulated exchange, in lockstep or at a pace; what ``url`` already says is kept."""
    parts = urlsplit(url)
    symbol = instrument.symbol.lower()
    names = ("depth@100ms", "bookTicker", "trade", "markPrice@1s")
    query = {
        "streams": "/".join(f"{symbol}@{name}" for name in names),
        "stamp": "1",
        "snapshot": "1",
        "pace": "lockstep" if pace is None else f"{pace:g}",
        **({"seconds": f"{seconds + _SPARE_S:g}"} if seconds is not None else {}),
        **dict(parse_qsl(parts.query)),
    }
    path = parts.path if parts.path not in ("", "/") else "/stream"
    return urlunsplit(parts._replace(path=path, query=urlencode(query, safe="@/")))
