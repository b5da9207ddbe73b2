"""One quoting session of the pipeline: what it is given, what it runs with, and what it leaves behind."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from typing import Literal

from market.clock import NS_PER_S
from market.errors import ApprovalError, GateError, ModelError
from market.features import meaning
from market.instruments import Instrument
from pipelines.deployment.placement import prove_hotpath
from pipelines.governance.approve import require_recorded
from pipelines.settings import StageConfig
from pipelines.workspace import Workspace
from serving.bundle import Bundle, load_bundle
from serving.quoting.policy import PolicyConfig
from serving.rollout.guardrails import GuardrailConfig
from serving.rollout.roles import Roles
from serving.session.card import SceneCard, SessionCard, write_card
from serving.session.runner import Place
from serving.session.session import QuotingSession
from training.registry.registry import model_name

Arm = Literal["champion", "challenger"]

_SECOND_ARM = {"canary": "canary", "window": "previous"}


@dataclass(frozen=True, kw_only=True)
class ServeConfig(StageConfig):
    """Where and how: ``url`` (an exchange's stream; of the simulated one its address will do) or ``capture`` (a
    recording), for ``seconds`` of market time (None: to the end, or until Ctrl-C).

    Along a recording, ``start_ns`` and ``end_ns`` cut a stretch out of it: what lies before only builds up the book and
    the windows.

    ``arms``: with two, the challenger acts in half of the blocks of ``block_seconds``, drawn by ``seed``; with
    ``shadow`` it is only stepped. Orders are sent to simulated exchanges only; elsewhere quotes are recorded. A
    simulated exchange runs at ``pace`` times real time (None: in lockstep, as fast as it is taken).

    With ``follow`` the session goes on, in sessions of ``roll_seconds`` of market time, and plays whatever is in
    service as that changes: ``arms`` and ``shadow`` are not looked at. A challenger that comes in is a shadow for
    ``shadow_blocks``, then acts in half of them; it and a canary are held to ``guardrails``.
    """

    instrument: str = "sim-usdm.BTCUSDT"
    url: str | None = None
    capture: str | None = None
    seconds: float | None = None
    start_ns: int | None = None
    end_ns: int | None = None
    arms: tuple[Arm, ...] = ("champion",)
    shadow: bool = False
    block_seconds: float = 10.0
    seed: int = 7
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    follow: bool = False
    pace: float | None = None
    roll_seconds: float = 1800.0
    shadow_blocks: int = 30
    guardrails: GuardrailConfig = field(default_factory=GuardrailConfig)


@dataclass(frozen=True, kw_only=True)
class ServeResult:
    """A session. ``worth_half_ticks``: twice cash and inventory at the last mid, in ticks times lots. Step times are
    the hot path's own, from event taken to decision written. ``orders_sent`` is false where quotes were only recorded.
    Of a session that followed, ``versions`` are the last ones, and ``sessions`` all that it consisted of.
    """

    session: str
    instrument: str
    arms: tuple[str, ...]
    versions: tuple[int, ...]
    shadow: bool
    block_seconds: float
    orders_sent: bool
    first_ns: int
    last_ns: int
    frames: int
    decisions: int
    quotes: int
    fills: int
    inventory: int
    worth_half_ticks: int
    step_p50_ns: int
    step_p99_ns: int
    truncated: bool = False
    recovered: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()

    def line(self) -> str:
        versions = " and ".join(f"{arm} {version}" for arm, version in zip(self.arms, self.versions, strict=True))
        fills = f"{self.fills} fills" if self.orders_sent else "no orders sent, so no fills claimed"
        return (
            f"{self.session}: {versions}, {(self.last_ns - self.first_ns) / NS_PER_S:,.0f} s of market, "
            f"{self.frames:,} frames -> {self.decisions:,} decisions, {self.quotes:,} quotes, {fills}; "
            f"step p50 {self.step_p50_ns / 1000:.1f} us, p99 {self.step_p99_ns / 1000:.1f} us"
            + ("; the recording is TRUNCATED" if self.truncated else "")
            + (f"; the last of {len(self.sessions)} sessions" if len(self.sessions) > 1 else "")
        )


def proven_bundle(workspace: Workspace, instrument: str, version: int) -> Bundle:
    """A version's bundle as it lies on this machine, verified, and proven in the hot path.

    Raises:
        ModelError: it is not there, or does not pass.
    """
    folder = workspace.models / instrument / str(version)
    if not folder.is_dir():
        raise ModelError(f"{folder} is not there; deploy the version on this machine (keel deploy --version {version})")
    bundle = load_bundle(folder, now_ns=workspace.clock.now_ns(), feature_set=meaning.feature_set())
    prove_hotpath(bundle)
    return bundle


def unapproved(workspace: Workspace, instrument: str, roles: Roles) -> dict[int, str]:
    """Versions that act, or are about to, without an approval in the audit record, and what is wrong about each."""
    found: dict[int, str] = {}
    for version in {roles.champion, roles.canary.version if roles.canary else 0} - {0}:
        try:
            require_recorded(workspace, model_name(instrument), version)
        except (ApprovalError, GateError) as error:
            found[version] = str(error)
    return found


def place_of(config: ServeConfig, instrument: Instrument, workspace: Workspace) -> Place:
    """Where the sessions of a configuration run. Shared memory is one a workspace and instrument."""
    return Place(
        instrument=instrument,
        lake_uri=workspace.lake,
        clock=workspace.clock,
        ring=f"{instrument.key}-{hashlib.sha256(str(workspace.home).encode()).hexdigest()[:8]}",
        url=config.url,
        capture=config.capture,
        pace=config.pace,
    )


def result_of(
    config: ServeConfig, session: QuotingSession, *, truncated: bool = False, recovered: tuple[str, ...] = ()
) -> ServeResult:
    """What became of a session."""
    plan, totals, holdings, lineup = session.plan, session.totals, session.engine.holdings, session.lineup
    p50, p99 = session.step_percentiles_ns()
    second = _SECOND_ARM.get(lineup.phase, "challenger")
    return ServeResult(
        session=plan.session,
        instrument=plan.instrument.key,
        arms=("champion", second)[: len(lineup.versions)],
        versions=lineup.versions,
        shadow=lineup.phase == "shadow",
        block_seconds=config.block_seconds,
        orders_sent=plan.trades,
        first_ns=totals.first_ns,
        last_ns=totals.last_ns,
        frames=totals.frames,
        decisions=totals.decisions,
        quotes=totals.quotes,
        fills=totals.fills,
        inventory=holdings.inventory,
        worth_half_ticks=holdings.worth2(totals.last_mid2),
        step_p50_ns=p50,
        step_p99_ns=p99,
        truncated=truncated,
        recovered=recovered,
    )


def write_session(
    workspace: Workspace, config: ServeConfig, session: QuotingSession, result: ServeResult | None
) -> None:
    """``sessions/<name>.json``: configuration, who played from which decision on, and the result once there is one."""
    card = SessionCard(
        config=asdict(config),
        scenes=tuple(SceneCard.of(scene) for scene in session.scenes),
        result=asdict(result) if result else None,
    )
    write_card(workspace.sessions, session.plan.session, card)
