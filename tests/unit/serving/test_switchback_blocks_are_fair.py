"""Arms: balanced, unpredictable, repeatable. Roles: pinned, replaced whole, one change at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.forked import server

from market.errors import ModelError, ServiceError
from serving.rollout.assignment import assign, block_of
from serving.rollout.roles import Move, Roles, changing, read_roles, read_state, write_roles

KEY = "sim-usdm.BTCUSDT"


@given(st.integers(0, 2**31), st.integers(0, 2**40))
def test_each_pair_of_blocks_has_both_arms(seed: int, pair: int) -> None:
    assert {assign(seed, KEY, 2 * pair), assign(seed, KEY, 2 * pair + 1)} == {0, 1}


def test_the_first_arm_of_a_pair_is_a_fair_coin() -> None:
    first = np.array([assign(7, KEY, 2 * pair) for pair in range(4000)])
    assert abs(first.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(first))
    changes = (first[1:] != first[:-1]).mean()
    assert abs(changes - 0.5) < 4 * 0.5 / np.sqrt(len(first))


def test_seed_and_instrument_change_the_assignment_and_nothing_else_does() -> None:
    def first_arms(seed: int, key: str) -> list[int]:
        return [assign(seed, key, 2 * pair) for pair in range(64)]

    assert first_arms(7, KEY) == first_arms(7, KEY)
    assert first_arms(7, KEY) != first_arms(8, KEY)
    assert first_arms(7, KEY) != first_arms(7, "binance-usdm.BTCUSDT")


def test_blocks_are_cut_from_the_epoch() -> None:
    assert [block_of(ns, 10) for ns in (0, 9, 10, 25)] == [0, 0, 1, 2]


def test_a_vacant_role_is_an_error() -> None:
    with pytest.raises(ModelError, match="keel promote"):
        Roles(challenger=2).version("champion", KEY)
    assert Roles(challenger=2).version("challenger", KEY) == 2


def test_roles_of_one_instrument_leave_the_others_alone(tmp_path: Path) -> None:
    path = tmp_path / "home" / "serving.json"
    assert read_state(path) == {}
    write_roles(path, KEY, Roles(champion=1))
    write_roles(path, "binance-usdm.BTCUSDT", Roles(champion=5, previous=4, move=Move(new=6, old=5, kind="promotion")))
    write_roles(path, KEY, Roles(champion=2, previous=1))
    assert read_roles(path, KEY).versions() == (1, 2)
    assert read_roles(path, "binance-usdm.BTCUSDT").versions() == (4, 5, 6)
    assert [p.name for p in path.parent.iterdir()] == ["serving.json"]


def test_a_damaged_state_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "serving.json"
    path.write_text('{"sim-usdm.BTCUSDT": {"champion": 1, "surprise": 2}}')
    with pytest.raises(ServiceError, match="damaged"):
        read_state(path)


def test_two_changes_at_once_are_refused_and_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "serving.json"
    context = server()
    with changing(path):
        other = context.Process(target=_try_to_change, args=(path,))
        other.start()
        other.join()
        assert other.exitcode == 17
    other = context.Process(target=_try_to_change, args=(path,))
    other.start()
    other.join()
    assert other.exitcode == 0


def _try_to_change(path: Path) -> None:
    try:
        with changing(path):
            pass
    except ServiceError:
        raise SystemExit(17) from None
