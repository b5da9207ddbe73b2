"""Which version of a table to read, which schema it has, and how an old version is read with today's schema."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from market.errors import LakeError
from market.lake.schemas import ADDED, PROPERTY, SCHEMAS, SchemaVersion, version_of


def version_as_of(table: str, handle: DeltaTable, time_ms: int) -> int | None:
    """The newest version committed by that time; None before the first.

    Uses the times inside the log: the modification times of its files, which delta-rs uses, are those of a copy, and
    whole seconds on S3.
    """
    commits = [(int(each["version"]), int(each["timestamp"])) for each in handle.history()]
    version = max((version for version, committed in commits if committed <= time_ms), default=None)
    if version is None and min(commits)[0] > 0:
        raise LakeError(
            f"table {table}: its log no longer reaches back that far; the oldest version is {min(commits)[0]}"
        )
    return version


def load(table: str, handle: DeltaTable, version: int) -> None:
    """Move the handle to an old version.

    Raises:
        LakeError: there is no such version.
    """
    newest = handle.version()
    if not 0 <= version <= newest:
        raise LakeError(f"table {table} has no version {version}; it has 0 to {newest}")
    handle.load_as_version(version)


def version_in(handle: DeltaTable) -> SchemaVersion:
    """The schema version that the table was last written with."""
    return SchemaVersion.parse(handle.metadata().configuration.get(PROPERTY) or "1.0")


def must_be_readable(table: str, handle: DeltaTable) -> None:
    """Raise LakeError for a table of another major version."""
    found, ours = version_in(handle), version_of(table)
    if found.major > ours.major:
        raise LakeError(
            f"table {table} has schema {found}, this quotekeel reads {ours.major}.x: a newer one wrote it. "
            "Update quotekeel; nothing was changed"
        )
    if found.major < ours.major:
        raise LakeError(
            f"table {table} has schema {found}, this quotekeel reads {ours.major}.x: read it with the version of "
            "quotekeel that wrote it, or land its sources again into another lake"
        )


def names(handle: DeltaTable) -> set[str]:
    """Columns that the table has."""
    return {field.name for field in handle.schema().fields}


def wide(table: str, handle: DeltaTable) -> pa.Schema | None:
    """The table's schema with the columns that it lacks; None if it has them all."""
    missing = [field for field in SCHEMAS[table] if field.name not in names(handle)]
    return pa.schema([*pa.schema(handle.schema().to_arrow()), *missing]) if missing else None


def filled(table: str, rows: pa.Table) -> pa.Table:
    """Fill in the default of a column for rows of files that are older than it."""
    for i, name in enumerate(rows.column_names):
        usual = default(table, name)
        if usual is not None and rows.column(i).null_count:
            field = rows.schema.field(i)
            rows = rows.set_column(i, field, pc.fill_null(rows.column(i), pa.scalar(usual, field.type)))
    return rows


def default(table: str, name: str) -> Any:
    """The value of the column for older rows; None if there is none."""
    return ADDED.get(table, {}).get(name, (0, None))[1]
