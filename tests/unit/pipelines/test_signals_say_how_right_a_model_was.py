"""Realised quality as signals a row and as figures, by hand; what depth did comes from the ticks of the session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kit.small_lake import Market, later, workspace_with
from kit.small_session import HIDDEN, Session, serve_by_hand

from market.clock import BATCH_NS, NS_PER_S
from market.labels import HORIZON_NAMES, N_OUTPUTS, UNKNOWN, LabelConfig, labels
from market.lake.lake import Lake
from pipelines.monitoring import model_quality, signals
from pipelines.monitoring.signals import WATCHED, Served
from pipelines.workspace import Workspace

MARKET = Market(source="live-20231114T221300-0a1b", seconds=200, frames=8)
KEY = MARKET.instrument.key


def said(n: int, *, down: float, up: float, bid: float = 0.1, ask: float = 0.1) -> np.ndarray:
    """The same words at every horizon."""
    return np.tile([down, 1 - down - up, up, bid, ask], (n, len(HORIZON_NAMES)))


def test_overconfidence_is_zero_on_average_where_seven_of_ten_sure_words_come_true() -> None:
    truth = np.array([2] * 7 + [0] * 3, np.int8)
    gap = signals.overconfidence(np.tile([0.1, 0.2, 0.7], (10, 1)), truth)
    assert gap.mean() == pytest.approx(0.0)
    assert gap[0] == pytest.approx(-0.3)
    assert gap[-1] == pytest.approx(0.7)


def test_what_is_unknown_was_neither_right_nor_wrong() -> None:
    truth = np.full((3, len(HORIZON_NAMES)), UNKNOWN, np.int8)
    truth[1, 0] = 1
    loss = signals.fall_loss(said(3, down=0.2, up=0.2, bid=0.25), truth, 1)
    assert np.isnan(loss[[0, 2]]).all()
    assert loss[1] == pytest.approx(-np.log(0.25))
    assert np.isnan(signals.overconfidence(said(3, down=0.2, up=0.2)[:, :3], truth[:, 1])).all()


def test_the_loss_of_a_liquidity_head_is_of_its_own_side_over_all_horizons() -> None:
    truth = np.zeros((1, len(HORIZON_NAMES)), np.int8)
    truth[0, :2] = 1
    probs = said(1, down=0.2, up=0.2, bid=0.4, ask=0.9)
    expected = np.mean([-np.log(0.9)] * 2 + [-np.log(0.1)] * 2)
    assert signals.fall_loss(probs, truth, 2)[0] == pytest.approx(expected)


def test_figures_of_a_liquidity_head_count_hits_and_what_came_true() -> None:
    probs = np.concatenate([said(4, down=0.1, up=0.1, bid=0.8), said(6, down=0.1, up=0.1, bid=0.2)])
    truth = np.full((10, len(HORIZON_NAMES), 3), UNKNOWN, np.int8)
    truth[:, WATCHED, 1] = [1, 1, 1, 0, 1, 0, 0, 0, 0, 0]
    sample = signals.watched(np.zeros((10, 32)), probs, truth, np.arange(10), np.zeros(10, np.int64))
    (bid,) = model_quality.quality(signals.Watched(sample=sample, probs=probs, truth=truth))
    assert (bid.head, bid.rows) == ("bid_falls", 10)
    assert (bid.hits, bid.came_true) == (pytest.approx(0.75), pytest.approx(0.75))
    assert bid.log_loss == pytest.approx(-(8 * np.log(0.8) + 2 * np.log(0.2)) / 10)


@pytest.fixture(scope="module")
def live(
    tmp_path_factory: pytest.TempPathFactory, write_seeded_bundle: Callable[..., Path]
) -> tuple[Workspace, Session]:
    folder = tmp_path_factory.mktemp("live")
    workspace = workspace_with(folder / "home", later(MARKET, -300, source="file-before", seed=7))
    bundle = write_seeded_bundle(folder / "bundle", hidden=HIDDEN)
    return workspace, serve_by_hand(workspace, MARKET, bundle=bundle, version=1, verdicts={2: "quarantine"})


def recorded(workspace: Workspace) -> Served:
    lake = Lake(workspace.lake)
    return signals.usable(signals.recorded(lake, KEY, sessions=(), last_ns=3600 * NS_PER_S))


def test_depth_of_a_decision_is_what_the_hot_path_had_refused_minutes_included(live: tuple[Workspace, Session]) -> None:
    workspace, session = live
    rows = recorded(workspace)
    of_frame = {int(frame): i for i, frame in enumerate(session.rows.frame)}
    at = np.array([of_frame[int(frame)] for frame in rows.frame])
    for part in (rows, rows.only(rows.recv_ns >= MARKET.start_ns + BATCH_NS + 5 * NS_PER_S)):
        bid, ask = signals.near_depth(Lake(workspace.lake), KEY, part)
        np.testing.assert_array_equal(bid, session.rows.bid_depth[at[-len(bid) :]])
        np.testing.assert_array_equal(ask, session.rows.ask_depth[at[-len(ask) :]])


@pytest.mark.parametrize("made", [LabelConfig(), LabelConfig(threshold_half_ticks=2, depth_fall_percent=10)])
def test_the_truth_in_service_is_the_label_that_training_would_give(
    live: tuple[Workspace, Session], made: LabelConfig
) -> None:
    workspace, session = live
    rows = recorded(workspace)
    watched = signals.current(Lake(workspace.lake), KEY, rows, made)
    late = session.rows.recv_ns >= rows.recv_ns[0]
    columns = (getattr(session.rows, name)[late] for name in ("recv_ns", "mid2", "bid_depth", "ask_depth"))
    found = labels(*columns, np.zeros(int(late.sum()), np.int64), made)
    for head, wanted in enumerate((found.direction, found.bid_fall, found.ask_fall)):
        np.testing.assert_array_equal(watched.truth[:, :, head], wanted)
    assert (watched.truth[:, WATCHED, 1] == 1).any()
    names = watched.sample.names
    assert np.isfinite(watched.sample.values[:, names.index(signals.BID_LOSS)]).mean() > 0.95


def test_a_fall_counts_only_where_depth_is_known_before_and_after(live: tuple[Workspace, Session]) -> None:
    workspace, _ = live
    rows = recorded(workspace)
    half = len(rows.frame) // 2
    frame = rows.frame.copy()
    frame[half:] += 10**9  # as if their ticks were not in the lake
    whole = signals.current(Lake(workspace.lake), KEY, rows, LabelConfig())
    part = signals.current(Lake(workspace.lake), KEY, replace(rows, frame=frame), LabelConfig())
    np.testing.assert_array_equal(part.truth[:, :, 0], whole.truth[:, :, 0])
    assert (part.truth[half:, :, 1:] == UNKNOWN).all()
    reaches = rows.recv_ns[:half] + NS_PER_S < rows.recv_ns[half]
    np.testing.assert_array_equal(part.truth[:half][reaches], whole.truth[:half][reaches])
    assert ((part.truth[:half] == whole.truth[:half]) | (part.truth[:half] == UNKNOWN)).all()


def test_without_fills_nothing_was_earned_and_with_one_it_is_in_half_ticks(live: tuple[Workspace, Session]) -> None:
    workspace, session = live
    lake = Lake(workspace.lake)
    end = MARKET.start_ns + 300 * NS_PER_S
    none = model_quality.fills(lake, KEY, ["live-other"], start_ns=0, end_ns=end)
    assert (none.fills, none.lots, none.realised) == (0, 0, None)
    one = model_quality.fills(lake, KEY, [session.name], start_ns=MARKET.start_ns, end_ns=end)
    row = lake.read("outcomes").to_pylist()[0]
    assert (one.fills, one.lots) == (1, 3)
    assert one.effective == pytest.approx(row["mid2_fill"] - 2 * row["price"])
    assert one.realised == pytest.approx(row["mid2_1s"] - 2 * row["price"])
    assert one.adverse == pytest.approx(row["mid2_fill"] - row["mid2_1s"])


def test_words_have_one_place_each() -> None:
    assert len(set(signals.NAMES)) == len(signals.NAMES)
    sample = signals.watched(
        np.zeros((2, 32)),
        said(2, down=0.1, up=0.4),
        np.zeros((2, len(HORIZON_NAMES), 3), np.int8),
        np.arange(2),
        np.zeros(2, np.int64),
    )
    at = sample.names.index(f"p_up_less_down_{HORIZON_NAMES[WATCHED]}")
    assert sample.values[0, at] == pytest.approx(0.3)
    assert said(1, down=0.1, up=0.4).shape[1] == N_OUTPUTS
