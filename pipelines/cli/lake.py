"""``keel lake``: what is in the tables, and whether they are intact."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from market.clock import NS_PER_S
from market.errors import InputError, LakeError, SettingsError
from pipelines import settings
from pipelines.cli.output import Bars, Json, print_result
from pipelines.workspace import tracked

if TYPE_CHECKING:
    import pyarrow as pa

    from market.lake.inventory import Holding, PartitionHolding, TableHolding
    from market.lake.lake import Lake

_WIDTH = 200  # a narrower terminal wraps what it cannot show; a file keeps whole lines

lake_app = typer.Typer(no_args_is_help=True, help="The tables: what they hold, and whether they are whole.")

Where = Annotated[str, typer.Option("--lake", help="Folder or URI of the lake, else the workspace's.")]
Table = Annotated[str, typer.Argument(help="raw, ticks, batches, quarantine, features, labels, quotes, ...")]
_MOMENTS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f"]
Moment = Annotated[
    datetime | None, typer.Option("--as-of", formats=_MOMENTS, help="UTC; only what was committed by then.")
]
Version = Annotated[int | None, typer.Option("--version", help="The table as it was at this version (`ls` shows it).")]
Key = Annotated[str | None, typer.Option("--instrument", help="Instrument key, venue.SYMBOL; else all.")]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What ``ls`` prints."""

    lake: str
    tables: tuple[TableHolding, ...]

    def line(self) -> str:
        if not self.tables:
            return f"no tables in {self.lake}"
        head = ("table", "rows", "files", "MB", "version", "first", "last", "instruments")
        rows = [
            (each.table, *_figures(each.holding), str(each.version), *_times(each.holding), _few(each.instruments))
            for each in self.tables
        ]
        return _columns(head, rows)


@dataclass(frozen=True, kw_only=True)
class Stats:
    """What ``stats`` prints."""

    lake: str
    table: str
    partitions: tuple[PartitionHolding, ...]

    def line(self) -> str:
        head = ("instrument", "date", "rows", "files", "MB", "first", "last")
        rows = [
            (each.instrument, each.date, *_figures(each.holding), *_times(each.holding)) for each in self.partitions
        ]
        return _columns(head, rows) if rows else f"{self.table} is empty"


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What ``verify`` prints; ``faults`` is empty when the lake is intact."""

    lake: str
    tables: int
    faults: tuple[str, ...]

    def line(self) -> str:
        if not self.tables:
            return f"no tables in {self.lake}"
        return "\n".join(self.faults) or f"{self.lake} is whole: every file reads as its log says, no row is missing"


@dataclass(frozen=True, kw_only=True)
class Compacted:
    """What ``compact`` prints: files before and after, by table."""

    lake: str
    files: dict[str, tuple[int, int]]

    def line(self) -> str:
        return ", ".join(f"{table} {old} -> {new} files" for table, (old, new) in self.files.items()) or "no tables"


@dataclass(frozen=True, kw_only=True)
class Vacuumed:
    """What ``vacuum`` prints: files removed (or, ``dry_run``, that would be) and their bytes, by table."""

    lake: str
    files: dict[str, tuple[int, int]]
    dry_run: bool

    def line(self) -> str:
        count, size = (sum(each[i] for each in self.files.values()) for i in (0, 1))
        done = "would be removed" if self.dry_run else "removed"
        tables = ", ".join(f"{table} {files}" for table, (files, _) in self.files.items() if files)
        return f"{count} files, {size / 1e6:,.1f} MB {done}" + (f" ({tables})" if tables else "")


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What ``finish`` prints: frames of the source, and the result of landing them."""

    lake: str
    source: str
    frames: int
    events: int

    def line(self) -> str:
        return f"{self.source} is finished: {self.events:,} events of its {self.frames:,} raw frames are in {self.lake}"


@lake_app.command("ls")
def ls(as_of: Moment = None, lake: Where = "", as_json: Json = False) -> None:
    """List the tables: rows, files, size, version, times.

    Example: `keel lake ls`
    """
    from market.lake import inventory

    opened = _then(_open(lake), as_of)
    print_result(Listing(lake=opened.uri, tables=inventory.tables(opened)), as_json)


@lake_app.command("stats")
def stats(table: Table, as_of: Moment = None, version: Version = None, lake: Where = "", as_json: Json = False) -> None:
    """Summarise one table by instrument and day.

    Example: `keel lake stats ticks`
    """
    from market.lake import inventory

    opened = _then(_open(lake), as_of, table, version)
    print_result(Stats(lake=opened.uri, table=table, partitions=inventory.partitions(opened, table)), as_json)


@lake_app.command("cat")
def cat(
    table: Table,
    instrument: Key = None,
    start: Annotated[datetime | None, typer.Option(formats=_MOMENTS, help="UTC; receive time from here on.")] = None,
    end: Annotated[datetime | None, typer.Option(formats=_MOMENTS, help="UTC; receive time before this.")] = None,
    columns: Annotated[str | None, typer.Option(help="Names with commas between; else all.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many rows; 0: all.")] = 20,
    as_of: Moment = None,
    version: Version = None,
    lake: Where = "",
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line instead of CSV.")] = False,
) -> None:
    """Print rows: CSV with a header, or a JSON object a line.

    For an earlier version: `keel lake cat ticks --version 12`.

    Example: `keel lake cat ticks --instrument sim-usdm.BTCUSDT --columns recv_ns,kind,price,size --limit 5`
    """
    rows = _then(_open(lake), as_of, table, version).read(
        table,
        instrument=instrument,
        start_ns=_ns(start),
        end_ns=_ns(end),
        columns=columns.split(",") if columns else None,
    )
    for line in _lines(rows.slice(0, limit or None), as_json):
        typer.echo(line)
    if limit and rows.num_rows > limit:
        typer.echo(f"{limit} of {rows.num_rows:,} rows; --limit 0 prints all", err=True)


@lake_app.command("verify")
def verify(lake: Where = "", as_json: Json = False) -> None:
    """Read everything: each file as its log says, each source's frames and each minute's rows without a gap.

    Exits with 4 when something is wrong. Example: `keel lake verify`
    """
    from market.lake import inventory
    from market.lake.schemas import SCHEMAS

    opened = _open(lake)
    with Bars(quiet=as_json) as bars, tracked(bars, "reading every table", len(SCHEMAS)) as progress:
        found = inventory.faults(opened, lambda: progress.advance(1))
    print_result(Verified(lake=opened.uri, tables=len(inventory.tables(opened)), faults=found), as_json)
    if found:
        raise typer.Exit(LakeError.exit_code)


@lake_app.command("compact")
def compact(
    tables: Annotated[list[str] | None, typer.Argument(help="Only these tables; else all.")] = None,
    lake: Where = "",
    as_json: Json = False,
) -> None:
    """Merge small files; concurrent readers and writers are not disturbed.

    Example: `keel lake compact raw ticks`
    """
    from market.lake import inventory
    from market.lake.schemas import schema_of

    for table in tables or ():
        schema_of(table)
    opened = _open(lake)
    held = {each.table: each.holding.files for each in inventory.tables(opened)}
    before = {table: files for table, files in held.items() if not tables or table in tables}
    with Bars(quiet=as_json) as bars, tracked(bars, "merging small files", len(before)) as progress:
        for table in before:
            opened.compact(table)
            progress.advance(1)
    after = {each.table: each.holding.files for each in inventory.tables(opened)}
    files = {table: (count, after[table]) for table, count in before.items()}
    print_result(Compacted(lake=opened.uri, files=files), as_json)


@lake_app.command("vacuum")
def vacuum(
    keep_days: Annotated[int, typer.Option(min=1, help="What was replaced within so many days stays.")] = 30,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    lake: Where = "",
    as_json: Json = False,
) -> None:
    """Remove files that compaction and corrections have replaced, and with them the history before that.

    What a dataset of this workspace was cut from stays, however old.

    Example: `keel lake vacuum --keep-days 90 --dry-run`
    """
    from market.lake import inventory

    opened, kept = _open(lake), _versions_of_datasets()
    tables = [each.table for each in inventory.tables(opened)]
    found: dict[str, tuple[int, int]] = {}
    with Bars(quiet=as_json) as bars, tracked(bars, "removing what was replaced", len(tables)) as progress:
        for table in tables:
            found[table] = opened.vacuum(
                table, keep_hours=24 * keep_days, keep_versions=kept.get(table, ()), dry_run=dry_run
            )
            progress.advance(1)
    print_result(Vacuumed(lake=opened.uri, files=found, dry_run=dry_run), as_json)


def _versions_of_datasets() -> dict[str, set[int]]:
    """Which versions of each table the datasets of the workspace were cut from."""
    from training.data.datasets import CARD_FILE, read_card

    found: dict[str, set[int]] = {}
    for path in settings.workspace().datasets.glob(f"*/{CARD_FILE}"):
        for table, version in read_card(path.parent).lake_versions.items():
            found.setdefault(table, set()).add(version)
    return found


@lake_app.command("finish")
def finish(
    source: Annotated[str, typer.Argument(help="Source of a live session that was killed.")],
    instrument: Annotated[str, typer.Option("--instrument", help="Its instrument key, venue.SYMBOL.")],
    lake: Where = "",
    as_json: Json = False,
) -> None:
    """Land the rest of a killed live session's last minute from its raw frames. Only once it no longer runs.

    For a lake in a folder, `keel ingest` does so automatically; a lake on S3 has no marks that show it.

    Example: `keel lake finish live-20261121T100000-1a2b --instrument binance-usdm.BTCUSDT`
    """
    from market.feeds import landing

    opened = _open(lake)
    if opened.position("raw", source) is None:
        raise InputError(f"no source {source!r} in {opened.uri}; `keel lake cat raw --columns source` shows them")
    stats = landing.recover(opened, source, opened.instrument(instrument))
    print_result(Finished(lake=opened.uri, source=source, frames=stats.frames, events=stats.events), as_json)


def _open(uri: str) -> Lake:
    from market.lake.lake import Lake

    return Lake(uri or settings.workspace().lake)


def _then(lake: Lake, as_of: datetime | None, table: str = "", version: int | None = None) -> Lake:
    """The lake as it was then; as it is where neither is given."""
    if as_of is not None and version is not None:
        raise SettingsError("expected --as-of or --version, one of the two")
    if version is not None:
        return lake.at({table: version})
    moment = _ns(as_of)
    return lake if moment is None else lake.as_of(moment)


def _ns(time: datetime | None) -> int | None:
    return (
        None if time is None else round(time.replace(tzinfo=UTC).timestamp() * 1e6) * 1_000
    )  # typer gives microseconds


def _lines(rows: pa.Table, as_json: bool) -> Iterator[str]:
    if not as_json:
        yield ",".join(rows.column_names)
    for row in rows.to_pylist():
        if as_json:
            yield orjson.dumps({name: _plain(value) for name, value in row.items()}).decode()
        else:
            text = io.StringIO()
            csv.writer(text, lineterminator="").writerow([_plain(value) for value in row.values()])
            yield text.getvalue()


def _plain(value: Any) -> Any:
    """Frames are bytes: as text, with what is none escaped."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def _figures(holding: Holding) -> tuple[str, str, str]:
    return f"{holding.rows:,}", str(holding.files), f"{holding.bytes / 1e6:,.1f}"


def _times(holding: Holding) -> tuple[str, str]:
    def said(ns: int | None) -> str:
        return "" if ns is None else datetime.fromtimestamp(ns // NS_PER_S, tz=UTC).strftime("%Y-%m-%d %H:%M:%S")

    return said(holding.first_ns), said(holding.last_ns)


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more"


def _columns(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Aligned columns; those of figures to the right."""
    from rich.console import Console
    from rich.table import Table as Columns

    columns = Columns(box=None, pad_edge=False)
    for name in head:
        columns.add_column(name, justify="right" if name in ("rows", "files", "MB", "version") else "left")
    for row in rows:
        columns.add_row(*row)
    screen = Console(file=io.StringIO(), width=_WIDTH)
    with screen.capture() as captured:
        screen.print(columns)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
