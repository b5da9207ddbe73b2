"""Of the runs about one instrument one works and one waits; those about others are none of its business."""

from __future__ import annotations

from pathlib import Path

import pytest

from market.errors import ServiceError
from pipelines.orchestration.approval_queue import take_turn
from pipelines.workspace import Workspace

KEY, OTHER = "sim-usdm.BTCUSDT", "sim-usdm.ETHUSDT"


class Runs(set[str]):
    """The runs that a scheduler knows to be running."""

    def turn(self, home: Path, run: str, instrument: str = KEY) -> str:
        self.add(run)
        return take_turn(Workspace(home=home), instrument, run, is_running=self.__contains__)


def test_one_works_one_waits_and_the_others_leave(tmp_path: Path) -> None:
    runs = Runs()
    assert runs.turn(tmp_path, "a") == "go"
    assert runs.turn(tmp_path, "a") == "go", "asked again after a retry"
    assert runs.turn(tmp_path, "b") == "wait"
    assert runs.turn(tmp_path, "c") == "leave"
    assert runs.turn(tmp_path, "b") == "wait"


def test_an_instrument_does_not_wait_for_another(tmp_path: Path) -> None:
    runs = Runs()
    assert [runs.turn(tmp_path, "a"), runs.turn(tmp_path, "b", OTHER)] == ["go", "go"]
    assert runs.turn(tmp_path, "c", OTHER) == "wait"


def test_who_waits_is_next_and_a_run_that_died_has_given_up_its_place(tmp_path: Path) -> None:
    runs = Runs()
    runs.turn(tmp_path, "a")
    runs.turn(tmp_path, "b")
    runs.remove("a")
    assert runs.turn(tmp_path, "c") == "leave", "b will look at all there is"
    assert runs.turn(tmp_path, "b") == "go"
    assert runs.turn(tmp_path, "d") == "wait"
    runs -= {"b", "d"}
    assert runs.turn(tmp_path, "e") == "go"


def test_a_damaged_record_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "turns").mkdir()
    (tmp_path / "turns" / f"{KEY}.json").write_text("{")
    with pytest.raises(ServiceError, match="remove it to let the next run begin"):
        Runs().turn(tmp_path, "a")
