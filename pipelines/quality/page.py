"""The page of the quality gate: which minutes were warned of or held, why, and how near the rest came to the limits.

It needs nothing from outside, unlike the data docs it links to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from market.clock import NS_PER_S
from market.files import replacing
from market.quality.rules import PASS, QUARANTINE, RULES, WARN, Rule, Verdict

if TYPE_CHECKING:
    from pipelines.quality.expectations import Sheet, Verdicts

PAGE: Final = Path("quality", "index.html")  # under the workspace's home
_TEMPLATE: Final = Path(__file__).with_name("page.html.j2")
_MOST_ROWS: Final = 200  # a source; those in quarantine are always shown


def write(path: Path, sheets: Sequence[Sheet], verdicts: Sequence[Verdicts], *, now_ns: int) -> None:
    """Write the page of these sources over ``path``."""
    import jinja2

    template = jinja2.Template(_TEMPLATE.read_text(), autoescape=True, undefined=jinja2.StrictUndefined)
    told = [_sheet(sheet, said) for sheet, said in zip(sheets, verdicts, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        draft.write_text(template.render(made=_minute(now_ns), sheets=told))


def _sheet(sheet: Sheet, said: Verdicts) -> dict[str, Any]:
    worst = {batch: _worst(said[batch]) for batch, _ in sheet.batches}
    counts = Counter(worst.values())
    rows = [_row(sheet, i, said) for i, (batch, _) in enumerate(sheet.batches) if worst[batch] != PASS]
    held = [row for row in rows if row["verdict"] == QUARANTINE]
    warned = [row for row in rows if row["verdict"] == WARN]
    shown = warned[-max(0, _MOST_ROWS - len(held)) :] if len(held) < _MOST_ROWS else []
    return {
        "instrument": sheet.instrument,
        "source": sheet.source,
        "minutes": len(sheet.batches),
        "passed": counts[PASS],
        "warned": counts[WARN],
        "held": counts[QUARANTINE],
        "rows": sorted([*held, *shown], key=lambda row: int(row["batch"]), reverse=True),
        "more": len(warned) - len(shown),
        "rules": [_rule(sheet, rule, said) for rule in RULES],
    }


def _worst(broken: dict[str, Verdict]) -> Verdict:
    return QUARANTINE if QUARANTINE in broken.values() else WARN if broken else PASS


def _row(sheet: Sheet, i: int, said: Verdicts) -> dict[str, Any]:
    batch, measured = sheet.batches[i]
    broken = [
        {
            "rule": rule.name,
            "verdict": verdict,
            "value": _number(measured.values[rule.figure]),
            "unit": rule.unit,
            "limit": _number(sheet.limits.of(rule).hold if verdict == QUARANTINE else sheet.limits.of(rule).warn),
            "says": rule.says,
        }
        for rule in RULES
        if (verdict := said[batch].get(rule.name))
    ]
    return {"minute": _minute(measured.first_ns), "batch": batch, "verdict": _worst(said[batch]), "broken": broken}


def _rule(sheet: Sheet, rule: Rule, said: Verdicts) -> dict[str, Any]:
    limit = sheet.limits.of(rule)
    found = Counter(broken[rule.name] for broken in said.values() if rule.name in broken)
    return {
        "rule": rule.name,
        "says": rule.says,
        "unit": rule.unit,
        "warn": _number(limit.warn),
        "hold": _number(limit.hold),
        "largest": _number(max(each.values[rule.figure] for _, each in sheet.batches)),
        "warned": found[WARN],
        "held": found[QUARANTINE],
    }


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _minute(ns: int) -> str:
    return datetime.fromtimestamp(ns // NS_PER_S, tz=UTC).strftime("%Y-%m-%d %H:%M")
