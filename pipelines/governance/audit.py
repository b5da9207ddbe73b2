"""The append-only record of decisions and actions: approvals, promotions, acknowledged alerts, safe states.

One JSON line a decision. Each line carries the sha256 of the line before it and of itself, so that a changed, removed
or reordered line breaks the chain; the hash of a version's last decision is also a tag in the model registry, so that
cutting off the end of the file shows as well. This detects tampering, it does not prevent it: anyone who can write both
the file and the registry can rewrite history.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from market.clock import NS_PER_S, Clock
from market.errors import GateError, ServiceError
from pipelines.workspace import Workspace
from serving.rollout.roles import read_state

GENESIS = "0" * 64
LOCK_SECONDS = 10.0
TAKEN_BACK = " taken back"  # ends the kind of a reverted change of champion


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One decision. ``what`` holds the fields of its ``kind``; ``digest`` is the sha256 of everything else."""

    number: int
    time_ns: int
    kind: str
    what: Mapping[str, Any]
    previous: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class AuditVerifyResult:
    """A whole chain. ``torn`` reports an unfinished last line, which was never acknowledged to anyone."""

    path: str
    entries: int
    head: str
    torn: bool

    def line(self) -> str:
        tail = "; an unfinished last line is ignored" if self.torn else ""
        return f"{self.entries} decisions, chain unbroken, head {self.head[:12]}{tail}"


@dataclass(frozen=True, kw_only=True)
class AuditLsResult:
    """Entries as they stand in the record, oldest first."""

    path: str
    entries: tuple[Entry, ...]

    def line(self) -> str:
        """A table: number, time (UTC), kind, who, what about, why."""
        rows = [("no", "time", "kind", "who", "about", "why"), *(_row(entry) for entry in self.entries)]
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        return "\n".join(
            "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[5]]).rstrip() for row in rows
        )


def path_of(workspace: Workspace) -> Path:
    """Where a workspace keeps the record."""
    return workspace.audit_record


def append(path: Path, *, clock: Clock, kind: str, what: Mapping[str, Any]) -> Entry:
    """Add a decision; when this returns it is on disk.

    Raises:
        GateError: the chain is broken; nothing is added to a record that cannot be trusted.
        ServiceError: another process held the record for longer than LOCK_SECONDS.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path.with_suffix(".lock"), timeout=LOCK_SECONDS):
            entries, whole = _read(path)
            entry = _chained(entries[-1] if entries else None, clock.now_ns(), kind, what)
            _write(path, whole, _encode(entry))
            return entry
    except Timeout:
        raise ServiceError(
            f"another process has held {path} for more than {LOCK_SECONDS:g} s; wait for it, or end it, and try again"
        ) from None


def append_once(path: Path, *, clock: Clock, kind: str, what: Mapping[str, Any], about: str = "model_name") -> None:
    """Add a decision about ``what[about]``, unless it is the last one about it: completing an interrupted action does
    not record it twice.

    Raises:
        GateError: the chain is broken.
        ServiceError: another process held the record for longer than LOCK_SECONDS.
    """
    earlier = [entry for entry in read(path) if entry.what.get(about) == what[about]]
    if not earlier or (earlier[-1].kind, dict(earlier[-1].what)) != (kind, dict(what)):
        append(path, clock=clock, kind=kind, what=what)


def read(path: Path) -> tuple[Entry, ...]:
    """All decisions, oldest first; empty when there is no record yet.

    Raises:
        GateError: the chain is broken.
    """
    return tuple(_read(path)[0])


def verify(path: Path) -> AuditVerifyResult:
    """Check every link.

    Raises:
        GateError: the first broken line, by number.
    """
    entries, whole = _read(path)
    torn = path.exists() and path.stat().st_size > whole
    return AuditVerifyResult(
        path=str(path), entries=len(entries), head=entries[-1].digest if entries else GENESIS, torn=torn
    )


def verify_workspace(workspace: Workspace) -> AuditVerifyResult:
    """:func:`verify` of a workspace's record, that no decision known to the registry is missing from it, and that the
    registry's champions are those of the record.

    Raises:
        GateError: a broken link, a decision that only the registry knows, or an alias moved by hand.
    """
    from training.registry import tracking
    from training.registry.registry import CHAMPION, Registry

    path = path_of(workspace)
    result = verify(path)
    entries = read(path)
    known = {entry.digest for entry in entries}
    client = tracking.client(workspace.tracking)
    models = set(champions(entries))
    with tracking.spoken("list the registered versions", workspace.tracking):
        for version in client.search_model_versions(max_results=10_000):
            models.add(version.name)
            digest = version.tags.get("audit_digest")
            if digest and digest not in known:
                raise GateError(
                    f"the registry holds a decision about {version.name} version {version.version} ({digest[:12]}) "
                    f"that {path} does not: lines were removed from it; restore the file from a backup"
                )
    registry = Registry(workspace.tracking)
    strays = stray_aliases(workspace, {model: registry.get_alias(model, CHAMPION) for model in sorted(models)})
    if strays:
        raise GateError("; ".join(strays))
    return result


def ls(workspace: Workspace, *, last: int = 0) -> AuditLsResult:
    """The ``last`` entries (0: all).

    Raises:
        GateError: the chain is broken.
    """
    path = path_of(workspace)
    return AuditLsResult(path=str(path), entries=read(path)[-last:])


def champions(entries: Sequence[Entry]) -> dict[str, int]:
    """The champion of each model as the last change on record left it; 0 where the first one was reverted."""
    found: dict[str, int] = {}
    for entry in entries:
        change = entry.kind.removesuffix(TAKEN_BACK)
        if change.endswith(("promotion", "rollback")):
            found[str(entry.what["model_name"])] = int(entry.what["old" if change != entry.kind else "version"])
    return found


def stray_aliases(workspace: Workspace, aliases: Mapping[str, int | None]) -> list[str]:
    """A sentence for each model whose champion in the registry (None: it has none) is not that of the record.

    A change that is in progress, or was interrupted and will be completed, is not a mismatch.

    Raises:
        GateError: the chain is broken.
        ServiceError: the record of what is in service is damaged.
    """
    from training.registry.registry import model_name

    recorded = champions(read(path_of(workspace)))
    moving = {model_name(key) for key, roles in read_state(workspace.roles).items() if roles.move}
    return [
        f"the registry's champion of {model} is {_version(alias)}, the last one on record is "
        f"{_version(recorded.get(model))}: the alias was moved by hand. Move it back, or promote the version "
        "(keel approve, keel promote)"
        for model, alias in aliases.items()
        if (alias or 0) != recorded.get(model, 0) and model not in moving
    ]


def _version(version: int | None) -> str:
    return f"version {version}" if version else "none"


def _row(entry: Entry) -> tuple[str, ...]:
    what = entry.what
    time = datetime.fromtimestamp(entry.time_ns / NS_PER_S, tz=UTC).strftime("%Y-%m-%d %H:%M:%S")
    kind = str(what["decision"]) if entry.kind == "approval" else entry.kind
    about = str(what.get("model_name") or what.get("instrument") or what.get("event_id") or "")
    version = f" version {what['version']}" if "version" in what else ""
    who, why = (str(what.get(name) or "") for name in ("name", "reason"))
    return str(entry.number), time, kind, who, about + version, why or str(what.get("note") or "")


def _chained(last: Entry | None, time_ns: int, kind: str, what: Mapping[str, Any]) -> Entry:
    number = last.number + 1 if last else 1
    previous = last.digest if last else GENESIS
    digest = _digest(number, time_ns, kind, what, previous)
    return Entry(number=number, time_ns=time_ns, kind=kind, what=what, previous=previous, digest=digest)


def _digest(number: int, time_ns: int, kind: str, what: Mapping[str, Any], previous: str) -> str:
    content = orjson.dumps([number, time_ns, kind, dict(what), previous], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(content).hexdigest()


def _encode(entry: Entry) -> bytes:
    fields = {name: getattr(entry, name) for name in Entry.__dataclass_fields__}
    return orjson.dumps(fields) + b"\n"


def _read(path: Path) -> tuple[list[Entry], int]:
    """Checked entries, and how many bytes of the file they are; an unfinished last line is left out."""
    text = path.read_bytes() if path.exists() else b""
    whole = text.rfind(b"\n") + 1
    entries: list[Entry] = []
    for number, line in enumerate(text[:whole].splitlines(), start=1):
        entries.append(_checked(path, number, line, entries[-1].digest if entries else GENESIS))
    return entries, whole


def _checked(path: Path, number: int, line: bytes, previous: str) -> Entry:
    try:
        entry = Entry(**orjson.loads(line))
    except (orjson.JSONDecodeError, TypeError) as error:
        raise GateError(f"{path} line {number} is not a decision ({error}); restore the file from a backup") from None
    expected = _digest(entry.number, entry.time_ns, entry.kind, entry.what, entry.previous)
    if entry.number != number or entry.previous != previous or entry.digest != expected:
        raise GateError(
            f"{path} line {number}: expected number {number}, previous {previous[:12]} and digest {expected[:12]}, saw "
            f"{entry.number}, {entry.previous[:12]} and {entry.digest[:12]}; the record was changed, restore it from a "
            "backup"
        )
    return entry


def _write(path: Path, whole: int, line: bytes) -> None:
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
    try:
        # an unfinished line of a killed process was never acknowledged: the new one takes its place
        os.ftruncate(file, whole)
        os.lseek(file, whole, os.SEEK_SET)
        os.write(file, line)
        os.fsync(file)
    finally:
        os.close(file)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
