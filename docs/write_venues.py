"""Writes docs/venues.md: every venue in the table, and the result for every real capture that is available.

``python docs/write_venues.py`` writes the venues from the code and leaves the figures as they are.
``python docs/write_venues.py FOLDER KEPT`` writes the figures too. FOLDER holds captures in folders and a MANIFEST.json
with their row counts; each goes through ``keel ingest`` into a temporary lake, and only counts are written.
The command's results are kept in KEPT, so that a second run measures only what is missing there. A count that differs
from the manifest's without a reason below is an error.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from market.instruments import Instrument
from market.lake.lake import Lake
from market.venues.protocol import Rule, Venue
from market.venues.registry import VENUES

PATH: Final = Path(__file__).with_name("venues.md")
MARK: Final = "\n## What became of the captures\n"

# why our row count of a recording differs from the manifest's
WHY: Final = {
    "binance_1s_depth/2020-11-01T09.tar.xz": "the manifest counts diffs and trades; the three snapshots are rows too",
    "cryptofeed_raw/sample_data_14_venues.tar.xz": "the manifest counts line ends: 20 of them end blank lines, and the "
    "last line of one file has none",
    "dq_fixtures/binance_trx_btc_2025.tar.xz": "the manifest counts lines: 360 are headers and the processor's "
    "comments, and 10,000 are of a file that is there twice (two USD-M depth files are the same bytes), landed once",
    "gdax_l2/btcusd_2018-04-24_1h.tar.xz": "the manifest counts the header of one of the two snapshot files as a level",
}
HEAD: Final = """# Venues

One row per wire format, generated from the code by `make docs`. A venue is a module in `market/venues/` and a row in
`market/venues/registry.py`; `keel ingest FILE... --venue NAME` takes the names below, and without `--venue` a recording
is recognised by its content.

"""
COLUMNS: Final = ("venue", "how the book is maintained", "several instruments", "reasons for quarantine")
RULES: Final[dict[Rule, str]] = {
    "spot": "ids `U`, `u` joined to a snapshot",
    "futures": "ids `U`, `u`, `pu` joined to a snapshot",
    "stamped": "exchange times joined to a snapshot; no sequence numbers",
    "sequence": "snapshot, then sequence numbers without a gap",
    "previous": "snapshot, then each diff names the previous id",
    "snapshots": "snapshot, then diffs without sequence numbers",
    "open": "each frame is complete, or the recording begins mid-day",
}
FIGURES: Final = """
Written on {day} by `python docs/write_venues.py FOLDER KEPT`, which gives each file alone to
`keel ingest FILE --lake DIR --json`. The captures are not part of the repository: the licences of their sources do not
grant the rights of the exchanges.

* *Rows* are those of the recording; each is part of exactly one raw frame of the lake, and the script checks that the
  lake holds as many raw frames as were read. A file of several recordings has a line for each.
* *Events* are the parsed events; *trades* are among them; *records* are slow records (marks, funding) and option
  summaries, which are not events.
* *Quarantined* counts frames by reason; *gaps* counts gaps in the venue's own numbering or frames whose loss loses the
  book; *proved* counts the venue's checksums that our book reproduced.
* *Crossed* and *locked* count the frames that changed the book, or the faster ticker, and left it so. Such a book is
  marked, never repaired.
* *Offset* is the mean of receive minus exchange time in ms: below zero where the recorder's clock was behind, `-` where
  a recording has only one clock, or none.

"""
FIGURE_COLUMNS: Final = (
    *("capture", "venue", "instruments", "rows", "events", "trades", "records", "quarantined", "gaps", "proved"),
    *("crossed", "locked", "first (UTC)", "last (UTC)", "offset"),
)
NOTES: Final = """
All other captures have exactly the manifest's rows. Where a file is one of a pair (LOBSTER's messages and book), both
lines describe the same recording.

### Notes on the figures

* No capture of `fi2010` is at hand: the tests read a synthetic file of its layout.
* From recordings without a snapshot (`usdm_btcusdt_20230405`, the depth files of `dq_fixtures`), trades and tickers are
  landed, but no levels: a book whose initial state is unknown cannot be built.
* Binance of 2024: the recorder's clock was 1.3 to 1.5 s behind the exchange's. Both times are kept as received.
* DBN: the orders of a snapshot carry the time at which they were entered, hours or days before. They determine the mean
  offset; the median of the live records is 0.1 ms.
* CME gold has 198 locked rows; the 38 that differ from the row before them are counted. US NBBO, IBM on 7 October: 89
  crossed rows, 45 of which changed something.
* Shanghai is crossed in its call auctions (09:15 to 09:25 and 14:57 to 15:00 there), CME's ESH4 in the pre-open (22:39
  to 23:00 UTC): orders rest there without being matched.
* Bitstamp is crossed for much of both recordings because of single orders. 2026: the ask 2002347646152704 at 78,333 is
  created and not deleted before the recorder's clean-up half an hour later, although the market trades through it.
  2015: the deletion of bid 65606361 was recorded 1 ms *before* its creation, and the order rests to the end; such a
  deletion, and every event about an order from before the recording, make up its 559 events of unknown orders. We do
  not guess which orders are gone.
* `out_of_range` is a price of zero (Bitstamp 2026). Prices may have 2**47 ticks and sizes 2**57 lots: there are asks of
  112,716,000 euros for an XRP and 888,888,004 for a CRV (cryptofeed), and amounts of some coins run into the billions.
* cryptofeed: `clock_unreadable` is the recorder's configuration line, `unknown_frame` are candles (`kline`), which are
  not market events, `unknown_channel` heartbeats of channels whose subscription is not in the recording.
* dq_fixtures: the injected anomalies show up as `mixed_rows` (times, ids or symbol changed in one of a message's rows),
  `negative` (a price of -1), `clock_unreadable` and one gap. The COIN-M depth file that is meant to be clean has one,
  too: the time of its last row was set a day ahead. Offsets of seconds are injected receive times.
* NASDAQ ITCH: the excerpt names no day, so it lands on the first day of the epoch.
* `suspicious` is the US tick vendor's own mark, `unknown_order` an event about an order that the recording never adds
  (LOBSTER's AAPL comes without its book, ITCH begins in the middle of a day).
"""


def main() -> None:
    """Write the document."""
    PATH.write_text(venues() + MARK + (figures(*map(Path, sys.argv[1:3])) if sys.argv[1:] else _figures_before()))
    print(f"wrote {PATH.name}")  # noqa: T201


def _figures_before() -> str:
    return PATH.read_text().partition(MARK)[2] if PATH.exists() else ""


def venues() -> str:
    """The first part of the document: every venue, from the code."""
    return HEAD + _table(COLUMNS, (_venue(venue) for venue in sorted(VENUES, key=lambda each: each.name)))


def _venue(venue: Venue) -> list[str]:
    rules = {venue.rule(_instrument(name)) for name in (*venue.live, venue.name)}
    kept = "; ".join(sorted(RULES[rule] for rule in rules))
    kept += ", proved by checksums" if "checksum" in venue.reasons else ""
    return [venue.name, kept, "yes" if venue.route else "no", ", ".join(sorted(venue.reasons))]


def _instrument(name: str) -> Instrument:
    return Instrument(venue=name, symbol="X", tick=Decimal(1), lot=Decimal(1))


def figures(folder: Path, kept: Path) -> str:
    """The second part: the result of `keel ingest` for every file in ``folder``."""
    manifest = {entry["file"]: entry["rows"] for entry in json.loads((folder / "MANIFEST.json").read_text())}
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    results = {name: _result(folder / name, kept / f"{name.replace('/', '_')}.json") for name in names}
    lines = [line for name in names if "landed" in results[name] for line in _lines(name, results[name]["landed"])]
    refused = [(name, results[name]["refused"]) for name in names if "refused" in results[name]]
    differing = [
        line for name in names if name in manifest for line in _difference(name, manifest[name], _rows(results[name]))
    ]
    return "".join(
        (
            FIGURES.format(day=max(each["day"] for each in results.values())),
            _table(FIGURE_COLUMNS, lines),
            "\n### Files that are not recordings\n\n",
            _table(("file", "what `keel ingest` prints"), refused),
            "\n### Where the row counts differ from the manifest\n\n",
            _table(("capture", "manifest", "ours", "why"), differing),
            NOTES,
        )
    )


def _result(path: Path, kept: Path) -> dict[str, Any]:
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps({**_ingested(path), "day": datetime.now(tz=UTC).date().isoformat()}))
    result: dict[str, Any] = json.loads(kept.read_text())
    return result


def _ingested(path: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, "-m", "pipelines.cli", "ingest", str(path), "--lake", f"{home}/lake", "--json"]
        done = subprocess.run(
            command, env=os.environ | {"KEEL_HOME": home}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            return {"refused": done.stderr.strip().splitlines()[-1], "exit": done.returncode}
        landed = json.loads(done.stdout)["landed"]
        raw, read = Lake(f"{home}/lake").read("raw", columns=["frame"]).num_rows, sum(each["frames"] for each in landed)
    if raw != read:
        raise SystemExit(f"{path}: {raw} frames in the lake, {read} read")
    return {"landed": landed}


def _rows(result: dict[str, Any]) -> int:
    return sum(each["rows"] for each in result.get("landed", ()))


def _lines(name: str, landed: list[dict[str, Any]]) -> list[list[str]]:
    """A line for each recording in a file, over all its instruments."""
    recordings = dict.fromkeys((each["origin"], each["venue"], _exchange(each)) for each in landed)
    return [
        _line(name, [each for each in landed if (each["origin"], each["venue"], _exchange(each)) == key])
        for key in recordings
    ]


def _exchange(landed: dict[str, Any]) -> str:
    return str(landed["instrument"].partition(".")[0])


def _line(name: str, landed: list[dict[str, Any]]) -> list[str]:
    named = [each["instrument"] for each in landed if not each["instrument"].endswith(".SESSION")]
    refused: Counter[str] = Counter()
    for each in landed:
        refused.update(each["quarantined"])
    timed = [each for each in landed if each["offset_ms"]]
    frames = sum(each["frames"] for each in timed)
    offset = sum(each["offset_ms"] * each["frames"] for each in timed) / frames if timed else None
    total = {what: sum(each[what] for each in landed) for what in ("rows", "events", "trades", "slow", "options")}
    total |= {what: sum(each[what] for each in landed) for what in ("gaps", "proved", "crossed", "locked")}
    return [
        ":".join([name, *landed[0]["origin"].split(":")[1:]]),
        landed[0]["venue"],
        named[0] if len(named) == 1 else f"{len(named)} of {_exchange(landed[0])}",
        *(f"{total[what]:,}" for what in ("rows", "events", "trades")),
        f"{total['slow'] + total['options']:,}",
        ", ".join(f"{why} {n:,}" for why, n in sorted(refused.items())) or "-",
        *(f"{total[what]:,}" for what in ("gaps", "proved", "crossed", "locked")),
        _time(min((each["first_ns"] for each in landed if each["first_ns"] > 0), default=0)),
        _time(max(each["last_ns"] for each in landed)),
        "-" if offset is None else f"{offset:,.1f}",
    ]


def _time(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9, tz=UTC).strftime("%Y-%m-%d %H:%M:%S") if ns > 0 else "-"


def _difference(name: str, rows: Any, ours: int) -> list[list[str]]:
    theirs = sum(int(n.replace(",", "")) for n in re.findall(r"\d[\d,]*", str(rows)))
    if ours == theirs:
        return []
    if name not in WHY:
        raise SystemExit(f"{name}: the manifest has {rows} rows and we have {ours}; add the reason to WHY")
    return [[name, str(rows), f"{ours:,}", WHY[name]]]


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *rows]
    lines.insert(1, ["---"] * len(lines[0]))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
