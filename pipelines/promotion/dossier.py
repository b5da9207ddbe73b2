"""What a person is shown before deciding about a version, as Markdown: on Airflow's approval screen and in a terminal.

A challenger is shown against the champion, by the test on their blocks; the first version of an instrument by its
evaluation. The same evidence is put before people once: what was answered stands in the audit record with the evidence
it was answered on, and somebody who wanted more data is asked again when there is more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from market.clock import NS_PER_S, utc
from market.errors import ModelError
from pipelines import links
from pipelines.experiments import compare
from pipelines.experiments.compare import COMPARE_FILE, CompareConfig, CompareResult, Metric, Verdict
from pipelines.governance import approve, audit, people
from pipelines.in_service import roles_of
from pipelines.settings import StageConfig, stage_config
from pipelines.workspace import Workspace
from serving.families import DEFAULT

if TYPE_CHECKING:
    from pipelines.experiments.shadow import Shadow
    from training.evaluation.evaluate import Evaluation
    from training.registry.registry import Registry

_TEST_HEAD = ("metric", "role", "champion", "challenger", "difference", "says")
_ROLES = (
    "The primary metric has to be better, and a guardrail must not be worse; what is only shown decides nothing. Each "
    "interval is always valid by itself."
)

SHORT_S = 86_400  # a model that learned less than a day of market has not seen a day's ups and downs


@dataclass(frozen=True, kw_only=True)
class DossierConfig(StageConfig):
    """Which version (None: the challenger). ``new_blocks``: how many more make the same test new evidence."""

    instrument: str = "sim-usdm.BTCUSDT"
    version: int | None = None
    new_blocks: int = 20


@dataclass(frozen=True, kw_only=True)
class DossierResult:
    """``evidence`` names what was shown, of ``blocks`` blocks (0: an evaluation). ``due``: whether to ask a person now,
    and ``why`` not. ``champion`` 0: it is the first of its instrument. ``body`` is Markdown."""

    instrument: str
    version: int
    champion: int
    verdict: Verdict
    evidence: str
    blocks: int
    due: bool
    why: str
    subject: str
    body: str
    picture: str

    def line(self) -> str:
        return f"{self.subject}\n\n{self.body}"


@dataclass(frozen=True, kw_only=True)
class _Case:
    """The evidence about one version and what it says."""

    verdict: Verdict
    evidence: str
    blocks: int
    sessions: tuple[str, ...]
    picture: str
    test: CompareResult | None
    evaluation: Evaluation | None


@dataclass(frozen=True, kw_only=True)
class _Model:
    """A version, its run as MLflow knows it (empty where there is none), and the span of its dataset if it is here."""

    version: int
    run_id: str
    experiment: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    span: tuple[int, int] | None


def dossier(config: DossierConfig, *, workspace: Workspace) -> DossierResult:
    """Put together what there is to know about a version.

    Raises:
        ModelError: no such version, no challenger, or the first version was never evaluated here.
        EmptyDataError: champion and challenger have not been served side by side.
        GateError: the audit record is broken.
        ServiceError: the registry is away.
    """
    from training.registry.registry import CHALLENGER, Registry, model_name

    registry, name = Registry(workspace.tracking), model_name(config.instrument)
    roles = roles_of(workspace, config.instrument)
    version = config.version or roles.challenger or registry.get_alias(name, CHALLENGER) or 0
    if not version:
        raise ModelError(f"{config.instrument} has no challenger; register a run (keel register), or give a version")
    model = _model(workspace, registry, name, version)
    against = roles.champion if roles.champion != version else 0
    champion = _model(workspace, registry, name, against) if against else None
    case = _tested(config, workspace, (against, version)) if champion else _evaluated(workspace, model)
    why = _why_not(config, workspace, name, case, roles.champion == version, version)
    return DossierResult(
        instrument=config.instrument,
        version=version,
        champion=against,
        verdict=case.verdict,
        evidence=case.evidence,
        blocks=case.blocks,
        due=not why,
        why=why,
        subject=f"Promote version {version} of {config.instrument}?",
        body=_body(workspace, config.instrument, case, model, champion),
        picture=case.picture,
    )


def said(shown: Mapping[str, Any], answer: Mapping[str, Any]) -> dict[str, Any]:
    """What a person ``answer``-ed on Airflow's screen about a ``shown`` dossier, as the approve stage takes it. Without
    a person the time ran out, which is a rejection whatever was filled in."""
    who = answer["responded_by_user"]
    about = {name: shown[name] for name in ("instrument", "version", "evidence", "blocks")}
    if who is None:
        return {**about, "name": people.NOBODY, "reason": "nobody answered in time", "decision": "reject"}
    (decision,) = answer["chosen_options"]
    reason = str((answer["params_input"] or {}).get("reason") or "")
    return {**about, "name": who["name"], "reason": reason, "decision": decision}


# -- the evidence ---------------------------------------------------------------------------------------------


def _tested(config: DossierConfig, workspace: Workspace, versions: tuple[int, int]) -> _Case:
    asked = stage_config("compare", CompareConfig, {"instrument": config.instrument})
    test = compare.compare(asked, workspace=workspace)
    mine = (test.champion, test.challenger) == versions
    return _Case(
        verdict=test.verdict if mine else "undecided",
        evidence=test.compare_id,
        blocks=test.blocks,
        sessions=test.sessions,
        picture=test.picture,
        test=test if mine else None,
        evaluation=None,
    )


def _evaluated(workspace: Workspace, model: _Model) -> _Case:
    from training import runs

    folder = workspace.runs / model.run_id
    found = runs.read_evaluation(folder)
    digest = hashlib.sha256((folder / runs.EVALUATION).read_bytes()).hexdigest()[:12]
    return _Case(
        verdict="promote" if found.refusals == () else "keep",
        evidence=f"evaluation-{digest}",
        blocks=0,
        sessions=(),
        picture="",
        test=None,
        evaluation=found,
    )


def _why_not(
    config: DossierConfig, workspace: Workspace, name: str, case: _Case, is_champion: bool, version: int
) -> str:
    """Why nobody is to be asked now; empty where somebody is."""
    if is_champion:
        return f"version {version} is champion already"
    if case.test is None and case.evaluation is None:
        return f"the newest test ({case.evidence}) was not of version {version} against the champion"
    if case.verdict != "promote":
        return f"the evidence says {case.verdict}"
    kinds = (approve.KIND, approve.MORE_DATA)
    answers = [
        entry.what
        for entry in audit.read(audit.path_of(workspace))
        if entry.kind in kinds and (entry.what["model_name"], entry.what["version"]) == (name, version)
    ]
    return _answered(config, workspace, case, answers[-1]) if answers else ""


def _answered(config: DossierConfig, workspace: Workspace, case: _Case, last: Mapping[str, Any]) -> str:
    """Whether the last answer still stands, in words; empty where there is new evidence since."""
    evidence = str(last.get("evidence", ""))
    if not evidence:  # given in a terminal: it was not about any test
        return ""
    if evidence == case.evidence:
        return f"{last['name']} has answered on this evidence: {last['decision']}"
    earlier = set(_sessions(workspace, evidence))  # a test goes on from session to session
    same_test = case.test is not None and bool(earlier) and earlier <= set(case.sessions)
    new = case.blocks - int(last["blocks"])
    if same_test and new < config.new_blocks:
        return f"{last['name']} answered {last['decision']}; {new} new blocks since, {config.new_blocks} are wanted"
    return ""


def _sessions(workspace: Workspace, evidence: str) -> tuple[str, ...]:
    path = workspace.reports / evidence / COMPARE_FILE
    return tuple(orjson.loads(path.read_bytes())["sessions"]) if path.is_file() else ()


def _model(workspace: Workspace, registry: Registry, name: str, version: int) -> _Model:
    from training.registry import tracking

    found = registry.version(name, version)
    run: Any = None
    if found.run_id:
        client = tracking.client(workspace.tracking)
        with tracking.spoken(f"read run {found.run_id}", workspace.tracking):
            run = client.get_run(found.run_id)
    return _Model(
        version=version,
        run_id=found.run_id,
        experiment=str(run.info.experiment_id) if run else "",
        tags=found.tags,
        params=dict(run.data.params) if run else {},
        metrics=dict(run.data.metrics) if run else {},
        span=_span(workspace, found.tags.get("dataset_id", "")),
    )


def _span(workspace: Workspace, dataset_id: str) -> tuple[int, int] | None:
    from training.data.datasets import CARD_FILE, read_card

    folder = workspace.datasets / dataset_id
    if not dataset_id or not (folder / CARD_FILE).is_file():
        return None
    card = read_card(folder)
    return card.first_ns, card.last_ns


# -- the page -------------------------------------------------------------------------------------------------


def _body(workspace: Workspace, instrument: str, case: _Case, model: _Model, champion: _Model | None) -> str:
    both = [each for each in (champion, model) if each is not None]
    parts = [_opening(model, champion, case)]
    if case.test is not None:
        parts += ["## The test", _table(_TEST_HEAD, _tests(case.test)), _ROLES]
        if case.test.shadow is not None:
            parts += ["## In shadow", _in_shadow(case.test.shadow)]
    if case.evaluation is not None:
        parts += ["## The evaluation", _evaluation(case.evaluation)]
    parts += ["## On held-out rows", _held_out(both)]
    parts += ["## Risks", "\n".join(f"* {each}" for each in _risks(case, model)) or "None that is known."]
    if champion is not None:
        parts += ["## What changed", _changes(champion, model)]
    parts += ["## Links", "\n".join(f"* {each}" for each in _links(workspace, instrument, case, both))]
    return "\n\n".join(parts)


def _opening(model: _Model, champion: _Model | None, case: _Case) -> str:
    author = model.tags.get("author", "nobody known")
    if champion is None:
        return (
            f"**Version {model.version}** is the first of its instrument: there is no champion to test it against. "
            f"Trained by {author}, who may not approve it."
        )
    means = {"promote": "better, and no guardrail is worse", "keep": "worse", "undecided": "not shown to be better"}
    return (
        f"**Version {model.version}** against champion **version {champion.version}**: {means[case.verdict]}. Trained "
        f"by {author}, who may not approve it."
    )


def _tests(test: CompareResult) -> list[tuple[str, ...]]:
    rows = [_test(metric) for metric in test.metrics]
    counts = f"{test.blocks} blocks, {test.pairs} pairs, {test.fills} fills"
    return [*rows, (counts, "", "", "", "", f"**{test.verdict}**")]


def _test(metric: Metric) -> tuple[str, ...]:
    title = f"{metric.title} ({metric.unit})"
    if metric.difference is None:
        return title, metric.role, "", "", "", metric.note
    between = f"{metric.difference:+.4g} [{compare.figure(metric.lower)}, {compare.figure(metric.upper)}]"
    return title, metric.role, _number(metric.champion), _number(metric.challenger), between, metric.says


def _in_shadow(seen: Shadow) -> str:
    """The phase before its turns: the champion quoted, both spoke."""

    def pair(title: str, values: tuple[float, float] | None) -> tuple[str, ...]:
        champion, challenger = values or (None, None)
        return title, _number(champion), _number(challenger)

    rows = [
        pair("log-loss of the direction (nats)", seen.log_loss),
        pair("calibration error, 500 ms", seen.calibration_error),
    ]
    both, alone = seen.step_us, seen.alone_step_us
    step = f"step p50 {both[0]:.1f} us, p99 {both[1]:.1f} us with both" if both else "steps were not timed"
    without = f" ({alone[0]:.1f} and {alone[1]:.1f} us with the champion alone)" if both and alone else ""
    otherwise = (
        f"quotes would have differed on {seen.quoted_otherwise:.1%} of the rows, in whether a side is pulled on "
        f"{seen.pulled_otherwise:.1%} (with nothing held, on the tightest book)"
        if seen.quoted_otherwise is not None and seen.pulled_otherwise is not None
        else "how it would have quoted is not known"
    )
    moves = "no correlation, as one of them never moves"
    correlation = moves if seen.correlation is None else f"correlation {seen.correlation:.2f}"
    interval = f"[{compare.figure(seen.lower)}, {compare.figure(seen.upper)}]"
    said = (
        f"{seen.rows:,} rows in {seen.blocks} blocks without a quote of its own: {seen.says} "
        f"({seen.difference:+.4g} nats {interval}). Both lean the same way on {seen.same_lean:.1%} of the rows, "
        f"{correlation}; {otherwise}; {step}{without}; rows on which only the challenger was silent: {seen.silent}."
    )
    return _table(("", "champion", "challenger"), rows) + f"\n\n{said}"


def _evaluation(found: Evaluation) -> str:
    rows = []
    for judged in sorted(found.models, key=lambda each: each.log_loss):
        less = judged.network_less_this
        against = f"{less.mean:+.4f} [{less.low:+.4f}, {less.high:+.4f}]" if less else ""
        rows.append((judged.model, f"{judged.log_loss:.4f}", against))
    gate = "The gate said yes." if found.refusals == () else f"The gate said no: {'; '.join(found.refusals or ())}."
    span = f"{found.rows:,} test rows, {utc(found.first_ns)} to {utc(found.last_ns)}."
    return _table(("model", "log-loss (nats)", "network less this, 95 %"), rows) + f"\n\n{span} {gate}"


def _held_out(models: Sequence[_Model]) -> str:
    names = {"network": "network", "LightGBM": "lightgbm", "logistic": "logistic_regression", "prior": "prior"}
    head = ("version", *(f"{name}, log-loss" for name in names), "calibration error")
    rows = [
        (
            str(each.version),
            *(_number(_log_loss(each, name)) for name in names.values()),
            _number(each.metrics.get("test_ece")),
        )
        for each in models
    ]
    apart = "\n\nEach on the test rows of its own dataset: not the same market." if len(models) > 1 else ""
    same = models[-1].metrics.get("test_log_loss_champion")
    on_these = f" On the challenger's rows the champion's log-loss is {same:.4f}." if apart and same is not None else ""
    return _table(head, rows) + apart + on_these


def _log_loss(model: _Model, name: str) -> float | None:
    """On the test rows; runs of before there were families logged the network's under the only one's name."""
    found = model.metrics.get(f"test_log_loss_{name}")
    return model.metrics.get(f"test_log_loss_{DEFAULT}") if found is None and name == "network" else found


def _risks(case: _Case, model: _Model) -> list[str]:
    risks = []
    if case.test is not None:
        guards = case.test.guardrails
        risks += [f"{m.title}: worse" for m in guards if m.says == "worse"]
        risks += [f"{m.title}: not tested, {m.note}" for m in guards if m.difference is None]
        unbounded = [m for m in guards if m.difference is not None and (m.lower is None or m.upper is None)]
        risks += [f"{m.title}: unbounded after {m.looks} looks, it may be much worse" for m in unbounded]
        plan = stage_config("compare", CompareConfig, {"instrument": case.test.instrument}).plan
        if case.blocks < plan:
            risks.append(f"few blocks: {case.blocks}, planned were {plan}")
    if model.span is not None and model.span[1] - model.span[0] < SHORT_S * NS_PER_S:
        risks.append(
            f"trained on {(model.span[1] - model.span[0]) / NS_PER_S / 60:,.0f} min of market, less than a day"
        )
    loss = _log_loss(model, "network")
    simpler = {"test_log_loss_lightgbm": "LightGBM", "test_log_loss_logistic_regression": "logistic regression"}
    if loss is not None:
        risks += [
            f"{title} scores better on the held-out rows"
            for name, title in simpler.items()
            if model.metrics.get(name, loss) < loss
        ]
    gate = model.tags.get("gate", "passed")
    return [*risks, *([f"the gate of its evaluation said no: {gate}"] if gate != "passed" else [])]


def _changes(champion: _Model, model: _Model) -> str:
    def facts(of: _Model) -> dict[str, str]:
        tags = {
            name: of.tags.get(name, "")
            for name in ("dataset_id", "dataset_revision", "feature_set", "code", "precision")
        }
        span = f"{utc(of.span[0])} to {utc(of.span[1])}" if of.span else "not on this machine"
        return {**tags, "data span": span, "lake versions": of.tags.get("lake_versions", ""), **of.params}

    before, after = facts(champion), facts(model)
    names = [name for name in dict.fromkeys((*before, *after)) if before.get(name, "") != after.get(name, "")]
    if not names:
        return "Nothing: the same data and the same configuration."
    head = ("", f"version {champion.version}", f"version {model.version}")
    return _table(head, [(name, before.get(name, ""), after.get(name, "")) for name in names])


def _links(workspace: Workspace, instrument: str, case: _Case, models: Sequence[_Model]) -> list[str]:
    """Pages of MLflow where it has any, else where things lie. Airflow's screen shows no picture but from an address
    that the reader's browser may open without a password, so pictures are links."""
    found = []
    for each in models:
        page = links.run_page(workspace, each.experiment, each.run_id)
        found.append(
            f"[run of version {each.version}]({page})" if page else f"run of version {each.version}: `{each.run_id}`"
        )
    newest = models[-1]
    for title, picture in _pictures(case):
        kept = _keep_picture(workspace, newest, case.evidence, picture)
        found.append(f"[{title}]({kept})" if kept else f"{title}: `{_within(workspace, picture)}`")
    page = links.version_page(workspace, instrument, newest.version)
    return [*found, *([f"[version {newest.version} in the registry]({page})"] if page else [])]


def _pictures(case: _Case) -> list[tuple[str, Path]]:
    shadow = case.test.shadow_picture if case.test else ""
    named = (("the test as a picture", case.picture), ("the shadow as a picture", shadow))
    return [(title, Path(path)) for title, path in named if path]


def _keep_picture(workspace: Workspace, model: _Model, evidence: str, picture: Path) -> str:
    """Put a picture beside the challenger's run, once, and answer its page; empty where MLflow has no pages."""
    from training.registry import tracking

    folder = f"tests/{evidence}"
    page = links.run_page(workspace, model.experiment, model.run_id, f"{folder}/{picture.name}")
    if not page or not model.run_id:
        return ""
    client = tracking.client(workspace.tracking)
    with tracking.spoken(f"keep the pictures of {evidence}", workspace.tracking):
        if f"{folder}/{picture.name}" not in {each.path for each in client.list_artifacts(model.run_id, folder)}:
            client.log_artifact(model.run_id, str(picture), folder)
    return page


def _within(workspace: Workspace, path: Path) -> str:
    return str(path.relative_to(workspace.home)) if path.is_relative_to(workspace.home) else str(path)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return "\n".join([row(head), "|" + "---|" * len(head), *map(row, rows)])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
