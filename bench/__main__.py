"""Run the benchmarks and write docs/benchmarks/<date>.md and .json with commit and machine.

Each module here has ``run() -> dict``: ``title``, ``rows`` (what, value, unit, peer, peer_value, ratio, goal) and
``notes``. Figures hold for this machine on that day; only the ratios carry over to other machines. A word that is not a
part's name is passed to ``run`` of the part before it: ``python -m bench peers FILE``.
"""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path
from typing import Any

from bench import ab, day, drift, features, frames, hotpath, kafka, lake, latency, machine, parquet, training
from bench.peers import compare as peers

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "benchmarks"
PARTS = {"frames": frames, "features": features, "hotpath": hotpath, "kafka": kafka, "training": training}


LONG = {
    "ab": ab,
    "day": day,
    "drift": drift,
    "lake": lake,
    "latency": latency,
    "parquet": parquet,
    "peers": peers,
}  # run only when named, each with its own page


def main(words: list[str]) -> None:
    found, load = {}, machine.load()
    for name, given in (_asked(words) or {part: [] for part in PARTS}).items():
        print(f"{name} ...", flush=True)
        found[name] = {**PARTS, **LONG}[name].run(*given)
        print(_table(found[name]), flush=True)
        if name in LONG:
            _write({name: found[name]}, load, name)
    if not words:
        _write(found, load)


def _asked(words: list[str]) -> dict[str, list[str]]:
    """Names of parts with their arguments."""
    asked: dict[str, list[str]] = {}
    for word in words:
        if word in PARTS or word in LONG:
            asked[word] = []
        elif asked:
            asked[list(asked)[-1]].append(word)
        else:
            raise SystemExit(f"expected a part ({', '.join([*PARTS, *LONG])}), saw {word!r}")
    return asked


def _write(found: dict[str, Any], load: str, name: str = "") -> None:
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat() + (name and f"-{name}")
    about = {"date": today, "commit": machine.commit(), "machine": machine.name(), "load": load}
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{today}.json").write_text(json.dumps({**about, "parts": found}, indent=1) + "\n")
    command = f"python -m bench {name}" if name else "make bench"
    page = [
        f"# Benchmarks of {today}",
        "",
        f"Commit `{about['commit']}`, {about['machine']}; load average {load} at the start. Written by `{command}`.",
        "",
    ]
    for part in found.values():
        page += [f"## {part['title']}", "", _table(part), "", *(f"* {note}" for note in part["notes"]), ""]
    if name:
        page += LONG[name].page(found[name])
    (FOLDER / f"{today}.md").write_text("\n".join(page))
    print(f"wrote docs/benchmarks/{today}.md")


def _table(part: dict[str, Any]) -> str:
    lines = ["| what | measured | peer | peer's figure | ratio | goal |", "|---|---|---|---|---|---|"]
    return "\n".join([*lines, *(_line(row) for row in part["rows"])])


def _line(row: dict[str, Any]) -> str:
    peer = f"{row.get('peer', '-')} | {_number(row.get('peer_value'))} | {_number(row.get('ratio'))}"
    return f"| {row['what']} | {row['value']:,.6g} {row['unit']} | {peer} | {row.get('goal', '-')} |"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}"


if __name__ == "__main__":
    main(sys.argv[1:])
