"""A session that follows, in the main thread, and a director beside it who changes what is in service."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from market.lake.lake import Lake
from pipelines.in_service import state_path
from pipelines.quoting.serve import ServeConfig, serve
from pipelines.stack.exchange import Exchange
from pipelines.workspace import Workspace
from serving.rollout.guardrails import Breach, breach_path, read_breach
from serving.rollout.roles import Canary, Roles, changing, write_roles
from serving.session.heartbeat import Alive, alive_path, read_alive

KEY = "sim-usdm.BTCUSDT"
PATIENCE_S = 120


@dataclass(kw_only=True)
class Stage:
    """Where a session runs, and what a director may do and see while it does."""

    workspace: Workspace
    exchange: Exchange
    pace: float | None = 10.0
    settings: dict[str, object] = field(default_factory=dict)
    error: BaseException | None = None

    def run(self, director: Callable[[Stage], None]) -> None:
        """Follow until the director has left; its errors are ours."""
        thread = threading.Thread(target=self._direct, args=(director,))
        config = ServeConfig(
            url=self.exchange.url, follow=True, pace=self.pace, **{"block_seconds": 1.0, **self.settings}
        )
        thread.start()
        with suppress(KeyboardInterrupt):
            serve(config, workspace=self.workspace)
        thread.join()
        if self.error is not None:
            raise self.error

    def _direct(self, director: Callable[[Stage], None]) -> None:
        try:
            director(self)
        except BaseException as error:  # noqa: BLE001  # raised in the main thread
            self.error = error
        os.kill(os.getpid(), signal.SIGINT)

    def roles(self, **roles: object) -> None:
        with changing(state_path(self.workspace)):
            write_roles(state_path(self.workspace), KEY, Roles(**roles))

    @property
    def alive(self) -> Alive | None:
        return read_alive(alive_path(self.workspace.home / "sessions", KEY))

    @property
    def breach(self) -> Breach | None:
        return read_breach(breach_path(self.workspace.home / "sessions", KEY))

    def until(self, what: Callable[[Alive], object]) -> Alive:
        """Until the session says so of itself."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            alive = self.alive
            if alive is not None and what(alive):
                return alive
            time.sleep(0.05)
        raise AssertionError(f"waited in vain; the session says {self.alive}")

    def until_more(self, decisions: int = 300) -> Alive:
        """Until so many more decisions were made."""
        begun = self.until(lambda alive: alive.doing == "quoting").decisions
        return self.until(lambda alive: alive.decisions >= begun + decisions)


@dataclass(frozen=True, kw_only=True)
class Told:
    """The decisions of the only session in the lake, in order."""

    session: str
    number: np.ndarray
    recv_ns: np.ndarray
    arm: np.ndarray
    versions: np.ndarray
    reasons: dict[int, int]
    probs: np.ndarray


def told(workspace: Workspace) -> Told:
    lake = Lake(workspace.lake)
    rows = lake.read("predictions")
    (session,) = rows["session"].unique().to_pylist()
    quotes = lake.read("quotes", columns=["n", "reasons"])
    return Told(
        session=session,
        number=rows["n"].to_numpy(),
        recv_ns=rows["recv_ns"].to_numpy(),
        arm=rows["arm"].to_numpy(),
        versions=np.stack([rows["version0"].to_numpy(), rows["version1"].to_numpy()], axis=1),
        reasons=dict(zip(quotes["n"].to_pylist(), quotes["reasons"].to_pylist(), strict=True)),
        probs=np.array([rows["probs0"].to_pylist(), rows["probs1"].to_pylist()]),
    )


def canary(**changes: object) -> Canary:
    """Version 2 against 1 from its first step on."""
    said: dict[str, object] = {"version": 2, "against": 1, "shares": (0.3, 1.0), "trial": 1_800_000_000_000_000_000}
    return Canary(**{**said, "step_seconds": 10.0, "window_seconds": 20.0, **changes})
