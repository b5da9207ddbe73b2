"""Predictions, quotes and outcomes of a session in a real lake, a little at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from market import instruments
from market.clock import NS_PER_MS, NS_PER_S
from market.events import ASK, BID
from market.lake.lake import Lake
from serving.quoting.engine import Fill
from serving.records import DECISION
from serving.session.recorder import Acted, Recorder

INSTRUMENT = instruments.find("sim-usdm.BTCUSDT")
START_NS = 1_790_000_000 * NS_PER_S
SESSION = "live-20260921T131320-00ff"


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(lake=Lake(tmp_path / "lake"), instrument=INSTRUMENT, session=SESSION, feature_set="f" * 16)


def decisions(first: int, count: int) -> np.ndarray:
    """One every 10 ms; the mid falls by a half tick each."""
    rows = np.zeros(count, DECISION)
    n = np.arange(first, first + count)
    rows["n"], rows["frame"], rows["recv_ns"] = n, n * 2, START_NS + n * 10 * NS_PER_MS
    rows["mid2"] = 20_000 - n
    rows["version"], rows["arm"] = (3, 4), n % 2
    rows["probs"][:, 0], rows["probs"][:, 1] = 0.25, np.nan
    rows["features"] = n[:, None]
    return rows


def fill(at_n: float, side: int = BID) -> Fill:
    recv_ns = START_NS + int(at_n * 10) * NS_PER_MS
    return Fill(client_id=f"x.{at_n}b1", quote_n=7, side=side, price=9_990, size=2, recv_ns=recv_ns)


ACTED = Acted(n=7, version=4, arm=1, block=179_000_000)


def test_rows_of_several_flushes_are_all_there_once(recorder: Recorder) -> None:
    for first in (1, 101, 201):
        recorder.add_decisions(decisions(first, 100))
        recorder.add_quote(decisions(first, 1))
        recorder.flush()
        recorder.flush()
    rows = recorder.lake.read("predictions")
    assert rows["n"].to_pylist() == list(range(1, 301))
    assert rows["prediction_id"][0].as_py() == f"p-{SESSION}.1"
    assert rows["frame"].to_pylist()[:2] == [2, 4]
    assert np.isnan(rows["probs1"][0].as_py()).all()
    assert rows["features"][9].as_py() == [10.0] * len(rows["features"][9])
    quotes = recorder.lake.read("quotes")
    assert quotes["quote_id"].to_pylist() == [f"q-{SESSION}.{n}" for n in (1, 101, 201)]
    assert quotes["version"].to_pylist() == [4, 4, 4], "arm 1 acted, so its version is the one acted on"
    assert recorder.lake.position("predictions", SESSION) == 300
    assert (recorder.predictions, recorder.quotes, recorder.outcomes) == (300, 3, 0)


def test_a_fill_waits_for_the_mid_one_second_later(recorder: Recorder) -> None:
    recorder.add_decisions(decisions(1, 100))
    recorder.add_fill(fill(50.5), ACTED)
    recorder.flush()
    assert not recorder.lake.exists("outcomes")
    recorder.add_decisions(decisions(101, 100))
    recorder.flush()
    (row,) = recorder.lake.read("outcomes").to_pylist()
    assert (row["mid2_fill"], row["mid2_100ms"], row["mid2_1s"]) == (20_000 - 50, 20_000 - 60, 20_000 - 150)
    assert (row["quote_id"], row["version"], row["arm"], row["block"]) == (f"q-{SESSION}.7", 4, 1, 179_000_000)
    recorder.flush(final=True)
    assert recorder.outcomes == 1


def test_at_the_end_a_fill_is_written_with_what_is_known(recorder: Recorder) -> None:
    recorder.add_decisions(decisions(1, 100))
    recorder.add_fill(fill(80.5, side=ASK), ACTED)
    recorder.add_fill(fill(95.5), ACTED)
    recorder.flush(final=True)
    first, second = recorder.lake.read("outcomes").to_pylist()
    assert (first["mid2_fill"], first["mid2_100ms"], first["mid2_1s"]) == (20_000 - 80, 20_000 - 90, None)
    assert (second["mid2_fill"], second["mid2_100ms"], second["mid2_1s"]) == (20_000 - 95, None, None)
    assert recorder.lake.position("outcomes", SESSION) == 2


def test_nothing_recorded_writes_nothing(recorder: Recorder) -> None:
    recorder.add_decisions(np.zeros(0, DECISION))
    recorder.flush(final=True)
    assert not recorder.lake.exists("predictions")
    assert recorder.buffered == 0


def test_the_buffers_keep_a_copy(recorder: Recorder) -> None:
    rows = decisions(1, 3)
    recorder.add_decisions(rows)
    rows["n"] = 0
    recorder.flush()
    assert recorder.lake.read("predictions")["n"].to_pylist() == [1, 2, 3]
