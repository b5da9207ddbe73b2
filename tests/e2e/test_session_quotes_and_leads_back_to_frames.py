"""A quoting session against the real simulator in lockstep, and along a recording: what it leaves must fit together."""

from __future__ import annotations

import gzip
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from kit.forked_keel import Keel
from kit.in_service import approved

from market import instruments
from market.clock import NS_PER_S, SystemClock
from market.errors import ApprovalError, InputError, ModelError, ServiceError, SettingsError
from market.feeds import landing
from market.lake.lake import Lake
from pipelines.in_service import state_path
from pipelines.monitoring.skew import SkewConfig, skew
from pipelines.quoting.serve import ServeConfig, ServeResult, serve
from pipelines.stack.exchange import Exchange, SimulateConfig, running_exchange
from pipelines.workspace import Workspace
from serving.outcomes import block_metrics, from_columns
from serving.rollout.assignment import assign
from serving.rollout.roles import Roles, write_roles
from serving.session.runner import simulated_stream

KEY = "sim-usdm.BTCUSDT"
ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.heavy


@pytest.fixture
def workspace(tmp_path: Path, write_seeded_bundle: Callable[..., Path]) -> Workspace:
    """Two untrained versions in service, as deploy and promote leave them."""
    made = Workspace(home=tmp_path / "home", clock=SystemClock(), author="ada")
    for version in (1, 2):
        write_seeded_bundle(made.models / KEY / str(version), seed=version, registry_version=version)
    write_roles(state_path(made), KEY, Roles(champion=1, challenger=2))
    approved(made, KEY, 1)
    return made


@pytest.fixture(scope="module")
def exchange() -> Iterator[Exchange]:
    with running_exchange(SimulateConfig(seed=11)) as running:
        yield running


def session(workspace: Workspace, exchange: Exchange, seconds: float = 20.0, **changes: object) -> ServeResult:
    return serve(ServeConfig(url=exchange.url, seconds=seconds, **changes), workspace=workspace)


def test_every_row_of_a_session_leads_back_to_its_frames(workspace: Workspace, exchange: Exchange) -> None:
    result = session(workspace, exchange, 40.0)
    lake = Lake(workspace.lake)
    mine = {"session": result.session}
    raw = lake.read("raw", where={"source": result.session})
    predictions = lake.read("predictions", where=mine)
    quotes = lake.read("quotes", where=mine)
    outcomes = lake.read("outcomes", where=mine)

    assert raw["frame"].to_pylist() == list(range(1, result.frames + 1))
    assert predictions["n"].to_pylist() == list(range(1, result.decisions + 1))
    assert (quotes.num_rows, outcomes.num_rows) == (result.quotes, result.fills)
    assert set(predictions["frame"].to_pylist()) <= set(raw["frame"].to_pylist())
    assert set(quotes["prediction_id"].to_pylist()) <= set(predictions["prediction_id"].to_pylist())
    assert set(outcomes["quote_id"].to_pylist()) <= set(quotes["quote_id"].to_pylist())
    assert set(predictions["version0"].to_pylist()) == {1}

    assert result.fills > 0, "an order at the touch is filled within half a minute of a calm market"
    signed = sum(row["side"] * row["size"] for row in outcomes.to_pylist())
    assert result.inventory == signed
    assert all(row["mid2_1s"] is not None for row in outcomes.to_pylist()), "the session listens on for a second"
    assert not landing.unfinished(lake)


def test_what_was_served_equals_the_batch_to_the_bit(workspace: Workspace, exchange: Exchange) -> None:
    result = session(workspace, exchange)
    compared = skew(SkewConfig(session=result.session), workspace=workspace)
    assert compared.equal, compared.line()
    assert compared.rows > 300


def test_two_arms_act_in_the_blocks_that_were_drawn_for_them(workspace: Workspace, exchange: Exchange) -> None:
    result = session(workspace, exchange, 30.0, arms=("champion", "challenger"), block_seconds=2.0, seed=5)
    lake = Lake(workspace.lake)
    rows = lake.read("predictions", where={"session": result.session})
    recv_ns, arm = rows["recv_ns"].to_numpy(), rows["arm"].to_numpy()
    drawn = np.array([assign(5, KEY, int(block)) for block in recv_ns // (2 * NS_PER_S)])
    np.testing.assert_array_equal(arm, drawn)
    assert set(arm.tolist()) == {0, 1}
    warm = np.isfinite(np.array(rows["probs1"].to_pylist())).all(axis=1)
    assert warm.any()
    for row in lake.read("outcomes", where={"session": result.session}).to_pylist():
        assert row["arm"] == assign(5, KEY, row["block"])
        assert row["version"] == (1, 2)[row["arm"]]
    columns = {n: rows_of(lake, result, n) for n in ("side", "price", "size", "fill_ns", "mid2_fill", "mid2_100ms")}
    columns |= {n: rows_of(lake, result, n) for n in ("mid2_1s", "arm", "block")}
    blocks = block_metrics(from_columns(columns), recv_ns, arm.astype(np.int64), block_ns=2 * NS_PER_S)
    assert sum(block.fills for block in blocks) == result.fills
    assert len(blocks) >= 15


def rows_of(lake: Lake, result: ServeResult, name: str) -> list[int | None]:
    return list(lake.read("outcomes", where={"session": result.session})[name].to_pylist())


def test_a_shadow_is_stepped_and_never_acts(workspace: Workspace, exchange: Exchange) -> None:
    result = session(workspace, exchange, 14.0, arms=("champion", "challenger"), shadow=True, block_seconds=1.0)
    rows = Lake(workspace.lake).read("predictions", where={"session": result.session})
    assert set(rows["arm"].to_pylist()) == {0}
    assert set(rows["version1"].to_pylist()) == {2}
    assert np.isfinite(np.array(rows["probs1"].to_pylist()[-1])).all()


def test_orders_do_not_outlive_the_session(workspace: Workspace, exchange: Exchange) -> None:
    """The next session begins in the same world, with nothing of ours in it."""
    session(workspace, exchange, 12.0)
    again = session(workspace, exchange, 12.0)
    compared = skew(SkewConfig(session=again.session), workspace=workspace)
    assert compared.equal, f"it began with what the feature store knew from the first: {compared.line()}"
    first = Lake(workspace.lake).read("outcomes", where={"session": again.session}).to_pylist()
    assert all(row["order_id"].startswith(again.session.removeprefix("live-")) for row in first)


def keel_serve(workspace: Workspace, exchange: Exchange) -> Keel:
    environment = {**os.environ, "KEEL_HOME": str(workspace.home)}
    return Keel("serve", "--url", exchange.url, "--seconds", "100000", environment=environment)


def wait_for_predictions(workspace: Workspace) -> None:
    """Until the first flush of the one session that is being landed."""
    lake, deadline = Lake(workspace.lake), time.monotonic() + 120
    while time.monotonic() < deadline:
        if any(lake.position("predictions", mark.stem) for mark in (workspace.home / "lake").glob(".landing/*.json")):
            return
        time.sleep(0.1)
    raise AssertionError("the session wrote nothing")


def test_ctrl_c_cancels_everything_and_writes_everything_down(workspace: Workspace, exchange: Exchange) -> None:
    running = keel_serve(workspace, exchange)
    try:
        wait_for_predictions(workspace)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130, said
    lake = Lake(workspace.lake)
    assert not landing.unfinished(lake)
    name = lake.read("predictions", columns=["session"])["session"].unique().to_pylist()[0]
    assert skew(SkewConfig(session=name), workspace=workspace).equal


def test_after_kill_9_the_next_session_completes_what_was_landed(workspace: Workspace, exchange: Exchange) -> None:
    running = keel_serve(workspace, exchange)
    try:
        wait_for_predictions(workspace)
    finally:
        running.kill()
        running.communicate()
    lake = Lake(workspace.lake)
    (left,) = landing.unfinished(lake)
    result = session(workspace, exchange, 12.0)
    assert result.recovered == (left.source,)
    assert not landing.unfinished(lake)
    frames = lake.read("raw", columns=["frame"], where={"source": left.source})["frame"].to_pylist()
    assert frames == list(range(1, len(frames) + 1))
    assert lake.position("ticks", left.source) == len(frames)


def test_a_lost_exchange_is_said_and_what_came_before_is_kept(workspace: Workspace) -> None:
    with running_exchange(SimulateConfig(seed=3)) as doomed:
        doomed_url = doomed.url
        doomed.inject_fault("disconnect", seconds=0.0)
        with pytest.raises(ServiceError, match=r"broke|closed"):
            serve(ServeConfig(url=doomed_url, seconds=30.0), workspace=workspace)
    assert not landing.unfinished(Lake(workspace.lake))
    with pytest.raises(ServiceError, match="connect"):
        serve(ServeConfig(url=doomed_url, seconds=5.0), workspace=workspace)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory, exchange: Exchange) -> Path:
    """Forty seconds of the simulated exchange as a recording; its frames are those of USD-M."""
    from websockets.sync.client import connect

    path = tmp_path_factory.mktemp("recording") / "sim.gz"
    lines: list[str] = []
    with connect(f"{exchange.url}&seconds=40", compression=None, max_size=None) as stream:
        for message in stream:
            lines += str(message).split("\n")
    kept = [line for line in lines if '"keel@' not in line]
    path.write_bytes(gzip.compress("\n".join(kept).encode()))
    return path


def test_along_a_recording_quotes_are_recorded_and_no_fill_is_claimed(
    workspace: Workspace, write_seeded_bundle: Callable[..., Path], recording: Path
) -> None:
    key = "binance-usdm.BTCUSDT"
    write_seeded_bundle(workspace.models / key / "1", instrument=key, model_name=f"keel-{key}")
    write_roles(state_path(workspace), key, Roles(champion=1))
    approved(workspace, key, 1)
    lake = Lake(workspace.lake)

    whole = serve(ServeConfig(instrument=key, capture=str(recording)), workspace=workspace)
    assert not whole.orders_sent
    assert "no fills claimed" in whole.line()
    assert (whole.fills, whole.quotes > 0) == (0, True)
    assert not lake.exists("outcomes")
    assert skew(SkewConfig(session=whole.session), workspace=workspace).equal

    middle = (whole.first_ns + whole.last_ns) // 2
    config = ServeConfig(instrument=key, capture=str(recording), start_ns=middle, end_ns=middle + 5 * NS_PER_S)
    part = serve(config, workspace=workspace)
    rows = lake.read("predictions", where={"session": part.session})
    recv_ns, version = rows["recv_ns"].to_numpy(), rows["version0"].to_numpy()
    np.testing.assert_array_equal(version, np.where(recv_ns >= middle, 1, 0))
    assert recv_ns.max() < middle + 5 * NS_PER_S
    assert np.isnan(np.array(rows["probs0"].to_pylist())[version == 0]).all()
    quotes = lake.read("quotes", where={"session": part.session})
    assert min(quotes["recv_ns"].to_pylist()) >= middle
    assert skew(SkewConfig(session=part.session), workspace=workspace).equal


def test_a_truncated_recording_is_served_as_far_as_it_goes(
    workspace: Workspace, recording: Path, tmp_path: Path
) -> None:
    short = tmp_path / "short.gz"
    short.write_bytes(recording.read_bytes()[: recording.stat().st_size * 2 // 3])
    config = ServeConfig(instrument=KEY, capture=str(short))
    result = serve(config, workspace=workspace)
    assert result.truncated
    assert result.decisions > 100
    assert "TRUNCATED" in result.line()


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, "an exchange or a recording"),
        ({"url": "ws://127.0.0.1:1", "capture": "x.gz"}, "an exchange or a recording"),
        ({"url": "ws://127.0.0.1:1", "arms": ("challenger",)}, "arms"),
        ({"url": "ws://127.0.0.1:1", "block_seconds": 0.1}, "blocks"),
        ({"url": "ws://127.0.0.1:1", "seconds": 0.0}, "seconds"),
        ({"url": "ws://127.0.0.1:1", "start_ns": 1}, "recording"),
    ],
)
def test_a_configuration_that_does_not_fit_together_is_refused(
    workspace: Workspace, changes: dict[str, object], word: str
) -> None:
    with pytest.raises(SettingsError, match=word):
        serve(ServeConfig(**changes), workspace=workspace)


def test_a_champion_that_nobody_approved_is_not_served(workspace: Workspace) -> None:
    write_roles(state_path(workspace), KEY, Roles(champion=2))  # by hand: version 1 is the approved one
    with pytest.raises(ApprovalError, match=r"nobody has approved keel-sim-usdm\.BTCUSDT version 2"):
        serve(ServeConfig(url="ws://127.0.0.1:1"), workspace=workspace)


def test_an_instrument_with_nothing_in_service_is_refused(workspace: Workspace) -> None:
    with pytest.raises(ModelError, match="keel promote"):
        serve(ServeConfig(instrument="binance-usdm.BTCUSDT", url="ws://127.0.0.1:1"), workspace=workspace)
    with pytest.raises(InputError):
        serve(ServeConfig(instrument=KEY, capture=str(ROOT / "README.md")), workspace=workspace)


def test_the_bare_address_of_the_simulated_exchange_will_do() -> None:
    url = simulated_stream("ws://127.0.0.1:9443", instruments.find(KEY), 60.0)
    assert url.startswith("ws://127.0.0.1:9443/stream?")
    assert "pace=lockstep" in url
    assert "seconds=90" in url
    kept = simulated_stream("ws://127.0.0.1:9443/stream?streams=btcusdt@trade&pace=20", instruments.find(KEY), None)
    assert "pace=20" in kept
    assert "streams=btcusdt@trade" in kept
    assert "seconds" not in kept
