"""Text of the alert mails. About a drift: what moved, by how much, since when, what is being done, how to
acknowledge it. About failing checks of latency and integrity: which, and by how much.

One template for the first mail, the one that escalates it and the one that reports the safe state: later recipients
get all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from market.clock import NS_PER_S, utc
from pipelines import links
from pipelines.alerting.mail import Letter
from pipelines.workspace import Workspace

ALERT_HEADER: Final = "X-Keel-Alert"  # "drift" or "checks" for the first mail, which an acknowledgement refers to
MONITOR_HEADER: Final = "X-Keel-Monitor"
EVENT_HEADER: Final = "X-Keel-Event"
DRIFT: Final = "drift"
CHECKS: Final = "checks"
FIRST: Final = (DRIFT, CHECKS)  # kinds of alerts


@dataclass(frozen=True, kw_only=True)
class Later:
    """What makes a letter a later one about the same event: its ``alert``, a sentence above everything else, its
    subject, and the Message-ID of the first."""

    alert: str
    urgent: str
    subject: str
    answers: str


def letter(workspace: Workspace, found: Mapping[str, Any], *, doing: str, later: Later | None = None) -> Letter:
    """The letter about what a monitor run ``found``; ``doing``: what the system does about it."""
    event, picture = str(found["event_id"]), Path(found["picture"])
    headers = {ALERT_HEADER: DRIFT, EVENT_HEADER: event, MONITOR_HEADER: str(found["monitor_id"])}
    if later is not None:
        headers |= {ALERT_HEADER: later.alert, "In-Reply-To": later.answers, "References": later.answers}
    return Letter(
        key=f"{event}.{later.alert}" if later else event,
        subject=later.subject if later else drift_subject(found),
        template="mail",
        facts={**_facts(workspace, found, event), "doing": doing, "urgent": later.urgent if later else ""},
        picture=picture if picture.is_file() else None,
        headers=headers,
    )


def drift_subject(found: Mapping[str, Any]) -> str:
    """Instrument, windows, the signal that is furthest out."""
    first = found["top"][0]["name"] if found["top"] else "no single signal"
    return f"Drift on {found['instrument']}: {found['violated']} of {found['windows']} windows, first {first}"


def checks_letter(workspace: Workspace, found: Mapping[str, Any], *, later: Later | None = None) -> Letter:
    """The letter about the failing checks of a monitor run. No retraining follows: what is broken is repaired."""
    event = str(found["alert_id"])
    headers = {ALERT_HEADER: CHECKS, EVENT_HEADER: event, MONITOR_HEADER: str(found["monitor_id"])}
    if later is not None:
        headers |= {ALERT_HEADER: later.alert, "In-Reply-To": later.answers, "References": later.answers}
    return Letter(
        key=f"{event}.{later.alert}" if later else event,
        subject=later.subject if later else checks_subject(found),
        template="checks",
        facts={**_facts(workspace, found, event), "event": event, "urgent": later.urgent if later else ""},
        headers=headers,
    )


def checks_subject(found: Mapping[str, Any]) -> str:
    """Instrument, and the checks that fail."""
    return f"Failing checks on {found['instrument']}: {', '.join(_failing(found, 'fail'))}"


def subject_of(kind: str, found: Mapping[str, Any]) -> str:
    """The subject of an alert's first mail."""
    return checks_subject(found) if kind == CHECKS else drift_subject(found)


def _failing(found: Mapping[str, Any], verdict: str) -> list[str]:
    return [str(each["name"]) for each in found.get("checks") or () if each["verdict"] == verdict]


def _facts(workspace: Workspace, found: Mapping[str, Any], event: str) -> dict[str, Any]:
    def within(path: str) -> str:
        place = Path(path)
        return str(place.relative_to(workspace.home)) if place.is_relative_to(workspace.home) else path

    return {
        **found,
        "since": utc(found["since_ns"]),
        "until": utc(found["until_ns"]),
        "seconds": (found["until_ns"] - found["since_ns"]) / NS_PER_S,
        "evidently_file": within(found["evidently"]),
        "figures_file": within(found["path"]),
        "failing": [each for each in found.get("checks") or () if each["verdict"] in ("warn", "fail")],
        "pages": _pages(workspace, found, event),
    }


def _pages(workspace: Workspace, found: Mapping[str, Any], event: str) -> dict[str, str]:
    """Title to address; missing links are left out."""
    screen = f"{workspace.airflow_url}/dags/acknowledge_drift/runs/{event}/required_actions"
    pages = {
        "Acknowledge in Airflow": screen if workspace.airflow_url else "",
        "Airflow run": workspace.airflow_run,
        "Model version in MLflow": links.version_page(workspace, found["instrument"], found["model_version"]),
        "Report in MLflow": links.without_login(str((found.get("links") or {}).get("page", ""))),
    }
    return {title: url for title, url in pages.items() if url.startswith(("http://", "https://"))}
