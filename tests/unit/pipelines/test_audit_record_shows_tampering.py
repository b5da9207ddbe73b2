"""The append-only record of decisions."""

from __future__ import annotations

from pathlib import Path

import pytest
from kit.forked import Forked

from market.clock import ManualClock, SystemClock
from market.errors import GateError
from pipelines.governance import audit

CLOCK = ManualClock()


def _three(path: Path) -> None:
    for i in range(3):
        audit.append(path, clock=CLOCK, kind="approval", what={"version": i, "name": "ada"})


@pytest.fixture
def record(tmp_path: Path) -> Path:
    path = tmp_path / "audit" / "audit.jsonl"
    _three(path)
    return path


def test_an_unbroken_chain_is_verified_and_each_line_names_the_one_before(record: Path) -> None:
    assert audit.verify(record).entries == 3
    entries = audit.read(record)
    assert [e.previous for e in entries] == [audit.GENESIS, entries[0].digest, entries[1].digest]


def test_a_missing_record_is_an_empty_one(tmp_path: Path) -> None:
    assert audit.verify(tmp_path / "none.jsonl").head == audit.GENESIS


@pytest.mark.parametrize("spoil", ["change", "remove", "swap", "garbage"])
def test_a_changed_removed_or_reordered_line_is_named(record: Path, spoil: str) -> None:
    lines = record.read_bytes().splitlines(keepends=True)
    spoiled = {
        "change": [lines[0], lines[1].replace(b"ada", b"eve"), lines[2]],
        "remove": [lines[0], lines[2]],
        "swap": [lines[0], lines[2], lines[1]],
        "garbage": [lines[0], b"not a decision\n", lines[2]],
    }[spoil]
    record.write_bytes(b"".join(spoiled))
    with pytest.raises(GateError, match="line 2"):
        audit.verify(record)


def test_nothing_is_added_to_a_broken_record(record: Path) -> None:
    record.write_bytes(record.read_bytes().replace(b"ada", b"eve"))
    before = record.read_bytes()
    with pytest.raises(GateError):
        audit.append(record, clock=CLOCK, kind="approval", what={"version": 9})
    assert record.read_bytes() == before


def test_a_line_cut_off_by_a_kill_is_told_and_the_next_decision_takes_its_place(record: Path) -> None:
    with record.open("ab") as file:
        file.write(b'{"number": 4, "time')
    assert audit.verify(record).torn
    audit.append(record, clock=CLOCK, kind="approval", what={"version": 3})
    result = audit.verify(record)
    assert (result.entries, result.torn) == (4, False)


def append_many(path: Path) -> None:
    for i in range(40):
        audit.append(path, clock=SystemClock(), kind="t", what={"i": i})


def test_two_processes_that_append_at_once_leave_one_unbroken_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    writers = [Forked(append_many, path) for _ in range(2)]
    assert [writer.ended() for writer in writers] == [0, 0]
    assert audit.verify(path).entries == 80
