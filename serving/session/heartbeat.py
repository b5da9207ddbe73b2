"""The heartbeat that a following session writes about once a second, for readers in other processes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
import psutil

from market.clock import NS_PER_S
from market.files import replacing
from serving.risk.safe_state import Mode
from serving.rollout.guardrails import Breach, Held
from serving.rollout.lineup import Phase

FRESH_NS = 5 * NS_PER_S

Doing = Literal["quoting", "waiting", "away"]


class Alive(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``doing``: quoting; waiting for a champion (market data is landed); away: the exchange does not respond.

    ``versions`` by arm. ``written_ns`` is this machine's clock, ``last_ns`` the feed's last receive time.
    ``canary_share`` is the current one, 0 without a canary. ``refused_requests``: orders the exchange refused.
    ``refused_versions``: versions whose bundles failed their checks and are not served.
    """

    instrument: str
    session: str
    pid: int
    written_ns: int
    doing: Doing
    versions: tuple[int, ...] = ()
    phase: Phase = "alone"
    frames: int = 0
    decisions: int = 0
    quotes: int = 0
    fills: int = 0
    requests: int = 0
    refused_requests: int = 0
    refused_versions: tuple[int, ...] = ()
    inventory: int = 0
    worth_half_ticks: int = 0
    last_ns: int = 0
    step_p50_ns: int = 0
    step_p99_ns: int = 0
    stance: Mode = "normal"
    canary_share: float = 0.0
    held: Held | None = None
    breach: Breach | None = None

    def is_fresh(self, now_ns: int) -> bool:
        """Whether its process is alive and has written recently."""
        return now_ns - self.written_ns <= FRESH_NS and psutil.pid_exists(self.pid)


def alive_path(sessions: Path, instrument: str) -> Path:
    """Path of the heartbeat file of an instrument's session."""
    return sessions / f"alive-{instrument}.json"


def write_alive(path: Path, alive: Alive) -> None:
    """Replace the file; readers see the old state or the new one."""
    with replacing(path) as draft:
        draft.write_bytes(msgspec.json.encode(alive))


def read_alive(path: Path) -> Alive | None:
    """The last state; None if no session ever followed, or if another version of this code wrote it."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Alive)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
