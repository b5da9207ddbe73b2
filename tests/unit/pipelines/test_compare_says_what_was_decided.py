"""The compare stage over A/B sessions in a real lake."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import orjson
import pytest
from kit.in_service import Session, fill, open_workspace, serve
from kit.planted import INSTRUMENT

from market.errors import EmptyDataError, InputError, SettingsError
from pipelines.experiments.compare import CompareConfig, CompareResult, Metric, compare, decide
from pipelines.workspace import Workspace
from serving.quoting.policy import PolicyConfig

ASKED = CompareConfig(instrument=INSTRUMENT)
TEST = Session(name="live-ab", rows=18_000)


@pytest.fixture
def ab(tmp_path: Path, write_seeded_bundle: Callable[..., Path]) -> Callable[..., CompareResult]:
    """``ab(skill, edge)``: the verdict over a session in which the arms differ by that much."""
    workspace = open_workspace(tmp_path / "home", write_seeded_bundle, rows=200)

    def run(skill: tuple[float, float], edge: tuple[float, float] | None = None) -> CompareResult:
        session = replace(TEST, skill=skill)
        serve(workspace, session, tmp_path / "rows")
        if edge is not None:
            fill(workspace, session, edge=edge)
        return compare(ASKED, workspace=workspace)

    return run


def test_a_challenger_that_speaks_better_and_earns_as_much_is_to_be_promoted(ab: Callable[..., CompareResult]) -> None:
    result = ab((0.2, 0.5), edge=(1.0, 1.0))
    assert result.verdict == "promote"
    assert (result.champion, result.challenger) == (1, 2)
    assert result.metrics[0].says == "better"
    assert result.metrics[0].difference is not None
    assert result.metrics[0].difference < 0
    assert result.pairs >= 15
    assert "none of 3 guardrails is worse" in result.line()
    written = orjson.loads(Path(result.path).read_bytes())
    assert len(written["series"][0]["estimate"]) == result.blocks
    assert Path(result.picture).stat().st_size > 0


def test_what_is_shown_beside_the_guardrails_is_measured_and_decides_nothing(ab: Callable[..., CompareResult]) -> None:
    result = ab((0.2, 0.5), edge=(1.0, 1.0))
    roles = {m.name: m.role for m in result.metrics}
    assert [name for name, role in roles.items() if role == "primary"] == ["log_loss"]
    assert [name for name, role in roles.items() if role == "guardrail"] == ["realised", "adverse", "fills"]
    shown = {m.name: m for m in result.metrics if m.role == "shown"}
    assert set(shown) == {"effective", "slippage", "adverse_100ms", "fill_ratio"}
    assert (shown["effective"].champion, shown["slippage"].champion, shown["adverse_100ms"].champion) == (1, -2, 0)
    ratio = shown["fill_ratio"].champion
    assert ratio is not None
    assert 0.1 < ratio < 0.3, "one to three lots of the ten that were quoted"


def test_two_equal_models_are_undecided(ab: Callable[..., CompareResult]) -> None:
    result = ab((0.3, 0.3), edge=(1.0, 1.0))
    assert result.verdict == "undecided"
    assert "was not shown to be better" in result.summary


def test_a_challenger_that_speaks_worse_is_not_kept(ab: Callable[..., CompareResult]) -> None:
    assert ab((0.5, 0.2)).verdict == "keep"


def test_better_words_do_not_outweigh_worse_fills(ab: Callable[..., CompareResult]) -> None:
    result = ab((0.2, 0.5), edge=(3.0, -9.0))
    assert result.verdict == "keep"
    assert result.metrics[0].says == "better"
    assert {m.name for m in result.metrics if m.says == "worse"} >= {"realised"}
    assert "worse in" in result.line()


def test_a_recording_claims_no_fills(ab: Callable[..., CompareResult]) -> None:
    result = ab((0.2, 0.5))
    assert result.fills == 0
    assert all(m.difference is None and "not tested" in m.note for m in result.metrics if m.role != "primary")
    assert "no fills, so no guardrail was tested" in result.line()


def test_comparing_again_gives_the_same_verdict_at_the_same_place(ab: Callable[..., CompareResult]) -> None:
    first = ab((0.2, 0.5))
    assert compare(ASKED, workspace=Workspace(home=Path(first.path).parents[2])) == first


def test_blocks_of_another_length_than_the_session_had_are_refused(ab: Callable[..., CompareResult]) -> None:
    first = ab((0.2, 0.5), edge=(1.0, 1.0))
    workspace = Workspace(home=Path(first.path).parents[2])
    with pytest.raises(InputError, match="one acting arm in each block"):
        compare(replace(ASKED, block_seconds=37.0), workspace=workspace)


def test_the_block_length_is_the_one_the_session_was_served_with(ab: Callable[..., CompareResult]) -> None:
    first = ab((0.2, 0.5))
    home = Path(first.path).parents[2]
    (home / "sessions" / "live-ab.json").unlink()
    with pytest.raises(InputError, match="give block_seconds"):
        compare(ASKED, workspace=Workspace(home=home))
    assert compare(replace(ASKED, block_seconds=10.0), workspace=Workspace(home=home)).blocks == first.blocks


def test_without_a_session_of_two_arms_there_is_nothing_to_compare(
    tmp_path: Path, write_seeded_bundle: Callable[..., Path]
) -> None:
    workspace = open_workspace(tmp_path / "home", write_seeded_bundle, rows=200)
    with pytest.raises(EmptyDataError, match="two arms"):
        compare(ASKED, workspace=workspace)
    serve(workspace, Session(rows=1500), tmp_path / "rows")
    with pytest.raises(EmptyDataError, match="two arms"):
        compare(ASKED, workspace=workspace)


@pytest.mark.parametrize(
    "bad", [{"alpha": 0.0}, {"alpha": 1.0}, {"block_seconds": 0.0}, {"plan": 0}, {"least_pairs": 0}]
)
def test_numbers_out_of_range_are_refused(tmp_path: Path, bad: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="expected 0 < alpha < 1"):
        compare(replace(ASKED, **bad), workspace=Workspace(home=tmp_path))


def _metric(role: str, says: str) -> Metric:
    blank = {"title": "", "unit": "", "champion": 1.0, "challenger": 1.0, "lower": None, "upper": None, "note": ""}
    return Metric(name="m", role=role, difference=0.0, looks=1, decided_at=0, says=says, **blank)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("primary", "guardrail", "verdict"),
    [
        ("better", "not told apart", "promote"),
        ("better", "better", "promote"),
        ("better", "worse", "keep"),
        ("worse", "better", "keep"),
        ("not told apart", "better", "undecided"),
        ("not told apart", "worse", "keep"),
    ],
)
def test_words_decide_and_guardrails_veto(primary: str, guardrail: str, verdict: str) -> None:
    metrics = [_metric("primary", primary), _metric("shown", "worse"), _metric("guardrail", guardrail)]
    assert decide(metrics) == verdict
    metrics = [_metric("primary", primary), _metric("guardrail", "not told apart"), _metric("guardrail", guardrail)]
    assert decide(metrics) == verdict


def _scenes(home: Path, session: str, *scenes: dict[str, object]) -> None:
    card = home / "sessions" / f"{session}.json"
    card.write_bytes(orjson.dumps({**orjson.loads(card.read_bytes()), "scenes": scenes}))


def _from(block: int, **more: object) -> dict[str, object]:
    """A challenger that acts from the so-manieth block of the session on."""
    first = TEST.start_ns // TEST.block_ns
    return {"from_n": 1, "versions": [1, 2], "phase": "switchback", "acts_from": first + block, **more}


def test_the_shadow_is_reported_on_its_own_rows(ab: Callable[..., CompareResult], tmp_path: Path) -> None:
    assert ab((0.2, 0.5), edge=(1.0, 1.0)).shadow is None, "nothing says that there was one"
    home, workspace = tmp_path / "home", Workspace(home=tmp_path / "home")
    _scenes(home, TEST.name, _from(30))
    shadow = compare(ASKED, workspace=workspace).shadow
    assert shadow is not None
    assert 28 <= shadow.blocks <= 31
    assert 10_000 < shadow.rows < 13_000
    assert shadow.log_loss[1] < shadow.log_loss[0]
    assert shadow.difference == pytest.approx(shadow.log_loss[1] - shadow.log_loss[0])
    assert (shadow.says, shadow.silent) == ("better", 0)
    assert shadow.calibration_error is not None
    assert max(shadow.calibration_error) < 0.5
    assert 0.4 < shadow.same_lean < 0.9
    assert shadow.correlation is not None
    assert 0.0 < shadow.correlation < 0.9
    assert shadow.quoted_otherwise is None, "the card of the session has no policy"
    assert shadow.step_us is not None
    assert 0.9 < shadow.step_us[0] < shadow.step_us[1] < 6.0
    assert shadow.alone_step_us is None, "the champion was never alone"

    card = orjson.loads((home / "sessions" / f"{TEST.name}.json").read_bytes())
    card["config"]["policy"] = asdict(PolicyConfig(move_from=0.1, fall_from=0.1))
    (home / "sessions" / f"{TEST.name}.json").write_bytes(orjson.dumps(card))
    result = compare(ASKED, workspace=workspace)
    assert result.shadow is not None
    assert result.shadow.quoted_otherwise is not None
    assert 0.1 < result.shadow.quoted_otherwise <= 1.0
    assert result.shadow.pulled_otherwise == 0.0, "no depth was said to fall"
    assert Path(result.shadow_picture).stat().st_size > 0
    assert orjson.loads(Path(result.path).read_bytes())["shadow"]["blocks"] == shadow.blocks


def test_a_challenger_that_had_no_turns_yet_is_not_promoted_where_orders_are_sent(
    ab: Callable[..., CompareResult], tmp_path: Path
) -> None:
    ab((0.2, 0.5), edge=(1.0, 1.0))
    asked = replace(ASKED, least_pairs=50)
    waits = compare(asked, workspace=Workspace(home=tmp_path / "home"))
    assert waits.metrics[0].says == "better"
    assert waits.verdict == "undecided"
    assert f"Pairs of blocks so far: {waits.pairs}, at least 50 are wanted" in waits.summary


def test_one_test_goes_on_from_session_to_session_and_another_begins_anew(
    ab: Callable[..., CompareResult], tmp_path: Path
) -> None:
    """A session that follows is rolled over again and again; its blocks are looked at as one sequence."""
    first = ab((0.2, 0.5))
    home, workspace = tmp_path / "home", Workspace(home=tmp_path / "home")
    later = replace(TEST, name="live-later", rows=6000, seed=51, skill=(0.2, 0.5), start_ns=TEST.start_ns + 10**12)
    serve(workspace, later, tmp_path / "later")
    for name in (TEST.name, later.name):
        _scenes(home, name, _from(0, test=7))
    both = compare(ASKED, workspace=workspace)
    assert (both.sessions, both.test) == ((TEST.name, later.name), 7)
    assert both.blocks > first.blocks
    _scenes(home, later.name, _from(0, test=8))
    anew = compare(ASKED, workspace=workspace)
    assert (anew.sessions, anew.test) == ((later.name,), 8)
    assert anew.blocks == both.blocks - first.blocks


def test_of_a_session_that_followed_only_the_challengers_rows_count(
    ab: Callable[..., CompareResult], tmp_path: Path
) -> None:
    """From row 12,001 on the second arm was a canary, and then the champion before: that is no test of a challenger."""
    whole = ab((0.2, 0.5))
    card = tmp_path / "home" / "sessions" / f"{TEST.name}.json"
    said = orjson.loads(card.read_bytes())
    scenes = [
        {"from_n": 1, "versions": [1], "phase": "alone"},
        {"from_n": 2_000, "versions": [1, 2], "phase": "switchback"},
        {"from_n": 12_001, "versions": [1, 2], "phase": "canary"},
        {"from_n": 15_000, "versions": [2, 1], "phase": "window"},
    ]
    card.write_bytes(orjson.dumps({**said, "scenes": scenes}))
    workspace = Workspace(home=tmp_path / "home")
    part = compare(ASKED, workspace=workspace)
    assert part.rows == 10_001
    assert part.blocks < whole.blocks
    card.write_bytes(orjson.dumps({**said, "scenes": [scenes[0], {**scenes[2], "from_n": 2_000}]}))
    with pytest.raises(EmptyDataError, match="two arms"):
        compare(ASKED, workspace=workspace)
