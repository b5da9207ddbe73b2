"""Which version of a table is read, what schema it has, and how one of before is read as one of today."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from market.errors import LakeError
from market.lake.schemas import ADDED, PROPERTY, SCHEMAS, SchemaVersion, version_of


def version_as_of(table: str, handle: DeltaTable, time_ms: int) -> int | None:
    """The newest version that was committed by then; None before the first.

    From the log's own times: those of its files, which delta-rs goes by, are those of a copy, and whole seconds on S3.
    """
    commits = [(int(each["version"]), int(each["timestamp"])) for each in handle.history()]
    version = max((version for version, committed in commits if committed <= time_ms), default=None)
    if version is None and min(commits)[0] > 0:
        raise LakeError(
            f"table {table}: its log no longer reaches back so far; the oldest version is {min(commits)[0]}"
        )
    return version


def load(table: str, handle: DeltaTable, version: int) -> None:
    """Turn the handle to a version of before.

    Raises:
        LakeError: there is no such version.
    """
    newest = handle.version()
    if not 0 <= version <= newest:
        raise LakeError(f"table {table} has no version {version}; it has 0 to {newest}")
    handle.load_as_version(version)


def version_in(handle: DeltaTable) -> SchemaVersion:
    """The schema's version that the table was last written with."""
    return SchemaVersion.parse(handle.metadata().configuration.get(PROPERTY) or "1.0")


def must_be_readable(table: str, handle: DeltaTable) -> None:
    """Raise LakeError for a table of another major version."""
    found, ours = version_in(handle), version_of(table)
    if found.major > ours.major:
        raise LakeError(
            f"table {table} has schema {found}, this quotekeel reads {ours.major}.x: it was written by a newer one. "
            "Update quotekeel; nothing was changed"
        )
    if found.major < ours.major:
        raise LakeError(
            f"table {table} has schema {found}, this quotekeel reads {ours.major}.x: read it with the version of "
            "quotekeel that wrote it, or land its sources anew into another lake"
        )


def names(handle: DeltaTable) -> set[str]:
    """Columns that the table has."""
    return {field.name for field in handle.schema().fields}


def wide(table: str, handle: DeltaTable) -> pa.Schema | None:
    """The table's schema with the columns that it does not have yet; None where it has all."""
    missing = [field for field in SCHEMAS[table] if field.name not in names(handle)]
    return pa.schema([*pa.schema(handle.schema().to_arrow()), *missing]) if missing else None


def filled(table: str, rows: pa.Table) -> pa.Table:
    """Rows of files that are older than a column have its default there."""
    for i, name in enumerate(rows.column_names):
        usual = default(table, name)
        if usual is not None and rows.column(i).null_count:
            field = rows.schema.field(i)
            rows = rows.set_column(i, field, pc.fill_null(rows.column(i), pa.scalar(usual, field.type)))
    return rows


def default(table: str, name: str) -> Any:
    """What rows of before the column have in it; None where that is nothing."""
    return ADDED.get(table, {}).get(name, (0, None))[1]
