"""Damaged frames guided by coverage: atheris (libFuzzer) drives every parser, each in its own process, from the good
frames.

``python -m bench.fuzz.coverage --runs 20000 --seed 7 --corpus FOLDER``. An input is a session: frames with
:data:`BETWEEN` between them. libFuzzer is the watchdog: an input that takes longer than ``--patience`` seconds or more
than 2 GiB ends its process, as does a broken invariant, and is left in the folder as ``crash-...``, ``timeout-...`` or
``oom-...``. A run with the same folder continues from what it holds.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

BETWEEN = b"\n\xff\xfe\n"

_MARKET = Path(__file__).resolve().parents[2] / "market"
_LONGEST = 4_096
_WRITE_EVERY = 500
_FINAL = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)")


def fuzz(name: str, folder: Path, words: list[str]) -> None:
    """Fuzz one parser in this process; does not return."""
    import atheris

    with atheris.instrument_imports(include=["market"], exclude=_compiled()):
        from bench.fuzz import seeds
        from bench.fuzz.oracle import Judge
        from market.venues import binance
    for method, function in list(vars(binance.Parser).items()):
        if callable(function):
            setattr(binance.Parser, method, atheris.instrument_func(function))
    mine = [each for each in seeds.hand_made() if each.venue.name == name]
    for n, each in enumerate(mine):
        (folder / f"seed{n}").write_bytes(BETWEEN.join(each.frames)[:_LONGEST])
        for i, frame in enumerate(each.frames):
            (folder / f"seed{n}-{i}").write_bytes(frame[:_LONGEST])
    counts: dict[str, Any] = {"sessions": 0, "frames": 0, "outcomes": {}}
    counts_file = folder.parent / f"{name}.json"

    def one(data: bytes) -> None:
        judge = Judge(mine[len(data) % len(mine)])
        for frame in data.split(BETWEEN)[:64]:
            word = judge.feed(frame)
            counts["frames"] += 1
            counts["outcomes"][word] = counts["outcomes"].get(word, 0) + 1
        judge.landed()
        counts["sessions"] += 1
        if counts["sessions"] % _WRITE_EVERY == 0:
            counts_file.write_text(json.dumps(counts))

    atheris.Setup([sys.argv[0], *words, str(folder)], one)
    atheris.Fuzz()


def _compiled() -> list[str]:
    """Modules whose bytecode numba reads: it must stay as it is."""
    paths = [path for path in _MARKET.rglob("*.py") if "import compiled" in path.read_text()]
    return [".".join(path.relative_to(_MARKET.parent).with_suffix("").parts) for path in paths]


def campaign(said: argparse.Namespace, names: list[str]) -> list[dict[str, Any]]:
    """One parser after the other, each in its own process; returns the outcome of each."""
    found = []
    for name in names:
        folder = said.corpus / name
        folder.mkdir(parents=True, exist_ok=True)
        flags = [
            f"-runs={said.runs}", f"-seed={said.seed}", f"-timeout={said.patience}", "-rss_limit_mb=2048",
            f"-max_len={_LONGEST}", f"-artifact_prefix={folder.parent}/{name}-", "-print_final_stats=1",
        ]  # fmt: skip
        command = [sys.executable, "-m", "bench.fuzz.coverage", "--one", name, "--corpus", str(said.corpus), "--"]
        began = time.monotonic()
        done = subprocess.run([*command, *flags], capture_output=True, text=True, errors="replace", check=False)
        covered = _FINAL.findall(done.stderr)
        counted = folder.parent / f"{name}.json"
        counts = json.loads(counted.read_text()) if counted.exists() else {}
        found.append({
            "name": name, "code": done.returncode, "seconds": round(time.monotonic() - began),
            "first": covered[0] if covered else None, "last": covered[-1] if covered else None, **counts,
        })  # fmt: skip
        print(_line(found[-1]), flush=True)
        if done.returncode:
            print("\n".join(done.stderr.splitlines()[-25:]), flush=True)
    return found


def _line(each: dict[str, Any]) -> str:
    first, last = each["first"] or ("?",) * 3, each["last"] or ("?",) * 3
    refused = sum(n for word, n in each.get("outcomes", {}).items() if word not in ("events", "nothing"))
    what = "nothing found" if each["code"] == 0 else f"ENDED WITH {each['code']}"
    counted = f"{each.get('sessions', 0):,} | {each.get('frames', 0):,} | {refused:,}"
    return f"| {each['name']} | {counted} | {first[0]} to {last[0]} | {last[2]} | {what} |"


def main() -> int:
    """0 if nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m bench.fuzz.coverage", description=__doc__)
    parser.add_argument("--runs", type=int, default=20_000, help="inputs per parser")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--patience", type=int, default=20, help="seconds allowed for an input")
    parser.add_argument("--corpus", type=Path, required=True, help="where inputs are kept")
    parser.add_argument("--venue", action="append", help="this parser, not all of them")
    parser.add_argument("--one", help="fuzz this parser in this process, with libFuzzer's own flags")
    parser.add_argument("--page", type=Path, help="append the table to this page")
    parser.add_argument("flags", nargs="*", help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.one:
        fuzz(said.one, said.corpus / said.one, said.flags)
    names = said.venue or subprocess.run(
        [sys.executable, "-c", "from market.venues.registry import VENUES\nfor v in VENUES: print(v.name)"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    found = campaign(said, names)
    if said.page:
        command = f"python -m bench.fuzz.coverage --runs {said.runs} --seed {said.seed}"
        table = [
            "", "## Guided by coverage", "", f"`{command}`; an input is a session of up to 64 frames.", "",
            "| parser | inputs | frames | refused | edges covered, first to last | kept inputs | found |",
            "|---|---|---|---|---|---|---|", *map(_line, found), "",
        ]  # fmt: skip
        with said.page.open("a") as file:
            file.write("\n".join(table))
    return max((1 for each in found if each["code"]), default=0)


if __name__ == "__main__":
    sys.exit(main())
