"""Tracks what is in service during a session, and writes its heartbeat: a thread alongside the hot path.

A few times a second it checks whether ``serving.json`` and ``stance.json`` have been replaced. A new version's bundle
is loaded and verified here; only then is the session given the line-up, which it takes up between two steps. A bundle
that fails its checks is reported and not served, and the versions that quoted before keep quoting.

The session itself acts on a breach. The breach is written to a file at once, so that the next session knows of it, and
``attend`` completes it: the session does not move the registry's aliases or change Triton.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from market.clock import Clock
from market.errors import KeelError, ServiceError
from serving.bundle import Bundle
from serving.hotpath import network
from serving.hotpath.network import Model
from serving.manifest import require_comparable
from serving.risk.safe_state import NORMAL, Mode, read_stances
from serving.rollout.guardrails import (
    Breach,
    GuardrailConfig,
    Trial,
    breach_path,
    read_breach,
    refusal,
    trial_of,
    write_breach,
)
from serving.rollout.lineup import NONE_LOST, Lineup, wanted
from serving.rollout.roles import Roles, read_roles
from serving.session.heartbeat import Alive, Doing, alive_path, write_alive
from serving.session.session import QuotingSession

LOOK_S = 0.2
_ALIVE_EVERY = 5  # looks

Signature = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What is watched: the instrument, the two files, and the folder in which sessions write their own state."""

    instrument: str
    roles: Path
    stances: Path
    sessions: Path


@dataclass(frozen=True, kw_only=True)
class Means:
    """What a follower works with. ``load``: the verified bundle of a version, or ModelError. ``attend`` is called at
    every look with whether a canary is on trial, and whether it or a challenger broke a guardrail; it updates roles,
    registry and Triton, and must not block. ``halt`` ends the quoting: no session may quote unwatched. ``tell`` takes
    messages for a person. ``forbidden``: which versions must not be served in their roles, and why."""

    clock: Clock
    load: Callable[[int], Bundle]
    attend: Callable[[bool, bool], None]
    halt: Callable[[], None]
    tell: Callable[[str], None]
    guardrails: GuardrailConfig = field(default_factory=GuardrailConfig)
    forbidden: Callable[[Roles], dict[int, str]] = lambda _roles: {}


class Follower:
    """A context manager: looks once, then runs alongside the body of the block.

    ``ready`` is the line-up to serve now, with its bundles (None while there is no champion).

    Raises (at the end of the block):
        Whatever ended the thread.
    """

    def __init__(self, watched: Watched, means: Means) -> None:
        self.ready: tuple[Lineup, dict[int, Bundle]] | None = None
        self._bundles: dict[int, Bundle] = {}
        self._models: dict[int, Model] = {}
        self.stance: Mode = NORMAL.mode
        self.refused: dict[int, str] = {}
        self._watched = watched
        self._means = means
        self._roles = Roles()
        self._seen: dict[Path, Signature | None] = {}
        self._lost = NONE_LOST
        self._breach: Breach | None = None
        self._session: QuotingSession | None = None
        self._doing: Doing = "waiting"
        self._source = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
        self._error: BaseException | None = None

    def begin(self, session: QuotingSession) -> None:
        """Attach the session that quotes from now on."""
        session.on_breach = self.breached
        session.set_safe(self.stance == "safe")
        self._session, self._doing, self._source = session, "quoting", session.plan.session

    def pause(self, doing: Doing, source: str = "") -> None:
        """Detach the session: nothing quotes for now."""
        self._session, self._doing, self._source = None, doing, source

    def breached(self, breach: Breach) -> None:
        """The session has reverted to the other version: record the breach, so that it is completed."""
        self._lost, self._breach = (breach.version, breach.trial), breach
        write_breach(breach_path(self._watched.sessions, self._watched.instrument), breach)
        self._means.tell(breach.line())

    @property
    def has_ended(self) -> bool:
        """Whether something has ended the thread; :meth:`check` raises it."""
        return self._error is not None

    def check(self) -> None:
        """Raise what ended the thread, if it has ended."""
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        self._breach = read_breach(breach_path(self._watched.sessions, self._watched.instrument))
        self._lost = (self._breach.version, self._breach.trial) if self._breach else NONE_LOST
        self._look()
        self._write_alive()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        alive_path(self._watched.sessions, self._watched.instrument).unlink(missing_ok=True)
        if kind is None:
            self.check()

    # -- inside -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        looks = 0
        try:
            while not self._stop.wait(LOOK_S):
                self._look()
                looks += 1
                if looks % _ALIVE_EVERY == 0:
                    self._write_alive()
        except BaseException as error:  # noqa: BLE001  # handed to the main thread, see check
            self._error = error
            self._means.halt()

    def _look(self) -> None:
        self._look_at_stance()
        self._look_at_roles()
        roles, canary = self._roles, self._roles.canary
        ended = {(roles.challenger, roles.test), (canary.version, canary.trial) if canary else NONE_LOST}
        self._means.attend(canary is not None, self._lost != NONE_LOST and self._lost in ended)
        lineup, session = self._wanted(), self._session
        if lineup is None:
            return
        if self.ready is None or not lineup.same_play(self.ready[0]):
            names = " and ".join(f"version {version}" for version in lineup.versions)
            self._means.tell(f"{self._watched.instrument}: {names} ({lineup.phase})")
        bundles = {version: self._bundles[version] for version in lineup.versions}
        self.ready = lineup, bundles
        if session is not None and not lineup.same_play(session.target):
            labels = bundles[lineup.versions[0]].manifest.heads.labels()
            session.play(lineup, {version: self._models[version] for version in lineup.versions}, labels)

    def _look_at_stance(self) -> None:
        if not self._is_new(self._watched.stances):
            return
        try:
            stance = read_stances(self._watched.stances).get(self._watched.instrument, NORMAL).mode
        except (ServiceError, OSError) as error:
            stance = "safe"
            self._means.tell(f"quoting in the safe state, since the stance cannot be read: {error}")
        if stance != self.stance:
            self._means.tell(f"{self._watched.instrument} is quoted in the {stance} state")
        self.stance = stance
        if self._session is not None:
            self._session.set_safe(stance == "safe")

    def _look_at_roles(self) -> None:
        if not self._is_new(self._watched.roles):
            return
        try:
            self._roles = read_roles(self._watched.roles, self._watched.instrument)
            self.refused = self._means.forbidden(self._roles)
            for version, why in self.refused.items():
                self._means.tell(f"version {version} is not played: {why}")
        except (ServiceError, OSError) as error:
            self._means.tell(f"what is in service cannot be read, so nothing is changed: {error}")

    def _wanted(self) -> Lineup | None:
        """The line-up that the roles ask for, as far as its bundles pass; None if the champion's does not."""
        lineup = wanted(self._roles, lost=self._lost)
        if lineup is None:
            return None
        for version in lineup.versions:
            self._load(version)
        needed = {*lineup.versions, *self._roles.versions()}
        self._bundles = {version: bundle for version, bundle in self._bundles.items() if version in needed}
        self._models = {version: model for version, model in self._models.items() if version in needed}
        trial = trial_of(lineup)
        if trial is not None:
            self._refuse_incomparable(trial)
        bad = [version for version in lineup.versions if version in self.refused]
        if not bad:
            return lineup
        if trial is not None and not trial.challenger and trial.version in bad and trial.against not in bad:
            self.breached(refusal(trial, self._source))
            return Lineup(versions=(trial.against,))
        return None if lineup.versions[0] in bad else Lineup(versions=lineup.versions[:1])

    def _refuse_incomparable(self, trial: Trial) -> None:
        """Refuse a version trained on other labels than the one it is compared with: they share no ground truth."""
        new, old = self._bundles.get(trial.version), self._bundles.get(trial.against)
        if new is None or old is None:
            return
        try:
            require_comparable(new.manifest, old.manifest)
        except KeelError as error:
            self.refused[trial.version] = str(error)
            self._means.tell(f"version {trial.version} is not played: {error}")

    def _load(self, version: int) -> None:
        if version in self._bundles or version in self.refused:
            return
        try:
            bundle = self._means.load(version)
            self._models[version] = network.load(bundle.path)  # here, so that no step waits for a disk
            self._bundles[version] = bundle
        except KeelError as error:
            self.refused[version] = str(error)
            self._means.tell(f"version {version} is not played: {error}")

    def _is_new(self, path: Path) -> bool:
        """Whether a file was replaced since the last look. Files are replaced as a whole, so the inode changes."""
        try:
            found = path.stat()
            signature: Signature | None = (found.st_ino, found.st_mtime_ns, found.st_size)
        except FileNotFoundError:
            signature = None
        if path in self._seen and self._seen[path] == signature:
            return False
        self._seen[path] = signature
        return True

    def _write_alive(self) -> None:
        write_alive(alive_path(self._watched.sessions, self._watched.instrument), self._alive())

    def _alive(self) -> Alive:
        session = self._session
        here = Alive(
            instrument=self._watched.instrument,
            session=self._source,
            pid=os.getpid(),
            written_ns=self._means.clock.now_ns(),
            doing=self._doing,
            refused_versions=tuple(sorted(self.refused)),
            stance=self.stance,
            breach=self._breach,
        )
        return here if session is None else _with_session(here, session)


def _with_session(here: Alive, session: QuotingSession) -> Alive:
    totals, holdings, lineup = session.totals, session.engine.holdings, session.lineup
    p50, p99 = session.step_percentiles_ns()
    return msgspec.structs.replace(
        here,
        versions=lineup.versions,
        phase=session.phase,
        frames=totals.frames,
        decisions=totals.decisions,
        quotes=totals.quotes,
        fills=totals.fills,
        requests=totals.requests,
        refused_requests=session.engine.rejected,
        inventory=holdings.inventory,
        worth_half_ticks=holdings.worth2(totals.last_mid2),
        last_ns=totals.last_ns,
        step_p50_ns=p50,
        step_p99_ns=p99,
        canary_share=session.canary_share,
        held=session.held(),
    )
