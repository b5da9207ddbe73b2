"""Quote for a while: at an exchange, with orders and outcomes; or along a recording, where no fill can be claimed.

The hot path serves the versions that ``deploy`` and ``promote`` put into service. Registry, Triton and feature store
are not in the loop: bundles are read from disk and verified again, slow features are read before the first decision.
"""

from __future__ import annotations

import asyncio
import hashlib
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import orjson

from market import instruments
from market.clock import NS_PER_S
from market.errors import CaptureError, EmptyDataError, InputError, ModelError, ServiceError, SettingsError
from market.features import catalog
from market.feeds import landing, replay, websocket
from market.feeds.landing import Lander
from market.instruments import Instrument
from market.lake import Lake
from market.venues.binance import snapshot_url
from pipelines import inference_server
from pipelines.approve import require_recorded
from pipelines.deploy import prove_hotpath
from pipelines.ingest import TRUNCATED, live_source
from pipelines.slow_source import SlowSource
from pipelines.workspace import Workspace, replacing, tracked
from serving import drivers
from serving.bundle import Bundle, load_bundle
from serving.hotpath.loop import HotPath
from serving.quoting.policy import PolicyConfig
from serving.recorder import Recorder
from serving.session import Parts, Plan, QuotingSession
from training.registry import model_name

Arm = Literal["champion", "challenger"]

COMPACTED = ("raw", "ticks", "predictions", "quotes", "outcomes")  # a session commits these often
_SIMULATED = "sim-"
_SPARE_S = 30  # asked for beyond ``seconds``: for cancels to be confirmed and for the last fills' later mids


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Where and how: ``url`` (an exchange's stream; of the simulated one its address will do) or ``capture`` (a
    recording), for ``seconds`` of market time (None: to the end, or until Ctrl-C).

    Along a recording, ``start_ns`` and ``end_ns`` cut a stretch out of it: what lies before only builds up the book and
    the windows.

    ``arms``: with two, the challenger acts in half of the blocks of ``block_seconds``, drawn by ``seed``; with
    ``shadow`` it is only stepped. Orders are sent to simulated exchanges only; elsewhere quotes are recorded.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

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


@dataclass(frozen=True, kw_only=True)
class ServeResult:
    """A session. ``worth_half_ticks``: twice cash and inventory at the last mid, in ticks times lots. Step times are
    the hot path's own, from event taken to decision written. ``orders_sent`` is false where quotes were only recorded.
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

    def line(self) -> str:
        versions = " and ".join(f"{arm} {version}" for arm, version in zip(self.arms, self.versions, strict=True))
        fills = f"{self.fills} fills" if self.orders_sent else "no orders sent, so no fills claimed"
        return (
            f"{self.session}: {versions}, {(self.last_ns - self.first_ns) / NS_PER_S:,.0f} s of market, "
            f"{self.frames:,} frames -> {self.decisions:,} decisions, {self.quotes:,} quotes, {fills}; "
            f"step p50 {self.step_p50_ns / 1000:.1f} us, p99 {self.step_p99_ns / 1000:.1f} us"
            + ("; the recording is TRUNCATED" if self.truncated else "")
        )


def serve(config: ServeConfig, *, workspace: Workspace) -> ServeResult:
    """Run one session. Ctrl-C cancels all orders, writes everything down and is then passed on.

    Raises:
        SettingsError, InputError: the configuration does not fit together, or names something unknown.
        ModelError: nobody plays a wanted role, or a bundle does not pass.
        ApprovalError: the audit record has no approval of the champion.
        ServiceError: the exchange is away or broke off; what came before is in the lake.
        LakeError: a table cannot be written.
        KeyboardInterrupt: after a clean end.
    """
    instrument = _check(config)
    lake = Lake(workspace.lake)
    recovered = landing.recover_all(lake)
    bundles = _bundles(config, workspace)
    slow = SlowSource(workspace, instrument, lake)
    plan = Plan(
        session=live_source(config.url or str(config.capture), workspace.clock),
        instrument=instrument,
        versions=tuple(bundle.manifest.registry_version for bundle in bundles),
        shadow=config.shadow,
        block_ns=int(config.block_seconds * NS_PER_S),
        seed=config.seed,
        trades=config.url is not None and instrument.venue.startswith(_SIMULATED),
        first_slow=slow.known_at,
        start_ns=config.start_ns or 0,
    )
    with _stoppable() as stop:
        session, truncated = _run(config, workspace, plan, bundles, stop)
        if session.lander.slow is not None:
            slow.learned(session.lander.slow)
    for table in COMPACTED:
        lake.compact(table)
    result = _result(config, session, truncated=truncated, recovered=recovered)
    with replacing(workspace.home / "sessions" / f"{plan.session}.json") as draft:
        draft.write_bytes(
            orjson.dumps({"config": asdict(config), "result": asdict(result)}, option=orjson.OPT_INDENT_2)
        )
    if stop.is_set():
        raise KeyboardInterrupt
    if not session.totals.frames:
        raise EmptyDataError(f"{config.url or config.capture} sent no frames; look at its address and stream names")
    return result


def _check(config: ServeConfig) -> Instrument:
    """The instrument, when the configuration fits together."""
    if (config.url is None) == (config.capture is None):
        raise SettingsError("expected an exchange or a recording: `keel serve --url URL` or `--set capture=FILE`")
    if config.arms not in (("champion",), ("champion", "challenger")):
        raise SettingsError(f"expected arms [champion] or [champion, challenger], saw {list(config.arms)}")
    if config.url is not None and not (config.start_ns is None and config.end_ns is None):
        raise SettingsError("start_ns and end_ns cut a stretch out of a recording; give seconds with an exchange")
    if config.block_seconds < 1 or (config.seconds is not None and config.seconds <= 0):
        raise SettingsError("expected blocks of at least 1 second, and a positive number of seconds to serve for")
    instrument = instruments.find(config.instrument)
    if config.capture is not None:
        seen = replay.recognise_key(Path(config.capture))
        if seen.partition(".")[2] != instrument.symbol:
            raise InputError(f"{config.capture} is a recording of {seen}, not of {instrument.key}")
    return instrument


def _bundles(config: ServeConfig, workspace: Workspace) -> tuple[Bundle, ...]:
    """Verified bundles of the arms, champion first."""
    roles = inference_server.roles_of(workspace, config.instrument)
    versions = [roles.version(arm, config.instrument) for arm in config.arms]
    require_recorded(workspace, model_name(config.instrument), versions[0])  # the champion's
    return tuple(_bundle(workspace, config.instrument, version) for version in versions)


def _bundle(workspace: Workspace, instrument: str, version: int) -> Bundle:
    folder = workspace.models / instrument / str(version)
    if not folder.is_dir():
        raise ModelError(f"{folder} is not there; deploy the version on this machine (keel deploy --version {version})")
    bundle = load_bundle(folder, now_ns=workspace.clock.now_ns(), feature_set=catalog.feature_set())
    prove_hotpath(bundle)
    return bundle


def _run(
    config: ServeConfig, workspace: Workspace, plan: Plan, bundles: tuple[Bundle, ...], stop: threading.Event
) -> tuple[QuotingSession, bool]:
    """The session when it is over and written down, and whether the recording was truncated."""
    lake = Lake(workspace.lake)
    recorder = Recorder(
        lake=lake, instrument=plan.instrument, session=plan.session, feature_set=bundles[0].manifest.feature_set
    )
    progress = workspace.progress
    until = drivers.Until(seconds=config.seconds, stop=stop, advance=progress.advance, end_ns=config.end_ns)
    truncated = False
    with (
        HotPath(bundles, config.policy, plan.instrument, name=_ring_name(workspace, plan)) as hotpath,
        Lander(plan.session, plan.instrument, lake, clock=workspace.clock) as lander,
        tracked(progress, "quoting" if plan.trades else "deciding", config.seconds),
    ):
        session = QuotingSession(plan, bundles, Parts(lander=lander, hotpath=hotpath, recorder=recorder))
        try:
            if config.url is not None:
                asyncio.run(drivers.trade(session, _exchange(config, plan, workspace), until))
            else:
                drivers.follow(session, replay.frames(Path(str(config.capture))), until)
        except CaptureError as error:
            truncated = True
            lander.note(TRUNCATED, str(error))
        except ServiceError:
            session.flush(final=True)
            raise
        session.flush(final=True)
    return session, truncated


def _ring_name(workspace: Workspace, plan: Plan) -> str:
    """One a workspace and instrument: what a killed session left in shared memory, the next one replaces."""
    return f"{plan.instrument.key}-{hashlib.sha256(str(workspace.home).encode()).hexdigest()[:8]}"


def _exchange(config: ServeConfig, plan: Plan, workspace: Workspace) -> websocket.Session:
    url = str(config.url)
    if plan.trades:
        url = simulated_stream(url, plan.instrument, config.seconds)
    connection = websocket.ConnectionConfig(snapshot_url=snapshot_url(plan.instrument, url))
    return websocket.Session(url, clock=workspace.clock, config=connection)


def simulated_stream(url: str, instrument: Instrument, seconds: float | None) -> str:
    """The full stream address of a simulated exchange in lockstep; what ``url`` already says is kept."""
    parts = urlsplit(url)
    symbol = instrument.symbol.lower()
    names = ("depth@100ms", "bookTicker", "trade", "markPrice@1s")
    query = {
        "streams": "/".join(f"{symbol}@{name}" for name in names),
        "stamp": "1",
        "snapshot": "1",
        "pace": "lockstep",
        **({"seconds": f"{seconds + _SPARE_S:g}"} if seconds is not None else {}),
        **dict(parse_qsl(parts.query)),
    }
    path = parts.path if parts.path not in ("", "/") else "/stream"
    return urlunsplit(parts._replace(path=path, query=urlencode(query, safe="@/")))


def _result(
    config: ServeConfig, session: QuotingSession, *, truncated: bool, recovered: tuple[str, ...]
) -> ServeResult:
    plan, totals, holdings = session.plan, session.totals, session.engine.holdings
    p50, p99 = session.step_percentiles_ns()
    return ServeResult(
        session=plan.session,
        instrument=plan.instrument.key,
        arms=config.arms,
        versions=plan.versions,
        shadow=plan.shadow,
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


@contextmanager
def _stoppable() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; a second one interrupts at once. Elsewhere than in the main thread signals
    are the main thread's business, and the event stays unset."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.getsignal(signal.SIGINT)

    def first(*_: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, first)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
