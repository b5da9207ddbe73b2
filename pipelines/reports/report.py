"""The report of a run: one page a quant would want, with its pictures inside, and the same figures for programs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from market.files import replacing
from pipelines.settings import StageConfig
from pipelines.workspace import Workspace, tracked

PAGE = "report.html"
FIGURES = "report.json"
TEMPLATES = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class ReportConfig(StageConfig):
    """``title`` stands at the top of the page."""

    title: str = "The life of a model"


@dataclass(frozen=True, kw_only=True)
class ReportResult:
    """Where the report lies, and what to try next."""

    page: str
    figures: str
    kind: str
    instrument: str
    verdict: str
    champion: int | None
    quote_id: str
    summary: tuple[str, ...]
    missing: tuple[str, ...]
    next_steps: tuple[str, ...]

    def line(self) -> str:
        without = f" without {', '.join(self.missing)}" if self.missing else ""
        return f"{self.page} and {FIGURES}{without}"


def report(config: ReportConfig, *, workspace: Workspace) -> ReportResult:
    """Write ``report.html`` and ``report.json`` under ``workspace.home``.

    Raises:
        InputError: there is no story of a run.
    """
    import orjson

    from pipelines.reports import sections
    from pipelines.reports.gather import gather

    with tracked(workspace.progress, "writing the report", 3) as progress:
        figures = gather(workspace)
        progress.advance(1)
        steps = _next_steps(workspace, figures)
        facts = {**figures, "summary": sections.summary(figures), "caveats": sections.caveats(figures)}
        page = _page(config.title, facts, steps)
        progress.advance(1)
        with replacing(workspace.home / FIGURES) as draft:
            options = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
            draft.write_bytes(orjson.dumps({**facts, "next_steps": steps}, default=str, option=options))
        with replacing(workspace.home / PAGE) as draft:
            draft.write_text(page)
        progress.advance(1)
    parts = ("data", "latency", "compare", "quotes", "trace")
    return ReportResult(
        page=str(workspace.home / PAGE),
        figures=str(workspace.home / FIGURES),
        kind=figures["kind"],
        instrument=figures["instrument"],
        verdict=figures["verdict"],
        champion=figures["champion"],
        quote_id=figures["quote_id"],
        summary=tuple(facts["summary"]),
        missing=tuple(name for name in parts if "absent" in figures[name]),
        next_steps=tuple(steps),
    )


def _next_steps(workspace: Workspace, figures: Mapping[str, Any]) -> list[str]:
    """Three commands that work after the run has ended, from the folder it was started in."""
    home = _from_here(workspace.home)
    on = "" if home == ".keel" else f"KEEL_HOME={shlex.quote(home)} "
    tools = _from_here(Path(sys.prefix) / "bin")
    steps = [
        f"{tools}/mlflow ui --backend-store-uri {shlex.quote(workspace.tracking)} --port 5001",
        f"{on}{tools}/keel triton",
    ]
    if figures["quote_id"]:
        steps.append(f"{on}{tools}/keel trace {figures['quote_id']}")
    return steps


def _from_here(path: Path) -> str:
    """Relative to the current folder where it lies in it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _page(title: str, facts: Mapping[str, Any], steps: list[str]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from pipelines.reports import sections

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["time"] = sections.time_of
    environment.filters["minute"] = sections.minute_of
    environment.filters["model"] = sections.display
    page = environment.get_template("report.html.j2")
    return page.render(title=title, f=facts, steps=steps, say=sections, pictures=_pictures(facts))


def _pictures(facts: Mapping[str, Any]) -> dict[str, Any]:
    """SVG of every part that is there."""
    from pipelines import charts
    from pipelines.reports import sections

    drawn: dict[str, Any] = {"timeline": _inline(charts.timeline(facts["timeline"]))}
    shown = {name: one for name, one in facts["latency"].items() if isinstance(one, Mapping)}
    if shown:
        drawn["latency"] = _inline(charts.latency(shown))
    if "absent" not in facts["compare"]:
        compared = facts["compare"]
        drawn["compare"] = _inline(charts.sequence_picture(compared["series"], alpha=compared["alpha"]))
    if "absent" not in facts["quotes"]:
        drawn["quotes"] = _inline(charts.quotes(facts["quotes"]))
    drawn["drift"] = [_inline(charts.drift_picture(found)) for found in facts["drift"]]
    drawn["models"] = []
    for model in facts["models"]:
        evaluation = model["evaluation"]
        direction, falls = (sections.curves(evaluation, head) for head in ("direction", "bid_falls"))
        matrices = sections.confusions(evaluation)
        drawn["models"].append(
            {
                "direction": _inline(charts.calibration(direction, title="direction, 500 ms")),
                "falls": _inline(charts.calibration(falls, title="bid depth falls, 500 ms")),
                "confusion": _inline(charts.confusion(matrices, ("down", "none", "up"))),
            }
        )
    return drawn


def _inline(svg: str) -> Any:
    """Our own drawing, to be put into the page as it is; matplotlib escapes the words in it."""
    from markupsafe import Markup

    return Markup(svg)  # noqa: S704
