"""From figures to what a page says: the summary, the captions, the tables, and what the data cannot carry.

Everything said here is computed from the figures; nothing is assumed to have gone well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from market.clock import BATCH_NS, NS_PER_S
from market.labels import HORIZON_NAMES
from pipelines.charts import microseconds

Figures = Mapping[str, Any]

NETWORK = "network"
SHOWN = "500ms"  # the horizon the quoting policy acts on
HEADS = {"direction": "direction", "bid_falls": "bid depth falls", "ask_falls": "ask depth falls"}
TITLES = {"champion": "champion so far", "prior": "prior (no skill)"}
FEW_PAIRS = 30
SHORT_TEST_S = 1800


def summary(figures: Figures) -> list[str]:
    """What happened, in about five sentences."""
    return [
        line
        for line in (
            _said_of_data(figures),
            _said_of_models(figures["models"]),
            _said_of_drift(figures),
            _said_of_test(figures),
            _said_of_end(figures),
        )
        if line
    ]


def _said_of_data(figures: Figures) -> str:
    data = figures["data"]
    if "absent" in data:
        return str(data["absent"]).capitalize() + "."
    what = "a simulated exchange" if figures["kind"] == "simulated" else "recordings of a real market"
    fed = data["sources"] if figures["kind"] == "recorded" else [*data["sources"], *data["sessions"]]  # else replayed
    frames = sum(s.get("frames", 0) for s in fed)
    held = data["minutes_judged"] - data["minutes_passed"]
    why = f" ({', '.join(data['reasons'])})" if data["reasons"] else ""
    gate = f"{data['minutes_judged']} minutes of ticks judged, {held} quarantined{why}"
    return f"Data: {frames:,} frames of {figures['instrument']} from {what}; {gate}."


def _said_of_models(models: Sequence[Figures]) -> str:
    parts = []
    for model in models:
        ranked = ranking(model["evaluation"])
        mine = next(m for m in ranked if is_network(m))
        others = [m for m in ranked if not is_network(m) and m["model"] != "champion"]
        best = others[0] if others else mine
        order = {"network better": "ahead of", "network worse": "behind"}.get(told(best), "not told apart from")
        parts.append(
            f"{title_of(model)} has a test log-loss of {mine['log_loss']:.4f}, {order} {display(best['model'])} "
            f"({best['log_loss']:.4f}){', and did not pass its gate' if refused(model) else ''}"
        )
    return f"Models: {'; '.join(parts)}." if parts else ""


def _said_of_drift(figures: Figures) -> str:
    found = [d for d in figures["drift"] if d["drifted"]]
    if not figures["drift"]:
        return "Drift: was not looked for in this run."
    if not found:
        looks = len(figures["drift"])
        return f"Drift: none in {looks} look{'s' if looks > 1 else ''}."
    last = found[-1]
    mailed = any(m.get("sent") for m in figures["mails"])
    first = f", first of all {last['top'][0]['name']} {last['top'][0]['direction']}" if last["top"] else ""
    quiet = len(figures["drift"]) - len(found)
    before = f"none in {quiet} look{'s' if quiet > 1 else ''}, then " if quiet else ""
    mail = " and mailed" if mailed else ", no mail was sent"
    return f"Drift: {before}found ({last['violated']} of {last['windows']} windows{first}){mail}."


def _said_of_test(figures: Figures) -> str:
    test = figures["compare"]
    if "absent" in test:
        return f"Test: {test['absent']}."
    return f"Test: {test['verdict']}. {test['summary'].split('. ')[0]}."


def _said_of_end(figures: Figures) -> str:
    champion = figures["champion"]
    stands = f"version {champion} is champion" if champion else "no version became champion"
    approved = [d for d in figures["decisions"] if d.get("decision") == "approve"]
    who = f", approved by {approved[-1]['name']}" if approved and champion else ""
    trace = figures["trace"]
    if "absent" in trace:
        return f"End: {stands}{who}."
    proof = "reproduced from the lake" if trace["reproduced"] else "NOT reproduced"
    return f"End: {stands}{who}; quote {trace['quote_id']} was traced to its raw frames and {proof}."


# -- models -----------------------------------------------------------------------------------------------------------


def display(model: str) -> str:
    """A model's name for people."""
    return TITLES.get(model, model)


def title_of(model: Figures) -> str:
    """Version or, unregistered, run."""
    return f"Version {model['version']}" if model["version"] else f"Run {model['run_id'][:8]} (not registered)"


def refused(model: Figures) -> str:
    """Why the gate of the evaluation said no; empty where it said yes or was not asked."""
    return "; ".join(model["evaluation"].get("refusals") or ())


def ranking(evaluation: Figures) -> list[Figures]:
    """Models by log-loss, best first."""
    return sorted(evaluation["models"], key=lambda m: float(m["log_loss"]))


def is_network(judged: Figures) -> bool:
    """Whether it is the network that the others are held against."""
    return judged["network_less_this"] is None


def against(judged: Figures) -> str:
    """The network beside another model, in words."""
    gap = judged["network_less_this"]
    if gap is None:
        return ""
    return f"{gap['mean']:+.4f}  [{gap['low']:+.4f}, {gap['high']:+.4f}]  {told(judged)}"


def told(judged: Figures) -> str:
    """Whether the network and another model can be told apart at all."""
    gap = judged["network_less_this"]
    if gap is None or gap["low"] <= 0 <= gap["high"]:
        return "not told apart"
    return "network better" if gap["high"] < 0 else "network worse"


def by_head(evaluation: Figures, figure: str) -> list[dict[str, Any]]:
    """A row for each head and horizon: its label, each model's ``figure``, and which model is best."""
    models = [m["model"] for m in ranking(evaluation)]
    scores = {(m["model"], s["head"], s["horizon"]): s for m in evaluation["models"] for s in m["scores"]}
    rows = []
    for head, words in HEADS.items():
        for horizon in HORIZON_NAMES:
            cells = [scores.get((model, head, horizon), {}).get(figure) for model in models]
            known = [c for c in cells if c is not None]
            if known:
                best = min(known) if figure == "log_loss" else max(known)
                level = len(set(known)) == 1 and len(known) > 1
                rows.append({"label": f"{words} {horizon}", "cells": cells, "best": best, "level": level})
    return rows


def curves(evaluation: Figures, head: str) -> dict[str, Any]:
    """Calibration curves of the learned models for one head at the shown horizon."""
    wanted = (NETWORK, "LightGBM", "logistic regression", "champion")
    return {
        display(m["model"]): s["reliability"]
        for m in sorted(evaluation["models"], key=lambda m: _place(wanted, m["model"]))
        for s in m["scores"]
        if m["model"] in wanted and s["head"] == head and s["horizon"] == SHOWN
    }


def confusions(evaluation: Figures) -> dict[str, Any]:
    """Confusion matrices of the direction at the shown horizon, rules beside models."""
    wanted = (NETWORK, "LightGBM", "logistic regression", "champion", "imbalance rule", "last move rule")
    return {
        display(m["model"]): s["confusion"]
        for m in sorted(evaluation["models"], key=lambda m: _place(wanted, m["model"]))
        for s in m["scores"]
        if m["model"] in wanted and s["head"] == "direction" and s["horizon"] == SHOWN
    }


def _place(order: Sequence[str], name: str) -> int:
    return order.index(name) if name in order else len(order)


# -- captions ---------------------------------------------------------------------------------------------------------


def drift_caption(found: Figures) -> str:
    """What the drift picture says."""
    share = (
        f"in the newest one {100 * found['share']:.0f} % of the signals lie beyond their thresholds, strength "
        f"{found['strength']:.2f}"
    )
    rule = f"alarm: {found['k']} of the last {found['n']} windows, the newest among them, that have a drift in common"
    if found["drifted"]:
        seconds = (found["until_ns"] - found["since_ns"]) / NS_PER_S
        said = f"Drift, since {seconds:.0f} s of market time before the end"
    else:
        said = "No drift"
    return f"{said}: {found['violated']} of {found['windows']} windows violated, {share} ({rule})."


def latency_caption(figures: Figures) -> str:
    """What the latency picture says."""
    shown = {name: one for name, one in figures["latency"].items() if isinstance(one, Mapping)}
    parts = [
        f"{name[0].upper()}{name[1:]}: p50 {microseconds(one['p50_us'])}, p99 {microseconds(one['p99_us'])}, p99.9 "
        f"{microseconds(one['p999_us'])} of {one['samples']:,} steps"
        for name, one in shown.items()
    ]
    return ". ".join([*parts, ""]).strip()


def quotes_caption(stretch: Figures) -> str:
    """What the stretch of quotes shows."""
    fills = f"{len(stretch['fills'])} fills" if stretch["fills"] else "no fill"
    return (
        f"{stretch['seconds'][-1] - stretch['seconds'][0]:.0f} s of session {stretch['session']}: {stretch['quotes']} "
        f"quotes, {stretch['moved']} of them moved on the model's word (shaded: widened, shrunk or pulled), {fills}. "
        "The stretch was picked because it shows both; it is not an average one."
    )


def caveats(figures: Figures) -> list[str]:
    """What the data of this run cannot carry."""
    said = []
    if figures["kind"] == "simulated":
        said.append(
            "The market is a simulation with a signal planted in it. The figures show that the machinery works; they "
            "say nothing about what any model would earn on a real market."
        )
    else:
        said.append(
            "A recording cannot answer orders: no fill, no spread earned and no inventory is claimed anywhere. The "
            "test of challenger against champion compares what both said on the same rows, and nothing else."
        )
    for model in figures["models"]:
        evaluation = model["evaluation"]
        seconds = (evaluation["last_ns"] - evaluation["first_ns"]) / NS_PER_S
        if seconds < SHORT_TEST_S:
            said.append(
                f"{title_of(model)} was tested on {evaluation['rows']:,} rows of {seconds:,.0f} s: one short stretch "
                "of one market, neighbours strongly alike. Intervals are by blocks and still wide."
            )
    test = figures["compare"]
    if "absent" not in test and test["fills"] and test["pairs"] < FEW_PAIRS:
        said.append(
            f"{test['pairs']} pairs of blocks carry little about money: a guardrail that was not breached was often "
            "not able to be."
        )
    not_judged = sorted({name for d in figures["drift"] for name in d["not_judged"]})
    if not_judged:
        said.append(
            f"Drift of {', '.join(not_judged)} was not judged: unknown in service, or the reference is too short or "
            "too even to know their usual range."
        )
    said.append(
        "Latencies are of this machine while it did everything else too, without real-time priority: the p99 is mostly "
        "the scheduler's."
    )
    return said


def minute_of(batch: int) -> str:
    """Start of a batch of the lake, UTC."""
    return time_of(batch * BATCH_NS)


def time_of(ns: int) -> str:
    """UTC, to the second."""
    return datetime.fromtimestamp(ns / NS_PER_S, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
