"""The quality gate is killed between its commits, minutes in quarantine among them; the next run ends undisturbed."""

from __future__ import annotations

import random
import shutil
import signal
from pathlib import Path

import pytest
from kit.doomed import keel
from kit.small_lake import INSTRUMENT, Market, events_of_market, with_checkpoints

from market.events import TRADE
from market.lake.lake import Lake
from market.lake.rows import ticks_of

TABLES = ("ticks", "batches", "quarantine", "quality")
KILLS = 6


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five unjudged minutes; in two of them trades print far outside the book."""
    home = tmp_path_factory.mktemp("gate") / "landed"
    market = Market(seconds=240.0, frames=10)
    for i, events in enumerate(with_checkpoints(events_of_market(market))):
        if i in (1, 3):
            events["price"][events["kind"] == TRADE] *= 2
        rows = ticks_of(events, source=market.source, instrument=INSTRUMENT)
        Lake(home / "lake").append("ticks", rows, source=market.source, position=i)
    return home


def left(home: Path) -> dict[str, object]:
    """What a run leaves: the tables, and the files of the page and the docs that carry no time."""
    tables: dict[str, object] = {table: Lake(home / "lake").read(table).to_pylist() for table in TABLES}
    pages = sorted(path.relative_to(home).as_posix() for path in (home / "quality").rglob("*") if path.is_file())
    return tables | {"pages": [page for page in pages if "/validations/" not in page]}


def test_a_gate_that_is_killed_again_and_again_ends_as_if_undisturbed(landed: Path) -> None:
    home, chance = landed.parent / "home", random.Random(7)
    shutil.copytree(landed, home)
    calm = keel(home, "validate")
    assert calm.code == 0, calm.err
    wanted = left(home)
    assert len(wanted["quarantine"]) == 2  # type: ignore[arg-type]
    last = [calm.changes - n for n in range(12)]  # the commits; before them come the files of the docs
    for at in [*chance.sample(last, KILLS - 1), chance.randint(1, calm.changes)]:
        shutil.rmtree(home)
        shutil.copytree(landed, home)
        killed = keel(home, "validate", at=at, by=signal.SIGKILL)
        assert killed.killed, killed.err
        again = keel(home, "validate")
        assert again.code == 0, again.err
        assert left(home) == wanted, at
