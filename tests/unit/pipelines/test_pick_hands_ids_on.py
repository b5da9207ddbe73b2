"""One value out of what a stage printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from market.errors import InputError
from pipelines.orchestration.dvc_pick import main, pick


@pytest.fixture
def steps(tmp_path: Path) -> Path:
    (tmp_path / "ingest.json").write_text('{"instruments": ["binance-usdm.BTCUSDT"], "frames": 12}')
    (tmp_path / "broken.json").write_text("")
    return tmp_path


def test_a_value_is_found_by_names_and_places(steps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(steps), "ingest", "instruments.0"]) == 0
    assert capsys.readouterr().out == "binance-usdm.BTCUSDT\n"
    assert pick(steps / "ingest.json", "frames") == "12"


@pytest.mark.parametrize("path", ["sources", "instruments.1", "instruments.first", "frames.x"])
def test_what_is_not_there_is_named(steps: Path, path: str) -> None:
    with pytest.raises(InputError, match=path.rsplit(".", maxsplit=1)[-1]):
        pick(steps / "ingest.json", path)


def test_a_stage_that_did_not_run_or_did_not_finish_is_named(steps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(steps), "train", "run_id"]) == 2
    assert "run the stage train first" in capsys.readouterr().err
    assert main([str(steps), "broken", "x"]) == 2
    assert "run that stage again" in capsys.readouterr().err
    assert main(["too", "few"]) == 2
