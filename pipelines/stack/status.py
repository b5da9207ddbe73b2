"""``keel status``: what is up, which model serves which instrument, the last data, the last drift, open approvals.

Of a stack when one was started, else of the embedded default. Nothing is started, nothing heavy is loaded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from market.clock import NS_PER_S
from market.errors import InputError, ServiceError
from market.lake.lake import Lake
from pipelines.alerting.acknowledge import KIND as ACKNOWLEDGED
from pipelines.governance import audit
from pipelines.governance.approve import undecided
from pipelines.in_service import state_path
from pipelines.models.export import ExportConfig
from pipelines.models.retraining_schedule import RetrainingSchedule, too_rare
from pipelines.monitoring.checks import Check
from pipelines.monitoring.monitor import newest_results, read_result
from pipelines.quoting.safe_state import stance_path
from pipelines.settings import StageConfig, stage_config
from pipelines.stack.catalog import chosen_servers
from pipelines.stack.processes import memory_of
from pipelines.stack.registry_probe import champions
from pipelines.stack.server import Server
from pipelines.stack.servers.airflow import open_questions
from pipelines.stack.site import Site, find
from pipelines.stack.supervisor import State, Supervisor
from pipelines.workspace import Workspace
from serving.risk.safe_state import NORMAL, Stance, read_stances
from serving.rollout.roles import read_state
from serving.session.heartbeat import alive_path, read_alive
from training.registry.registry import model_name

UP = "up"
_SAID = (
    *("instrument", "session", "doing", "versions", "phase", "canary_share", "stance", "decisions", "quotes", "fills"),
    *("refused_requests", "inventory", "step_p50_ns", "step_p99_ns", "last_ns", "pid"),
)  # copied as they are


@dataclass(frozen=True, kw_only=True)
class StatusConfig(StageConfig):
    """Nothing to choose."""


@dataclass(frozen=True, kw_only=True)
class ServerStatus:
    """``state``: up (it answers), unwell (it runs and does not answer as it should; ``said`` why), starting, down."""

    name: str
    state: str
    said: str
    pid: int | None
    ports: tuple[int, ...]
    memory_bytes: int
    since: str | None
    page: str
    log: str


@dataclass(frozen=True, kw_only=True)
class InstrumentStatus:
    """Versions in service by role (None: nobody plays it), and the receive time of the newest landed event; ``safe``:
    since when, on whose word and why it is in the safe state, empty where it is not."""

    instrument: str
    champion: int | None
    challenger: int | None
    previous: int | None
    last_data: str | None
    last_data_ns: int | None
    age_seconds: float | None
    safe: str = ""


@dataclass(frozen=True, kw_only=True)
class SessionStatus:
    """What a session that follows says of itself. ``fresh``: it lives and has said so within seconds."""

    instrument: str
    session: str
    fresh: bool
    doing: str
    versions: tuple[int, ...]
    phase: str
    canary_share: float
    stance: str
    decisions: int
    quotes: int
    fills: int
    refused_requests: int
    inventory: int
    step_p50_ns: int
    step_p99_ns: int
    last_ns: int
    pid: int
    breach: str


@dataclass(frozen=True, kw_only=True)
class DriftStatus:
    """The newest verdict."""

    monitor_id: str
    instrument: str
    model_version: int
    drifted: bool
    event_id: str
    until: str


@dataclass(frozen=True, kw_only=True)
class ChecksStatus:
    """Latency and integrity of an instrument at the last look. ``verdicts``: pass, warn, fail or unknown by check;
    ``failing``: a phrase each. ``alert_id`` and ``acknowledged_by`` are empty without."""

    instrument: str
    monitor_id: str
    verdicts: dict[str, str]
    failing: tuple[str, ...]
    alert_id: str
    acknowledged_by: str


@dataclass(frozen=True, kw_only=True)
class OpenApproval:
    """What waits for a person: a question of a DAG, or a challenger nobody has decided about (``keel approve``)."""

    where: str
    subject: str
    since: str


@dataclass(frozen=True, kw_only=True)
class StatusResult:
    """``stack``: whether one is up; ``well``: whether every server of it answers (true where none was started)."""

    folder: str
    home: str
    stack: bool
    well: bool
    servers: tuple[ServerStatus, ...]
    instruments: tuple[InstrumentStatus, ...]
    sessions: tuple[SessionStatus, ...]
    drift: DriftStatus | None
    approvals: tuple[OpenApproval, ...]
    not_known: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    checks: tuple[ChecksStatus, ...] = ()

    def line(self) -> str:
        """One screen."""
        lines = [f"stack in {self.folder}" if self.servers else f"no stack was started in {self.folder} (keel up)"]
        lines += [_server_line(each) for each in self.servers]
        if self.servers:
            memory = sum(each.memory_bytes for each in self.servers)
            answering = sum(each.state == UP for each in self.servers)
            lines.append(f"  {answering} of {len(self.servers)} up, {memory / 2**20:,.0f} MB")
        lines += ["", f"models and data in {self.home}"]
        lines += [_instrument_line(each) for each in self.instruments] or ["  nothing in service, no data yet"]
        lines += [
            "",
            *([_session_line(each) for each in self.sessions] or ["no session follows (keel serve --follow)"]),
        ]
        lines += [
            "",
            _drift_line(self.drift),
            *map(_checks_line, self.checks),
            "",
            "open approvals" if self.approvals else "no open approvals",
        ]
        lines += [f"  {each.where:12} {each.subject}" for each in self.approvals]
        lines += [f"WARNING: {each}" for each in self.warnings]
        return "\n".join([*lines, *(f"not known: {each}" for each in self.not_known)])


def status(config: StatusConfig, *, workspace: Workspace) -> StatusResult:  # noqa: ARG001  # every stage has a config
    """Look at everything once.

    Raises:
        LakeError, GateError: lake or audit record cannot be read.
    """
    site = find(workspace.stack)
    # its models and data lie in a home of their own, also when this shell was not told so
    ring = dataclasses.replace(workspace, home=site.home) if site and not workspace.tracking_uri else workspace
    states = Supervisor(site).states() if site else {}
    # nothing is expected of a stack that was stopped
    servers = _servers(site, states) if site and states else ()
    approvals = list(_undecided(ring))
    not_known: list[str] = []
    if site and any(each.name == "airflow-api" and each.state == UP for each in servers):
        try:
            approvals += [
                OpenApproval(where=each["dag_id"], subject=each["subject"], since=each["asked_at"])
                for each in open_questions(site)
            ]
        except ServiceError as error:
            not_known.append(f"what Airflow asks ({error})")
    warnings: list[str] = []
    try:
        warnings += _stray_aliases(ring, site)
    except ServiceError as error:
        not_known.append(f"whether the registry's champions are those on record ({error})")
    if site and states and site.has("airflow-scheduler"):
        warnings += retrained_too_rarely(ring, site)
    return StatusResult(
        folder=str(workspace.stack),
        home=str(ring.home),
        stack=bool(states),
        well=all(each.state == UP for each in servers),
        servers=servers,
        instruments=_instruments(ring),
        sessions=_sessions(ring),
        drift=_drift(ring),
        checks=checks_of(ring),
        approvals=tuple(approvals),
        not_known=tuple(not_known),
        warnings=tuple(warnings),
    )


def _stray_aliases(ring: Workspace, site: Site | None) -> list[str]:
    """Champions in the registry that nobody promoted through us, of the models in service or on record."""
    recorded = audit.champions(audit.read(audit.path_of(ring)))
    models = {*recorded, *(model_name(key) for key in read_state(state_path(ring)))}
    return audit.stray_aliases(ring, champions(ring, site, sorted(models))) if models else []


def retrained_too_rarely(ring: Workspace, site: Site) -> list[str]:
    """A warning where the stack's schedule lets models expire; with its own numbers, which this shell may not have been
    told.

    Raises:
        SettingsError: they cannot be.
    """
    params = site.params if site.params.is_file() else None
    schedule = stage_config("retrain", RetrainingSchedule, params=params)
    expires_days = stage_config("export", ExportConfig, {"run_id": ""}, params=params).expires_days
    now = datetime.fromtimestamp(ring.clock.now_ns() / NS_PER_S, tz=UTC)
    return [warning] if (warning := too_rare(schedule, expires_days, now=now)) else []


def _servers(site: Site, states: dict[str, State]) -> tuple[ServerStatus, ...]:
    servers = chosen_servers(site)
    with ThreadPoolExecutor(len(servers)) as pool:
        return tuple(pool.map(lambda server: _look(site, server, states.get(server.name)), servers))


def _look(site: Site, server: Server, state: State | None) -> ServerStatus:
    word, said = "down", state.said if state else ""
    if state is not None and state.pid:
        try:
            server.probe()
            word, said = UP, ""
        except ServiceError as error:
            word, said = ("unwell" if state.running else "starting"), str(error)
    running = state is not None and bool(state.pid)
    return ServerStatus(
        name=server.name,
        state=word,
        said=said,
        pid=state.pid if state and running else None,
        ports=tuple(site.port(name) for name in server.ports),
        memory_bytes=memory_of(state.pid) if state and running else 0,
        since=_iso(int(state.started) * NS_PER_S) if state and running else None,
        page=server.page,
        log=str(site.log(server.name)),
    )


def _instruments(ring: Workspace) -> tuple[InstrumentStatus, ...]:
    roles = read_state(state_path(ring))
    newest = Lake(ring.lake).newest("ticks")
    stances = read_stances(stance_path(ring))
    now = ring.clock.now_ns()
    return tuple(
        InstrumentStatus(
            instrument=key,
            champion=(roles[key].champion or None) if key in roles else None,
            challenger=(roles[key].challenger or None) if key in roles else None,
            previous=(roles[key].previous or None) if key in roles else None,
            last_data=_iso(newest[key]) if key in newest else None,
            last_data_ns=newest.get(key),
            age_seconds=(now - newest[key]) / NS_PER_S if key in newest else None,
            safe=_safe(stances.get(key, NORMAL)),
        )
        for key in sorted({*roles, *newest, *(key for key, each in stances.items() if each.mode == "safe")})
    )


def _safe(stance: Stance) -> str:
    return f"since {_iso(stance.since_ns)} by {stance.by}: {stance.reason}" if stance.mode == "safe" else ""


def _sessions(ring: Workspace) -> tuple[SessionStatus, ...]:
    folder, now_ns = ring.sessions, ring.clock.now_ns()
    found = [read_alive(path) for path in sorted(folder.glob(alive_path(folder, "*").name))]
    return tuple(
        SessionStatus(
            fresh=alive.is_fresh(now_ns),
            breach=alive.breach.line() if alive.breach else "",
            **{name: getattr(alive, name) for name in _SAID},
        )
        for alive in found
        if alive is not None
    )


def _drift(ring: Workspace) -> DriftStatus | None:
    try:
        found = read_result(ring, "")
    except InputError:  # monitor never ran
        return None
    return DriftStatus(
        monitor_id=found["monitor_id"],
        instrument=found["instrument"],
        model_version=found["model_version"],
        drifted=found["drifted"],
        event_id=found["event_id"],
        until=_iso(found["until_ns"]),
    )


def checks_of(ring: Workspace) -> tuple[ChecksStatus, ...]:
    """The checks of each instrument in service, as the newest look at it found them.

    Raises:
        GateError: the audit record is broken.
        ServiceError: the record of what is in service is damaged.
    """
    served = {key for key, roles in read_state(state_path(ring)).items() if roles.champion}
    seen = {e.what["event_id"]: str(e.what["name"]) for e in audit.read(audit.path_of(ring)) if e.kind == ACKNOWLEDGED}
    return tuple(_checks(look, seen) for look in newest_results(ring, served))


def _checks(look: dict[str, Any], seen: dict[str, str]) -> ChecksStatus:
    checks = [Check(**each) for each in look["checks"]]
    alert_id = str(look.get("alert_id", ""))
    return ChecksStatus(
        instrument=look["instrument"],
        monitor_id=look["monitor_id"],
        verdicts={each.name: each.verdict for each in checks},
        failing=tuple(each.words() for each in checks if each.verdict == "fail"),
        alert_id=alert_id,
        acknowledged_by=seen.get(alert_id, ""),
    )


def _undecided(ring: Workspace) -> Iterable[OpenApproval]:
    for key, version in undecided(ring).items():
        subject = f"challenger version {version} of {key}: keel approve --version {version} --instrument {key}"
        yield OpenApproval(where="registry", subject=subject, since="")


def _iso(ns: int) -> str:
    return datetime.fromtimestamp(ns / NS_PER_S, tz=UTC).isoformat(timespec="seconds")


def _server_line(server: ServerStatus) -> str:
    ports = ",".join(str(port) for port in server.ports)
    where = server.page if server.page.startswith("http") else ""
    last = f"{server.said}; {server.log}" if server.state != UP else where
    return f"  {server.name:18} {server.state:9} {server.memory_bytes / 2**20:6,.0f} MB  {ports:18} {last}"


def _instrument_line(each: InstrumentStatus) -> str:
    roles = [f"{role} {value}" for role in ("champion", "challenger", "previous") if (value := getattr(each, role))]
    data = "no data" if each.age_seconds is None else f"last data {each.last_data} ({_age(each.age_seconds)} ago)"
    safe = f"\n  {'':24} SAFE STATE {each.safe} (keel resume)" if each.safe else ""
    return f"  {each.instrument:24} {', '.join(roles) or 'nothing in service':32} {data}{safe}"


def _session_line(each: SessionStatus) -> str:
    if not each.fresh:
        return f"  {each.instrument:24} NOT ALIVE: process {each.pid} has said nothing for a while ({each.session})"
    who = " and ".join(map(str, each.versions)) or "nobody"
    share = f" {each.canary_share:.0%}" if each.phase == "canary" else ""
    stance = ", SAFE STATE" if each.stance == "safe" else ""
    return (
        f"  {each.instrument:24} {each.doing} {who} ({each.phase}{share}{stance}), {each.quotes:,} quotes, "
        f"{each.fills:,} fills, {each.refused_requests} refused, inventory {each.inventory}, step p50 "
        f"{each.step_p50_ns / 1000:.1f} us, p99 {each.step_p99_ns / 1000:.1f} us"
        + (f"; last breach: {each.breach}" if each.breach else "")
    )


def _age(seconds: float) -> str:
    for unit, length in (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _checks_line(each: ChecksStatus) -> str:
    if not each.failing:
        warns = [name for name, verdict in each.verdicts.items() if verdict == "warn"]
        return f"checks of {each.instrument}: none fails" + (f", {', '.join(warns)} warn" if warns else "")
    taken = f"acknowledged by {each.acknowledged_by}" if each.acknowledged_by else "not acknowledged (keel acknowledge)"
    return f"CHECKS FAIL on {each.instrument}, {each.alert_id} {taken}: {'; '.join(each.failing)}"


def _drift_line(drift: DriftStatus | None) -> str:
    if drift is None:
        return "drift: nobody has looked yet (keel monitor)"
    verdict = f"DRIFT {drift.event_id}" if drift.drifted else "no drift"
    return f"drift: {verdict} of {drift.instrument} version {drift.model_version}, data until {drift.until}"
