"""What a report is about, read from what the run left behind: one dictionary that report.json is, and the pages show.

Every part is a dictionary of figures, or ``{"absent": "a sentence that says why"}``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from market.errors import InputError, KeelError
from pipelines.experiments.compare import COMPARE_FILE
from pipelines.governance import audit
from pipelines.reports import market_figures
from pipelines.workspace import Workspace

Figures = dict[str, Any]
Entries = Sequence[Mapping[str, Any]]


def absent(why: str) -> Figures:
    """A part that is not there, and why."""
    return {"absent": why}


def read_story(workspace: Workspace) -> tuple[str, list[dict[str, Any]]]:
    """Kind ("simulated" or "recorded") and entries.

    Raises:
        InputError: there is no story, or it is not one.
    """
    path = workspace.story
    try:
        story = orjson.loads(path.read_bytes())
        kind, entries = str(story["kind"]), list(story["entries"])
    except FileNotFoundError:
        raise InputError(f"expected {path}, which a run of the ring writes, saw none; run keel demo first") from None
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not the story of a run ({error}); run keel demo again") from None
    if not entries:
        raise InputError(f"{path} tells of nothing yet; run keel demo again")
    return kind, entries


def gather(workspace: Workspace) -> Figures:
    """All figures.

    Raises:
        InputError: there is no story of a run.
    """
    kind, entries = read_story(workspace)
    instrument = _instrument(entries)
    figures: Figures = {
        "kind": kind,
        "instrument": instrument,
        "made_ns": workspace.clock.now_ns(),
        "home": str(workspace.home),
        "tracking": workspace.tracking,
        "timeline": [{key: e[key] for key in ("stage", "line", "seconds", "started_ns")} for e in entries],
        "data": _data(workspace, entries),
        "models": _models(workspace, entries),
        "drift": _drift(entries),
        "latency": market_figures.latency(workspace, instrument, _results(entries, "serve")),
        "deploys": _results(entries, "deploy"),
        "compare": _compare(workspace, entries),
        "trace": _trace(entries),
        "decisions": _decisions(workspace),
        "promotions": _results(entries, "promote"),
        "market_events": [e["line"] for e in entries if e["stage"] == "market"],
        "mails": _results(entries, "notify"),
    }
    figures["quotes"] = market_figures.quotes(workspace, instrument, _session_to_show(figures, entries))
    figures["quote_id"] = figures["trace"].get("quote_id", "")
    figures["verdict"] = figures["compare"].get("verdict", "")
    figures["champion"] = _champion(figures)
    return figures


def _results(entries: Entries, stage: str) -> list[dict[str, Any]]:
    return [dict(e["result"]) for e in entries if e["stage"] == stage]


def _instrument(entries: Entries) -> str:
    for entry in entries:
        if entry["result"].get("instrument"):
            return str(entry["result"]["instrument"])
    return ""


def _data(workspace: Workspace, entries: Entries) -> Figures:
    landed = [one for result in _results(entries, "ingest") for one in result.get("landed", ())]
    judged = _results(entries, "validate")
    if not landed and not judged:
        return absent("nothing was landed in this run")
    reasons: dict[str, int] = {}
    for result in judged:
        for reason, count in result.get("reasons", {}).items():
            reasons[reason] = reasons.get(reason, 0) + count
    return {
        "sources": landed,
        "minutes_judged": sum(r.get("judged", 0) for r in judged),
        "minutes_passed": sum(r.get("passed", 0) for r in judged),
        "reasons": reasons,
        "quarantine": market_figures.quarantine(workspace),
        "datasets": _results(entries, "featurize"),
        "sessions": _results(entries, "serve"),
        "skew": _results(entries, "skew"),
    }


def _models(workspace: Workspace, entries: Entries) -> list[Figures]:
    """Every evaluated run in order, with its version where it was registered."""
    versions = {r["run_id"]: r["version"] for r in _results(entries, "register")}
    versions |= {r["run_id"]: r["version"] for r in _results(entries, "retrain") if r.get("version")}
    precisions = {r["run_id"]: r["precision"] for r in _results(entries, "export")}
    runs = [r["run_id"] for stage in ("evaluate", "retrain") for r in _results(entries, stage)]
    found = []
    for run in dict.fromkeys(runs):
        path = workspace.runs / run / "evaluation.json"
        if path.is_file():
            evaluation = orjson.loads(path.read_bytes())
            said = {"run_id": run, "version": versions.get(run), "precision": precisions.get(run, "")}
            found.append({**said, "evaluation": evaluation})
    return found


def _drift(entries: Entries) -> list[Figures]:
    found = []
    for result in _results(entries, "monitor"):
        path = Path(str(result["path"]))
        if path.is_file():
            found.append(orjson.loads(path.read_bytes()))
    return found


def _compare(workspace: Workspace, entries: Entries) -> Figures:
    results = _results(entries, "compare")
    path = workspace.reports / str(results[-1]["compare_id"]) / COMPARE_FILE if results else None
    if path is None or not path.is_file():
        return absent("champion and challenger were not compared in this run")
    compared: Figures = orjson.loads(path.read_bytes())
    return compared


def _trace(entries: Entries) -> Figures:
    results = _results(entries, "trace")
    return results[-1] if results else absent("no quote was traced in this run")


def _decisions(workspace: Workspace) -> list[Figures]:
    path = audit.path_of(workspace)
    try:
        return [{"time_ns": e.time_ns, "kind": e.kind, "digest": e.digest, **e.what} for e in audit.read(path)]
    except KeelError as error:
        return [{"time_ns": 0, "kind": "broken", "digest": "", "reason": str(error)}]


def _session_to_show(figures: Figures, entries: Entries) -> str:
    """The session of the traced quote, else the last one."""
    traced = figures["trace"].get("quote", {}).get("session", "")
    served = [str(r["session"]) for r in _results(entries, "serve")]
    return str(traced) or (served[-1] if served else "")


def _champion(figures: Figures) -> int | None:
    promoted = [p["version"] for p in figures["promotions"]]
    return int(promoted[-1]) if promoted else None
