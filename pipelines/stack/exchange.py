"""The simulated exchange beside a run: in the foreground for a person, or as a child process for the demo and tests."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlencode

from market.errors import ServiceError, error_of_exit_code
from market.feeds import websocket
from market.simulator.config import ExchangeConfig
from market.simulator.exchange import HOST, run
from pipelines.settings import StageConfig

_STOP_AFTER_S = 5.0


@dataclass(frozen=True, kw_only=True)
class SimulateConfig(StageConfig):
    """``port`` 0 takes a free one; the same ``seed`` gives the same market."""

    port: int = 0
    seed: int = 7
    regime: str = "calm"


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A running exchange."""

    port: int
    instrument: str = ExchangeConfig.instrument_key

    @property
    def url(self) -> str:
        """Its stream with everything an ingest or a quoting session needs."""
        return stream_url(self.port)

    def set_regime(self, name: str) -> None:
        """The market behaves so from now on.

        Raises:
            InputError: no such regime.
            ServiceError: the exchange is gone.
        """
        self._get("regime", name=name)

    def inject_fault(self, kind: str, seconds: float) -> None:
        """The feed goes wrong (see :mod:`market.simulator.faults`). Raises as :meth:`set_regime`."""
        self._get("fault", kind=kind, seconds=seconds)

    def _get(self, what: str, **query: object) -> None:
        asyncio.run(websocket.snapshot(f"http://{HOST}:{self.port}/sim/{what}?{urlencode(query)}"))


def stream_url(port: int) -> str:
    """The stamped stream of an exchange on loopback, snapshots included."""
    symbol = ExchangeConfig().instrument.symbol.lower()
    streams = "/".join(f"{symbol}@{kind}" for kind in ("depth@100ms", "bookTicker", "trade", "markPrice@1s"))
    return f"ws://{HOST}:{port}/stream?streams={streams}&stamp=1&snapshot=1"


def simulate(config: SimulateConfig, *, announce: Callable[[str], None]) -> None:
    """Run the exchange in the foreground until Ctrl-C.

    Raises:
        PortInUseError: the port is taken.
        SettingsError: no such regime.
    """
    exchange = ExchangeConfig(port=config.port, seed=config.seed, regime=config.regime)
    with suppress(asyncio.CancelledError):
        asyncio.run(run(exchange, lambda port: announce(f"{stream_url(port)}\nCtrl-C stops it")))


@contextmanager
def running_exchange(config: SimulateConfig) -> Iterator[Exchange]:
    """An exchange as a child process, which ends with the block, and with this process whatever happens to it.

    Raises:
        KeelError: it does not start; the reason is the child's.
    """
    words = ["--port", str(config.port), "--seed", str(config.seed), "--regime", config.regime, "--with-parent"]
    child = subprocess.Popen(
        [sys.executable, "-m", "market.simulator", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C goes to us alone; we stop it when our own work is put away
    )
    try:
        port = child.stdout.readline().strip() if child.stdout else ""
        if not port:
            said = child.stderr.read().strip() if child.stderr else ""
            raise error_of_exit_code(child.wait(), said or "the simulated exchange ended without a word")
        yield Exchange(port=int(port))
    finally:
        _stop(child)


def _stop(child: subprocess.Popen[str]) -> None:
    child.send_signal(signal.SIGTERM)
    try:
        child.communicate(timeout=_STOP_AFTER_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        raise ServiceError("the simulated exchange did not stop when asked and was killed") from None
