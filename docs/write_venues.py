"""Writes docs/venues.md: every venue in the table, and what became of every real capture that is at hand.

``python docs/write_venues.py FOLDER``: FOLDER holds captures in folders and a MANIFEST.json with their row counts. Each
is ingested into a lake that is thrown away; only figures are written. A count that differs from the manifest's without
a reason below is an error.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from market.errors import KeelError
from market.lake import Lake
from market.venues.registry import VENUES
from pipelines.ingest import IngestConfig, Landed, ingest
from pipelines.workspace import Workspace

PATH = Path(__file__).with_name("venues.md")

# why a recording has other rows for us than for the manifest
WHY = {
    "gdax_l2/btcusd_2018-04-24_1h.tar.xz": "the manifest counts one of the two snapshot files' headers",
    "dq_fixtures/binance_trx_btc_2025.tar.xz": "the manifest counts headers and the processor's comments",
}
HEAD = """# Venues

One row a wire format. A venue is a module in `market/venues/` and a row in `market/venues/registry.py`;
`keel ingest FILE... --venue NAME` takes the names below, and without `--venue` a recording is recognised.

| venue | book is kept by | several instruments a recording | reasons for quarantine |
|---|---|---|---|
"""
RULES = {
    "spot": "ids `U`, `u` joined to a snapshot",
    "futures": "ids `U`, `u`, `pu` joined to a snapshot",
    "stamped": "exchange times joined to a snapshot; no numbers",
    "sequence": "snapshot, then numbers without a hole",
    "previous": "snapshot, then each says the id before it",
    "snapshots": "snapshot, then diffs without numbers",
    "open": "each frame says all, or begins mid-day",
}
FIGURES = """
## What became of the captures

Written by `python docs/write_venues.py FOLDER`. *Rows* are those of the recording, each in exactly one raw frame of the
lake; the command checks that the lake holds as many frames as were read. *Offset* is the mean of receive minus exchange
time: below zero where the recorder's clock was behind. *Proved* counts the venue's own checksums that our book
reproduced. Crossed and locked count frames after which the book was so.

| capture | venue | instruments | rows | frames | events | trades | slow | quarantined | gaps | proved | crossed | locked \
| synced | first (UTC ns) | last (UTC ns) | offset ms |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
"""


def main() -> None:
    """Ingest everything and write the document."""
    folder = Path(sys.argv[1])
    manifest = {entry["file"]: entry["rows"] for entry in json.loads((folder / "MANIFEST.json").read_text())}
    lines, differences = [], []
    for group in sorted({name.split("/", 1)[0] for name in manifest}):
        files = sorted(str(path) for path in (folder / group).rglob("*") if path.is_file())
        landed, said = _ingested(files)
        lines += said
        differences += _differences(folder, manifest, files, landed)
    PATH.write_text(HEAD + "".join(_venue_lines()) + FIGURES + "".join(lines) + _differing(differences))
    print(f"wrote {PATH.name}")  # noqa: T201


def _ingested(files: list[str]) -> tuple[list[Landed], list[str]]:
    landed: list[Landed] = []
    lines = []
    with tempfile.TemporaryDirectory() as home:
        for wanted in (files, *([file] for file in files)):
            try:
                landed += ingest(IngestConfig(files=tuple(wanted)), workspace=Workspace(home=Path(home))).landed
            except KeelError as error:
                if len(wanted) == 1:
                    lines.append(f"| {_short(wanted[0])} | refused: {error} |\n")
                continue
            if wanted is files:
                break
        raw = Lake(Path(home) / "lake").read("raw", columns=["source"]).num_rows
    if raw != sum(each.frames for each in landed):
        raise SystemExit(f"{files[0]}: {raw} frames in the lake, {sum(each.frames for each in landed)} read")
    origins = dict.fromkeys((each.origin, each.venue, each.instrument.split(".")[0]) for each in landed)
    for key in origins:
        part = [each for each in landed if (each.origin, each.venue, each.instrument.split(".")[0]) == key]
        lines.append(_line(key[0], part))
    return landed, lines


def _line(origin: str, landed: list[Landed]) -> str:
    named = [each for each in landed if not each.instrument.endswith(".SESSION")]
    refused: Counter[str] = Counter()
    for each in landed:
        refused.update(each.quarantined)
    times = [(each.first_ns, each.last_ns) for each in landed if each.first_ns > 0]
    timed = [each for each in named if each.offset_ms]
    cells: list[Any] = [
        origin,
        landed[0].venue,
        named[0].instrument if len(named) == 1 else f"{len(named)} of {landed[0].instrument.split('.')[0]}",
        f"{sum(each.rows for each in landed):,}",
        f"{sum(each.frames for each in landed):,}",
        f"{sum(each.events for each in landed):,}",
        f"{sum(each.trades for each in landed):,}",
        f"{sum(each.slow for each in landed):,}",
        ", ".join(f"{why} {n:,}" for why, n in sorted(refused.items())) or "0",
        sum(each.gaps for each in landed),
        f"{sum(each.proved for each in landed):,}",
        f"{sum(each.crossed for each in landed):,}",
        f"{sum(each.locked for each in landed):,}",
        f"{sum(each.synced for each in named)} of {len(named)}",
        min((first for first, _ in times), default=0),
        max((last for _, last in times), default=0),
        round(sum(each.offset_ms * each.frames for each in timed) / sum(each.frames for each in timed), 1)
        if timed
        else 0,
    ]
    return "| " + " | ".join(str(cell) for cell in cells) + " |\n"


def _short(file: str) -> str:
    return "/".join(Path(file).parts[-2:])


def _differences(folder: Path, manifest: dict[str, Any], files: list[str], landed: list[Landed]) -> list[str]:
    found = []
    for file in files:
        name = str(Path(file).relative_to(folder))
        ours = sum(each.rows for each in landed if each.origin.split(":")[0] == Path(file).name)
        theirs = sum(int(n.replace(",", "")) for n in re.findall(r"\d[\d,]*", str(manifest.get(name, ""))))
        if ours != theirs:
            found.append(f"| {name} | {manifest.get(name)} | {ours:,} | {WHY.get(name, 'UNEXPLAINED')} |\n")
    return found


def _differing(lines: list[str]) -> str:
    head = (
        "\n## Where the rows are not those of the manifest\n\n| capture | manifest | ours | why |\n|---|---|---|---|\n"
    )
    return head + "".join(lines) if lines else ""


def _venue_lines() -> list[str]:
    rows = []
    for venue in sorted(VENUES, key=lambda each: each.name):
        rules = {venue.rule(_example(name)) for name in ("any-spot", "any-futures")}
        kept = "; ".join(sorted(RULES[rule] for rule in rules))
        kept += ", proved by checksums" if "checksum" in venue.reasons else ""
        rows.append(
            f"| {venue.name} | {kept} | {'yes' if venue.route else 'no'} | {', '.join(sorted(venue.reasons))} |\n"
        )
    return rows


def _example(name: str) -> Any:
    from decimal import Decimal

    from market.instruments import Instrument

    return Instrument(venue=name, symbol="X", tick=Decimal(1), lot=Decimal(1))


if __name__ == "__main__":
    main()
