"""One page a day, ``<date>.md`` beside ``<date>.json``: a part is a section. A part that is measured again replaces its
own section and leaves the others as they are; one that could not be measured is named, and keeps what it had.

The page is written from the JSON, so that a part need not be loaded to keep its section.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from market.files import replacing


@dataclass(frozen=True, kw_only=True)
class DayPage:
    """The page of ``date`` (YYYY-MM-DD) in ``folder``."""

    folder: Path
    date: str

    def put(self, name: str, found: dict[str, Any], about: dict[str, str]) -> None:
        """The section of a part: what its ``run`` returned (``title``, ``notes``, ``rows`` if it has a table, ``lines``
        below it), and of which commit, machine, load and command that is."""
        day = self._read()
        day["parts"][name] = {"about": about, **found}
        day["not_measured"].pop(name, None)
        self._write(day)

    def put_off(self, name: str, why: str) -> None:
        """Note why a part was not measured now; a section it has stays."""
        day = self._read()
        day["not_measured"][name] = why
        self._write(day)

    @property
    def path(self) -> Path:
        return self.folder / f"{self.date}.md"

    def _read(self) -> dict[str, Any]:
        file = self.path.with_suffix(".json")
        day: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {"date": self.date, "parts": {}}
        day.setdefault("not_measured", {})
        # before this module, a page had one commit and machine for all its parts
        whole = {key: day.pop(key) for key in ("commit", "machine", "load") if key in day}
        for part in day["parts"].values():
            part.setdefault("about", {**whole, "command": "make bench"})
        return day

    def _write(self, day: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.path.with_suffix(".json")) as draft:
            draft.write_text(json.dumps(day, indent=1) + "\n")
        with replacing(self.path) as draft:
            draft.write_text("\n".join(_page(day)))


def table(part: dict[str, Any]) -> str:
    """The rows of a part: what was measured, beside its peer."""
    lines = ["| what | measured | peer | peer's figure | ratio | goal |", "|---|---|---|---|---|---|"]
    return "\n".join([*lines, *(_line(row) for row in part["rows"])])


def _page(day: dict[str, Any]) -> list[str]:
    lines = [f"# Benchmarks of {day['date']}", ""]
    for part in day["parts"].values():
        lines += [f"## {part['title']}", "", _about(part["about"]), ""]
        lines += [table(part), ""] if part.get("rows") else []
        lines += [*(f"* {note}" for note in part["notes"]), ""] if part["notes"] else []
        # a part's own headings are below its title
        lines += [f"#{line}" if line.startswith("## ") else line for line in part.get("lines", [])]
    if day["not_measured"]:
        lines += ["## Not measured", "", *(f"* {name}: {why}" for name, why in day["not_measured"].items()), ""]
    return lines


def _about(about: dict[str, str]) -> str:
    load = f"; the load average when it began was {about['load']}" if "load" in about else ""
    return f"Commit `{about['commit']}`, {about['machine']}{load}. Written by `{about['command']}`."


def _line(row: dict[str, Any]) -> str:
    peer = f"{row.get('peer', '-')} | {_number(row.get('peer_value'))} | {_number(row.get('ratio'))}"
    return f"| {row['what']} | {row['value']:,.6g} {row['unit']} | {peer} | {row.get('goal', '-')} |"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}"
