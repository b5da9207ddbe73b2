"""What a scheduler asks before it runs a stage: which instruments, which day, may it, is it whose turn.

Only DAG files import this.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from market.clock import NS_PER_S
from market.errors import SettingsError
from pipelines import in_service, settings, stages

DAY_NS = 86_400 * NS_PER_S


def to_judge(landed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the quality gate should look at, one configuration of validate an instrument: the sources that ``landed``
    names (results of ingest), and of every other instrument in the lake whatever was not judged yet."""
    from market.lake.lake import Lake

    named: dict[str, list[str]] = {}
    for each in (one for result in landed for one in result["landed"]):
        named.setdefault(each["instrument"], []).append(each["source"])
    others = set(Lake(settings.workspace().lake).newest("ticks")) - set(named)
    return [{"instrument": key, "sources": named.get(key, [])} for key in sorted({*named, *others})]


def bounds_of(day: str | None) -> dict[str, int]:
    """A day in UTC as ``start_ns`` and ``end_ns``; nothing of no day.

    Raises:
        SettingsError: not a date.
    """
    if not day:
        return {}
    try:
        start = datetime.fromisoformat(day).replace(tzinfo=UTC)
    except ValueError:
        raise SettingsError(f"expected a day such as 2026-01-31, saw {day!r}") from None
    start_ns = int(start.timestamp()) * NS_PER_S
    return {"start_ns": start_ns, "end_ns": start_ns + DAY_NS}


def instruments_in_service() -> list[str]:
    """Instruments with a champion, for a scheduler that looks after each."""
    return in_service.instruments(settings.workspace())


def under_test() -> list[str]:
    """Instruments with a champion and a challenger about which nobody has decided."""
    from pipelines.governance.approve import undecided

    served = instruments_in_service()
    return [key for key in undecided(settings.workspace()) if key in served]


def may_retrain(instrument: str) -> tuple[bool, str]:
    """Whether the last retraining of an instrument is long enough ago, and why not."""
    from pipelines.models.cooldown import admission

    answer = admission(settings.workspace(), instrument, _retraining().cool_down_seconds)
    return answer.admitted, answer.why


def begin_retraining(instrument: str, trigger: str, *, asked_by_a_person: bool) -> tuple[bool, str]:
    """Begin a retraining, or resume it; whether it may, and why not. No cool-down holds up a person, and an
    instrument's first model is no retraining. One that begins is in the audit record, with its trigger."""
    from pipelines.governance import audit
    from pipelines.models.cooldown import admit

    if instrument not in instruments_in_service():
        return True, ""
    workspace = settings.workspace()
    cool_down = 0.0 if asked_by_a_person else _retraining().cool_down_seconds
    answer = admit(workspace, instrument, trigger, cool_down_seconds=cool_down)
    if answer.admitted:
        what = {"instrument": instrument, "note": trigger}
        audit.append_once(audit.path_of(workspace), clock=workspace.clock, kind="retraining", what=what, about="note")
    return answer.admitted, answer.why


def learned_from() -> dict[str, float | None]:
    """What a retraining's dataset is cut from: the newest so many seconds, or all there is."""
    return {"last_seconds": _retraining().last_seconds}


def take_turn(instrument: str, run: str, *, is_running: Callable[[str], bool]) -> str:
    """Whether a run about an instrument may go on, has to wait, or is to leave (see approval_queue)."""
    from pipelines.orchestration import approval_queue

    return approval_queue.take_turn(settings.workspace(), instrument, run, is_running=is_running)


def _retraining() -> Any:
    return settings.stage_config("retrain", stages.table()["retrain"].config, {})
