"""The single table of venues. A new one is a module in this folder and a row here."""

from __future__ import annotations

from typing import Final

from market.errors import InputError
from market.instruments import Instrument
from market.venues import (
    b3,
    binance,
    binance_arrays,
    binance_levels,
    binance_rows,
    bitfinex,
    bitmex,
    bitstamp,
    bitstamp_levels,
    bybit,
    cme_levels,
    coinbase,
    cryptofeed_binance,
    dbn,
    deribit,
    deribit_marks,
    deribit_stream,
    dydx,
    fi2010,
    gdax,
    huobi,
    itch,
    kraken,
    kraken_futures,
    lobster,
    nbbo,
    okx,
    sgx,
    shfe_levels,
    sse,
)
from market.venues.protocol import Venue

# in the order in which they are tried on a recording
VENUES: Final[tuple[Venue, ...]] = (
    dbn.VENUE,
    cme_levels.VENUE,
    shfe_levels.VENUE,
    bitstamp.VENUE,
    lobster.VENUE,
    itch.VENUE,
    sse.VENUE,
    nbbo.VENUE,
    b3.VENUE,
    sgx.VENUE,
    deribit.VENUE,
    deribit_marks.VENUE,
    gdax.VENUE,
    binance_levels.VENUE,
    binance_arrays.VENUE,
    binance_rows.VENUE,
    cryptofeed_binance.VENUE,
    bitfinex.VENUE,
    bitmex.VENUE,
    bitstamp_levels.VENUE,
    bybit.VENUE,
    coinbase.VENUE,
    deribit_stream.VENUE,
    dydx.VENUE,
    huobi.VENUE,
    kraken.VENUE,
    kraken_futures.VENUE,
    okx.VENUE,
    binance.VENUE,
    fi2010.VENUE,
)

_BY_NAME: Final = {venue.name: venue for venue in VENUES}
_LIVE: Final = {name: venue for venue in VENUES for name in venue.live}


def named(name: str) -> Venue:
    """The venue of this name.

    Raises:
        InputError: there is no such venue.
    """
    try:
        return _BY_NAME[name]
    except KeyError:
        raise InputError(f"unknown venue {name!r}; known are {', '.join(_BY_NAME)}") from None


def live(instrument: Instrument) -> Venue:
    """The format of an instrument's live stream.

    Raises:
        InputError: none is known.
    """
    try:
        return _LIVE[instrument.venue]
    except KeyError:
        raise InputError(
            f"no live stream of {instrument.venue} can be read; live streams are supported for {', '.join(_LIVE)}"
        ) from None
