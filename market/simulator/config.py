"""The parameters of the simulated market: its regimes, and how an exchange is started."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Final

import numpy as np
from numpy.typing import NDArray

from market.errors import SettingsError
from market.instruments import Instrument, find

# 2026-01-05 08:00 UTC: the same seed gives the same bytes unless another start is requested.
DEFAULT_START_MS: Final = 1_767_600_000_000


@dataclass(frozen=True, kw_only=True)
class Regime:
    """One state of the market. Rates are events per second and side at rest, sizes are lots, times are seconds.

    ``pressure`` is the hidden cause of moves: a mean-reverting process with standard deviation 1 and time constant
    ``pressure_tau``. ``on_adds``, ``on_cancels`` and ``on_trades`` give how strongly (log intensity) it tilts limit
    orders towards one side, cancellations towards the other, and, ``trade_lag`` seconds later, market orders. Their
    signs and sizes are the *form of the signal*: a model trained in one regime meets another form in the next.
    """

    market_rate: float
    add_rate: float
    cancel_rate: float
    far_rate: float
    excitation: float  # scale of the self- and cross-excitation; see flow.EXCITE
    market_size: float  # median
    size_spread: float  # standard deviation of the log size
    sweep: float  # share of market orders sized to clear the best level
    order_size: float  # median of limit orders
    depth: float  # resting size that the best level reverts to
    skew: float  # how far (log) the depth of the two sides drifts at random, over tens of seconds
    gaps: float  # share of far levels that are empty
    improve: float  # share of limit orders placed inside a spread wider than one tick
    pull: float  # share of cancellations that remove all that is left of the level, up to a large order
    pressure_tau: float
    trade_lag: float
    on_adds: float
    on_cancels: float
    on_trades: float
    on_alarm: float  # log factor on cancellations, and its negative on limit orders, while liquidity withdraws
    alarm_every: float
    alarm_lasts: float
    funding: float  # the rate that funding drifts towards


CALM: Final = Regime(
    market_rate=1.3,
    add_rate=12.0,
    cancel_rate=9.0,
    far_rate=25.0,
    excitation=1.0,
    market_size=20.0,
    size_spread=1.2,
    sweep=0.08,
    order_size=45.0,
    depth=2000.0,
    skew=0.4,
    gaps=0.15,
    improve=0.7,
    pull=0.005,
    pressure_tau=4.0,
    trade_lag=0.3,
    on_adds=-0.5,
    on_cancels=1.8,
    on_trades=1.4,
    on_alarm=2.2,
    alarm_every=10.0,
    alarm_lasts=3.0,
    funding=0.0001,
)

VOLATILE: Final = Regime(
    market_rate=2.8,
    add_rate=30.0,
    cancel_rate=20.0,
    far_rate=50.0,
    excitation=1.0,
    market_size=60.0,
    size_spread=1.4,
    sweep=0.11,
    order_size=100.0,
    depth=4500.0,
    skew=0.5,
    gaps=0.3,
    improve=0.08,
    pull=0.03,
    pressure_tau=2.0,
    trade_lag=0.12,
    on_adds=-0.3,
    on_cancels=-0.7,
    on_trades=1.6,
    on_alarm=1.5,
    alarm_every=5.0,
    alarm_lasts=1.0,
    funding=-0.0004,
)

THIN: Final = Regime(
    market_rate=0.9,
    add_rate=6.0,
    cancel_rate=5.0,
    far_rate=12.0,
    excitation=0.9,
    market_size=12.0,
    size_spread=1.2,
    sweep=0.08,
    order_size=20.0,
    depth=400.0,
    skew=0.4,
    gaps=0.5,
    improve=0.04,
    pull=0.02,
    pressure_tau=4.0,
    trade_lag=0.4,
    on_adds=-0.2,
    on_cancels=1.2,
    on_trades=1.3,
    on_alarm=0.7,
    alarm_every=20.0,
    alarm_lasts=2.0,
    funding=0.00025,
)

REGIMES: Final[dict[str, Regime]] = {"calm": CALM, "volatile": VOLATILE, "thin": THIN}

PARAMS: Final = np.dtype([(f.name, "f8") for f in fields(Regime)], align=True)


def params(name: str) -> NDArray[np.void]:
    """The regime as one record for the compiled core, shape (1,), dtype :data:`PARAMS`.

    Raises:
        SettingsError: no regime has this name.
    """
    if name not in REGIMES:
        raise SettingsError(f"unknown regime {name!r}; expected one of {', '.join(REGIMES)}")
    record = np.zeros(1, PARAMS)
    for field, value in asdict(REGIMES[name]).items():
        record[field] = value
    return record


@dataclass(frozen=True, kw_only=True)
class ExchangeConfig:
    """One simulated exchange with one world. ``port`` 0 picks a free one; it listens on loopback only."""

    port: int = 0
    seed: int = 7
    regime: str = "calm"
    start_ms: int = DEFAULT_START_MS
    start_price: int = 600_000  # ticks
    order_latency_us: int = 2_000
    instrument_key: str = "sim-usdm.BTCUSDT"

    def __post_init__(self) -> None:
        params(self.regime)
        if not 0 <= self.port <= 65535:
            raise SettingsError(f"expected a port from 0 to 65535, saw {self.port}")
        if self.start_price < 10_000:
            raise SettingsError(f"expected a start price of at least 10000 ticks, saw {self.start_price}")

    @property
    def instrument(self) -> Instrument:
        return find(self.instrument_key)
