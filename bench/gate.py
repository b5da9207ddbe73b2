"""The quality gate, measured: its recall on injected anomalies, and how often its rules fire on clean captures.

``python -m bench.gate FOLDER KEPT`` reads the captures in FOLDER (one folder a venue, and ``dq_fixtures`` with pairs of
files, one of them spoiled), lands each in a lake under KEPT, which a second run reuses, and writes
a section of the day's page. Only counts are written, none of the captures' content.

The limits are those of the table of rules; every minute is validated together with the others of its recording, as
`keel validate` does. Three parts:

* *Spoiled files*: the truth is the difference of a pair, row by row and column by column. An anomaly is a message and a
  column in it. The parser found it if its frame went to quarantine; the gate found it if a rule fires on its minute
  that does not fire on that minute in the clean file.
* *Clean captures*: minutes on which a rule fires. A rule that fires on a clean capture may well be right.
* *Spoiled minutes*: each anomaly injected, with a seed, into minutes of the simulated exchange.
"""

from __future__ import annotations

import csv
import datetime
import sys
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from bench import machine, market
from bench.page import DayPage
from bench.spoil import INJECTED
from market.books.price_book import Book
from market.clock import BATCH_NS
from market.events import Events
from market.lake.lake import Lake
from market.lake.rows import events_of
from market.quality.columns import columns
from market.quality.figures import Measured, measure
from market.quality.limits import Limits
from market.quality.rules import PASS, QUARANTINE, RULES
from market.quality.usual import compared
from market.venues import binance_rows
from pipelines.ingestion.ingest import IngestConfig, ingest
from pipelines.quality import trading_hours
from pipelines.workspace import Workspace

FOLDER: Final = Path(__file__).resolve().parent.parent / "docs" / "benchmarks"
MOST_MINUTES: Final = 500  # of one recording
ROUNDS: Final = 50  # minutes spoiled for each anomaly
SEED: Final = 20261121

Said = dict[str, str]  # rule -> verdict, of one minute
Judged = dict[int, Said]  # minute -> its verdicts by rule


# -- landing and judging --------------------------------------------------------------------------------------------


def landed(path: Path, home: Path) -> Lake | None:
    """The lake that a recording was landed in; None for a file that is not a recording."""
    lake = Lake(Workspace(home=home).lake)
    if not (home / "done").exists():
        ingest(IngestConfig(files=(str(path),)), workspace=Workspace(home=home))
        (home / "done").write_text("landed\n")
    return lake if lake.exists("raw") else None


def judge(lake: Lake) -> Judged:
    """The rules' verdicts on every minute in a lake; the key distinguishes recordings and instruments."""
    ticks = lake.read("ticks", columns=["venue", "instrument", "source"])
    found: Judged = {}
    for n, each in enumerate(ticks.group_by(["venue", "instrument", "source"]).aggregate([]).to_pylist()):
        key = f"{each['venue']}.{each['instrument']}"
        rows = lake.read("ticks", instrument=key, where={"source": each["source"]})
        minutes = list(_minutes(events_of(rows), rows.column("batch").to_numpy()))[:MOST_MINUTES]
        said = judge_minutes([measure(columns(events)) for events in minutes], each["venue"])
        for events, of_it in zip(minutes, said, strict=True):
            found[n * 10**9 + int(events["recv_ns"].min()) // BATCH_NS] = of_it
    return found


def judge_minutes(measured: list[Measured], venue: str) -> list[Said]:
    """The rules' verdicts on consecutive minutes."""
    limits = Limits()
    return [
        {rule.name: verdict for rule in RULES if (verdict := limits.of(rule).verdict(each.values[rule.figure])) != PASS}
        for each in compared([], measured, partial(trading_hours.minutes, venue))
    ]


def _minutes(events: Events, batch: np.ndarray) -> Iterator[Events]:
    edges = np.flatnonzero(np.diff(batch, prepend=-1))
    for start, end in zip(edges, [*edges[1:], len(events)], strict=True):
        yield events[start:end]


# -- spoiled files --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Anomaly:
    """What is wrong with one message of a spoiled file; ``minute`` is that of its frame, -1 without a readable time."""

    kind: str
    frame: int
    minute: int


_IDS: Final = ("FirstUpdateId", "FinalUpdateId", "FinalUpdateIdInLastStream", "TradeId")


def kind_of(column: str, value: str, clean: str) -> str:
    """The name of an anomaly, from the column in which two rows differ."""
    if column == "Price" and value and float(value) <= 0:
        return "price of zero or less"
    if column == "Price":
        return f"price off by {abs(float(value) / float(clean) - 1):.0%}" if clean else "price"
    if column == "IsAsk":
        return "side that is none"
    if column in ("EventTime", "TransactionTime"):
        return "exchange time"
    if column.startswith("TimestampOfReceive"):
        return "receive time"
    return {"Symbol": "symbol", "IsLast": "end mark"}.get(column, "ids" if column in _IDS else column)


def truth(spoiled: Path, clean: Path) -> tuple[list[Anomaly], int]:
    """The changes to a file, by message; and how many of the clean file's rows are missing at its end."""
    frame_of = list(_frame_of_rows(spoiled))
    found: dict[Anomaly, None] = {}
    missing = 0
    for row, (bad, good) in enumerate(zip_longest(_rows(spoiled), _rows(clean))):
        if bad is None:
            missing += 1
        elif good is not None:
            frame, recv_ns = frame_of[row]
            minute = recv_ns // BATCH_NS if recv_ns > 0 else -1
            for column in (name for name in bad if bad[name] != good[name]):
                found[Anomaly(kind=kind_of(column, bad[column], good[column]), frame=frame, minute=minute)] = None
    return list(found), missing


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open() as file:
        yield from csv.DictReader(line for line in file if not line.startswith("#"))


def _frame_of_rows(path: Path) -> Iterator[tuple[int, int]]:
    for frame, recv_ns, payload in binance_rows.frames(path):
        for _ in orjson.loads(payload):
            yield frame, recv_ns


@dataclass(frozen=True, kw_only=True)
class Found:
    """The outcome of the anomalies of one kind, and the alarms that no anomaly explains, by who raised them."""

    rows: list[dict[str, Any]]
    alarms: Counter[str]
    true_alarms: Counter[str]


def spoiled_files(folder: Path, kept: Path) -> Found:
    """Every pair of files in ``dq_fixtures``."""
    rows, alarms, explained = [], Counter[str](), Counter[str]()
    for archive in sorted((folder / "dq_fixtures").glob("*.tar.xz")):
        unpacked = kept / "dq_fixtures"
        if not unpacked.exists():
            with tarfile.open(archive) as tar:
                tar.extractall(unpacked, filter="data")
        for bad in sorted(unpacked.glob("*negative*.csv")):
            good = bad.with_name(bad.name.replace("negative", "positive"))
            of_it = _pair(bad, good, kept)
            rows += of_it.rows
            alarms.update(of_it.alarms)
            explained.update(of_it.true_alarms)
    return Found(rows=rows, alarms=alarms, true_alarms=explained)


def _pair(bad: Path, good: Path, kept: Path) -> Found:
    anomalies, missing = truth(bad, good)
    lakes = [landed(path, kept / path.stem) for path in (bad, good)]
    refused = _refused(lakes[0])
    said, before = (judge(lake) if lake else {} for lake in lakes)
    news = {minute: set(said[minute]) - set(before.get(minute, ())) for minute in said}
    rows = []
    for each in anomalies:
        rules = sorted(news.get(each.minute, ()))
        held = any(said[each.minute][rule] == QUARANTINE for rule in rules)
        rows.append(
            {
                "file": _short(bad),
                "kind": each.kind,
                "parser": refused.get(each.frame, ""),
                "gate": ", ".join(rules),
                "held": held,
                "found": bool(rules) or each.frame in refused,
            }
        )
    if missing:
        rows.append({"file": _short(bad), "kind": f"{missing:,} rows missing", "parser": "", "gate": "", "held": False})
        rows[-1]["found"] = False
    wrong_minutes, wrong_frames = {each.minute for each in anomalies}, {each.frame for each in anomalies}
    alarms = Counter[str](rule for of_it in said.values() for rule in of_it)
    alarms.update(f"parser: {reason}" for reason in refused.values())
    explained = Counter[str](rule for minute, of_it in said.items() if minute in wrong_minutes for rule in of_it)
    explained.update(f"parser: {reason}" for frame, reason in refused.items() if frame in wrong_frames)
    return Found(rows=rows, alarms=alarms, true_alarms=explained)


def _refused(lake: Lake | None) -> dict[int, str]:
    if lake is None:
        return {}
    rows = lake.read("quarantine", columns=["frame", "reason"], where={"stage": "parse"}).to_pylist()
    return {int(row["frame"]): str(row["reason"]) for row in rows}


def _short(path: Path) -> str:
    name = path.stem.removeprefix("test_negative_binance_").rpartition("_")[0]
    return "merged USD-M" if path.stem.startswith("merged") else name


# -- clean captures -------------------------------------------------------------------------------------------------

_NO_TICKS: Final = ("deribit_options", "dq_fixtures")


def clean_captures(folder: Path, kept: Path) -> list[dict[str, Any]]:
    """Each capture with its minutes, and how many of them each rule warns about or quarantines."""
    rows = []
    for path in sorted(each for each in folder.rglob("*") if each.is_file() and each.suffix not in (".md", ".json")):
        name = path.relative_to(folder).as_posix()
        if name.startswith(_NO_TICKS):
            continue
        lake = landed(path, kept / name.replace("/", "_"))
        rows.append(_of_capture(name, judge(lake) if lake else {}))
        print(rows[-1], flush=True)
    good = kept / "dq_fixtures"
    for path in sorted(good.glob("*positive*.csv")):
        lake = landed(path, kept / path.stem)
        rows.append(_of_capture(f"dq_fixtures/{path.stem}", judge(lake) if lake else {}))
    return rows


def _of_capture(name: str, said: Judged) -> dict[str, Any]:
    held = Counter[str](rule for of_it in said.values() for rule, verdict in of_it.items() if verdict == QUARANTINE)
    warned = Counter[str](rule for of_it in said.values() for rule, verdict in of_it.items() if verdict != QUARANTINE)
    return {
        "capture": name,
        "minutes": len(said),
        "held": sum(QUARANTINE in of_it.values() for of_it in said.values()),
        "warned": sum(bool(of_it) and QUARANTINE not in of_it.values() for of_it in said.values()),
        "holds": dict(held.most_common()),
        "warns": dict(warned.most_common()),
    }


# -- spoiled minutes of the simulated exchange ------------------------------------------------------------------------


def spoiled_minutes() -> tuple[list[dict[str, Any]], Counter[str], int]:
    """Recall of the rule meant for each anomaly; the rules' verdicts on the clean minutes, and how many those are."""
    minutes = list(_with_checkpoints(market.events()))
    clean = [measure(columns(each)) for each in minutes]
    quiet = judge_minutes(clean, "sim-usdm")
    rng = np.random.default_rng(SEED)
    rows = []
    for spoil, rule in INJECTED.items():
        found = held = 0
        others: Counter[str] = Counter()
        for _ in range(ROUNDS):
            at = int(rng.integers(1, len(minutes) - 1))
            measured = [*clean[:at], measure(columns(spoil(minutes[at].copy(), rng))), *clean[at + 1 :]]
            said = judge_minutes(measured, "sim-usdm")[at]
            found += rule in said
            held += QUARANTINE in said.values()
            others.update(set(said) - set(quiet[at]) - {rule})
        rows.append({"anomaly": spoil.__name__, "rule": rule, "found": found, "held": held, "others": dict(others)})
    return rows, Counter(rule for of_it in quiet for rule in of_it), len(minutes)


def _with_checkpoints(events: Events) -> Iterator[Events]:
    book, minute = Book(), events["recv_ns"] // BATCH_NS
    for batch in np.unique(minute):
        part = events[minute == batch]
        opened = [book.snapshot_events(part[0])] if book.status == 0 else []
        yield np.concatenate([*opened, part])
        book.apply_batch(part)


# -- the page -------------------------------------------------------------------------------------------------------


def main(folder: Path, kept: Path) -> None:
    """Measure and write."""
    load = machine.load()
    minutes, quiet, n_clean = spoiled_minutes()
    files = spoiled_files(folder, kept)
    captures = clean_captures(folder, kept)
    found = {
        "title": "The quality gate",
        "notes": ["The limits are those of the table of rules, none learned. The captures are not in the repository."],
        "lines": [*_files_page(files), *_captures_page(captures), *_minutes_page(minutes, quiet, n_clean)],
        **{"injected": minutes, "files": files.rows, "captures": captures},
    }
    about = {"commit": machine.commit(), "machine": machine.name(), "load": load}
    page = DayPage(folder=FOLDER, date=datetime.datetime.now(tz=datetime.UTC).date().isoformat())
    page.put("gate", found, {**about, "command": "python -m bench.gate FOLDER KEPT"})
    print(f"wrote docs/benchmarks/{page.path.name}")


def _files_page(files: Found) -> list[str]:
    kinds: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in files.rows:
        kinds[row["kind"]].append(row)
    table = []
    for kind, rows in sorted(kinds.items()):
        parser, gate = sum(bool(row["parser"]) for row in rows), sum(bool(row["gate"]) for row in rows)
        said = Counter(word for row in rows for word in (row["parser"], row["gate"]) if word)
        either = sum(row["found"] for row in rows)
        words = ", ".join(said) or "-"
        table.append(
            [kind, len(rows), parser, gate, sum(row["held"] for row in rows), f"{either / len(rows):.0%}", words]
        )
    total, either = len(files.rows), sum(row["found"] for row in files.rows)
    missed = [[row["file"], row["kind"]] for row in files.rows if not row["found"]]
    alarms = [
        [name, count, files.true_alarms[name], f"{files.true_alarms[name] / count:.0%}"]
        for name, count in sorted(files.alarms.items())
    ]
    right, every = sum(files.true_alarms.values()), sum(files.alarms.values())
    return [
        "## Spoiled files (dq_fixtures)",
        "",
        f"{total} anomalies, {either} found: recall {either / total:.0%}. {every} alarms (a frame rejected, or a rule "
        f"that fires on a minute), {right} of them where an anomaly is: precision {right / every:.0%}.",
        "",
        _table(["anomaly", "injected", "parser", "gate", "quarantined by the gate", "recall", "said"], table),
        "",
        "Not found:",
        "",
        _table(["file", "anomaly"], missed),
        "",
        _table(["alarm", "raised", "where an anomaly is", "precision"], alarms),
        "",
    ]


def _captures_page(captures: list[dict[str, Any]]) -> list[str]:
    with_ticks = [each for each in captures if each["minutes"]]
    minutes, held = (sum(each[name] for each in with_ticks) for name in ("minutes", "held"))
    warned = sum(each["warned"] for each in with_ticks)
    rows = [
        [each["capture"], each["minutes"], each["held"], each["warned"], _counts(each["holds"]), _counts(each["warns"])]
        for each in with_ticks
    ]
    silent = [each["capture"] for each in captures if not each["minutes"]]
    return [
        "## Clean captures",
        "",
        f"{minutes:,} minutes (the first {MOST_MINUTES} of a recording): {held:,} quarantined ({held / minutes:.1%}), "
        f"{warned:,} more with a warning ({warned / minutes:.1%}). Without ticks, so without a minute: "
        f"{', '.join(silent) or 'none'}.",
        "",
        _table(["capture", "minutes", "held", "warned", "rules that quarantine", "rules that warn"], rows),
        "",
    ]


def _minutes_page(rows: list[dict[str, Any]], quiet: Counter[str], n_clean: int) -> list[str]:
    table = [
        [
            each["anomaly"].replace("_", " "),
            each["rule"],
            f"{each['found'] / ROUNDS:.0%}",
            f"{each['held'] / ROUNDS:.0%}",
            _counts(each["others"]),
        ]
        for each in rows
    ]
    return [
        "## Spoiled minutes of the simulated exchange",
        "",
        f"Each anomaly {ROUNDS} times, one a minute, seed {SEED}, in {n_clean} volatile minutes; of those minutes as "
        f"they are the rules say: {_counts(quiet)}.",
        "",
        _table(["anomaly", "its rule", "found by its rule", "held", "other rules"], table),
        "",
    ]


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "-"


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    lines = [list(head), ["---"] * len(list(head)), *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
