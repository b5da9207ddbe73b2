"""Run the benchmarks and write the day's page, docs/benchmarks/<date>.md and .json; see :mod:`bench.page`.

Each part is a module here with ``run() -> dict``: ``title``, ``rows`` (what, value, unit, peer, peer_value, ratio,
goal) and ``notes``; where it has them, ``page(found)`` are the lines below its table, and ``lacks()`` says what is not
installed that it needs. Figures are of this machine on that day; what travels between machines are the ratios. A word
that is no part's name is given to ``run`` of the part before it: ``python -m bench peers FILE``.

What a part measured is written before the next one begins. A part that fails is named at the end, with exit code 1; one
that lacks something is left out and named, which is an error only where it was asked for by name.
"""

from __future__ import annotations

import datetime
import importlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import machine
from bench.page import DayPage, table

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "benchmarks"
PARTS = ("frames", "features", "hotpath", "kafka", "training")
LONG = ("ab", "day", "drift", "lake", "latency", "parquet", "peers")  # run when named


def main(words: list[str], *, find: Callable[[str], Any] | None = None, folder: Path = FOLDER) -> int:
    """0, or 1 where a part was not measured that should have been."""
    missed = []
    for name, given in (_asked(words) or {part: [] for part in PARTS}).items():
        print(f"{name} ...", flush=True)
        about = {"commit": machine.commit(), "machine": machine.name(), "load": machine.load()}
        about["command"] = f"python -m bench {name}" if words else "make bench"
        found, why, failed = _measure(name, given, find or _module)
        page = DayPage(folder=folder, date=datetime.datetime.now(tz=datetime.UTC).date().isoformat())
        if found is None:
            page.put_off(name, why)
            print(f"{name}: {why}", file=sys.stderr, flush=True)
            missed += [name] if failed or words else []
        else:
            page.put(name, found, about)
            print(f"{table(found)}\nwrote docs/benchmarks/{page.path.name}", flush=True)
    if missed:
        print(f"not measured: {', '.join(missed)} (see above)", file=sys.stderr)
    return 1 if missed else 0


def _measure(name: str, given: list[str], find: Callable[[str], Any]) -> tuple[dict[str, Any] | None, str, bool]:
    """What was found, or None with why not and whether that is a failure.

    A page holds no path of this machine, as a message may: it names the error, the terminal shows all of it.
    """
    try:
        part = find(name)
        lacks = part.lacks() if hasattr(part, "lacks") else ""
        if lacks:
            return None, f"left out: {lacks}", False
        found = part.run(*given)
        return ({**found, "lines": part.page(found)} if hasattr(part, "page") else found), "", False
    except Exception as error:  # noqa: BLE001  # whatever a part dies of, the others are measured
        traceback.print_exc()
        return None, f"failed with {type(error).__name__}", True


def _module(name: str) -> Any:
    return importlib.import_module("bench.peers.compare" if name == "peers" else f"bench.{name}")


def _asked(words: list[str]) -> dict[str, list[str]]:
    """Names of parts with their arguments."""
    asked: dict[str, list[str]] = {}
    for word in words:
        if word in (*PARTS, *LONG):
            asked[word] = []
        elif asked:
            asked[list(asked)[-1]].append(word)
        else:
            raise SystemExit(f"expected a part ({', '.join([*PARTS, *LONG])}), saw {word!r}")
    return asked


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
