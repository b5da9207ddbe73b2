"""The map of quotekeel: the whole life of a model, from the first frame to a traced quote, read from top to bottom.

Everything here is a stage that also has a verb of its own; this file only says in which order they run, on which data,
and what a person is asked. Nothing decides in advance how the story ends: if the challenger does not win its test, the
champion stays.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import typer

from market.clock import NS_PER_S
from market.errors import ApprovalError, EmptyDataError
from market.files import replacing
from market.lake.lake import Lake
from pipelines import stages
from pipelines.models.register import PASSED
from pipelines.reports.report import ReportConfig, ReportResult, report
from pipelines.settings import StageConfig
from pipelines.stack.exchange import Exchange, SimulateConfig, running_exchange
from pipelines.stack.mail_sink import running_mail_sink
from pipelines.workspace import Address, Workspace
from serving.records import R_SHRINK, R_WIDEN
from serving.triton.server import running_triton, stop_orphan

# minutes of market are watched here, where production watches hours
SHORT = {"window_seconds": 15.0, "k": 3, "n": 4, "window_alarm": 0.05, "min_strength": 0.08}


@dataclass(frozen=True, kw_only=True)
class DemoConfig(StageConfig):
    """How much of each part is shown; times are seconds of market time.

    ``captures`` empty means the simulated exchange. ``approve_as`` empty means: ask, or take ``APPROVE_AS``.
    """

    captures: tuple[str, ...] = ()
    approve_as: str = ""
    seed: int = 7
    learn_seconds: float = 900.0
    calm_seconds: float = 120.0
    changed_seconds: float = 180.0
    relearn_seconds: float = 600.0
    test_seconds: float = 480.0


def demo(config: DemoConfig, *, workspace: Workspace, tell: Callable[[str], None]) -> ReportResult:
    """Run the ring and write the report.

    Raises:
        ApprovalError: there is nobody to ask and no name was given; said before any work is done.
    """
    approver = Approver.find(config)
    _set_aside_earlier_run(workspace)
    with ExitStack() as stack:
        mail = stack.enter_context(running_mail_sink(workspace.home / "mailsink"))
        triton = stack.enter_context(running_triton(workspace.triton_repository, logs=workspace.logs))
        where = Address(host=triton.host, port=triton.port)
        equipped = replace(workspace, mail=mail, triton_grpc=where)
        if config.captures:
            story = Story(workspace=equipped, tell=tell, kind="recorded")
            quote_id = recorded_ring(config, story, approver)
        else:
            exchange = stack.enter_context(running_exchange(SimulateConfig(seed=config.seed)))
            story = Story(workspace=equipped, tell=tell, kind="simulated")
            quote_id = simulated_ring(config, story, approver, exchange)
        story.chapter("A quote is traced back to its raw frames")
        story.stage("trace", quote_id=quote_id)
        result = report(ReportConfig(), workspace=equipped)
    tell("")
    for line in result.next_steps:
        tell(line)
    return result


def simulated_ring(config: DemoConfig, story: Story, approver: Approver, exchange: Exchange) -> str:
    """The whole story on the simulated exchange; returns the id of a quote worth tracing."""
    url, instrument = exchange.url, exchange.instrument

    story.chapter("A model is born")
    story.stage("ingest", url=url, seconds=config.learn_seconds, instrument=instrument)
    story.stage("validate", instrument=instrument)
    dataset = story.stage("featurize", instrument=instrument)
    champion = birth(story, dataset.dataset_id)
    crown(story, approver, champion.version, instrument, reason=_standing(champion.gate))

    story.chapter("It quotes while the market is as it was")
    calm = story.stage("serve", instrument=instrument, url=url, seconds=config.calm_seconds)
    story.stage("skew", session=calm.session)
    story.stage("monitor", instrument=instrument, dataset_id=dataset.dataset_id, sessions=(calm.session,), **SHORT)

    story.chapter("The market changes, and one minute of data is bad")
    exchange.set_regime("volatile")
    story.event("market", "the simulated exchange switches from its calm to its volatile regime", regime="volatile")
    exchange.inject_fault("trade_price", seconds=5.0)
    story.event("market", "for five seconds its trade prints carry prices 20 % away from the book", fault="trade_price")
    changed = story.stage("serve", instrument=instrument, url=url, seconds=config.changed_seconds)
    story.stage("validate", instrument=instrument)
    drift = story.stage(
        "monitor",
        instrument=instrument,
        dataset_id=dataset.dataset_id,
        sessions=(calm.session, changed.session),
        **SHORT,
    )
    story.stage("notify", monitor_id=drift.monitor_id)

    story.chapter("A challenger is trained on the market as it is now")
    fresh = story.stage("ingest", url=url, seconds=config.relearn_seconds, instrument=instrument)
    story.stage("validate", instrument=instrument)
    challenger = story.stage(
        "retrain", instrument=instrument, sources=(changed.session, *fresh.sources), trigger=drift.line()
    )
    if challenger.version is None:
        story.event("keep", f"the champion stays: no challenger passed its gate ({challenger.why})")
        return quote_worth_tracing(story.workspace, changed.session)
    story.stage("deploy", instrument=instrument, version=challenger.version)

    story.chapter("Champion and challenger quote in alternating blocks")
    test = story.stage(
        "serve", instrument=instrument, url=url, seconds=config.test_seconds, arms=("champion", "challenger")
    )
    verdict = story.stage("compare", instrument=instrument, sessions=(test.session,))
    settle(story, approver, verdict, challenger.version, instrument)
    return quote_worth_tracing(story.workspace, test.session)


def recorded_ring(config: DemoConfig, story: Story, approver: Approver) -> str:
    """The same ring on recordings: the first half teaches, the third quarter serves, the last quarter tests.

    A recording cannot answer our orders, so no fill is claimed: the test compares what both models said of the same
    rows. For the same reason a first model that did not pass its gate, as a few minutes of data often leave it, may be
    put on trial here: the person who approves it is told.
    """
    story.chapter("The recording is landed and judged")
    landed = story.stage("ingest", files=config.captures)
    instrument = landed.instruments[0]
    story.stage("validate", instrument=instrument)
    half, three_quarters = _quantiles(landed.first_ns, landed.last_ns, (0.5, 0.75))

    story.chapter("A model is born from the first half")
    dataset = story.stage("featurize", instrument=instrument, sources=landed.sources, end_ns=half)
    champion = birth(story, dataset.dataset_id, on_trial=True)
    crown(story, approver, champion.version, instrument, reason=_standing(champion.gate))

    story.chapter("It predicts the third quarter as it was recorded")
    replay = {"instrument": instrument, "capture": config.captures[0]}
    served = story.stage("serve", **replay, start_ns=half, end_ns=three_quarters)
    drift = story.stage(
        "monitor", instrument=instrument, dataset_id=dataset.dataset_id, sessions=(served.session,), **SHORT
    )
    story.stage("notify", monitor_id=drift.monitor_id)

    story.chapter("A challenger is trained on the first three quarters")
    why = drift.line() if drift.drifted else "three quarters of the recording are known now"
    challenger = story.stage(
        "retrain", instrument=instrument, sources=landed.sources, end_ns=three_quarters, trigger=why
    )
    if challenger.version is None:
        story.event("keep", f"the champion stays: no challenger passed its gate ({challenger.why})")
        return quote_worth_tracing(story.workspace, served.session)
    story.stage("deploy", instrument=instrument, version=challenger.version)

    story.chapter("Both predict the last quarter")
    test = story.stage("serve", **replay, start_ns=three_quarters, arms=("champion", "challenger"))
    verdict = story.stage("compare", instrument=instrument, sessions=(test.session,))
    settle(story, approver, verdict, challenger.version, instrument)
    return quote_worth_tracing(story.workspace, test.session)


def birth(story: Story, dataset_id: str, *, on_trial: bool = False) -> Any:
    """A dataset to a registered, deployed version; ``on_trial``: also where the gate of its evaluation said no."""
    run = story.stage("train", dataset_id=dataset_id)
    story.stage("evaluate", run_id=run.run_id)
    story.stage("export", run_id=run.run_id, require_gate=not on_trial)
    registered = story.stage("register", run_id=run.run_id)
    story.stage("deploy", instrument=registered.instrument, version=registered.version)
    return registered


def settle(story: Story, approver: Approver, verdict: Any, version: int, instrument: str) -> None:
    """Promote if the test says so and a person agrees; else say why the champion stays."""
    if verdict.verdict != "promote":
        story.event("keep", f"the champion stays: {verdict.line()}")
        return
    crown(story, approver, version, instrument, reason=verdict.line())


def crown(story: Story, approver: Approver, version: int, instrument: str, *, reason: str) -> None:
    """Ask a person, record the answer, move the alias."""
    answer = approver.ask(f"Promote version {version} of {instrument}? {reason}", reason)
    story.stage("approve", instrument=instrument, version=version, name=answer.name, reason=answer.reason)
    story.stage("promote", instrument=instrument, version=version)


def _standing(gate: str) -> str:
    """What the approver is told about a first model."""
    if gate == PASSED:
        return "first model of this instrument; its gate passed"
    return f"on trial on a recording, where no order is sent; its gate said no: {gate}"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Who approved, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Approver:
    """The person who approves: at the prompt, or named beforehand (``name``)."""

    name: str

    @classmethod
    def find(cls, config: DemoConfig) -> Approver:
        name = config.approve_as or os.environ.get("APPROVE_AS", "")
        if not name and not sys.stdin.isatty():
            raise ApprovalError(
                "a model is only promoted with a person's name, and there is no terminal to ask at: "
                "set it beforehand, for instance APPROVE_AS=ada make demo"
            )
        return cls(name=name)

    def ask(self, question: str, suggestion: str) -> Answer:
        """The answer at the prompt, or the name given beforehand with ``suggestion`` as its reason.

        Raises:
            ApprovalError: the person said no.
        """
        if self.name:
            return Answer(name=self.name, reason=suggestion)
        if not typer.confirm(question):
            raise ApprovalError("the promotion was refused at the prompt; the registry is as it was")
        return Answer(name=typer.prompt("Your name"), reason=typer.prompt("Reason", default=suggestion))


def quote_worth_tracing(workspace: Workspace, session: str) -> str:
    """A quote of ``session`` that the model had a say in, preferably one that was filled.

    Raises:
        EmptyDataError: the session made no quote.
    """
    lake = Lake(workspace.lake)
    quotes = lake.read("quotes", columns=["quote_id", "reasons"], where={"session": session})
    if not quotes.num_rows:
        raise EmptyDataError(f"session {session} made no quote: its book was never usable or its windows never warm")
    filled = set(lake.read("outcomes", columns=["quote_id"], where={"session": session})["quote_id"].to_pylist())
    ids = quotes["quote_id"].to_pylist()
    spoken = quotes["reasons"].to_numpy() & (R_WIDEN | R_SHRINK) != 0
    moved = [quote_id for quote_id, by_model in zip(ids, spoken, strict=True) if by_model]
    candidates = [quote_id for quote_id in moved if quote_id in filled] or moved or ids
    return str(candidates[len(candidates) // 2])


def _quantiles(first_ns: int, last_ns: int, shares: tuple[float, ...]) -> tuple[int, ...]:
    return tuple(first_ns + int((last_ns - first_ns) * share) for share in shares)


def _set_aside_earlier_run(workspace: Workspace) -> None:
    """A demo starts from nothing; what the last one made is kept beside it until the next."""
    home = workspace.home
    if not workspace.story.exists():
        return
    stop_orphan(workspace.triton_repository)  # a killed demo's server must be found while its record is in its place
    earlier = home.with_name(f"{home.name}.earlier")
    shutil.rmtree(earlier, ignore_errors=True)
    home.rename(earlier)


@dataclass(frozen=True, kw_only=True)
class Story:
    """A run of many stages. ``tell`` shows a line to a person; ``kind`` is "simulated" or "recorded"."""

    workspace: Workspace
    tell: Callable[[str], None]
    kind: str
    chapters: list[dict[str, Any]] = field(default_factory=list)

    def chapter(self, title: str) -> None:
        """Begin a part of the story."""
        self.tell("")
        self.tell(title)

    def stage(self, verb: str, **overrides: Any) -> Any:
        """Run one stage, tell its line with the time it took, and record it."""
        started = self.workspace.clock.now_ns()
        result = stages.run(verb, workspace=self.workspace, **overrides)
        self.record(verb, result.line(), started, dataclasses.asdict(result))
        return result

    def event(self, name: str, line: str, **figures: Any) -> None:
        """Record something that happened beside the stages (the market changed, a person answered)."""
        self.record(name, line, self.workspace.clock.now_ns(), figures)

    def record(self, name: str, line: str, started_ns: int, result: dict[str, Any]) -> None:
        """Append one entry and write the whole story, so that a run that dies leaves what it did."""
        seconds = (self.workspace.clock.now_ns() - started_ns) / NS_PER_S
        entry = {"stage": name, "line": line, "seconds": round(seconds, 2), "started_ns": started_ns, "result": result}
        self.chapters.append(entry)
        self.tell(f"  {name:<10} {seconds:6.1f} s  {line}")
        with replacing(self.workspace.story) as draft:
            text = {"kind": self.kind, "entries": self.chapters}
            draft.write_bytes(orjson.dumps(text, default=str, option=orjson.OPT_SERIALIZE_NUMPY))
