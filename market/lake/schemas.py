"""The schemas of the lake's tables: their columns, their order, and how their columns changed.

``instrument`` columns hold the symbol; everywhere else in the code an instrument is named by its key ``venue.SYMBOL``.

A table carries the version of its schema, ``major.minor``, among its properties. An *added* column raises the minor
number: it is listed in ``ADDED`` with the value for older rows, tables are widened when they are next written, and a
reader of an earlier minor does not see it. Any other change (a column that is removed or changes its meaning) raises
the major number, and a reader of another major refuses the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self

import pyarrow as pa

from market.errors import LakeError
from market.features import catalog
from market.labels import HORIZON_NAMES

PARTITIONS: Final = ("venue", "instrument", "date")

_TYPES: Final[dict[str, Any]] = {
    "str": pa.string(),
    "bytes": pa.binary(),
    "i1": pa.int8(),
    "i2": pa.int16(),
    "i4": pa.int32(),
    "i8": pa.int64(),
    "f4": pa.float32(),
    "f8": pa.float64(),
    "bool": pa.bool_(),
    "f4s": pa.list_(pa.float32()),
}


def _schema(*groups: str) -> pa.Schema:
    """The partition columns, then groups ``"type name name ..."``."""
    fields = [pa.field(name, _TYPES["str"]) for name in PARTITIONS]
    for group in groups:
        kind, *names = group.split()
        fields += [pa.field(name, _TYPES[kind]) for name in names]
    return pa.schema(fields)


LABEL_COLUMNS: Final = tuple(f"{what}_{h}" for what in ("dir", "bidfall", "askfall") for h in HORIZON_NAMES)

SCHEMAS: Final[dict[str, pa.Schema]] = {
    # wire frames as received
    "raw": _schema("str source", "i8 frame recv_ns", "bytes payload"),
    # events; a batch is a whole minute of receive time, ``row`` the position in it
    "ticks": _schema(
        "str source",
        "i8 batch",
        "i4 row",
        "i8 exch_ns recv_ns seq frame order_id price size",
        "i2 kind",
        "i1 side",
        "i4 flags",
    ),
    # values known from ``recv_ns`` on; prices times 1e8
    "slow": _schema("str source", "i8 recv_ns exch_ns", "f8 funding_rate", "i8 mark_e8 index_e8 next_funding_ns"),
    # summaries of options, known from ``recv_ns`` on; ``instrument`` is the currency, ``side`` 1 for a call and -1 for
    # a put. Prices in the currency, strike and index in dollars, sizes in contracts: times 1e8. 0 where there is no bid
    # or ask
    "options": _schema(
        "str source",
        "i8 frame recv_ns exch_ns",
        "str option",
        "i1 side",
        "i8 strike_e8 expiry_ns bid_e8 ask_e8 mark_e8 index_e8 open_interest_e8 volume_e8",
        "f8 forward implied_volatility delta vega",
    ),
    # tick and lot of instruments that the code does not know; ``origin`` is where they came from
    "instruments": _schema("str source", "i8 recv_ns", "str tick lot origin"),
    # one row per validated batch, with the figures it was validated by
    "batches": _schema(
        "str source",
        "i8 batch frames events trades updates first_ns last_ns gaps largest_gap_ns clock_back",
        "f8 crossed_rate locked_rate trade_outside_rate worst_trade_bp",
        "f8 largest_jump_bp largest_spread_bp largest_size_ratio",
        "str verdict reasons",
    ),
    # one row per figure of a validated batch, and its rule's verdict; ``rule`` is empty where no rule checks it, a
    # limit is infinite where there is none
    "quality": _schema(
        "str source", "i8 batch first_ns last_ns", "str figure rule", "f8 value warn hold", "str verdict"
    ),
    # ``stage`` parse: the raw frame in ``payload``; validate: the batch's tick rows as an Arrow IPC stream
    "quarantine": _schema("str source", "i8 batch frame recv_ns", "str stage reason detail", "bytes payload"),
    "features": _schema(
        "str source",
        "i8 batch segment frame seq recv_ns exch_ns mid2 bid_depth ask_depth",
        "bool warm",
        "str feature_set",
        "f4 " + " ".join(catalog.tick_names()),
    ),
    "labels": _schema("str source", "i8 frame recv_ns", "i1 " + " ".join(LABEL_COLUMNS)),
    "predictions": _schema(
        "str session",
        "i8 n",
        "str prediction_id",
        "i8 frame seq recv_ns exch_ns mid2",
        "i4 arm",
        "i8 version0 version1",
        "f4s probs0 probs1 features",
        "str feature_set",
        "i8 step_ns",
    ),
    # ``version`` is the one acted on
    "quotes": _schema(
        "str session",
        "i8 n",
        "str quote_id prediction_id",
        "i8 recv_ns version",
        "i4 arm",
        "i8 bid_price ask_price bid_size ask_size",
        "i4 reasons",
        "i8 mid2",
    ),
    "outcomes": _schema(
        "str session quote_id order_id",
        "i1 side",
        "i8 price size fill_ns mid2_fill mid2_100ms mid2_1s version",
        "i4 arm block",
    ),
}

_TIME: Final = {"outcomes": "fill_ns", "batches": "first_ns", "quality": "first_ns"}  # elsewhere recv_ns
_ORDER: Final = {
    "raw": ("source", "frame"),
    "ticks": ("source", "batch", "row"),
    "slow": ("source", "recv_ns"),
    "options": ("source", "frame"),
    "instruments": ("source", "recv_ns"),
    "batches": ("source", "batch"),
    "quality": ("source", "batch", "figure"),
    "quarantine": ("source", "batch", "frame"),
    "features": ("source", "frame"),
    "labels": ("source", "frame"),
    "predictions": ("session", "n"),
    "quotes": ("session", "n"),
    "outcomes": ("session", "fill_ns"),
}
_ROWS_A_GROUP: Final = {"raw": 8_192, "quarantine": 1_024, "features": 16_384, "predictions": 16_384}

# Columns added after version 1.0 of their table: the minor version that added them, and the value for older rows. An
# entry is never removed.
ADDED: Final[dict[str, dict[str, tuple[int, Any]]]] = {}
MAJOR: Final = dict.fromkeys(SCHEMAS, 1)
PROPERTY: Final = "quotekeel.schema"  # of a table: the version it was last written with; 1.0 if absent


@dataclass(frozen=True, order=True)
class SchemaVersion:
    """Version of a table's schema."""

    major: int
    minor: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of ``"1.0"``.

        Raises:
            LakeError: it is not of this form.
        """
        major, dot, minor = text.partition(".")
        if not (dot and major.isdigit() and minor.isdigit()):
            raise LakeError(f"expected {PROPERTY} to be like 1.0, saw {text!r}")
        return cls(int(major), int(minor))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


def version_of(table: str) -> SchemaVersion:
    """The version that this code writes."""
    return SchemaVersion(MAJOR[table], max((minor for minor, _ in ADDED.get(table, {}).values()), default=0))


def schema_of(table: str) -> pa.Schema:
    """Columns of a table.

    Raises:
        LakeError: there is no such table.
    """
    if table not in SCHEMAS:
        raise LakeError(f"there is no table {table!r}; the lake has {', '.join(SCHEMAS)}")
    return SCHEMAS[table]


def time_column(table: str) -> str:
    """The column with a row's time: time ranges filter by it, and compaction sorts by it."""
    return _TIME.get(table, "recv_ns")


def order_of(table: str) -> tuple[str, ...]:
    """The columns by which returned rows are ordered."""
    return _ORDER[table]


def rows_a_group(table: str) -> int:
    """Rows in a row group of a file: about a megabyte, the least that a time-range read loads."""
    return _ROWS_A_GROUP.get(table, 65_536)
