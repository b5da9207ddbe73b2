"""Line-ups: from roles to arms, and which blocks a canary acts in."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from kit.following import KEY, canary

from market.errors import SettingsError
from pipelines.promotion.promote import PromoteConfig
from serving.rollout.assignment import assign, canary_acts
from serving.rollout.lineup import Lineup, wanted
from serving.rollout.roles import Roles, read_roles, write_roles


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 1.0])
def test_of_every_ten_blocks_a_canary_is_active_in_its_share(share: float) -> None:
    acts = np.array([[canary_acts(7, KEY, 10 * ten + i, share) for i in range(10)] for ten in range(50)])
    assert (acts.sum(axis=1) == round(10 * share)).all()
    if share < 1:
        assert len({tuple(row) for row in acts}) > 5, "not always the same of the ten"


def test_a_block_of_a_small_share_is_one_of_a_larger_share_too() -> None:
    for block in range(200):
        acting = [canary_acts(7, KEY, block, tenths / 10) for tenths in range(1, 11)]
        assert acting == sorted(acting)


def test_seeds_and_instruments_draw_other_blocks() -> None:
    drawn = {
        tuple(canary_acts(seed, key, block, 0.3) for block in range(100))
        for seed in (1, 2)
        for key in (KEY, "binance-usdm.BTCUSDT")
    }
    assert len(drawn) == 4


def test_roles_determine_the_lineup() -> None:
    step, window = canary(), canary(step=2)
    assert wanted(Roles()) is None
    assert wanted(Roles(champion=1, previous=9)) == Lineup(versions=(1,))
    assert wanted(Roles(champion=1, challenger=3)) == Lineup(versions=(1, 3), phase="switchback")
    beside = Roles(champion=1, challenger=2, canary=step)
    assert wanted(beside) == Lineup(versions=(1, 2), phase="canary", canary=step)
    assert wanted(Roles(champion=2, previous=1, canary=window)) == Lineup(
        versions=(2, 1), phase="window", canary=window
    )
    assert wanted(beside, lost=(2, step.trial)) == Lineup(versions=(1,))
    assert wanted(Roles(champion=2, previous=1, canary=window), lost=(2, window.trial)) == Lineup(versions=(1,))
    assert wanted(beside, lost=(2, step.trial + 1)) == wanted(beside), "a breach of another trial is of no account"


def test_a_challenger_that_lost_is_not_served_before_it_begins_another_test() -> None:
    roles = Roles(champion=1).with_challenger(3, now_ns=50)
    turns = Lineup(versions=(1, 3), phase="switchback", test=50)
    assert wanted(roles) == turns
    assert roles.with_challenger(3, now_ns=60) == roles, "deployed again: it is in that test already"
    assert wanted(roles, lost=(3, 50)) == Lineup(versions=(1,))
    assert wanted(roles, lost=(2, 50)) == turns
    gone = roles.without_challenger(3)
    assert gone == Roles(champion=1)
    assert gone.without_challenger(1) == gone
    assert wanted(gone.with_challenger(3, now_ns=70), lost=(3, 50)) == Lineup(
        versions=(1, 3), phase="switchback", test=70
    )
    assert not turns.same_play(Lineup(versions=(1, 3), phase="switchback", test=70))


def test_a_canary_past_its_last_step_and_not_yet_champion_continues_as_before() -> None:
    assert wanted(Roles(champion=1, canary=canary(step=2))) == Lineup(versions=(1,))


def test_until_its_first_block_a_second_arm_is_a_shadow() -> None:
    turns = Lineup(versions=(1, 3), phase="switchback", acts_from=100)
    assert [turns.arm(5, KEY, block) for block in range(90, 100)] == [0] * 10
    assert [turns.arm(5, KEY, block) for block in range(100, 120)] == [assign(5, KEY, b) for b in range(100, 120)]
    assert {Lineup(versions=(1, 3), phase="shadow").arm(5, KEY, block) for block in range(50)} == {0}
    whole = Lineup(versions=(1, 2), phase="canary", canary=canary(step=1), acts_from=3)
    assert [whole.arm(5, KEY, block) for block in (2, 3, 4)] == [0, 1, 1]
    assert {Lineup(versions=(2, 1), phase="window", canary=canary(step=2)).arm(5, KEY, b) for b in range(50)} == {0}


def test_a_canary_is_kept_with_the_roles_and_older_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "serving.json"
    path.write_text('{"sim-usdm.BTCUSDT": {"champion": 1, "challenger": 0, "previous": 0, "move": null}}')
    assert read_roles(path, KEY) == Roles(champion=1)
    roles = msgspec.structs.replace(read_roles(path, KEY), canary=canary())
    write_roles(path, KEY, roles)
    assert read_roles(path, KEY) == roles
    assert roles.versions() == (1, 2), "both stay loaded"


@pytest.mark.parametrize("canary", [(0.0,), (0.25,), (0.5, 0.3), (1.1,)])
def test_shares_that_are_not_growing_tenths_are_refused(canary: tuple[float, ...]) -> None:
    with pytest.raises(SettingsError, match="tenths"):
        PromoteConfig(version=1, canary=canary)
